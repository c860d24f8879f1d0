"""`From ` lines of mbox files above content."""

from __future__ import annotations

import pytest

from ironpost.message.mbox import SeparatorLines

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
