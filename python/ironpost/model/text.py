"""Text for terminals, logs and configuration errors.

Promises: a noun agrees with its count. Errors in addresses name the invalid character and its offset in characters; on
the wire a fault has an id and an octet offset instead (`wire.WireFault`).
"""

from __future__ import annotations

from typing import Final

from ironpost.wire import WireFault

_WHERE: Final = {
    "local-part-malformed": "local part",
    "quoted-string-malformed": "quoted local part",
    "domain-malformed": "domain",
}
"""Faults that concern a single character, with the part of the address that contains it."""
_MISPLACED: Final = {".": "dot", "-": "hyphen"}
"""Names of characters that are valid elsewhere in the same part of an address."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural must end in s: `1 recipient`, `2 recipients`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def escape(text: str, *, ascii_only: bool = False, keep: str = "") -> str:
    """Make text from peers, users or messages safe to show: replace unprintable characters by backslash escapes.

    Args:
        text: any text (SECURITY R20).
        ascii_only: also escape every character that is not ASCII.
        keep: unprintable characters that are not escaped.
    """
    if text.isprintable() and (not ascii_only or text.isascii()):
        return text
    return "".join(
        character
        if (character.isprintable() and (not ascii_only or character.isascii())) or character in keep
        else escaped_character(character)
        for character in text
    )


def escaped_character(character: str) -> str:
    """Return the backslash escape of a character: `\\n`, `\\x1b`, `\\u2028`."""
    return character.encode("unicode_escape").decode("ascii")


def error_text(error: OSError) -> str:
    """Return the system's description of an error, in one line: `No such file or directory`."""
    return escape(error.strerror or str(error) or type(error).__name__)


def complaint(text: str, fault: ValueError, ahead: int = 0) -> str:
    """Describe an error in an address or a domain, as the end of a sentence.

    Args:
        text: the text as it was parsed. If an address was composed of its parts, offsets refer to its domain.
        fault: the error of the parser; the text of an error other than `WireFault` is returned unchanged.
        ahead: characters that were added in front before parsing, and are not shown to the user; negative if
            characters were removed.
    """
    if not isinstance(fault, WireFault):
        return str(fault)
    where = _WHERE.get(fault.id)
    if where is None:
        sentence = fault.sentence.removesuffix(".")
        return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]
    at = len(text.encode()[: fault.offset].decode(errors="ignore"))
    if at >= len(text):
        return f"the {where} ends too early"
    character = text[at]
    what = f"misplaced {_MISPLACED[character]}" if character in _MISPLACED else f"invalid character {_shown(character)}"
    return f"{what} in the {where} (offset {at - ahead})"


def _shown(character: str) -> str:
    return f'"{character}"' if character.isprintable() else f"U+{ord(character):04X}"
