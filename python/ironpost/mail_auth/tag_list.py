"""Lists of tags, `name=value; name=value`: of signatures and of published keys (RFC 6376 §3.2).

Promises: values are without the white space around them, and otherwise as written, with their case. Time is linear in
the length of the list.
Refuses: a name that occurs twice, an empty tag between two semicolons, control characters and what is not UTF-8, all
with `TagListError`.
Standards: RFC 6376 §2.8 (folding white space), §2.10 (base64), §3.2 (tags); RFC 8616 §5 (UTF-8).
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from typing import Final

SHOWN: Final = 80
"""Characters of a tag in an error."""

_WHITE_SPACE: Final = " \t\r\n"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CONTROL: Final = bytes({*range(32), 127}.difference(_WHITE_SPACE.encode()))


class TagListError(ValueError):
    """The list, or the value of a tag, is not valid; the text is ASCII."""


def parse_tags(octets: bytes) -> dict[str, str]:
    """The values of a list by the names of their tags, in order.

    Raises:
        TagListError: it is not valid.
    """
    if len(octets.translate(None, _CONTROL)) != len(octets):
        raise TagListError("the list of tags has a control character")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise TagListError("the list of tags is not UTF-8") from None
    parts = text.split(";")
    if not parts[-1].strip(_WHITE_SPACE):
        del parts[-1]  # the last semicolon is optional
    tags: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        name = name.strip(_WHITE_SPACE)
        if not equals or _NAME.fullmatch(name) is None:
            raise TagListError(f"invalid tag {part.strip(_WHITE_SPACE)[:SHOWN]!a}")
        if name in tags:
            raise TagListError(f"the tag {name[:SHOWN]} occurs twice")
        tags[name] = value.strip(_WHITE_SPACE)
    return tags


def words(value: str) -> tuple[str, ...]:
    """The elements of a list with colons, without the white space around them."""
    return tuple([each.strip(_WHITE_SPACE) for each in value.split(":")])


def decode_base64(name: str, value: str) -> bytes:
    """The octets that the value of a tag of `parse_tags` stands for; white space in it is ignored.

    Raises:
        TagListError: it is not base64.
    """
    try:  # `split` knows other white space too, which `parse_tags` has refused
        return a2b_base64(b"".join(value.encode().split()), strict_mode=True)
    except ValueError:
        raise TagListError(f"the value of the tag {name} is not base64") from None
