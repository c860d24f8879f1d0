"""An `Address` that exists can be written into a command: nothing else can be constructed (SECURITY R17)."""

from __future__ import annotations

import pytest

from ironpost import wire
from ironpost.model import NULL, Address
from ironpost.model.address import AddressOrDomain

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
    """RFC 5321 §4.1.2: a local part that is not a Dot-string is written as a Quoted-string, and parsed as the same."""
    text = str(Address(local_part, "b.example"))
    assert text.startswith('"')
    assert Address.parse(text).local_part == local_part
    command = wire.parse_command(f"RCPT TO:<{text}>\r\n".encode())
    assert (command.fault, command.path) == (None, wire.Mailbox(local_part, "b.example"))


@pytest.mark.parametrize("local_part", [".a", "a.", "a..b", ".", "..", ".a..b."])
def test_f27_stray_dots_are_read_and_written_in_quotes(local_part: str) -> None:
    address = Address.parse(f"{local_part}@b.example")
    assert address == Address(local_part, "b.example") == Address.parse(str(address))
    assert str(address) == f'"{local_part}"@b.example'
    assert wire.parse_mailbox(str(address)) == wire.Mailbox(local_part, "b.example")


@pytest.mark.parametrize("octets", [252, 253, 254])
def test_f27_an_address_is_measured_as_it_is_written(octets: int) -> None:
    """Else a store could keep what it cannot read again: with two quotes a path must not pass 256 octets."""
    text = "a" * (octets - 2 - len(LONG_DOMAIN)) + f".@{LONG_DOMAIN}"
    if octets <= 252:
        assert Address.parse(str(Address.parse(text))) == Address.parse(text)
        return
    with pytest.raises(wire.WireFault) as refused:
        Address.parse(text)
    assert refused.value.id == "path-too-long"


def test_f27_a_domain_may_have_underscores() -> None:
    address = Address.parse("a@Some_Host.example")
    assert (str(address), address.key) == ("a@Some_Host.example", "some_host.example")
    assert address == Address("a", "some_host.example") == address.in_ascii()
    assert str(Address.parse("a..@b_c.bücher.example").in_ascii()) == '"a.."@b_c.xn--bcher-kva.example'
    with pytest.raises(ValueError):
        Address.parse("a@b_ü.example").in_ascii()  # IDNA2008 has no A-label for it
    for domain in ("-b_c.example", "b_c-.example", "b_c..example", "_" * 64):
        with pytest.raises(wire.WireFault):
            Address("a", domain)


def test_addresses_are_equal_as_the_standard_has_it() -> None:  # RFC 5321 §2.4
    assert Address("a", "B.Example") == Address("a", "b.eXAMPLE")
    assert Address("a", "b.example") != Address("A", "b.example")
    assert Address.parse('"a"@b.example') == Address("a", "b.example")
    assert str(Address("a", "B.Example")) == "a@B.Example"
    assert Address.parse("") == NULL
    assert NULL.is_null
    assert Address.parse("PostMaster").local_part == "PostMaster"


@pytest.mark.parametrize(
    ("text", "local_part", "key"),
    [("Jo@A.example", "Jo", "a.example"), ('"a b"@a.example', "a b", "a.example"), ("@A.example", None, "a.example")],
)
def test_an_address_or_a_domain_is_read_and_written(text: str, local_part: str | None, key: str) -> None:
    found = AddressOrDomain.parse(text)
    assert (found.local_part, found.key, str(found)) == (local_part, key, text)


@pytest.mark.parametrize("text", ["@", "@a b", "@@a.example", "jo@", "@-a.example"])
def test_what_is_neither_an_address_nor_a_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        AddressOrDomain.parse(text)
    assert f"x{text}" not in str(caught.value)


def test_the_error_of_a_domain_names_what_was_written() -> None:
    with pytest.raises(
        ValueError, match=r'^@a b is not @ and a domain: invalid character " " in the domain \(offset 2\)$'
    ):
        AddressOrDomain.parse("@a b")
