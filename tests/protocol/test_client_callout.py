"""The client session asks for recipients without sending mail."""

from __future__ import annotations

import pytest
from tests.protocol.test_client import EHLO, EVERYTHING, PLAIN, D, F, P, fates, opened, transaction

from ironpost.model import NULL, Address, Envelope, Recipient
from ironpost.protocol.client.session import ClientState, ClientStep, OutgoingTransaction


def callout(*to: str) -> OutgoingTransaction:
    recipients = tuple(Recipient(Address.parse(each)) for each in to or ("b@b.example",))
    return OutgoingTransaction(Envelope(NULL, recipients), size=0, content=b"", callout=True)


def test_nothing_follows_rcpt() -> None:
    session, asked = opened(PLAIN), callout()
    session.begin(asked)
    assert session.output() == b"MAIL FROM:<>\r\n"
    session.receive(b"250 ok\r\n")
    assert session.output() == b"RCPT TO:<b@b.example>\r\n"
    session.receive(b"250 fine\r\n")
    assert fates(asked) == [D]
    assert (session.output(), session.state) == (b"", ClientState.READY)


@pytest.mark.parametrize("greeting", [PLAIN, EVERYTHING])
def test_each_recipient_has_its_reply(greeting: str) -> None:
    session, asked = opened(greeting), callout("b@b.example", "c@c.example", "d@d.example")
    session.begin(asked)
    sent = session.output()
    for reply in (b"250 ok\r\n", b"250 ok\r\n", b"550 5.1.1 who\r\n", b"450 4.2.1 later\r\n"):
        session.receive(reply)
        sent += session.output()
    assert fates(asked) == [D, F, P]
    assert (asked.outcomes[1] and str(asked.outcomes[1].reply)) == "550 5.1.1 who"
    assert b"DATA" not in sent
    assert b"BDAT" not in sent
    assert session.state is ClientState.READY


def test_mail_follows_rset_on_the_same_connection() -> None:
    session = opened(EHLO + "S: 250-mx.example\nS: 250 PIPELINING\n")
    session.begin(callout())
    session.output()
    session.receive(b"250 ok\r\n250 ok\r\n")
    sent = transaction()
    session.begin(sent)
    assert session.output().startswith(b"RSET\r\nMAIL FROM:")
    session.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    session.receive(b"250 2.0.0 taken\r\n")
    assert fates(sent) == [D]


def test_a_refused_null_reverse_path_is_not_a_reply_to_rcpt() -> None:
    session, asked = opened(PLAIN), callout()
    session.begin(asked)
    session.receive(b"550 5.7.1 no bounces\r\n")
    assert (fates(asked), asked.failed_at) == ([F], ClientStep.MAIL)
