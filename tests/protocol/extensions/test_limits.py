"""LIMITS: how much at once (RFC 9422)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings
from tests.protocol.test_client import opened, talk, transaction

from ironpost.protocol import replies
from ironpost.protocol.client import State
from ironpost.protocol.extensions.limits import PeerLimits, peer_limits
from ironpost.protocol.settings import Settings

FEW = "S: 220 mx.example ESMTP\nC: EHLO client.example\nS: 250-mx.example\nS: 250 LIMITS RCPTMAX=2 MAILMAX=2\n"


def test_the_server_says_what_it_keeps() -> None:
    assert "LIMITS RCPTMAX=1000" in offers(open_session())
    assert "LIMITS RCPTMAX=100 MAILMAX=7" in offers(open_session(settings(max_recipients=100, max_transactions=7)))
    assert not any(line.startswith("LIMITS") for line in offers(open_session(settings(max_recipients=10**6))))
    with pytest.raises(ValueError, match="max_transactions"):
        Settings(max_transactions=0)


def test_mailmax_counts_every_mail_and_then_closes() -> None:  # RFC 9422 §4.1
    session = open_session(settings(max_transactions=3))
    assert mail(session, "").startswith("250")
    assert mail(session, "X=y").startswith("555")
    session.receive(b"EHLO client.example\r\n")
    session.output()
    assert mail(session, "").startswith("250")
    assert mail(session, "") == "421 4.7.0 Too many messages in one session, closing"
    assert session.closing


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, PeerLimits()),
        ("", PeerLimits()),
        ("RCPTMAX=20 MAILMAX=5", PeerLimits(5, 20)),
        ("rcptmax=1", PeerLimits(None, 1)),
        ("FUTURE RCPTMAX=20 OTHER=a/b=c", PeerLimits(None, 20)),
        ("MAILMAX=999999", PeerLimits(999_999, None)),
        # RFC 9422 §3.7: one limit that cannot be read is as if it were not there
        ("MAILMAX=0 RCPTMAX=20", PeerLimits(None, 20)),
        ("MAILMAX=1000000 RCPTMAX=-1", PeerLimits()),
        ("MAILMAX RCPTMAX=020", PeerLimits()),
        # RFC 9422 §3.7: what has another form than limits have is as if nothing had been said
        ("RCPTMAX=20 MAILMAX=5;", PeerLimits()),
        ("RCPTMAX=20 =5", PeerLimits()),
        ("RCPTMAX=20 MAILMAX=", PeerLimits()),
        ("RCPTMAX=20 m\u00e4x=1", PeerLimits()),
    ],
)
def test_what_a_peer_says_is_read_with_care(said: str | None, found: PeerLimits) -> None:
    assert peer_limits({} if said is None else {"LIMITS": said}) == found


def test_recipients_beyond_the_limit_wait_for_the_next_transaction() -> None:  # RFC 9422 §4.2
    session = opened(FEW)
    sent = transaction("a@b.example", "b@b.example", "c@b.example")
    session.begin(sent)
    assert sent.outcomes[:2] == [None, None]
    waiting = sent.outcomes[2]
    assert waiting is not None
    assert (waiting.reply, waiting.reply.transient) == (replies.PEER_WANTS_FEWER_RECIPIENTS, True)
    talk(
        session,
        "C: MAIL FROM:<a@a.example>\nS: 250 ok\nC: RCPT TO:<a@b.example>\nS: 250 ok\n"
        "C: RCPT TO:<b@b.example>\nS: 250 ok\nC: DATA\nS: 354 go\n",
    )
    session.output()
    session.receive(b"250 ok\r\n")
    assert sent.done
    assert session.state is State.READY


def test_messages_beyond_the_limit_need_another_connection() -> None:
    session = opened(FEW)
    assert session.limits == PeerLimits(2, 2)
    for _ in range(2):
        sent = transaction()
        session.begin(sent)
        session.output()
        session.receive(b"550 no\r\n")
        assert sent.done
    sent = transaction()
    session.begin(sent)
    assert [outcome.reply for outcome in sent.outcomes if outcome] == [replies.PEER_WANTS_FEWER_MESSAGES]
    assert session.output() == b""


def test_our_client_keeps_the_limit_of_our_server() -> None:
    outcomes, kept, _ = converse(settings(max_recipients=100), {}, ({},) * 101)
    assert [reply.code for reply in outcomes] == [250] * 100 + [452]
    assert len(kept.envelopes[0][1]) == 100
