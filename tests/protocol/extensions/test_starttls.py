"""STARTTLS in the session: when it is offered, refusals, and the state that TLS clears (RFC 3207)."""

from __future__ import annotations

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, greeted, say

from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, TlsHandshake, TlsInfo

SETTINGS = ServerSettings("mx.example", starttls=True)
TLS = TlsInfo("TLSv1.3", "TLS_AES_256_GCM_SHA384")
EHLO = b"EHLO client.example\r\n"


def test_it_is_offered_without_tls_and_never_under_tls() -> None:  # RFC 3207 §4.2
    session = greeted(Open(), SETTINGS, hello=b"")
    assert b"250-STARTTLS\r\n" in say(session, EHLO)
    assert say(session, b"starttls\r\n") == b"220 2.0.0 Ready to start TLS\r\n"
    assert session.want == TlsHandshake()
    session.tls_started(TLS)
    assert session.want is None
    assert session.secure
    assert session.output() == b""  # no second greeting
    assert b"STARTTLS" not in say(session, EHLO)
    assert say(session, b"STARTTLS\r\n") == b"503 5.5.1 TLS already active\r\n"
    assert session.protocol == "ESMTPS"


def test_without_a_certificate_it_is_not_offered() -> None:
    session = greeted(Open(), hello=b"")
    assert b"STARTTLS" not in say(session, EHLO)
    assert codes(say(session, b"STARTTLS\r\n")) == [b"502"]


def test_it_is_offered_by_lmtp() -> None:
    session = greeted(Open(), ServerSettings(starttls=True, dialect=LMTP), hello=b"LHLO c.example\r\n")
    assert codes(say(session, b"STARTTLS\r\n")) == [b"220"]
    session.tls_started(TLS)
    say(session, b"LHLO c.example\r\n")
    assert session.protocol == "LMTPS"


@pytest.mark.parametrize(
    ("hello", "line", "expected"),
    [
        (EHLO, b"STARTTLS now\r\n", b"501 5.5.4"),  # RFC 3207 §4
        (b"HELO client.example\r\n", b"STARTTLS\r\n", b"503 5.5.1"),
        (b"", b"STARTTLS\r\n", b"503 5.5.1"),
    ],
)
def test_a_refused_starttls_changes_nothing(hello, line, expected) -> None:
    session = greeted(Open(), SETTINGS, hello=hello)
    assert say(session, line).startswith(expected)
    assert session.want is None
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_between_two_chunks_it_ends_the_transaction() -> None:
    session = greeted(Open(), SETTINGS)
    assert codes(say(session, ENVELOPE + b"BDAT 1\r\nxSTARTTLS\r\nRCPT TO:<c@d.example>\r\n"))[3:] == [b"503", b"503"]
    assert session.want is None


@pytest.mark.parametrize("following", [b"E", b"RSET\r\n", b"EHLO evil.example\r\nMAIL FROM:<e@evil.example>\r\n"])
@pytest.mark.parametrize("pieces", ["one", "two"])
def test_r9_octets_after_starttls_close_and_are_not_executed(following, pieces) -> None:
    handler = Open()
    session = greeted(handler, SETTINGS)
    if pieces == "one":
        written = say(session, b"NOOP\r\nSTARTTLS\r\n" + following)
        assert written == b"250 2.0.0 OK\r\n"  # earlier commands are answered; STARTTLS is not
    else:  # after our 220, but before TLS
        assert codes(say(session, b"STARTTLS\r\n")) == [b"220"]
        assert say(session, following) == b""
    assert session.closing
    assert session.transaction is None
    session.tls_started(TLS)
    assert say(session, EHLO) == b""


def test_r9_octets_that_arrive_while_a_hook_is_pending_close_too() -> None:
    class Slow(Open):
        async def hello(self, session, verb, domain):
            return None

    session = greeted(Slow(), SETTINGS, hello=b"")
    pending = session.receive(EHLO + b"STARTTLS\r\n")
    session.receive(b"MAIL FROM:<e@evil.example>\r\n")
    with pytest.raises(StopIteration):
        pending.send(None)
    session.answer(None)
    assert session.closing
    assert b"220" not in session.output()


def test_r11_tls_discards_the_session_state() -> None:
    handler = Open()
    session = greeted(handler, SETTINGS)
    session.identity = Identity("jo", "PLAIN")
    assert codes(say(session, ENVELOPE + b"STARTTLS\r\n")) == [b"250", b"250", b"220"]
    session.tls_started(TLS)
    assert (session.helo, session.esmtp, session.identity, session.transaction) == ("", False, None, None)
    # Transaction and EHLO have been discarded.
    assert codes(say(session, b"DATA\r\nRCPT TO:<c@d.example>\r\nMAIL FROM:<a@b.example>\r\n")) == [b"503"] * 3
    assert say(session, EHLO).startswith(b"250-mx.example\r\n")
    assert codes(say(session, ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n")) == [b"250", b"250", b"354", b"250"]
    assert session.protocol == "ESMTPS"
    assert handler.messages == [b"x\r\n"]


def test_r11_half_a_line_before_tls_does_not_start_a_line_under_tls() -> None:
    session = greeted(Open(), SETTINGS)
    say(session, b"STARTTLS\r\n")
    session.tls_started(TLS)
    assert codes(say(session, b"RSET\r\n")) == [b"250"]


def test_a_failed_handshake_is_the_end() -> None:
    session = greeted(Open(), SETTINGS)
    say(session, b"STARTTLS\r\n")
    session.tls_failed()
    assert session.closing
    assert session.output() == b""


def test_a_server_that_stops_during_the_handshake_sends_421_after_it() -> None:
    session = greeted(Open(), SETTINGS)
    say(session, b"STARTTLS\r\n")
    session.shutdown()
    assert session.output() == b""  # nothing more is sent before TLS
    session.tls_started(TLS)
    assert codes(session.output()) == [b"421"]
    assert session.closing
