"""Opening a client session: STARTTLS and AUTH, as transcripts."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ironpost.model.tls import TlsFailure, TlsLevel, Verification
from ironpost.protocol import replies
from ironpost.protocol.client.session import ClientSession, ClientState, ClientStep, Ending, Security
from ironpost.protocol.sasl import Credentials

ADA = Credentials("ada", "secret")
AUTHENTICATED = Verification(TlsLevel.AUTHENTICATED, "valid")
PLAIN = b64encode(b"\0ada\0secret")
GREETING = b"220 mx.example ESMTP\r\n"
OFFER = b"250-mx.example\r\n250-PIPELINING\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n"
WITHOUT_STARTTLS = b"250-mx.example\r\n250 AUTH PLAIN LOGIN\r\n"


def greeted(offer: bytes, security: Security, **options: bool) -> ClientSession:
    """Return a session after the reply to its first EHLO."""
    session = ClientSession("client.example", security=security, **options)
    session.receive(GREETING)
    assert session.output() == b"EHLO client.example\r\n"
    session.receive(offer)
    return session


def securing() -> ClientSession:
    """Return a session after the 220 to STARTTLS."""
    session = greeted(OFFER, Security(credentials=ADA))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"220 go ahead\r\n")
    return session


def test_r13_credentials_require_tls_and_are_sent_after_it() -> None:
    session = securing()
    assert (session.state, session.step) == (ClientState.SECURING, ClientStep.TLS)
    assert session.output() == b""
    session.secured({}, AUTHENTICATED)
    assert session.output() == b"EHLO client.example\r\n"
    session.receive(b"250-mx.example\r\n250 AUTH PLAIN\r\n")
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is ClientState.READY
    assert (session.secure, session.verified) == (True, True)


@pytest.mark.parametrize("offer", [WITHOUT_STARTTLS, b"502 what?\r\n"], ids=["EHLO", "HELO"])
def test_r13_without_starttls_no_credentials_are_sent(offer: bytes) -> None:
    """An attacker has removed STARTTLS from the EHLO reply, or the peer does not support it."""
    session = greeted(offer, Security(credentials=ADA))
    if offer.startswith(b"5"):
        assert session.output() == b"HELO client.example\r\n"
        session.receive(b"250 mx.example\r\n")
    assert session.output() == b"QUIT\r\n"
    assert (session.reason, session.ending) == (replies.PEER_LACKS_STARTTLS, Ending.INSECURE)


def test_r13_a_refused_starttls_counts_as_not_offered() -> None:
    session = greeted(OFFER, Security(credentials=ADA))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"454 4.7.0 not now\r\n")
    assert session.output() == b"QUIT\r\n"
    assert session.ending is Ending.INSECURE
    assert str(session.reason) == "454 4.7.0 not now"


def test_r13_credentials_are_sent_without_tls_only_if_allowed() -> None:
    session = greeted(WITHOUT_STARTTLS, Security(credentials=ADA, without_tls=True))
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"


def test_opportunistic_starttls_is_used_if_offered_and_not_required() -> None:
    session = greeted(OFFER, Security("may"))
    assert session.output() == b"STARTTLS\r\n"
    session.receive(b"454 4.7.0 not now\r\n")
    assert session.state is ClientState.READY
    assert greeted(WITHOUT_STARTTLS, Security("may")).state is ClientState.READY
    assert greeted(OFFER, Security("never")).state is ClientState.READY


def test_a_level_below_the_required_one_ends_the_session_with_quit() -> None:
    """RFC 3207 §4.1."""
    session = greeted(OFFER, Security("must", level=TlsLevel.AUTHENTICATED))
    session.receive(b"220 go ahead\r\n")
    session.output()
    session.secured({}, Verification(TlsLevel.ENCRYPTED, "no TLSA record matches"))
    session.output()
    session.receive(WITHOUT_STARTTLS)
    assert session.output() == b"QUIT\r\n"
    assert (session.reason, session.ending) == (replies.PEER_NOT_VERIFIED, Ending.INSECURE)
    assert session.reason is not None
    assert session.reason.detail == "no TLSA record matches"


@pytest.mark.parametrize(
    ("offer", "reason"), [(OFFER, "the host refused STARTTLS: 454 not now"), (WITHOUT_STARTTLS, "not offer STARTTLS")]
)
def test_an_unencrypted_session_knows_why(offer: bytes, reason: str) -> None:
    session = greeted(offer, Security("may"))
    session.receive(b"454 not now\r\n")
    assert session.tls.level is TlsLevel.NONE
    assert reason in session.tls.reason


def test_tls_from_the_start_needs_no_starttls() -> None:
    session = greeted(OFFER, Security(credentials=ADA), secure=True)
    assert session.output() == b"AUTH PLAIN " + PLAIN + b"\r\n"


@pytest.mark.parametrize("following", [b"250 injected\r\n", b"2", b"\0"], ids=["a reply", "a part of one", "an octet"])
@pytest.mark.parametrize("together", [True, False])
def test_r10_octets_after_the_reply_to_starttls_end_the_session(following: bytes, together: bool) -> None:
    session = greeted(OFFER, Security("must"))
    session.output()
    if together:
        session.receive(b"220 go ahead\r\n" + following)
    else:
        session.receive(b"220 go ahead\r\n")
        session.receive(following)
    assert session.closed
    assert session.ending is Ending.FAULT
    assert session.output() == b""


def test_r12_extensions_offered_before_tls_are_forgotten() -> None:
    session = securing()
    assert "PIPELINING" in session.offered
    session.secured({}, AUTHENTICATED)
    assert (session.offered, session.domain) == ({}, "")
    session.receive(b"250 mx.example\r\n")  # neither PIPELINING nor AUTH under TLS
    assert session.offered == {}
    assert session.ending is Ending.INSECURE
    assert session.reason == replies.PEER_LACKS_MECHANISM


def test_a_handshake_that_fails_or_times_out_ends_the_session() -> None:
    session = securing()
    session.not_secured("certificate has expired", TlsFailure.CERTIFICATE_EXPIRED)
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
    assert session.state is ClientState.READY


def test_a_long_initial_response_waits_for_the_servers_turn() -> None:
    token = "t" * 600
    security = Security(credentials=Credentials("ada", token=token, host="mx.example", port=465))
    session = greeted(b"250-mx.example\r\n250 AUTH XOAUTH2\r\n", security, secure=True)
    assert session.output() == b"AUTH XOAUTH2\r\n"
    session.receive(b"334 \r\n")
    assert len(session.output()) > 600
    session.receive(b"235 2.7.0 welcome\r\n")
    assert session.state is ClientState.READY


def test_a_malformed_challenge_cancels_the_exchange() -> None:
    security = Security(credentials=ADA, mechanisms=("CRAM-MD5",))
    session = greeted(b"250-mx.example\r\n250 AUTH CRAM-MD5\r\n", security, secure=True)
    session.output()
    session.receive(b"334 !!!\r\n")
    assert session.output() == b"*\r\n"
    session.receive(b"501 5.7.0 cancelled\r\n")
    assert (session.reason, session.ending) == (replies.PEER_UNTRUSTED, Ending.INSECURE)


def test_a_login_without_the_servers_scram_proof_is_refused() -> None:
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


def test_235_after_a_cancelled_exchange_is_not_a_login() -> None:
    security = Security(credentials=Credentials("ada", "pencil"), mechanisms=("CRAM-MD5",))
    session = ClientSession("client.example", security=security, secure=True)
    session.receive(b"220 mx.example\r\n")
    session.receive(b"250-mx.example\r\n250 AUTH CRAM-MD5\r\n")
    session.output()
    session.receive(b"334 not base64!\r\n")
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
    assert session.state is ClientState.READY
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
