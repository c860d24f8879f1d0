"""Preparation of user names and passwords for comparison: SASLprep (RFC 4013), a profile of stringprep (RFC 3454).

Promises: names and passwords that look the same become the same string: NFKC, one kind of space, without characters
that are mapped to nothing. Code points that are not in Unicode 3.2 are not changed, so that they can be used.
Refuses: control characters, private-use characters, surrogates, and text that mixes directions (RFC 4013 §2.3, §2.4).
"""

from __future__ import annotations

import stringprep
from typing import Final
from unicodedata import ucd_3_2_0

_PROHIBITED: Final = (
    (stringprep.in_table_c12, "a non-ASCII space"),
    (stringprep.in_table_c21_c22, "a control character"),
    (stringprep.in_table_c3, "a private-use character"),
    (stringprep.in_table_c4, "a noncharacter code point"),
    (stringprep.in_table_c5, "a surrogate"),
    (stringprep.in_table_c6, "a character inappropriate for plain text"),
    (stringprep.in_table_c7, "an ideographic description character"),
    (stringprep.in_table_c8, "a character that changes display properties"),
    (stringprep.in_table_c9, "a tagging character"),
)


NAME: Final = 255
"""Maximum octets of a name, before and after preparation."""
PASSWORD: Final = 1024
"""Maximum octets of a password, before and after preparation."""


class PrepareError(ValueError):
    """The text is not a valid name or password."""


def prepare(text: str, limit: int = NAME) -> str:
    """Return the form in which a name or password is stored and compared.

    Args:
        text: the text as entered.
        limit: maximum octets, checked before and after preparation: one code point can become 18.

    Raises:
        PrepareError: the text contains a prohibited character (RFC 4013), or is longer than the limit.
    """
    _check_length(text, limit)
    if text.isascii() and text.isprintable():
        return text  # preparation does not change printable ASCII
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    form = ucd_3_2_0.normalize("NFKC", mapped)
    _check_length(form, limit)
    for character in form:
        for prohibited, what in _PROHIBITED:
            if prohibited(character):
                raise PrepareError(f"contains {what}")
    if any(map(stringprep.in_table_d1, form)):  # RFC 3454 §6
        ends = stringprep.in_table_d1(form[0]) and stringprep.in_table_d1(form[-1])
        if not ends or any(map(stringprep.in_table_d2, form)):
            raise PrepareError("mixes left-to-right and right-to-left text")
    return form


def _check_length(text: str, limit: int) -> None:
    # A character is at least one octet, so text that is far too long need not be encoded.
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise PrepareError(f"longer than {limit} octets")
