"""Addresses in header fields: what is found, and that nothing else changes when they are replaced."""

from __future__ import annotations

import email
import email.policy
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.message.address_list import addresses, all_addresses, replaced
from ironpost.model import Address

if TYPE_CHECKING:
    from email.headerregistry import Group


def moved(address: Address) -> Address | None:
    """The same local part in another domain, for one domain."""
    return Address(address.local_part, "new.example") if address.key == "old.example" else None


def renamed(address: Address) -> Address | None:
    return Address("Jo Smith", "new.example") if address.key == "old.example" else None


FOUND = [
    ("jo@old.example", ["jo@old.example"]),
    (" Jo <jo@old.example>, ada@mail.example ", ["jo@old.example", "ada@mail.example"]),
    ('"Jo, the \\"first\\" <x@old.example>" <jo@old.example>', ["jo@old.example"]),
    ('"jo smith"@old.example', ['"jo smith"@old.example']),
    ('"a\\"b"@old.example', ['"a\\"b"@old.example']),
    ("jo@[192.0.2.1]", ["jo@[192.0.2.1]"]),
    ("jo(x@a.example (y@b.example) \\) z)@(c)old.example (d)", ["jo@old.example"]),
    ("Team: jo@old.example, Ada <ada@old.example>;, x@y.example", ["jo@old.example", "ada@old.example", "x@y.example"]),
    ("undisclosed-recipients:;", []),
    ("<@a.example,@b.example:jo@old.example>", ["jo@old.example"]),
    ("jo . smith @ old . example", ["jo.smith@old.example"]),
    ("=?utf-8?q?x=40old=2Eexample?= <jo@old.example>", ["jo@old.example"]),
    ("=?utf-8?q?Smith,_x@old.example?= <jo@old.example>", ["jo@old.example"]),
    ("jo@old.example <ada@mail.example>", ["ada@mail.example"]),
    ("Jo\r\n <jo@old.example>,\r\n\tada@mail.example\r\n", ["jo@old.example", "ada@mail.example"]),
    ("jürgen@old.example, Jürgen <x@bücher.example>", ["jürgen@old.example", "x@bücher.example"]),
    ("", []), (",", []), ("<>", []), ("jo", []), ("@old.example", []), ("jo@", []), ("jo@a@b", []),
    ("jo ada@old.example", []), ("jo@old..example", []), ("<jo@old.example", []),
    ("a@b.example, (x", ["a@b.example"]), ('a@b.example, "x', ["a@b.example"]),
    ("jo@[192.0.2.1", []), ("a@b.example, \x00, jo@old.example", ["a@b.example"]), ("jo\\@old.example", []),
]  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), FOUND)
def test_addresses_are_found(body: str, expected: list[str]) -> None:
    octets = body.encode()
    found = list(addresses(octets))
    assert [str(each.address) for each in found] == expected
    for each in found:
        assert each.start < each.at < each.domain < each.end <= len(octets)
        assert b"@" in octets[each.at : each.domain]


def test_an_address_that_is_not_utf8_is_left() -> None:
    assert list(addresses(b"j\xff@old.example")) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (" Jo <jo@old.example>, ada@mail.example\r\n", " Jo <jo@new.example>, ada@mail.example\r\n"),
        (' "jo@old.example"\t<jo@Old.Example>\r\n', ' "jo@old.example"\t<jo@new.example>\r\n'),
        (" jo (jo@old.example) @ (x)\r\n\told.example (y)\r\n", " jo (jo@old.example) @ (x)\r\n\tnew.example (y)\r\n"),
        (" =?utf-8?q?J=C3=B6?= <j@old.example>\r\n", " =?utf-8?q?J=C3=B6?= <j@new.example>\r\n"),
        (" A: jo@old.example,\r\n b@old.example ;\r\n", " A: jo@new.example,\r\n b@new.example ;\r\n"),
        (' "a b"@old.example\r\n', ' "a b"@new.example\r\n'),
        (' "jo"@old.example\r\n', ' "jo"@new.example\r\n'),
        (" jü@old.example\r\n", " jü@new.example\r\n"),
    ],
)
def test_only_the_octets_of_the_domain_change(before: str, after: str) -> None:
    assert replaced(b"To:", before.encode(), moved) == after.encode()


def test_a_new_local_part_is_quoted_if_it_must_be() -> None:
    assert replaced(b"To:", b" x <jo (c) @old.example>\r\n", renamed) == b' x <"Jo Smith" (c) @new.example>\r\n'


def test_without_a_change_the_octets_are_the_same_object() -> None:
    body = b" jo@mail.example\r\n"
    assert replaced(b"To:", body, moved) is body
    assert replaced(b"To:", body, lambda address: address) is body


def test_a_line_that_grows_too_long_is_folded_after_a_comma() -> None:
    body = b" " + b",".join(b'"x, y" <u%d@o.example>' % number for number in range(40)) + b"\r\n"
    assert len(body) < 998
    grown = replaced(b"To:", body, lambda address: Address(address.local_part, "a-longer-domain.example"))
    lines = grown.split(b"\r\n")
    assert len(lines) == 3
    assert max(map(len, lines)) + len(b"To:") <= 998
    assert lines[0].endswith(b">,")
    assert grown.replace(b"\r\n ", b"") == body.replace(b"@o.", b"@a-longer-domain.")


ATOMS = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~", min_size=1, max_size=8)
QUOTED = st.text('ab ,;:<>().\\"[]@', min_size=1, max_size=8).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
LOCAL_PARTS = st.one_of(st.lists(ATOMS, min_size=1, max_size=3).map(".".join), QUOTED)
DOMAINS = st.sampled_from(["old.example", "OLD.example", "mail.example", "a.old.example"])
SPACE = st.sampled_from(["", " ", "\r\n ", "\t", "(a@old.example) ", " ((x) \\) y)\r\n "])
NAMES = st.sampled_from(["", "Jo ", '"x@old.example, \\"y" ', "=?utf-8?q?a=40b?= "])


@st.composite
def mailboxes(draw: st.DrawFn) -> tuple[str, str]:
    """A mailbox, up to its domain and from there."""
    before = f"{draw(LOCAL_PARTS)}{draw(SPACE)}@{draw(SPACE)}"
    after = draw(SPACE)
    if draw(st.booleans()):
        before, after = f"{draw(NAMES)}<{draw(SPACE)}{before}", f"{after}>{draw(SPACE)}"
    return draw(SPACE) + before, after


@given(st.lists(st.tuples(mailboxes(), DOMAINS), min_size=1, max_size=4), NAMES, st.booleans())
def test_any_list_is_the_same_but_for_the_domains(
    listed: list[tuple[tuple[str, str], str]], name: str, group: bool
) -> None:
    def written(domains: dict[str, str]) -> bytes:
        text = ",".join(before + domains.get(domain, domain) + after for (before, after), domain in listed)
        return (f" {name or 'Team'}:{text};\r\n" if group else f" {text}\r\n").encode()

    octets = written({})
    assert len(list(addresses(octets))) == len(listed)
    result = replaced(b"To:", octets, moved)
    assert result == written({"old.example": "new.example", "OLD.example": "new.example"})
    assert replaced(b"To:", result, moved) == result


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", []), (",", []), ("<>", []), ("undisclosed-recipients:;", []),
        ("Smith, Jo <jo@old.example>", ["jo@old.example"]), ("Example, Inc. <jo@old.example>", ["jo@old.example"]),
        ("jo@old.example <ada@mail.example>", ["jo@old.example", "ada@mail.example"]),
        ("jo@old.example: ada@mail.example;", ["jo@old.example", "ada@mail.example"]),
        ("J. Smith <jo@old.example>, \"x@y.example\" <a@b.example> (c@d.example)", ["jo@old.example", "a@b.example"]),
    ],
)  # fmt: skip
def test_all_addresses_include_those_that_a_reader_could_show(body: str, expected: list[str]) -> None:
    assert [str(each) for each in all_addresses(body.encode())] == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("=?utf-8?q?a=40b.example?=, Jo <jo@old.example>", "'=?utf-8?q?a=40b.example?=' is not an address"),
        ("a\uff20b.example, Jo <jo@old.example>", "'a\\uff20b.example' is not an address"),
        ('"a@b.example", Jo <jo@old.example>', "'\"a@b.example\"' is not an address"),
        ("<@a.example,@b.example:jo@old.example>", "'@a.example,@b.example' is not an address"),
        ("jo@" + "a" * 90, f"'jo@{'a' * 77}' is not an address"),
        ("jo@b\x7f", "a character is not allowed, or a quoted string, comment or literal has no end"),
        (")", "a character is not allowed, or a quoted string, comment or literal has no end"),
    ],
)
def test_of_all_addresses_each_must_be_valid(body: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        all_addresses(body.encode())


@given(st.binary(max_size=60))
def test_any_octets_are_read(body: bytes) -> None:
    result = replaced(b"To:", body, moved)
    assert replaced(b"To:", result, moved) == result
    if not list(addresses(body)):
        assert result is body


def parsed(octets: bytes) -> list[tuple[str | None, str, str]]:
    """Groups, display names and addresses as the parser of Python's library sees them."""
    message = email.message_from_bytes(b"To:" + octets + b"\r\n", policy=email.policy.SMTPUTF8)
    groups: tuple[Group, ...] = message["To"].groups
    found: list[tuple[str | None, str, str]] = []
    for group in groups:
        found += [(group.display_name, each.display_name, each.addr_spec) for each in group.addresses]
    return found


@pytest.mark.parametrize("body", [
    " Jo <jo@old.example>, \"Ada, A.\" <ada@mail.example>\r\n",
    " Team: jo@old.example, =?utf-8?q?J=C3=B6?= <j@old.example>;\r\n",
    " \"a b\"@old.example (x), jo@old.example\r\n",
    " Jürgen <jürgen@old.example>\r\n",
])  # fmt: skip
def test_another_parser_sees_the_same_but_for_the_domain(body: str) -> None:
    octets = body.encode()
    expected = [(group, name, spec.replace("@old.", "@new.")) for group, name, spec in parsed(octets)]
    assert parsed(replaced(b"To:", octets, moved)) == expected
    assert any("@new." in spec for _, _, spec in expected)
