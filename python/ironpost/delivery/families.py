"""Which family of IP addresses does not work for a destination, so that it rarely costs a timeout.

Promises: addresses of a family that failed in a way that concerns the family (a timeout, no route) are tried last among
those of one preference or smart host, in that attempt and, if the other family worked, in those of the next
`REMEMBERED_SECONDS`. No address is left out, and no host is tried before a preferred one (RFC 5321 §5.1).
Standards: RFC 8305 (a broken family must not delay connections).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

REMEMBERED_SECONDS: Final = 600.0
"""Seconds for which a family that does not work for a destination is tried last there."""
REMEMBERED: Final = 10_000
"""Maximum number of destinations for which that is remembered."""

_NONE: Final[frozenset[int]] = frozenset()
_UNREACHABLE: Final = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ETIMEDOUT}
)


def concerns_family(error: OSError) -> bool:
    """Whether a failed connection may be the fault of the path of its family, not of the host."""
    return isinstance(error, TimeoutError) or error.errno in _UNREACHABLE


class BrokenFamilies:
    """The families that do not work, by destination."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` returns seconds of a monotonic clock."""
        self._now = now
        self._known: dict[Hashable, tuple[int, float]] = {}
        """IP version and time until which it is tried last."""

    def of(self, destination: Hashable) -> frozenset[int]:
        """The IP versions to try last for a destination."""
        if not self._known:
            return _NONE
        version, until = self._known.get(destination, (0, 0.0))
        return frozenset({version}) if self._now() < until else _NONE

    def connected(self, destination: Hashable, version: int, failed: Collection[int]) -> None:
        """Record that a version of IP works for a destination, and which did not in the same attempt."""
        known = self._known.get(destination)
        if known is not None and known[0] == version:
            del self._known[destination]
        for other in failed:
            if other != version and not self.of(destination):
                self._known.pop(destination, None)
                self._known[destination] = other, self._now() + REMEMBERED_SECONDS
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
