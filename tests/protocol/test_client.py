"""The client session, as transcripts: S: is input from the server, C: the expected output of the client."""

from __future__ import annotations

import pytest

from ironpost import wire
from ironpost.model import Address, Disposition, Envelope, Recipient, Reply
from ironpost.protocol.client.envelope import CHUNK_LIMIT
from ironpost.protocol.client.session import (
    TIMEOUTS,
    ClientSession,
    ClientState,
    ClientStep,
    Ending,
    OutgoingTransaction,
)

D, P, F = Disposition.DELIVERED, Disposition.DEFERRED, Disposition.FAILED
EHLO = "S: 220 mx.example ESMTP\nC: EHLO client.example\n"
PLAIN = EHLO + "S: 250 mx.example\n"
PIPELINING = EHLO + "S: 250-mx.example\nS: 250 PIPELINING\n"
EVERYTHING = EHLO + (
    "S: 250-mx.example\nS: 250-PIPELINING\nS: 250-SIZE 1000000\nS: 250-8BITMIME\nS: 250-SMTPUTF8\nS: 250 CHUNKING\n"
)


def transaction(
    *recipients: str,
    sender: str = "a@a.example",
    content: bytes | None = b"Subject: x\r\n\r\nhi\r\n",
    **parameters: str | None,
) -> OutgoingTransaction:
    """Return a transaction to `recipients` (default: b@b.example)."""
    to = tuple(Recipient(Address.parse(each)) for each in recipients or ("b@b.example",))
    return OutgoingTransaction(Envelope(Address.parse(sender), to, parameters), content=content)


def talk(session: ClientSession, script: str) -> None:
    """Play a transcript; each block of S: lines is one piece of input, each block of C: lines one comparison."""
    block: list[str] = []
    side = ""
    for line in [*script.strip().splitlines(), "end"]:
        if line[:2] != side:
            octets = "".join(text + "\r\n" for text in block).encode()
            if side == "S:":
                assert session.output() == b"", "the client said more than the transcript"
                session.receive(octets)
            elif side == "C:":
                assert session.output() == octets
            block, side = [], line[:2]
        block.append(line[3:])


def opened(greeting: str = PIPELINING, **options: bool) -> ClientSession:
    session = ClientSession("client.example", "mx.example [192.0.2.1]", **options)
    talk(session, greeting)
    assert session.state is ClientState.READY
    return session


def fates(sent: OutgoingTransaction) -> list[Disposition]:
    assert sent.done
    return [outcome.disposition for outcome in sent.outcomes if outcome is not None]


# -- opening the session ----------------------------------------------------------------------------------------------


def test_greeting_ehlo_and_the_offered_extensions() -> None:
    session = opened(EVERYTHING)
    assert session.domain == "mx.example"
    assert session.offered["SIZE"] == "1000000"
    assert "CHUNKING" in session.offered


def test_a_server_that_does_not_know_ehlo_gets_helo() -> None:  # RFC 5321 §3.2
    session = ClientSession("client.example")
    talk(session, EHLO + "S: 502 what\nC: HELO client.example\nS: 250 old.example\n")
    assert session.state is ClientState.READY
    assert session.offered == {}
    assert session.domain == "old.example"


@pytest.mark.parametrize("code", [421, 450, 521, 554])
def test_a_greeting_that_refuses_ends_the_session_with_its_reply(code: int) -> None:
    session = ClientSession("client.example")
    session.receive(b"%d not now\r\n" % code)
    assert session.state is ClientState.CLOSED
    assert session.reason is not None
    assert session.reason.code == code
    assert session.ending is Ending.REFUSED
    assert session.output() == (b"" if code == 421 else b"QUIT\r\n")  # RFC 5321 §3.1


def test_ehlo_and_helo_refused() -> None:
    session = ClientSession("client.example")
    talk(session, EHLO + "S: 500 no\nC: HELO client.example\nS: 550 go away\nC: QUIT")
    assert session.closed
    assert session.reason is not None
    assert session.reason.code == 550


def test_ehlo_deferred_does_not_fall_back() -> None:
    session = ClientSession("client.example")
    talk(session, EHLO + "S: 451 later\nC: QUIT")
    assert session.closed


def test_quit_waits_for_the_reply() -> None:
    session = opened()
    session.quit()
    talk(session, "C: QUIT\nS: 221 bye")
    assert session.closed
    assert session.reason is None


# -- transactions -----------------------------------------------------------------------------------------------------


def test_one_command_at_a_time_without_pipelining() -> None:
    session, sent = opened(PLAIN), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    talk(
        session,
        """\
C: MAIL FROM:<a@a.example>
S: 250 ok
C: RCPT TO:<b@b.example>
S: 250 ok
C: RCPT TO:<c@c.example>
S: 550 5.1.1 who
C: DATA
S: 354 go
C: Subject: x
C:
C: hi
C: .
S: 250 2.0.0 taken as 17
""",
    )
    assert fates(sent) == [D, F]
    assert session.state is ClientState.READY
    outcome = sent.outcomes[0]
    assert outcome is not None
    assert outcome.reply == Reply(250, "2.0.0", ("taken as 17",))
    assert outcome.remote == "mx.example [192.0.2.1]"
    assert outcome.asked


def test_pipelining_sends_the_envelope_in_one_write() -> None:  # RFC 2920 §3.1
    session, sent = opened(), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    envelope = "C: MAIL FROM:<a@a.example>\nC: RCPT TO:<b@b.example>\nC: RCPT TO:<c@c.example>\nC: DATA\n"
    talk(session, envelope + "S: 250 ok\nS: 450 4.2.0 later\nS: 250 ok\nS: 354 go\n")
    assert session.output() == b"Subject: x\r\n\r\nhi\r\n.\r\n"
    session.receive(b"250 taken\r\n")
    assert fates(sent) == [P, D]


def test_all_recipients_refused_but_data_accepted_ends_with_a_lone_dot() -> None:  # RFC 2920 §3.1
    session, sent = opened(), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    session.output()
    talk(session, "S: 250 ok\nS: 550 no\nS: 450 later\nS: 354 go\nC: .\nS: 554 no valid recipients")
    assert fates(sent) == [F, P]
    assert session.state is ClientState.READY


def test_if_all_recipients_and_data_are_refused_the_next_message_follows_rset() -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    session.output()
    talk(session, "S: 250 ok\nS: 550 no\nS: 503 no recipients\n")
    assert fates(sent) == [F]
    session.begin(transaction("d@d.example"))
    talk(session, "C: RSET\nC: MAIL FROM:<a@a.example>\nC: RCPT TO:<d@d.example>\nC: DATA\n")


def test_all_recipients_refused_without_pipelining_never_sends_data() -> None:
    session, sent = opened(PLAIN), transaction()
    session.begin(sent)
    talk(session, "C: MAIL FROM:<a@a.example>\nS: 250 ok\nC: RCPT TO:<b@b.example>\nS: 550 no\n")
    assert session.output() == b""
    assert fates(sent) == [F]
    session.begin(transaction())
    talk(session, "C: RSET\nS: 250 ok\nC: MAIL FROM:<a@a.example>")


@pytest.mark.parametrize(("code", "fate"), [(550, F), (451, P)])
@pytest.mark.parametrize("greeting", [PLAIN, PIPELINING])
def test_sender_refused_is_every_recipients_outcome(greeting: str, code: int, fate: Disposition) -> None:
    session, sent = opened(greeting), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    session.output()
    session.receive(b"%d no\r\n" % code)
    if greeting == PIPELINING:
        assert session.state is ClientState.ENVELOPE
        session.receive(b"503 mail first\r\n503 mail first\r\n503 mail first\r\n")
    assert session.state is ClientState.READY
    assert fates(sent) == [fate, fate]
    assert sent.failed_at is ClientStep.MAIL
    session.begin(transaction())
    assert session.output().startswith(b"MAIL")


@pytest.mark.parametrize(("code", "fate"), [(554, F), (452, P)])
def test_refused_after_the_content(code: int, fate: Disposition) -> None:
    session, sent = opened(), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
    session.output()
    session.receive(b"%d no\r\n" % code)
    assert fates(sent) == [fate, F]
    assert session.state is ClientState.READY
    session.begin(transaction())
    assert session.output().startswith(b"MAIL")  # RFC 5321 §4.1.1.4: the buffers are cleared


def test_the_null_reverse_path() -> None:
    session = opened()
    session.begin(transaction(sender=""))
    assert session.output().startswith(b"MAIL FROM:<>\r\n")


def test_f83_552_for_one_recipient_too_many_is_transient() -> None:  # RFC 5321 §4.5.3.1.10
    session, sent = opened(), transaction("b@b.example", "c@c.example", "d@d.example")
    session.begin(sent)
    session.output()
    talk(session, "S: 250 ok\nS: 250 ok\nS: 552 too many recipients\nS: 552 5.2.2 mailbox full\nS: 354 go")
    session.receive(b"250 ok\r\n")
    assert fates(sent) == [D, P, F]
    outcome = sent.outcomes[1]
    assert outcome is not None
    assert outcome.reply == Reply(452, "4.5.3", ("too many recipients",))
    assert "552" in outcome.reply.detail


def test_many_transactions_on_one_connection() -> None:
    session = opened()
    for _ in range(3):
        sent = transaction()
        session.begin(sent)
        session.output()
        session.receive(b"250 a\r\n250 b\r\n354 c\r\n")
        session.output()
        session.receive(b"250 d\r\n")
        assert fates(sent) == [D]
    assert session.transactions == 3


def test_replies_split_at_every_octet() -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    session.output()
    for octet in b"250-ok\r\n250 ok\r\n250 ok\r\n354 go\r\n":
        session.receive(bytes([octet]))
    assert session.output().endswith(b"\r\n.\r\n")
    for octet in b"250-two\r\n250 lines\r\n":
        session.receive(bytes([octet]))
    assert fates(sent) == [D]


# -- content ----------------------------------------------------------------------------------------------------------


def test_streamed_content_is_requested_and_dot_stuffed() -> None:
    session, sent = opened(), transaction(content=None)
    session.begin(sent)
    session.output()
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert session.state is ClientState.CONTENT
    assert session.timeout == TIMEOUTS[ClientStep.CONTENT]
    said = b""
    for piece in (b"Subject: x\r", b"\n\r\n", b".", b"dot\n", b"end"):
        session.content(piece)
        said += session.output()
    session.end_content()
    said += session.output()
    assert said == b"Subject: x\r\n\r\n..dot\r\nend\r\n.\r\n"
    assert session.state is ClientState.FINAL
    session.receive(b"250 ok\r\n")
    assert fates(sent) == [D]


@pytest.mark.parametrize("code", [552, 451])
def test_a_refusal_before_the_end_of_the_content_is_final(code: int) -> None:
    session, sent = opened(), transaction(content=None)
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.content(b"half")
    session.receive(b"%d too much\r\n" % code)
    assert fates(sent) == [F if code == 552 else P]
    assert session.closed
    assert session.output() == b""  # the content is not terminated


def test_a_positive_reply_before_the_end_of_the_content_is_not_trusted() -> None:
    session, sent = opened(), transaction(content=None)
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.content(b"half")
    session.receive(b"250 taken already\r\n")
    assert fates(sent) == [P]
    assert session.ending is Ending.FAULT


def test_a_positive_reply_in_one_piece_with_354_is_not_trusted() -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    session.output()
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n250 taken already\r\n")
    assert fates(sent) == [P]
    assert session.ending is Ending.FAULT


LAX = (b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\n\r.\r\n")


@pytest.mark.parametrize("ending", LAX)
@pytest.mark.parametrize("chunking", [False, True])
def test_r3_no_content_ends_data_early_nor_carries_a_bare_newline(ending: bytes, chunking: bool) -> None:
    content = b"Subject: x\r\n\r\nhi" + ending + b"MAIL FROM:<evil@evil.example>\r\n"
    session, sent = opened(EVERYTHING, chunking=chunking), transaction(content=content)
    session.begin(sent)
    session.output()
    session.receive(b"250 ok\r\n250 ok\r\n" + (b"" if chunking else b"354 go\r\n"))
    normal = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    if chunking:
        command, _, got = session.output().partition(b"BDAT ")[2].partition(b"\r\n")
        assert command == b"%d LAST" % len(got)
    else:
        decoder = wire.DataDecoder(newline="reject")
        octets = session.output()
        got, consumed, finished = decoder.feed(octets)
        assert finished
        assert consumed == len(octets)
        assert not decoder.bare_cr
        assert not decoder.bare_lf
        # A lax peer that also ends at LF.LF or CR.CR finds no such ending before the last line.
        for other in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r"):
            assert other not in octets.removesuffix(b"\r\n.\r\n")
        assert b"\r\n.\r\n" not in octets.removesuffix(b"\r\n.\r\n")
    assert got == normal


@pytest.mark.parametrize("chunking", [False, True])
def test_r3_content_with_nul_is_not_sent(chunking: bool) -> None:  # RFC 2045 §2.8: it is neither 7-bit nor 8-bit text
    session, sent = opened(EVERYTHING, chunking=chunking), transaction(content=b"a\r\n\0.\r\n")
    session.begin(sent)
    assert session.output() == b""
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].reply.enhanced == "5.6.3"
    assert session.state is ClientState.READY


def test_r3_streamed_content_with_nul_is_never_ended() -> None:
    session, sent = opened(EVERYTHING), transaction(content=None)
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.content(b"one\r\n")
    session.content(b"\0.\r\n")
    assert fates(sent) == [F]
    assert session.closed
    assert session.output() == b""


def test_bdat_carries_small_content() -> None:  # RFC 3030 §2
    session, sent = opened(EVERYTHING), transaction(content=b"Subject: x\n\n.dot\n")
    session.begin(sent)
    assert session.output() == b"MAIL FROM:<a@a.example> SIZE=17\r\nRCPT TO:<b@b.example>\r\n"
    assert session.timeout == TIMEOUTS[ClientStep.MAIL]
    session.receive(b"250 ok\r\n250 ok\r\n")
    assert session.output() == b"BDAT 20 LAST\r\nSubject: x\r\n\r\n.dot\r\n"
    session.receive(b"250 taken\r\n")
    assert fates(sent) == [D]
    assert session.state is ClientState.READY


@pytest.mark.parametrize("envelope", [b"250 ok\r\n550 no\r\n", b"550 no\r\n503 no\r\n", b"550 no\r\n250 ok\r\n"])
def test_r5_no_chunk_follows_an_envelope_that_was_refused(envelope: bytes) -> None:
    """A peer that does not consume a refused chunk would execute its octets as commands."""
    session, sent = opened(EVERYTHING), transaction(content=b"RSET\r\nMAIL FROM:<evil@evil.example>\r\n")
    session.begin(sent)
    session.output()
    session.receive(envelope)
    assert session.output() == b""
    assert fates(sent) == [F]
    assert session.state is ClientState.READY


def test_after_a_refused_bdat_the_next_message_follows_rset() -> None:
    session, sent = opened(EVERYTHING), transaction()
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n")
    session.output()
    session.receive(b"554 no\r\n")
    assert fates(sent) == [F]
    session.begin(transaction())
    assert session.output().startswith(b"RSET\r\nMAIL")


def test_large_or_streamed_content_goes_by_data() -> None:
    for sent in (transaction(content=b"x" * (CHUNK_LIMIT + 1)), transaction(content=None)):
        session = opened(EVERYTHING)
        session.begin(sent)
        assert session.output().endswith(b"DATA\r\n")


# -- extensions that the next hop lacks -------------------------------------------------------------------------------


def parameters(session: ClientSession, sent: OutgoingTransaction) -> str:
    session.begin(sent)
    return session.output().partition(b"\r\n")[0].decode().partition(">")[2].strip()


def test_parameters_of_mail() -> None:
    eight = "é\r\n".encode()
    assert parameters(opened(EVERYTHING), transaction(content=b"x")) == "SIZE=1"
    assert parameters(opened(EVERYTHING), transaction(content=eight)) == "SIZE=4 BODY=8BITMIME"
    assert parameters(opened(EVERYTHING), transaction(content=b"x", BODY="8BITMIME")) == "SIZE=1 BODY=8BITMIME"
    assert parameters(opened(EVERYTHING), transaction("é@b.example", content=b"x")) == "SIZE=1 SMTPUTF8"
    assert parameters(opened(EVERYTHING), transaction(content=None)) == "BODY=8BITMIME"
    assert parameters(opened(), transaction(content=b"x", BODY="8BITMIME")) == ""
    assert parameters(opened(), transaction(content=b"ascii only", SMTPUTF8=None)) == ""


@pytest.mark.parametrize(
    ("sent", "enhanced"),
    [
        (transaction("é@b.example"), "5.6.7"),  # RFC 6531 §3.5
        (transaction(sender="é@b.example"), "5.6.7"),
        (transaction(content="Subject: é\r\n".encode(), SMTPUTF8=None), "5.6.9"),
        (transaction(content="é\r\n".encode()), "5.6.3"),  # RFC 6152 §3
    ],
)
def test_a_next_hop_without_a_needed_extension_fails_the_message(sent: OutgoingTransaction, enhanced: str) -> None:
    session = opened(EHLO + "S: 250-mx.example\nS: 250 8BITMIME\n" if enhanced in {"5.6.7", "5.6.9"} else PIPELINING)
    session.begin(sent)
    assert session.output() == b""
    assert fates(sent) == [F]
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].reply.enhanced == enhanced
    assert sent.unsupported
    assert session.state is ClientState.READY


def test_a_message_over_the_next_hops_size_limit_fails() -> None:  # RFC 1870 §4
    session, sent = opened(EVERYTHING), transaction(content=b"x" * 1_000_001)
    session.begin(sent)
    assert session.output() == b""
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].reply.enhanced == "5.3.4"


def test_streamed_8_bit_content_to_a_7_bit_hop_is_never_ended() -> None:
    session, sent = opened(), transaction("b@b.example", "c@c.example", content=None)
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    session.content(b"ascii\r\n")
    session.content("é\r\n".encode())
    assert fates(sent) == [F, F]
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].reply.enhanced == "5.6.3"
    assert session.closed
    assert session.output() == b""


# -- hostile and broken peers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        ("421 4.3.2 closing\r\n", [P, P]),
        ("250 ok\r\n421 closing\r\n", [P, P]),
        ("250 ok\r\n550 no\r\n421 closing\r\n", [F, P]),
        ("250 ok\r\n250 ok\r\n250 ok\r\n421 closing\r\n", [P, P]),
        ("250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n", [P, F]),
    ],
)
def test_421_at_any_point_defers_the_undecided_recipients(
    replies: str, expected: list[Disposition]
) -> None:  # RFC 5321 §3.8
    session, sent = opened(), transaction("b@b.example", "c@c.example")
    session.begin(sent)
    session.receive(replies.encode())
    if not session.closed:
        session.receive(b"421 closing\r\n")
    assert fates(sent) == expected
    assert session.closed
    assert session.reason is not None
    assert session.reason.code == 421


def test_421_while_idle_closes() -> None:
    session = opened()
    session.receive(b"421 too long idle\r\n")
    assert session.closed
    assert session.ending is Ending.REFUSED


@pytest.mark.parametrize("count", range(4))
def test_connection_lost_before_the_end_of_the_content_defers(count: int) -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")[:count]:
        session.receive(reply)
    session.eof()
    assert fates(sent) == [P]
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].reply.enhanced == "4.4.2"
    assert session.ending is Ending.LOST
    # Only here may the peer have accepted the message; the reason says so (RFC 1047).
    assert ("twice" in str(sent.outcomes[0].reply)) == (count == 3)


UNEXPECTED = [
    ("greeting", b"354 go\r\n"),
    ("ehlo", b"334 more\r\n"),
    ("mail", b"354 go\r\n"),
    ("rcpt", b"354 go\r\n"),
    ("data", b"250 ok\r\n"),
    ("end", b"354 go\r\n"),
]


@pytest.mark.parametrize(("step", "reply"), UNEXPECTED)
def test_r19_an_unexpected_code_ends_the_session(step: str, reply: bytes) -> None:
    session = ClientSession("client.example")
    sent = transaction()
    lines = {"greeting": b"220 hi\r\n", "ehlo": b"250 hi\r\n", "mail": b"250 ok\r\n", "rcpt": b"250 ok\r\n",
             "data": b"354 go\r\n", "end": b""}  # fmt: skip
    for name, usual in lines.items():
        if name == "mail":
            session.begin(sent)
        if name == step:
            session.receive(reply)
            break
        session.receive(usual)
    assert session.closed
    assert session.ending is Ending.FAULT
    assert session.reason is not None
    assert session.reason.enhanced == "4.5.0"
    if step not in ("greeting", "ehlo"):
        assert fates(sent) == [P]


@pytest.mark.parametrize(
    "reply",
    [
        b"abc\r\n",
        b"2x0 ok\r\n",
        b"250ok\r\n",
        b"99 ok\r\n",
        b"600 ok\r\n",
        b"250-ok\r\n251 ok\r\n",
        b"250-x\r\n" * 101,
        b"250-" + b"x" * 70_000,
        b"250 a\nb\r\n",
        b"250 a\rb\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\x16\x03\x01\r\n",
    ],
)
def test_r18_r19_a_malformed_reply_ends_the_session(reply: bytes) -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    session.receive(reply)
    assert session.closed
    assert session.ending is Ending.FAULT
    assert fates(sent) == [P]
    session.receive(b"250 ok\r\n" * 4)  # later input is ignored
    assert fates(sent) == [P]


@pytest.mark.parametrize("injected", [b"250 ok\r\n", b"550 no\r\n", b"354 go\r\n"])
def test_r19_an_unsolicited_reply_ends_the_session(injected: bytes) -> None:
    session = opened()
    session.receive(injected)
    assert session.closed
    assert session.ending is Ending.FAULT


def test_r19_replies_received_with_the_greeting_end_the_session() -> None:
    session = ClientSession("client.example")
    session.receive(b"220 hi\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    assert session.closed
    assert session.ending is Ending.FAULT


def test_r19_a_partial_reply_received_with_the_greeting_ends_the_session() -> None:
    session = ClientSession("client.example")
    session.receive(b"220 hi\r\n250-evil\r\n25")
    assert session.closed
    assert session.ending is Ending.FAULT


def test_r19_a_timeout_ends_the_session() -> None:
    for replies, step in [
        (b"", ClientStep.MAIL),
        (b"250 ok\r\n", ClientStep.RCPT),
        (b"250 ok\r\n" * 2, ClientStep.DATA),
        (b"250 ok\r\n250 ok\r\n354 go\r\n", ClientStep.END),
    ]:
        session, sent = opened(), transaction()
        session.begin(sent)
        session.receive(replies)
        assert session.step is step
        assert session.timeout == TIMEOUTS[step]
        session.expire()
        assert session.closed
        assert session.ending is Ending.EXPIRED
        assert fates(sent) == [P]
        session.receive(b"250 ok\r\n" * 4)
        assert fates(sent) == [P]


def test_r23_timeouts_are_those_of_the_rfc() -> None:  # RFC 5321 §4.5.3.2
    minutes = {
        ClientStep.GREETING: 5,
        ClientStep.MAIL: 5,
        ClientStep.RCPT: 5,
        ClientStep.DATA: 2,
        ClientStep.CONTENT: 3,
        ClientStep.END: 10,
    }
    assert {step: TIMEOUTS[step] / 60 for step in minutes} == minutes


@pytest.mark.parametrize(
    "name", ["a\r\nMAIL FROM:<x@x.example>", "a b", "", "a\0b", "[300.1.1.1]", "-a.example", "é.example"]
)
def test_r17_an_invalid_local_hostname_is_refused(name: str) -> None:
    with pytest.raises(wire.WireFault):
        ClientSession(name)


@pytest.mark.parametrize("local", ["a\r\nRSET", "a\nRSET", "a\0"])
@pytest.mark.parametrize("domain", ["b.example", ""])
def test_r17_an_address_smuggled_past_the_parser_is_not_sent(local: str, domain: str) -> None:
    # `Address.of` trusts its caller; the session does not.
    session = opened()
    bad = Recipient(Address.of(wire.Mailbox(local, domain)))
    with pytest.raises(ValueError):
        session.begin(OutgoingTransaction(Envelope(Address.parse("a@a.example"), (bad,)), content=b"x"))
    assert session.output() == b""


def test_r20_control_characters_of_a_reply_are_escaped() -> None:
    session, sent = opened(), transaction()
    session.begin(sent)
    session.receive(b"550 no \x1b[31m\xff\tX\r\n")
    session.eof()
    outcome = sent.outcomes[0]
    assert outcome is not None
    assert outcome.reply.text == ("no \\x1b[31m\\xff\\tX",)


# -- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_raises_in_the_caller() -> None:
    session = opened()
    session.begin(transaction())
    with pytest.raises(RuntimeError, match="ready"):
        session.begin(transaction())
    with pytest.raises(RuntimeError, match="not expected"):
        session.content(b"x")
    with pytest.raises(RuntimeError, match="not expected"):
        session.end_content()
    with pytest.raises(ValueError, match="at least one recipient"):
        OutgoingTransaction(Envelope(Address.parse("a@a.example"), ()), content=b"")


def test_a_transaction_on_a_closed_session_is_deferred() -> None:
    session, sent = opened(), transaction()
    session.eof()
    session.begin(sent)
    assert fates(sent) == [P]
    assert session.output() == b""


def test_giving_up_defers_the_undecided_recipients() -> None:
    session, sent = opened(), transaction(content=None)
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    session.abort(Reply(451, "4.3.0", ("disk",)))
    assert fates(sent) == [P]
    assert session.output() == b""


def test_an_extension_defined_outside_decides_about_mail() -> None:
    from ironpost.protocol.extensions import Extension, Outgoing

    class Priority(Extension):
        keyword = "MT-PRIORITY"

        def outgoing(self, message: Outgoing, offered):  # type: ignore[no-untyped-def]
            return {"MT-PRIORITY": "3"} if self.keyword in offered else {}

    session = ClientSession("client.example", extensions=(Priority(),))
    talk(session, EHLO + "S: 250-mx.example\nS: 250 MT-PRIORITY\n")
    session.begin(transaction())
    assert session.output() == b"MAIL FROM:<a@a.example> MT-PRIORITY=3\r\n"
