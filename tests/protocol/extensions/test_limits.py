"""LIMITS: recipients and messages of a session (RFC 9422)."""

from __future__ import annotations

import pytest
from tests.protocol.extensions.parameter_kit import converse, mail, offers, open_session, settings
from tests.protocol.test_client import opened, talk, transaction

from ironpost.protocol import replies
from ironpost.protocol.client.session import ClientState
from ironpost.protocol.extensions.limits import PeerLimits, peer_limits
from ironpost.protocol.server.settings import ServerSettings

FEW = "S: 220 mx.example ESMTP\nC: EHLO client.example\nS: 250-mx.example\nS: 250 LIMITS RCPTMAX=2 MAILMAX=2\n"


def test_the_server_announces_its_limits() -> None:
    assert "LIMITS RCPTMAX=1000" in offers(open_session())
    assert "LIMITS RCPTMAX=100 MAILMAX=7" in offers(open_session(settings(max_recipients=100, max_transactions=7)))
    assert not any(line.startswith("LIMITS") for line in offers(open_session(settings(max_recipients=10**6))))
    with pytest.raises(ValueError, match="max_transactions"):
        ServerSettings(max_transactions=0)


def test_mailmax_counts_every_mail_and_then_closes() -> None:  # RFC 9422 §4.1
    session = open_session(settings(max_transactions=3))
    assert mail(session, "").startswith("250")
    assert mail(session, "X=y").startswith("555")
    session.receive(b"EHLO client.example\r\n")
    session.output()
    assert mail(session, "").startswith("250")
    assert mail(session, "") == "421 4.7.0 Too many messages in one session, closing transmission channel"
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
        # RFC 9422 §3.7: a limit that cannot be parsed is ignored
        ("MAILMAX=0 RCPTMAX=20", PeerLimits(None, 20)),
        ("MAILMAX=1000000 RCPTMAX=-1", PeerLimits()),
        ("MAILMAX RCPTMAX=020", PeerLimits()),
        # RFC 9422 §3.7: a parameter of another form is ignored
        ("RCPTMAX=20 MAILMAX=5;", PeerLimits()),
        ("RCPTMAX=20 =5", PeerLimits()),
        ("RCPTMAX=20 MAILMAX=", PeerLimits()),
        ("RCPTMAX=20 m\u00e4x=1", PeerLimits()),
    ],
)
def test_invalid_limits_of_a_peer_are_ignored(said: str | None, found: PeerLimits) -> None:
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
    assert session.state is ClientState.READY


def test_messages_beyond_the_limit_use_another_connection() -> None:
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


def test_our_client_respects_the_limits_of_our_server() -> None:
    outcomes, kept, _ = converse(settings(max_recipients=100), {}, ({},) * 101)
    assert [reply.code for reply in outcomes] == [250] * 100 + [452]
    assert len(kept.envelopes[0][1]) == 100
