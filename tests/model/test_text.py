"""f62: what people are shown about counts and addresses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ironpost.model import Address
from ironpost.model.text import complaint, counted, error_text, escape

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "ironpost"
BY_HAND = re.compile(
    r"(?:(?<![{\w])\{(?!counted)[^{}]*\}|%d) "
    r"(?:messages|recipients|connections|attempts|workers|days|cases|names|files)\b"
)
"""A number with a plural: it can be 1."""
NEVER_ONE = ("workers are too many", "{MAX_TARGETS}")


def test_f62_a_count_agrees_with_its_noun() -> None:
    assert [counted(number, "recipient") for number in (0, 1, 2)] == ["0 recipients", "1 recipient", "2 recipients"]


def test_f62_no_text_has_a_plural_after_a_number_that_can_be_1() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BY_HAND.search(line) and not any(words in line for words in NEVER_ONE)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b@x.example", 'invalid character " " in the local part (offset 1)'),
        ("jö ö@x.example", 'invalid character " " in the local part (offset 2)'),
        ('"a\x01"@x.example', "invalid character U+0001 in the quoted local part (offset 2)"),
        ("ab@x y.example", 'invalid character " " in the domain (offset 4)'),
        ("a@bü cher.example", 'invalid character " " in the domain (offset 4)'),
        ("a@-x.example", "misplaced hyphen in the domain (offset 2)"),
        ("a@x.example.", "misplaced dot in the domain (offset 11)"),
        ("a@b+c.example", 'invalid character "+" in the domain (offset 3)'),
        ("@x.example", "the local part is empty"),
        ("a@", "the domain is empty"),
        ("abc", "the address has no @ and domain"),
        ("a@[1.2.3", "the address literal has no closing bracket"),
        ("Jo <a@x.example>", 'invalid character " " in the local part (offset 2)'),
    ],
)
def test_f62_what_is_wrong_with_an_address_is_a_character_and_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Address.parse(text)
    assert complaint(text, caught.value) == said


def test_f62_characters_that_were_put_before_it_are_not_counted() -> None:
    for make, text, ahead in (
        (lambda: Address("x", "a b.example"), "a b.example", 0),
        (lambda: Address.parse("x@a b.example"), "x@a b.example", 2),
        (lambda: Address("x", " b.example"), " b.example", -1),
    ):
        with pytest.raises(ValueError) as caught:
            make()
        assert complaint(text, caught.value, ahead) == 'invalid character " " in the domain (offset 1)'
    assert complaint("x", ValueError("As it is.")) == "As it is."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \\ text", "plain \\ text"),
        ("grüße", "grüße"),
        ("\x1b[31m\r\n\0", "\\x1b[31m\\r\\n\\x00"),
        ("a\u2028b\u202ec\ud800", "a\\u2028b\\u202ec\\ud800"),
    ],
)
def test_r20_what_is_not_printable_is_escaped(text: str, shown: str) -> None:
    assert escape(text) == shown
    assert escape(shown) == shown
    assert escape(text, ascii_only=True).isascii()
    assert escape(text, keep="\r\n").replace("\r", "\\r").replace("\n", "\\n") == shown


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
        (OSError("two\nlines"), "two\\nlines"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_of_the_system_is_one_line(error: OSError, text: str) -> None:
    assert error_text(error) == text
