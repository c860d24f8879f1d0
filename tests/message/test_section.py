"""Where a header section ends, however the content is cut, and what its fields are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost import wire
from ironpost.message.section import EMPTY, Header, HeaderReader, split
from ironpost.message.trace import MAX_RECEIVED

HOP = b"Received: by a.example; x\r\n"


def read(content: bytes, *cuts: int, limits: wire.Limits = wire.DEFAULT_LIMITS) -> tuple[HeaderReader, bytes]:
    """Feed the content in pieces; the reader, and the body that it told from the header section."""
    reader = HeaderReader(limits)
    body, at = b"", 0
    for cut in (*sorted(min(cut, len(content)) for cut in cuts), len(content)):
        piece = content[at:cut]
        start = reader.feed(piece)
        assert (start < 0) is (reader.header is None)
        body += piece[start:] if start >= 0 else b""
        at = cut
    reader.finish()
    return reader, body


def header(content: bytes, *cuts: int) -> Header:
    found = read(content, *cuts)[0].header
    assert found is not None
    return found


SECTION = b"A: 1\r\nb: two\r\n folded\r\nReturn-Path: <x@example.org>\r\na:\t3 \r\n\r\n"


@pytest.mark.parametrize("body", [b"", b"\r\n", b"x", b"Return-Path: body\r\n\r\n"])
@pytest.mark.parametrize("section", [SECTION, b"\r\n", b"no header\r\n\r\n", b"A: 1\r\n\r\n"])
def test_a_section_ends_at_the_first_empty_line_wherever_it_is_cut(section: bytes, body: bytes) -> None:
    content = section + body
    for cut in range(len(content) + 1):
        reader, rest = read(content, cut)
        assert (reader.finish().octets, rest, reader.whole) == (section, body, True)
    reader, rest = read(content, *range(len(content)))
    assert (reader.finish().octets, rest, reader.whole) == (section, body, True)
    found, rest = split(content)
    assert (found.octets, rest) == (section, body)


@pytest.mark.parametrize("content", [b"", b"\r", b"A: 1", b"A: 1\r\n", b"A: 1\r\n\r", b"A: 1\n\nB: 2\r\n", b"x"])
def test_content_without_an_empty_line_is_all_header_section(content: bytes) -> None:
    for cut in range(len(content) + 1):
        reader, body = read(content, cut)
        assert (reader.finish().octets, body, reader.whole) == (content, b"", True)
    found, body = split(content)
    assert (found.octets, body) == (content, b"")


def test_r23_a_section_is_held_up_to_the_limit_and_fields_are_bounded() -> None:
    limits = wire.DEFAULT_LIMITS._replace(header_octets=200, header_fields=5)
    reader = HeaderReader(limits)
    assert [reader.feed(b"X: " + b"y" * 97) for _ in range(4)] == [-1, -1, 100, 0]
    assert not reader.whole
    assert len(reader.finish().octets) == 300
    many = read(b"X: y\r\n" * 6 + b"\r\n", limits=limits)[0].finish()
    assert len(many.section.fields) == 5
    assert many.section.fault is not None
    exact = b"X: " + b"y" * 195 + b"\r\n"
    for cut in range(198, 203):
        reader, body = read(exact + b"\r\nx", cut, limits=limits)
        assert (reader.finish().octets, reader.whole, body) == (exact + b"\r\n", True, b"x")
        assert reader.finish().section.fault is None


def test_fields_are_found_by_name_in_any_case_and_unfolded() -> None:
    fields = Header(SECTION)
    assert fields.values("A") == [b"1", b"3"]
    assert fields.first("B") == b"two folded"
    assert fields.first("C") is None


def test_fields_are_removed_and_nothing_else() -> None:
    fields = Header(SECTION)
    assert fields.without("return-path") == SECTION.replace(b"Return-Path: <x@example.org>\r\n", b"")
    assert fields.without("A") == SECTION[6:].replace(b"a:\t3 \r\n", b"")
    assert fields.without("C") == SECTION


@pytest.mark.parametrize("content", [b"", b"\r\nno header\r\n", b"A: 1", b"A: 1\r\nno field\r\n", b"A :\r\n\r\n"])
def test_content_starts_with_a_field_or_an_empty_line(content: bytes) -> None:
    assert header(content).starts_with_field


@pytest.mark.parametrize("content", [b"no header\r\n", b" folded\r\n", b": x\r\n", b"From", b"x" * (1 << 20)])
def test_content_starts_with_other_text(content: bytes) -> None:
    assert not header(content).starts_with_field


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"A: 1\r\n b\r\n\r\nx\ny", ""),
        (b"A: 1", ""),
        (b"A: 1\nB: 2\r\n\r\n", "Header section holds a bare CR or LF (RFC 5322 section 2.2)"),
        (b"A: 1\rB: 2\r\n\r\n", "Header section holds a bare CR or LF (RFC 5322 section 2.2)"),
        (b"A: 1\r\r\n b\r\n\r\n", "Header section holds a bare CR or LF (RFC 5322 section 2.2)"),
        (b"A: 1\n\rB: 2\r\n\r\n", "Header section holds a bare CR or LF (RFC 5322 section 2.2)"),
        (b"A: 1\r\nx\r\n\r\n", "Line after header field 1 is neither a field nor an empty line (RFC 5322 section 2.2)"),
    ],
)
def test_a_section_that_readers_could_understand_otherwise_says_why(content: bytes, reason: str) -> None:
    assert Header(content).ambiguity == reason


def test_a_first_field_beyond_the_limit_is_a_field() -> None:
    assert header(b"X: " + b"y" * (2 << 20)).starts_with_field


def test_r48_received_fields_are_counted_in_the_header_section_alone() -> None:
    rest = b"Subject: received: received:\r\nX-Received: x\r\n\r\n" + HOP * 200
    assert MAX_RECEIVED == 100
    assert header(HOP * 99 + rest).received == 99
    assert header(HOP.swapcase() * 100 + rest).received == 100
    for content in (b"", b"\r\n" + HOP, b"\r\n\r\n" + HOP, b"x\r\n\r\n" + HOP):
        assert header(content).received == 0
    assert EMPTY.received == 0


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([HOP, b"A: 1\r\n", b"\r\n", b"Received:", b"\r", b"\n", b"x"])),
    st.lists(st.integers(0, 150)),
)
def test_where_the_pieces_are_cut_does_not_change_the_section(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(lines)
    whole, body = read(content)
    reader, rest = read(content, *cuts)
    assert (reader.finish().octets, rest) == (whole.finish().octets, body)
    assert reader.finish().octets + rest == content
    assert reader.finish().received == sum(entry.name == "Received" for entry in whole.finish().section.fields)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"A: 1\r\n\r\nx\ny", False),
        (b"A: 1\nB: 2", True),
        (b"A: 1\r\nx\r\nB: 2\nC: 3\r\n\r\n", True),
        (b"x\r\n", False),
    ],
)
def test_bare_line_ends_are_found_also_after_a_line_that_is_not_a_field(content: bytes, found: bool) -> None:
    assert Header(content).bare_line_end == found
