"""An `Address` that exists can be written into a command: nothing else can be constructed (SECURITY R17)."""

from __future__ import annotations

import pytest

from ironpost import wire
from ironpost.model import NULL, Address

LONG_DOMAIN = ".".join(["b" * 63] * 3)


@pytest.mark.parametrize(
    ("local_part", "domain"),
    [
        ("a\r\nRCPT TO:<x@y.example>", "b.example"),
        ("a\n", "b.example"),
        ("a\r", "b.example"),
        ("a\0", "b.example"),
        ("a\x1b[2J", "b.example"),
        ("a\x7f", "b.example"),
        ("a", "b.example\r\nDATA"),
        ("a", "b.example> SIZE=1"),
        ("a", "b example"),
        ("a", "b\0.example"),
        ("a", "[192.0.2.1\r\n]"),
        ("a", "."),
        ("a", "-b.example"),
        ("a\r\n", ""),
        ("anybody", ""),
    ],
)
def test_r17_what_a_command_cannot_hold_cannot_be_constructed(local_part: str, domain: str) -> None:
    with pytest.raises(wire.WireFault):
        Address(local_part, domain)
    with pytest.raises(wire.WireFault):
        Address.parse(f"{local_part}@{domain}" if domain else local_part)


def test_r17_a_mailbox_is_no_longer_than_a_path_allows() -> None:  # RFC 5321 §4.5.3.1.3: 256 octets with its brackets
    longest = "a" * (254 - 1 - len(LONG_DOMAIN))
    assert len(str(Address(longest, LONG_DOMAIN))) == 254
    assert Address.parse(f"{longest}@{LONG_DOMAIN}") == Address(longest, LONG_DOMAIN)
    assert wire.parse_command(f"MAIL FROM:<{Address(longest, LONG_DOMAIN)}>".encode()).fault is None
    for make in (
        lambda: Address(longest + "a", LONG_DOMAIN),
        lambda: Address.parse(f"a{longest}@{LONG_DOMAIN}"),
        lambda: Address("é" * 130, "b.example"),
    ):
        with pytest.raises(wire.WireFault) as refused:
            make()
        assert refused.value.id == "path-too-long"


@pytest.mark.parametrize("local_part", ["a b", 'a"b', "a\\b", "a@b", "a>b", ".a", "a..b", "a,b", ""])
def test_r17_a_local_part_that_needs_quotes_gets_them(local_part: str) -> None:
    """RFC 5321 §4.1.2: what no Dot-string can hold stands in a Quoted-string, and reads back as the same."""
    text = str(Address(local_part, "b.example"))
    assert text.startswith('"')
    assert Address.parse(text).local_part == local_part
    command = wire.parse_command(f"RCPT TO:<{text}>\r\n".encode())
    assert (command.fault, command.path) == (None, wire.Mailbox(local_part, "b.example"))


def test_addresses_are_equal_as_the_standard_has_it() -> None:  # RFC 5321 §2.4
    assert Address("a", "B.Example") == Address("a", "b.eXAMPLE")
    assert Address("a", "b.example") != Address("A", "b.example")
    assert Address.parse('"a"@b.example') == Address("a", "b.example")
    assert str(Address("a", "B.Example")) == "a@B.Example"
    assert Address.parse("") == NULL
    assert NULL.is_null
    assert Address.parse("PostMaster").local_part == "PostMaster"
