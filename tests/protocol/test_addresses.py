"""Addresses outside RFC 5321 §4.1.2 that exist (f27): accepted and counted, or refused, depending on the settings."""

from __future__ import annotations

import pytest
from tests.protocol.test_server_session import Open, codes, say, settle

from ironpost.protocol import dialect
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import TlsInfo

HELLO = {dialect.SMTP: b"EHLO c.example\r\n", dialect.LMTP: b"LHLO c.example\r\n"}
ADDRESSES = {
    ".a@b.example": ("stray_dots",),
    "a.@b.example": ("stray_dots",),
    "a..b@c.example": ("stray_dots",),
    "..@c.example": ("stray_dots",),
    "a@some_host.example": ("underscore",),
    ".a..b.@some_host.example": ("stray_dots", "underscore"),
}
ORDINARY = ('"a..b"@c.example', "a_b@c.example", "a.b@c.example", "a@[192.0.2.1]", "a@[tag:b_c]")


class Asked(Open):
    """A handler that records the addresses it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses = []

    def mail(self, session, reverse_path, parameters):
        self.addresses.append(reverse_path)

    def recipient(self, session, forward_path, parameters):
        self.addresses.append(forward_path)


def opened(spoken=dialect.SMTP, tls=None, **settings) -> ServerSession:
    session = ServerSession(Asked(), ServerSettings("mx.example", dialect=spoken, **settings), tls=tls)
    settle(session, session.start())
    session.output()
    say(session, HELLO[spoken])
    return session


@pytest.mark.parametrize("spoken", HELLO, ids=lambda spoken: spoken.name)
@pytest.mark.parametrize("address", ADDRESSES)
def test_f27_tolerated_addresses_are_accepted_and_counted(address: str, spoken) -> None:
    session = opened(spoken)
    line = address.encode()
    assert (
        codes(say(session, b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\nRCPT TO:<%b>\r\n" % (line, line, line))) == [b"250"] * 3
    )
    assert session.leniencies == dict.fromkeys(ADDRESSES[address], 3)
    local_part, _, domain = address.rpartition("@")
    for each in session.handler.addresses:
        assert (each.local_part, each.domain) == (local_part, domain)
        assert str(each) == (f'"{local_part}"@{domain}' if "stray_dots" in ADDRESSES[address] else address)


@pytest.mark.parametrize("spoken", HELLO, ids=lambda spoken: spoken.name)
@pytest.mark.parametrize("address", ADDRESSES)
def test_f27_a_strict_listener_refuses_them(address: str, spoken) -> None:
    session = opened(spoken, addresses="strict")
    line = address.encode()
    said = say(session, b"MAIL FROM:<%b>\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<%b>\r\n" % (line, line))
    assert [reply[:9] for reply in said.splitlines()] == [b"501 5.1.7", b"250 2.1.0", b"501 5.1.3"]
    assert session.leniencies == {}


@pytest.mark.parametrize("addresses", ["strict", "lenient"])
@pytest.mark.parametrize("address", ORDINARY)
def test_f27_a_valid_address_uses_no_tolerance(address: str, addresses: str) -> None:
    session = opened(addresses=addresses)
    line = address.encode()
    assert codes(say(session, b"MAIL FROM:<%b>\r\nRCPT TO:<%b>\r\n" % (line, line))) == [b"250"] * 2
    assert session.leniencies == {}


@pytest.mark.parametrize(
    "address", ["a@-b.example", "a@b..example", "a@.example", "@b.example", "a b@c.example", "a..b"]
)
def test_f27_everything_else_is_still_refused(address: str) -> None:
    session = opened()
    line = address.encode()
    said = say(session, b"MAIL FROM:<%b>\r\nMAIL FROM:<>\r\nRCPT TO:<%b>\r\n" % (line, line))
    assert codes(said) == [b"501", b"250", b"501"]
    assert session.leniencies == {}


@pytest.mark.parametrize(("addresses", "expected"), [("strict", b"501"), ("lenient", b"250")])
def test_f27_tolerated_addresses_are_accepted_under_tls(addresses: str, expected: bytes) -> None:
    session = opened(addresses=addresses, starttls=True)
    say(session, b"STARTTLS\r\n")
    session.tls_started(TlsInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256"))
    assert codes(say(session, b"EHLO c.example\r\nMAIL FROM:<a.@b_c.example>\r\n"))[-1] == expected


def test_f27_non_ascii_addresses_still_need_smtputf8() -> None:
    session = opened()
    said = say(session, "MAIL FROM:<é..a@b.example>\r\nMAIL FROM:<é..a@b.example> SMTPUTF8\r\n".encode())
    assert codes(said) == [b"550", b"250"]


@pytest.mark.parametrize("octets", [252, 253, 254, 255])
def test_f27_every_accepted_address_fits_into_a_path(octets: int) -> None:
    """RFC 5321 §4.5.3.1.3 counts the quotes that a stray dot needs: with them the path must not pass 256 octets."""
    session = opened()
    domain = b".".join([b"b" * 63] * 3)
    address = b"a" * (octets - len(domain) - 2) + b".@" + domain
    assert codes(say(session, b"MAIL FROM:<%b>\r\n" % address)) == [b"250" if octets <= 252 else b"501"]
    assert all(len(f"<{each}>") <= 256 for each in session.handler.addresses)
