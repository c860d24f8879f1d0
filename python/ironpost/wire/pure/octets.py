"""Conversion of arguments: octets and limits, as every function of the pure twin accepts them.

Promises: `bytes`, `bytearray` and `memoryview` become `bytes`, unaffected by later changes of the caller's buffer.
Refuses: other types with TypeError; text too, because SMTP consists of octets and its encoding cannot be guessed.
Standards: RFC 5321 §2.3.8 (lines are octets ended by CRLF).
"""

from __future__ import annotations

from typing import Final, TypeAlias

from ironpost.wire.interface import DEFAULT_LIMITS, Limits

Octets: TypeAlias = bytes | bytearray | memoryview

CR: Final = 0x0D
LF: Final = 0x0A
DOT: Final = 0x2E
SPACE: Final = 0x20
CRLF: Final = b"\r\n"


def as_octets(data: Octets) -> bytes:
    """Convert bytes-like data to bytes.

    Raises:
        TypeError: `data` is not bytes-like.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"expected bytes, bytearray or memoryview, not {type(data).__name__}")


def as_limits(limits: Limits | None) -> Limits:
    """Return the given limits; the default ones for None.

    Raises:
        TypeError: `limits` is neither `Limits` nor None.
    """
    if limits is None:
        return DEFAULT_LIMITS
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be ironpost.wire.Limits or None, not {type(limits).__name__}")
    return limits
