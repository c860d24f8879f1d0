"""The writer of header fields writes one field, whatever the text."""

from __future__ import annotations

from email import message_from_bytes, policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message import header
from ironpost.model import Address


def read(octets: bytes) -> list[tuple[str, str]]:
    """The fields as the standard library sees them."""
    message = message_from_bytes(octets + b"\r\nbody\r\n", policy=policy.compat32)
    return [(name, value.replace("\r\n", "")) for name, value in message.raw_items()]


def test_a_short_field_is_one_line() -> None:
    assert header.field("Subject", ("one", "two")) == b"Subject: one two\r\n"


@settings(deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=90), min_size=1))
def test_lines_are_folded_between_tokens_and_unfold_to_the_same_text(tokens: list[str]) -> None:
    octets = header.field("X-Test", tokens)
    lines = octets.split(b"\r\n")
    assert lines.pop() == b""
    assert all(line.startswith(b" ") for line in lines[1:])
    # A line passes 78 octets only where one token alone is longer.
    assert all(len(line) <= 78 or len(line.split()) == (2 if line.startswith(b"X-Test") else 1) for line in lines)
    assert read(octets) == [("X-Test", " ".join(tokens))]


@settings(deadline=None)
@given(st.text(max_size=200), st.booleans())
def test_r43_no_text_becomes_a_second_field(text: str, utf8: bool) -> None:
    try:
        octets = header.field("X-Test", (text, "end"), utf8=utf8)
    except header.HeaderError:
        return
    assert [name for name, _ in read(octets)] == ["X-Test"]
    assert octets.count(b"\r\n") == octets.count(b"\n") == octets.count(b"\r") == 1 + octets.count(b"\r\n ")


@pytest.mark.parametrize("bad", ["a\r\nBcc: x", "a\nb", "a\rb", "a\0b", "a\x1bb", "\x7f", "", "t\tab", "x" * 995])
def test_r43_the_writer_refuses_controls_and_over_long_tokens(bad: str) -> None:
    for utf8 in (False, True):
        with pytest.raises(header.HeaderError):
            header.field("Name", (bad, "x" * 70), utf8=utf8)


@pytest.mark.parametrize("bad", ["\x85", "\u2028", "\u2029", "\ud800"])
def test_r43_the_writer_refuses_the_line_ends_of_unicode(bad: str) -> None:
    with pytest.raises(header.HeaderError):
        header.field("Name", (f"a{bad}b",), utf8=True)


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\n", "É", "x" * 80])
def test_r43_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(header.HeaderError, match="not a valid header field name"):
        header.field(name, ("x",))


def test_non_ascii_text_needs_permission() -> None:
    with pytest.raises(header.HeaderError):
        header.field("To", ("<jö@example.org>",))
    assert header.field("To", ("<jö@example.org>",), utf8=True) == "To: <jö@example.org>\r\n".encode()


@settings(deadline=None)
@given(st.text())
def test_whatever_text_can_be_shown_as_words(text: str) -> None:
    for utf8 in (False, True):
        octets = header.field("X-Test", ("start", *header.words(text, utf8=utf8)), utf8=utf8)
        assert len(read(octets)) == 1
        assert max(map(len, octets.split(b"\r\n"))) <= 998


@settings(deadline=None)
@given(st.text())
def test_a_comment_closes_where_it_ends(text: str) -> None:
    token = header.comment(text)
    inside = token[1:-1]
    assert (token[0], token[-1]) == ("(", ")")
    at = 0
    while at < len(inside):
        assert inside[at] not in "()"
        at += 2 if inside[at] == "\\" else 1
    assert at == len(inside)


def test_a_path_with_a_line_separator_is_shown_escaped() -> None:
    address = Address("a\u2028b", "example.org")
    assert header.path(address) == "<a\\u2028b@example.org>"
