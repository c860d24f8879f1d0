"""Protocol errors that the peer reports are not verdicts on the mail (f40)."""

from __future__ import annotations

import pytest
from tests.protocol.test_client import EHLO, EVERYTHING, PLAIN, D, F, P, fates, opened, transaction

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.parameters import Notify
from ironpost.protocol.client.session import ClientSession, ClientState, ClientStep, OutgoingTransaction

ENVELOPE = [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]


@pytest.mark.parametrize("code", [500, 501, 502, 503])
@pytest.mark.parametrize("step", [ClientStep.MAIL, ClientStep.RCPT, ClientStep.DATA, ClientStep.END])
@pytest.mark.parametrize("text", ["5.5.1 what", "5.5.4 what"])
def test_f40_a_protocol_error_is_not_a_verdict_on_the_mail(step: ClientStep, code: int, text: str) -> None:
    session, sent = opened(PLAIN), transaction()
    session.begin(sent)
    for each in ENVELOPE[: [ClientStep.MAIL, ClientStep.RCPT, ClientStep.DATA, ClientStep.END].index(step)]:
        session.receive(each)
    session.output()
    session.receive(f"{code} {text}\r\n".encode())
    assert fates(sent) == [P]
    outcome = sent.outcomes[0]
    assert outcome is not None
    assert outcome.reply.transient
    assert f"{code} {text}" in str(outcome.reply)
    assert sent.failed_at is step
    assert session.closed
    assert session.output() == b"QUIT\r\n"
    # Another host may be tried, unless this one may have accepted the message (RFC 1047).
    assert bool(sent.undecided) == (step is not ClientStep.END)


@pytest.mark.parametrize(
    ("step", "reply"),
    [
        (ClientStep.MAIL, b"501 5.1.7 bad sender\r\n"),
        (ClientStep.RCPT, b"501 5.1.3 bad recipient\r\n"),
        (ClientStep.RCPT, b"501 bad recipient\r\n"),
        (ClientStep.MAIL, b"501 bad sender\r\n"),
        (ClientStep.RCPT, b"504 5.5.2 need a fully qualified address\r\n"),
        (ClientStep.END, b"500 5.6.0 line too long\r\n"),
    ],
)
def test_f40_a_501_that_concerns_the_address_is_a_verdict(step: ClientStep, reply: bytes) -> None:
    session, sent = opened(PLAIN), transaction()
    session.begin(sent)
    for each in ENVELOPE[: [ClientStep.MAIL, ClientStep.RCPT, ClientStep.DATA, ClientStep.END].index(step)]:
        session.receive(each)
    session.receive(reply)
    assert fates(sent) == [F]
    assert session.state is ClientState.READY


def test_f40_a_501_may_mean_the_parameters_that_went_with_the_address() -> None:
    session = opened(EHLO + "S: 250-mx.example\nS: 250-DSN\nS: 250 SIZE\n")
    to = Recipient(Address.parse("b@b.example"), {"NOTIFY": Notify.parse("NEVER")})
    sent = OutgoingTransaction(Envelope(Address.parse("a@a.example"), (to,)), content=b"x\r\n")
    session.begin(sent)
    session.receive(b"250 ok\r\n")
    session.receive(b"501 syntax\r\n")
    assert fates(sent) == [P]


def test_f40_an_unexpected_reply_to_one_recipient_does_not_affect_others() -> None:
    session, sent = opened(), transaction("b@b.example", "c@c.example", "d@d.example")
    session.begin(sent)
    session.output()
    session.receive(b"250 ok\r\n250 ok\r\n503 5.5.1 what\r\n550 5.1.1 who\r\n354 go\r\n")
    assert session.output().endswith(b"\r\n.\r\n")
    session.receive(b"250 2.0.0 taken\r\n")
    assert fates(sent) == [D, P, F]
    assert sent.undecided == {1}
    assert session.closed
    assert session.output() == b"QUIT\r\n"


def test_f40_replies_to_what_was_sent_before_a_refusal_decide_nothing() -> None:
    session, sent = opened(), transaction("b@b.example")
    session.begin(sent)
    session.receive(b"550 5.7.1 go away\r\n503 5.5.1 MAIL first\r\n503 5.5.1 MAIL first\r\n")
    assert fates(sent) == [F]
    assert session.state is ClientState.READY


@pytest.mark.parametrize("code", [500, 502, 503])
def test_f40_a_rejected_bdat_leaves_the_connection_and_asks_for_data(code: int) -> None:
    session, sent = opened(EVERYTHING), transaction()
    session.begin(sent)
    session.receive(b"250 ok\r\n250 ok\r\n")
    assert b"BDAT" in session.output()
    session.receive(b"%d what\r\n" % code)
    assert fates(sent) == [P]
    assert sent.without_chunks
    assert sent.undecided == {0}
    assert session.closed


@pytest.mark.parametrize("reply", [b"502 what\r\n", b"451 no\r\n", b"550 no\r\n"])
def test_f40_a_refused_rset_says_nothing_about_the_next_message(reply: bytes) -> None:
    session = opened()
    session.begin(transaction())
    session.receive(b"250 ok\r\n550 who\r\n554 nobody\r\n")
    sent = transaction("d@d.example")
    session.begin(sent)
    assert session.output().endswith(b"DATA\r\n")
    session.receive(reply)
    assert fates(sent) == [P]
    assert sent.failed_at is ClientStep.RSET
    assert sent.undecided == {0}
    assert session.closed


def test_f40_a_session_can_be_reset_before_the_next_message() -> None:
    session = opened()
    session.reset()
    assert session.output() == b""
    session.begin(transaction())
    session.receive(b"250 ok\r\n550 who\r\n554 nobody\r\n")
    session.output()
    session.reset()
    assert session.output() == b"RSET\r\n"
    session.receive(b"250 ok\r\n")
    session.begin(transaction())
    assert session.output().startswith(b"MAIL")


@pytest.mark.parametrize("code", [500, 501, 502, 503])
def test_f40_a_helo_that_is_not_understood_is_worth_another_attempt(code: int) -> None:
    session = ClientSession("client.example")
    session.receive(b"220 lmtp.example LMTP\r\n")
    session.receive(b"500 5.5.1 LHLO, please\r\n")
    session.receive(b"%d 5.5.1 LHLO, please\r\n" % code)
    assert session.closed
    assert session.reason is not None
    assert session.reason.transient
