"""Parsing of ESMTP parameters of MAIL and RCPT.

Promises: keywords in upper case, values unchanged; unknown parameters are returned too, because the session decides.
Refuses: a value that is empty or contains `=`, a space or a control octet; a keyword that occurs twice.
Standards: RFC 5321 §4.1.2 (esmtp-param), RFC 6531 §3.3 (UTF-8 in esmtp-value).
"""

from __future__ import annotations

from typing import Final

from ironpost.wire.interface import WireFault
from ironpost.wire.pure.address import ALPHANUMERIC, HYPHEN, NON_ASCII, Text
from ironpost.wire.pure.octets import SPACE

EQUALS: Final = ord("=")
VALUE: Final = frozenset(range(33, 127)) - {EQUALS} | NON_ASCII


def read_parameters(text: Text, start: int) -> dict[str, str | None]:
    """Read the parameters from `start`, directly after the path, to the end of the line.

    Raises:
        WireFault: `path-trailing`, `parameter-malformed`, `parameter-value-malformed`, `parameter-duplicate`,
            `utf8-malformed`.
    """
    parameters: dict[str, str | None] = {}
    at = start
    if text.get(at) not in (SPACE, None):
        raise WireFault("path-trailing", at)
    while True:
        while text.get(at) == SPACE:
            at += 1
        if text.get(at) is None:
            return parameters
        keyword, end = _read_keyword(text, at)
        if keyword in parameters:
            raise WireFault("parameter-duplicate", at)
        value: str | None = None
        if text.get(end) == EQUALS:
            value, end = _read_value(text, end + 1)
        parameters[keyword] = value
        at = end


def _read_keyword(text: Text, start: int) -> tuple[str, int]:
    at = start
    while (octet := text.get(at)) is not None and (octet in ALPHANUMERIC or (octet == HYPHEN and at > start)):
        at += 1
    if at == start or octet not in (EQUALS, SPACE, None):
        raise WireFault("parameter-malformed", at)
    return text.slice(start, at).upper(), at


def _read_value(text: Text, start: int) -> tuple[str, int]:
    at = start
    while (octet := text.get(at)) in VALUE:
        at += 1
    if at == start or octet not in (SPACE, None):
        raise text.fault("parameter-value-malformed", at)
    return text.slice(start, at), at
