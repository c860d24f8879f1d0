"""Input that is octets: what every function of the pure twin accepts.

Promises: `bytes`, `bytearray` and `memoryview` become `bytes` that no later change of the caller's buffer touches.
Refuses: everything else with TypeError, text above all: SMTP is octets, and an encoding guessed here would be wrong.
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
    """`data` as bytes.

    Raises:
        TypeError: if it is not bytes-like.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"expected bytes, bytearray or memoryview, not {type(data).__name__}")


def as_limits(limits: Limits | None) -> Limits:
    """The limits given, or the default ones.

    Raises:
        TypeError: if they are neither `Limits` nor None.
    """
    if limits is None:
        return DEFAULT_LIMITS
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be ironpost.wire.Limits or None, not {type(limits).__name__}")
    return limits
