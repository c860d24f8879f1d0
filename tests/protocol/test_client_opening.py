"""What a client says and does not say before it is ready: STARTTLS and AUTH, as transcripts."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ironpost.protocol import replies
from ironpost.protocol.client import ClientSession, Ending, Security, State, Step
from ironpost.protocol.sasl import Credentials

ADA = Credentials("ada", "secret")
PLAIN = b64encode(b"\0ada\0secret")
GREETING = b"220 mx.example ESMTP\r\n"
OFFER = b"250-mx.example\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n"
IN_CLEAR_ONLY = b"250-mx.example\r\n250 AUTH PLAIN LOGIN\r\n"


def greeted(offer: bytes, security: Security, **options: bool) -> ClientSession:
    """A session behind the reply to its first EHLO."""
    session = ClientSession("client.example", security=security, **options)
    session.receive(GREETING)
    assert session.output() == b"EHLO client.example\r\n"
    session.receive(offer)
    return session


def securing() -> ClientSession:
    """One behind the 220 to STARTTLS."""
    session = greeted(OFFER, Security(credentials=ADA))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"220 go ahead\r\n")
    return session


def test_r13_credentials_make_tls_a_must_and_come_behind_it() -> None:
    session = securing()
    assert (session.state, session.step) == (State.SECURING, Step.TLS)
    assert session.output() == b""
    session.secured({}, verified=True)
    assert session.output() == b"EHLO client.example\r\n"
    session.receive(b"250-mx.example\r\n250 AUTH PLAIN\r\n")
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is State.READY
    assert (session.secure, session.verified) == (True, True)


@pytest.mark.parametrize("offer", [IN_CLEAR_ONLY, b"502 what?\r\n"], ids=["EHLO", "HELO"])
def test_r13_without_starttls_no_credentials_are_said(offer: bytes) -> None:
    """STARTTLS was stripped from the offer, or the peer never had it."""
    session = greeted(offer, Security(credentials=ADA))
    if offer.startswith(b"5"):
        assert session.output() == b"HELO client.example\r\n"
        session.receive(b"250 mx.example\r\n")
    assert session.output() == b"QUIT\r\n"
    assert (session.reason, session.ending) == (replies.PEER_LACKS_STARTTLS, Ending.INSECURE)


def test_r13_a_refused_starttls_is_as_none() -> None:
    session = greeted(OFFER, Security(credentials=ADA))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"454 4.7.0 not now\r\n")
    assert session.output() == b"QUIT\r\n"
    assert session.ending is Ending.INSECURE
    assert str(session.reason) == "454 4.7.0 not now"


def test_r13_credentials_go_in_clear_only_when_asked_by_name() -> None:
    session = greeted(IN_CLEAR_ONLY, Security(credentials=ADA, in_clear=True))
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"


def test_starttls_that_may_be_is_used_where_offered_and_missed_nowhere() -> None:
    session = greeted(OFFER, Security("may"))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"454 4.7.0 not now\r\n")
    assert session.state is State.READY
    assert greeted(IN_CLEAR_ONLY, Security("may")).state is State.READY
    assert greeted(OFFER, Security("never")).state is State.READY


def test_tls_from_the_start_needs_no_starttls() -> None:
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"


@pytest.mark.parametrize("behind", [b"250 injected\r\n", b"2", b"\0"], ids=["a reply", "a part of one", "an octet"])
@pytest.mark.parametrize("together", [True, False])
def test_r10_octets_behind_the_reply_to_starttls_end_the_session(behind: bytes, together: bool) -> None:
    session = greeted(OFFER, Security("must"))
    session.output()
    if together:
        session.receive(b"220 go ahead\r\n" + behind)
    else:
        session.receive(b"220 go ahead\r\n")
        session.receive(behind)
    assert session.closed
    assert session.ending is Ending.FAULT
    assert session.output() == b""


def test_r12_what_was_offered_in_clear_is_forgotten() -> None:
    session = securing()
    assert "PIPELINING" in session.offered
    session.secured({}, verified=True)
    assert (session.offered, session.domain) == ({}, "")
    session.receive(b"250 mx.example\r\n")  # neither PIPELINING nor AUTH under TLS
    assert session.offered == {}
    assert session.ending is Ending.INSECURE
    assert session.reason == replies.PEER_LACKS_MECHANISM


def test_a_handshake_that_fails_or_is_late_ends_the_session() -> None:
    session = securing()
    session.not_secured("certificate has expired")
    assert (session.reason, session.ending) == (replies.HANDSHAKE_FAILED, Ending.INSECURE)
    session = securing()
    session.eof()
    assert session.ending is Ending.LOST
    session = securing()
    session.expire()
    assert session.ending is Ending.EXPIRED


def test_a_refused_login_ends_the_session_with_the_reply() -> None:
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    session.output()
    session.receive(b"535 5.7.8 no\r\n")
    assert session.output() == b"QUIT\r\n"
    assert (str(session.reason), session.ending) == ("535 5.7.8 no", Ending.REFUSED)
    assert session.exchange is not None


def test_login_asks_for_name_and_password() -> None:
    session = greeted(b"250-mx.example\r\n250 AUTH LOGIN\r\n", Security(credentials=ADA), secure=True)
    assert session.output() == b"AUTH LOGIN\r\n"
    session.receive(b"334 " + b64encode(b"Username:") + b"\r\n")
    assert session.output() == b64encode(b"ada") + b"\r\n"
    session.receive(b"334 " + b64encode(b"Password:") + b"\r\n")
    assert session.output() == b64encode(b"secret") + b"\r\n"
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is State.READY


def test_a_long_initial_response_waits_for_the_servers_turn() -> None:
    token = "t" * 600
    security = Security(credentials=Credentials("ada", token=token, host="mx.example", port=465))
    session = greeted(b"250-mx.example\r\n250 AUTH XOAUTH2\r\n", security, secure=True)
    assert session.output() == b"AUTH XOAUTH2\r\n"
    session.receive(b"334 \r\n")
    assert len(session.output()) > 600
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is State.READY


def test_a_challenge_that_is_none_is_cancelled() -> None:
    security = Security(credentials=ADA, mechanisms=("CRAM-MD5",))
    session = greeted(b"250-mx.example\r\n250 AUTH CRAM-MD5\r\n", security, secure=True)
    session.output()
    session.receive(b"334 !!!\r\n")
    assert session.output() == b"*\r\n"
    session.receive(b"501 5.7.0 cancelled\r\n")
    assert (session.reason, session.ending) == (replies.PEER_UNTRUSTED, Ending.INSECURE)


def test_a_server_that_does_not_prove_itself_is_not_believed() -> None:
    pytest.importorskip("scramp")
    security = Security(credentials=ADA)
    offer = b"250-mx.example\r\n250 AUTH SCRAM-SHA-256\r\n"
    session = ClientSession("client.example", security=security, secure=True, nonce="nonce")
    session.receive(GREETING)
    session.output()
    session.receive(offer)
    assert session.output().startswith(b"AUTH SCRAM-SHA-256 ")
    session.receive(b"235 2.7.0 never mind\r\n")
    assert (session.reason, session.ending) == (replies.PEER_UNTRUSTED, Ending.INSECURE)


def test_a_login_that_was_given_up_is_not_taken_for_one_though_the_server_says_so() -> None:
    security = Security(credentials=Credentials("ada", "pencil"), mechanisms=("CRAM-MD5",))
    session = ClientSession("client.example", security=security, secure=True)
    session.receive(b"220 mx.example\r\n")
    session.receive(b"250-mx.example\r\n250 AUTH CRAM-MD5\r\n")
    session.output()
    session.receive(b"334 this is no base64\r\n")
    assert session.output() == b"*\r\n"
    session.receive(b"235 2.7.0 Authentication succeeded\r\n")
    assert session.closed
    assert not session.authenticated
    assert session.ending is Ending.INSECURE


@pytest.mark.parametrize(
    "reply", [b"500", b"501 5.5.4", b"502", b"503 5.5.1", b"504 5.5.4", b"534 5.7.9", b"538 5.7.11"]
)
def test_f40_a_mechanism_that_is_rejected_is_followed_by_the_next(reply: bytes) -> None:
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    assert session.output().startswith(b"AUTH PLAIN ")
    session.receive(reply + b" no\r\n")
    assert session.output() == b"AUTH LOGIN\r\n"
    session.receive(b"334 VXNlcm5hbWU6\r\n")
    session.receive(b"334 UGFzc3dvcmQ6\r\n")
    session.output()
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is State.READY
    assert session.authenticated


def test_f40_when_every_mechanism_is_rejected_the_last_reply_is_the_reason() -> None:
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    session.receive(b"504 5.5.4 no PLAIN\r\n")
    session.receive(b"504 5.5.4 no LOGIN\r\n")
    assert session.closed
    assert (str(session.reason), session.ending) == ("504 5.5.4 no LOGIN", Ending.REFUSED)
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    session.receive(b"503 5.5.1 not now\r\n")
    session.receive(b"503 5.5.1 not now\r\n")
    assert session.reason is not None
    assert session.reason.transient
