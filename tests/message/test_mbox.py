"""`From ` lines of mbox files: above content that programs send, and around what is delivered."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.message.mbox import MboxContent, SeparatorLines, separator
from ironpost.model import NULL, Address

LINE = b"From jo@client.example Thu Jan  1 00:00:00 1970\r\n"
REST = b"Subject: x\r\n\r\nFrom here on\r\n"


def passed(content: bytes, step: int, *, bare_lf: bool = False) -> tuple[bytes, int]:
    lines = SeparatorLines(bare_lf=bare_lf)
    out = b"".join(lines.feed(content[at : at + step]) for at in range(0, len(content), step))
    return out + lines.finish(), lines.removed


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize("above", [LINE, b">" + LINE, b">>" + LINE, b"From \r\n", LINE + b">" + LINE])
def test_f30_separator_lines_above_content_go(above: bytes, step: int) -> None:
    assert passed(above + REST, step) == (REST, above.count(b"From "))


@pytest.mark.parametrize("step", [1, 3, 5000])
@pytest.mark.parametrize(
    "content",
    [
        REST,
        b"",
        b"F",
        b"From",
        b"From ",
        LINE[:-2],
        b"From : jo@client.example\r\n\r\n",
        b"From \t: jo@client.example\r\n\r\n",
        b"From: jo@client.example\r\n\r\n",
        b"FROM jo\r\n",
        b"> From jo\r\n",
        b"\r\n" + LINE,
        b"Fro\r\n" + LINE,
        b"From a\rFrom b\r\n",
        b"From a\nSubject: b\r\n",
        b"From " + b"a" * 994 + b"\r\n",
        b">" * 2000 + LINE,
    ],
)
def test_f30_nothing_else_is_touched(content: bytes, step: int) -> None:
    assert passed(content, step) == (content, 0)


@pytest.mark.parametrize("step", [1, 1000])
def test_f30_the_longest_line_that_goes(step: int) -> None:
    assert passed(b"From " + b"a" * 993 + b"\r\n" + REST, step) == (REST, 1)


@pytest.mark.parametrize("step", [1, 1000])
def test_f30_in_a_file_lines_may_end_in_lf(step: int) -> None:
    assert passed(b"From a\n>From b\r\nSubject: x\n", step, bare_lf=True) == (b"Subject: x\n", 2)


def test_f30_many_such_lines_cost_no_more_than_their_octets() -> None:
    content = LINE * 100_000  # quadratic work would take minutes
    assert passed(content, 256 * 1024) == (b"", 100_000)


def quoted(content: bytes, step: int) -> bytes:
    converter = MboxContent()
    return b"".join(converter.feed(content[at : at + step]) for at in range(0, len(content), step)) + converter.finish()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (b"a: b\n\nFrom here\n", b"a: b\n\n>From here\n\n"),
        (b"From here\n", b">From here\n\n"),
        (b">From a\n>>>From b\n", b">>From a\n>>>>From b\n\n"),
        (b"x\n> From a\n From b\nx>From c\nFrom\nFrom: d\nfrom e\n", None),
        (b"x\nFrom", b"x\nFrom\n\n"),
        (b"x\n>Fro", b"x\n>Fro\n\n"),
        (b"x\nFFrom a\nFroFrom b\n", None),
        (b"x\r\nFrom a\rFrom b", b"x\r\n>From a\rFrom b\n\n"),
        (b"x", b"x\n\n"),
        (b"x\n\n", b"x\n\n\n"),
        (b"", b"\n"),
    ],
)
def test_lines_that_look_like_separators_are_quoted(content: bytes, stored: bytes | None, step: int) -> None:
    assert quoted(content, step) == (content + b"\n" if stored is None else stored)


@given(st.lists(st.sampled_from([b"From ", b"F", b"rom ", b">", b"\n", b"x", b"\r"])), st.integers(1, 9))
def test_a_reader_gets_the_content_back(parts: list[bytes], step: int) -> None:
    content = b"".join(parts) + b"\n"
    stored = quoted(content, step)
    assert stored == quoted(content, len(content))
    assert re.search(rb"^From ", stored, re.MULTILINE) is None
    assert re.sub(rb"^>(>*From )", rb"\1", stored, flags=re.MULTILINE) == content + b"\n"


def test_a_separator_names_sender_and_time_and_is_one_line() -> None:
    jo = separator(Address.parse("jo@mail.example"), 1234567890.9)
    assert jo == b"From jo@mail.example Fri Feb 13 23:31:30 2009\n"
    assert separator(NULL, 0.0) == b"From MAILER-DAEMON Thu Jan  1 00:00:00 1970\n"
    assert separator(Address.parse('"a  b"@mail.example'), 0.0).startswith(b'From "a-b"@mail.example Thu ')
