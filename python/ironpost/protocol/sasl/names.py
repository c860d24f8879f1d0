"""User names and passwords as they are compared: SASLprep (RFC 4013), a profile of stringprep (RFC 3454).

Promises: what people see as the same name or password becomes the same string: NFKC, one kind of space, nothing that
is mapped to nothing. Code points that Unicode 3.2 did not know pass unchanged, so that they can be used at all.
Refuses: control characters, private use, surrogates, and text that mixes directions (RFC 4013 §2.3, §2.4).
"""

from __future__ import annotations

import stringprep
from typing import Final
from unicodedata import ucd_3_2_0

_PROHIBITED: Final = (
    (stringprep.in_table_c12, "a space that is none of ASCII"),
    (stringprep.in_table_c21_c22, "a control character"),
    (stringprep.in_table_c3, "a private-use character"),
    (stringprep.in_table_c4, "a code point that is no character"),
    (stringprep.in_table_c5, "a surrogate"),
    (stringprep.in_table_c6, "a character that is not plain text"),
    (stringprep.in_table_c7, "an ideographic description character"),
    (stringprep.in_table_c8, "a character that changes display"),
    (stringprep.in_table_c9, "a tagging character"),
)


NAME: Final = 255
"""Octets in a name, before and after it is prepared."""
PASSWORD: Final = 1024
"""Octets in a password, before and after it is prepared."""


class PrepareError(ValueError):
    """The text cannot be a name or a password."""


def prepare(text: str, limit: int = NAME) -> str:
    """The form in which a name or a password is stored and compared.

    Args:
        text: as somebody wrote it.
        limit: octets, judged before anything is done with the text: one code point can become 18.

    Raises:
        PrepareError: the text holds what RFC 4013 prohibits, or is longer than the limit.
    """
    _measure(text, limit)
    if text.isascii() and text.isprintable():
        return text  # the profile changes nothing here
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    form = ucd_3_2_0.normalize("NFKC", mapped)
    _measure(form, limit)
    for character in form:
        for prohibited, what in _PROHIBITED:
            if prohibited(character):
                raise PrepareError(f"it holds {what}")
    if any(map(stringprep.in_table_d1, form)):  # RFC 3454 §6
        ends = stringprep.in_table_d1(form[0]) and stringprep.in_table_d1(form[-1])
        if not ends or any(map(stringprep.in_table_d2, form)):
            raise PrepareError("it mixes text that is written to the right with text that is written to the left")
    return form


def _measure(text: str, limit: int) -> None:
    # A character is an octet at least, so that what is far too long is not even encoded.
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise PrepareError(f"it is longer than {limit} octets")
