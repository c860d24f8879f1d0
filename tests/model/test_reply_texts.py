"""Text of operators, hooks and peers passes one check before it reaches a client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.config import ConfigError, parse
from ironpost.model import Reply
from ironpost.model.reply import LINE, LINES
from ironpost.model.verdict import defer, reject

TEXT = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=2000)


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_f31_every_reply_is_printable_ascii_in_short_lines(texts: list[str]) -> None:
    reply = Reply(550, "5.7.1", tuple(texts))
    lines = reply.octets.removesuffix(b"\r\n").split(b"\r\n")
    assert all(len(line) + 2 <= LINE and line.decode("ascii").isprintable() for line in lines)
    assert len(lines) <= LINES
    assert all(line.startswith(b"550-5.7.1") for line in lines[:-1])
    assert lines[-1].startswith(b"550 5.7.1")
    assert reply.text == tuple(texts)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Größe", b"550 5.7.1 Gr\\xf6\\xdfe\r\n"),
        ("\x1b[31mred\x7f", b"550 5.7.1 \\x1b[31mred\\x7f\r\n"),
        ("a\tb", b"550 5.7.1 a\\tb\r\n"),
        ("plain", b"550 5.7.1 plain\r\n"),
    ],
)
def test_f31_what_is_not_printable_ascii_is_escaped(text: str, written: bytes) -> None:
    assert reject(text).reply.octets == written  # type: ignore[union-attr]


def test_f31_long_texts_are_cut_between_words() -> None:
    reply = defer("word " * 400).reply
    assert reply is not None
    lines = reply.octets.split(b"\r\n")
    assert len(lines) > 4
    assert b" ".join(line[10:].strip() for line in lines).split() == [b"word"] * 400


@pytest.mark.parametrize("section", ["access", "sender"])
@pytest.mark.parametrize("text", ["a\\nb", "a\\rb", "a\\u0000b"])
def test_f31_a_text_that_cannot_be_said_is_found_by_check(section: str, text: str) -> None:
    who = 'networks = ["192.0.2.0/24"]' if section == "access" else 'senders = ["*"]'
    with pytest.raises(ConfigError, match="text"):
        parse(f'[[policy.{section}]]\n{who}\naction = "reject"\ntext = "{text}"\n', "test")
