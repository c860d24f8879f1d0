"""Which address a client has, which networks contain it, and which network is counted as one client."""

from __future__ import annotations

import gc
import weakref
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, cast

import pytest

from ironpost.model.network import (
    LOOPBACK,
    IPAddress,
    address_literal,
    client_network,
    is_loopback,
    parse_ip,
    parse_networks,
    within,
)
from ironpost.protocol.extensions.attributes import address
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server.connection import peer_of
from ironpost.server.limits import ConnectionLimits

if TYPE_CHECKING:
    import asyncio

LONG = "192.0.2.1%" + 100 * "x"
NO_ADDRESS = [
    "", "localhost", "128.0.0.1.1", "192.0.2.1/32", "[192.0.2.1]", "%eth0", "/run/socket", "::ffff:300.1.1.1", LONG,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", IPv4Address("192.0.2.1")),
        ("2001:DB8:0::1", IPv6Address("2001:db8::1")),
        ("fe80::1%eth0", IPv6Address("fe80::1")),
        ("::ffff:192.0.2.1", IPv4Address("192.0.2.1")),
        ("::ffff:c000:201", IPv4Address("192.0.2.1")),
        *((text, None) for text in NO_ADDRESS),
    ],
)
def test_an_address_has_no_zone_and_is_not_mapped(text: str, address: IPAddress | None) -> None:
    assert parse_ip(text) == address


@pytest.mark.parametrize(
    ("ip", "v4", "v6", "network"),
    [
        ("192.0.2.1", 32, 64, "192.0.2.1"),
        ("192.0.2.1", 24, 64, "192.0.2.0/24"),
        ("::ffff:192.0.2.1", 32, 64, "192.0.2.1"),
        ("::ffff:192.0.2.1", 24, 64, "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", 32, 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 32, 128, "2001:db8:1:2:3:4:5:6"),
        ("fe80::1%eth0", 32, 64, "fe80::/64"),
        ("::1", 24, 24, "::/24"),  # a small number is an IPv6 address, too
        *((text, 32, 64, "") for text in NO_ADDRESS),
    ],
)
def test_one_client_is_an_ipv4_address_or_an_ipv6_network(ip: str, v4: int, v6: int, network: str) -> None:
    assert client_network(ip, v4, v6) == network


@pytest.mark.parametrize("ip", ["192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1", "2001:db8::1%eth0"])
def test_a_client_is_in_a_network_in_every_notation_of_its_address(ip: str) -> None:
    networks = parse_networks(["192.0.2.0/24", "2001:db8::/32"])
    assert within(ip, networks) in networks
    assert within(ip, LOOPBACK) is None


@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_known_by_name_and_address(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost.mx.example", "192.0.2.1", "::2", "127.0.0.1.example"])
def test_other_hosts_are_not_this_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("ip", NO_ADDRESS)
def test_text_that_is_not_an_address_is_in_no_network_and_has_no_literal(ip: str) -> None:
    assert within(ip, parse_networks(["0.0.0.0/0", "::/0"])) is None
    assert address_literal(ip) == ""
    assert ConnectionLimits(exempt=()).prefix(ip) == ""
    assert not ServerSettings(front_ends=parse_networks(["0.0.0.0/0", "::/0"])).trusts(ip)


def test_r23_a_long_text_is_not_kept() -> None:
    class Text(str):
        """A text that can be observed."""

    text = Text(LONG)
    kept = weakref.ref(text)
    assert (within(text, LOOPBACK), client_network(text), address_literal(text)) == (None, "", "")
    del text
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize("network", ["192.0.2.1/24", "everybody", "", "2001:db8::1/32"])
def test_an_invalid_network_is_named(network: str) -> None:
    with pytest.raises(ValueError, match=network or "''"):
        parse_networks([network])


@pytest.mark.parametrize(
    ("ip", "literal"),
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("::ffff:192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%eth0", "[IPv6:fe80::1]"),
    ],
)
def test_an_address_literal(ip: str, literal: str) -> None:
    assert address_literal(ip) == literal


class Accepted:
    """A transport that only knows its peer."""

    def __init__(self, ip: str) -> None:
        self.ip = ip

    def get_extra_info(self, name: str) -> tuple[str, int]:
        assert name == "peername"
        return self.ip, 25


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_a_connection_shows_an_ipv4_client_as_ipv4(ip: str, expected: str) -> None:
    assert peer_of(cast("asyncio.Transport", Accepted(ip))).ip == expected


def test_a_front_end_may_name_an_ipv4_client_in_ipv6_notation() -> None:
    assert address("IPV6:::ffff:192.0.2.1") == "192.0.2.1"
    assert address("IPV6:2001:DB8::9") == "2001:db8::9"
