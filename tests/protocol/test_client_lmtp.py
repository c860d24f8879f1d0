"""The client session in LMTP, as transcripts: one reply to the content for each accepted recipient (RFC 2033)."""

from __future__ import annotations

import pytest
from tests.protocol.test_client import D, F, P, fates, talk, transaction

from ironpost.protocol.client.session import ClientSession, ClientState, ClientStep, Ending, OutgoingTransaction
from ironpost.protocol.dialect import LMTP

LHLO = "S: 220 store.example LMTP\nC: LHLO client.example\n"
PIPELINING = LHLO + "S: 250-store.example\nS: 250 PIPELINING\n"
CHUNKING = LHLO + "S: 250-store.example\nS: 250-PIPELINING\nS: 250 CHUNKING\n"
TO = ("one@b.example", "two@b.example", "three@b.example")
ENVELOPE = (
    "C: MAIL FROM:<a@a.example>\nC: RCPT TO:<one@b.example>\nC: RCPT TO:<two@b.example>\nC: RCPT TO:<three@b.example>\n"
)
CONTENT = "C: Subject: x\nC: \nC: hi\nC: .\n"


def opened(greeting: str = PIPELINING) -> ClientSession:
    session = ClientSession("client.example", "store.example", dialect=LMTP)
    talk(session, greeting)
    assert session.state is ClientState.READY
    return session


def sent(
    session: ClientSession, replies: str = "S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n"
) -> OutgoingTransaction:
    """Send a message to `TO` up to the end of its content; `replies` are those to the envelope."""
    message = transaction(*TO)
    session.begin(message)
    talk(session, f"{ENVELOPE}C: DATA\n{replies}{CONTENT}")
    return message


def texts(message: OutgoingTransaction) -> list[str]:
    return [outcome.reply.text[0] for outcome in message.outcomes if outcome is not None]


def test_each_recipient_has_the_outcome_of_its_reply() -> None:  # RFC 2033 §4.2
    session = opened()
    message = sent(session)
    talk(session, "S: 250 2.1.5 first\nS: 452 4.2.2 second is full\n")
    assert session.step is ClientStep.END
    assert [each and each.disposition for each in message.outcomes] == [D, P, None], "replies count as they arrive"
    talk(session, "S: 550 5.2.1 third is closed\n")
    assert fates(message) == [D, P, F]
    assert texts(message) == ["first", "second is full", "third is closed"]
    assert session.state is ClientState.READY


def test_a_refused_recipient_gets_no_reply_to_the_content() -> None:
    session = opened()
    message = sent(session, "S: 250 ok\nS: 250 ok\nS: 550 5.1.1 unknown\nS: 250 ok\nS: 354 go\n")
    talk(session, "S: 250 first\nS: 451 third later\n")
    assert fates(message) == [D, F, P]
    assert texts(message) == ["first", "unknown", "third later"]


def test_the_same_recipient_twice_gets_two_replies() -> None:
    session = opened()
    message = transaction(TO[0], TO[0])
    session.begin(message)
    talk(session, "C: MAIL FROM:<a@a.example>\nC: RCPT TO:<one@b.example>\nC: RCPT TO:<one@b.example>\nC: DATA\n")
    talk(session, f"S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 354 go\n{CONTENT}S: 250 once\nS: 452 twice\n")
    assert fates(message) == [D, P]
    assert session.state is ClientState.READY


def test_replies_split_at_every_octet_and_of_several_lines() -> None:
    session = opened()
    message = sent(session)
    for octet in b"250-first\r\n250 is in\r\n452 second\r\n250 third\r\n":
        session.receive(bytes([octet]))
    assert fates(message) == [D, P, D]


def test_many_messages_over_one_session() -> None:
    session = opened()
    for _ in range(3):
        message = sent(session)
        talk(session, "S: 250 1\nS: 250 2\nS: 250 3\n")
        assert fates(message) == [D, D, D]
    assert session.transactions == 3


def test_the_last_chunk_gets_one_reply_for_each_recipient() -> None:  # RFC 2033 §4.3
    session = opened(CHUNKING)
    message = transaction(*TO)
    session.begin(message)
    talk(session, f"{ENVELOPE}S: 250 ok\nS: 250 ok\nS: 550 no\nS: 250 ok\n")
    assert session.output() == b"BDAT 18 LAST\r\nSubject: x\r\n\r\nhi\r\n"
    talk(session, "S: 250 first\nS: 452 third\n")
    assert fates(message) == [D, F, P]
    assert session.step is None
    session.begin(transaction())
    assert session.output().startswith(b"RSET\r\nMAIL"), "a refused chunk may not have ended the transaction"


def test_a_server_that_offers_chunking_but_not_bdat_replies_once() -> None:
    session = opened(CHUNKING)
    message = transaction(*TO)
    session.begin(message)
    talk(session, f"{ENVELOPE}S: 250 ok\nS: 250 ok\nS: 250 ok\nS: 250 ok\n")
    session.output()
    talk(session, "S: 500 what\n")
    assert session.closed
    assert message.without_chunks
    assert fates(message) == [P, P, P]


@pytest.mark.parametrize("arrived", [0, 1, 2])
@pytest.mark.parametrize("chunking", [False, True])
def test_recipients_without_a_reply_are_deferred_if_the_connection_is_lost(arrived: int, chunking: bool) -> None:
    session = opened(CHUNKING if chunking else PIPELINING)
    message = transaction(*TO)
    session.begin(message)
    session.output()
    session.receive(b"250 ok\r\n" * 4)
    if not chunking:
        session.receive(b"354 go\r\n")
    session.output()
    session.receive(b"250 in\r\n" * arrived)
    session.eof()
    assert fates(message) == [D] * arrived + [P] * (3 - arrived)
    assert not message.undecided, "another connection would deliver twice at once"
    assert session.ending is Ending.LOST


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\r\n",
        b"OK, thank you\r\n",
        b"354 go\r\n",
        b"250-a\r\n550 b\r\n",
        b"250\x00 in\r\n",
        b"421 closing\r\n",
    ],
)
def test_garbage_defers_the_recipients_without_a_reply(garbage: bytes) -> None:
    session = opened()
    message = sent(session)
    session.receive(b"250 first\r\n" + garbage + b"250 third\r\n")
    assert fates(message) == [D, P, P]
    assert session.closed


def test_more_replies_than_recipients_end_the_session() -> None:
    session = opened()
    message = sent(session)
    session.receive(b"250 1\r\n250 2\r\n250 3\r\n250 4\r\n")
    assert fates(message) == [D, D, D]
    assert session.ending is Ending.FAULT


def test_fewer_replies_than_recipients_are_waited_for() -> None:
    session = opened()
    message = sent(session)
    session.receive(b"250 1\r\n250 2\r\n")
    assert session.timeout == 600
    session.expire()
    assert fates(message) == [D, D, P]


def test_a_protocol_error_concerns_one_recipient_and_ends_the_session_after_the_replies() -> None:
    session = opened()
    message = sent(session)
    talk(session, "S: 500 what\nS: 250 second\nS: 550 5.2.1 third\nC: QUIT\n")
    assert fates(message) == [P, D, F]
    assert session.closed


@pytest.mark.parametrize("code", [500, 502, 550])
def test_a_server_of_smtp_is_not_spoken_to(code: int) -> None:  # RFC 2033 §4.1
    session = ClientSession("client.example", dialect=LMTP)
    talk(session, f"{LHLO}S: {code} unknown command\nC: QUIT\n")
    assert session.refused_permanently
    assert session.ended_at is ClientStep.LHLO


def test_no_recipient_accepted_and_data_refused() -> None:
    session = opened()
    message = transaction(*TO)
    session.begin(message)
    talk(session, f"{ENVELOPE}C: DATA\nS: 250 ok\nS: 550 1\nS: 550 2\nS: 452 3\nS: 503 no recipients\n")
    assert fates(message) == [F, F, P]
    assert session.state is ClientState.READY


def test_data_accepted_without_recipients_ends_the_session() -> None:  # RFC 2033 §4.2: there would be no reply
    session = opened()
    message = transaction(*TO)
    session.begin(message)
    talk(session, f"{ENVELOPE}C: DATA\nS: 250 ok\nS: 550 1\nS: 550 2\nS: 550 3\nS: 354 go\n")
    assert session.closed
    assert fates(message) == [F, F, F]
