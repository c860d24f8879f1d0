"""Paths from addresses: what an address can become, and what it cannot (SECURITY R42)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.delivery.path_template import COMPONENT_OCTETS, PathError, PathTemplate, component
from ironpost.model import Address
from ironpost.routing.mail_directory import key_of
from ironpost.wire import WireFault

TEMPLATE = PathTemplate("/srv/mail/{domain}/{local}")


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("Jo@Mail.Example", "mail.example/jo"),
        ("jo.doe+news@mail.example", "mail.example/jo.doe+news"),
        ("o'neil@mail.example", "mail.example/o%27neil"),
        ("100%@mail.example", "mail.example/100%25"),
        ("jö@mail.example", "mail.example/j%C3%B6"),
        ("JO\u0308@mail.example", "mail.example/%4A%C3%96"),  # composed, but its case stays
        ('".."@mail.example', "mail.example/%2E."),
        ('".hidden"@mail.example', "mail.example/%2Ehidden"),
        ('"../../etc/passwd"@mail.example', "mail.example/%2E.%2F..%2Fetc%2Fpasswd"),
        ('"a b\\\\"@mail.example', "mail.example/a%20b%5C"),
        ('""@mail.example', "mail.example/%"),
        ("jo@[192.0.2.1]", "%5B192.0.2.1%5D/jo"),
        ("postmaster", "mx.example/postmaster"),
    ],
)
def test_r42_an_address_becomes_part_of_one_component(address: str, path: str) -> None:
    assert TEMPLATE.path(Address.parse(address), "mx.example") == Path("/srv/mail") / path


@given(st.text(), st.text())
def test_r42_no_text_leaves_its_component_or_is_that_of_another(one: str, two: str) -> None:
    try:
        first, second = Address(one, "mail.example"), Address(two, "mail.example")
    except WireFault:
        return
    names = [component(address.local_part) for address in (first, second)]
    for name in names:
        assert Path("/x", name).parts == ("/", "x", name)
        assert name not in {"", ".", ".."}
        assert not name.startswith(".")
        assert name.isascii()
    if names[0] == names[1]:
        assert key_of(first) == key_of(second)


@given(st.text(alphabet=".%/\\@ aA+-\0\n\u00e9", min_size=1, max_size=12))
def test_r42_a_component_is_never_special(text: str) -> None:
    name = component(text)
    assert not set(name) & set("/\\\0\n ")
    assert not name.startswith(".")


def test_r42_a_component_has_at_most_255_octets() -> None:
    template = PathTemplate("/srv/{address}-" + "x" * 200)
    path = template.path(Address.parse("jo@mail.example"), "")
    assert len(path.name) < COMPONENT_OCTETS
    with pytest.raises(PathError, match="longer than 255 octets"):
        template.path(Address.parse("a-rather-long-name@a-rather-long-domain.of-some-mail.example"), "")


@pytest.mark.parametrize(
    ("text", "base", "pattern"),
    [
        ("/srv/mail/{domain}/{local}", "/srv/mail", "*/*"),
        ("/srv/mail/{address}/Maildir", "/srv/mail", "*/Maildir"),
        ("/srv/mail-{local}", "/srv", "mail-*"),
        ("{local}", ".", "*"),
        ("inbox", ".", "inbox"),
        ("/srv/in[box]", "/srv", "in[[]box]"),
        ("/srv/{{x}}", "/srv", "{x}"),
    ],
)
def test_what_exists_already_and_what_matches(text: str, base: str, pattern: str) -> None:
    template = PathTemplate(text)
    assert (template.base, template.pattern()) == (Path(base), pattern)


def test_a_template_without_placeholders_is_one_path() -> None:
    assert PathTemplate("inbox").single == Path("inbox")
    assert TEMPLATE.single is None
    assert PathTemplate.fixed(Path("/srv/{x}")).single == Path("/srv/{x}")


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("", "expected a path"),
        ("/srv/{user}", r"\{user\} is not known; expected \{domain\} or \{local\} or \{address\}"),
        ("/srv/{}", r"\{\} is not known"),
        ("/srv/{local!r}", r"\{local!r\} is not known"),
        ("/srv/{local:>9}", r"\{local:>9\} is not known"),
        ("/srv/{local", "is not a path template"),
        ("/srv/local}", "is not a path template"),
    ],
)
def test_a_wrong_template_is_explained(wrong: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PathTemplate(wrong)
