"""Destinations that an operator suspended: kept as keyed state, so all workers share them and restarts keep them.

Promises: a suspension ends at its time, or when it is removed. Mail for the destination is accepted, stays in the
queue, and expires as usual.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model.keyed_state import KEY_OCTETS, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.keyed_state import KeyedState

SUSPENSIONS: Final = 1000
"""Maximum number of suspensions (a count)."""
WHY_OCTETS: Final = 800
"""Maximum octets of a reason."""
UNLIMITED: Final = 10 * 365 * 86_400.0
"""Seconds for which a suspension without an end lasts."""
_VALUE: Final = WHY_OCTETS + 100

SUSPENDED: Final = Namespace("suspended", SUSPENSIONS, _VALUE, SUSPENSIONS * (KEY_OCTETS + _VALUE), UNLIMITED)


class Suspension(NamedTuple):
    """One suspended destination."""

    name: str
    """A domain or a smart host, in lower case."""
    until: float | None
    """Seconds since 1970; None until it is resumed."""
    why: str
    """The operator's reason; may be empty."""


class Suspensions:
    """The suspensions of a server."""

    def __init__(self, state: KeyedState, now: Callable[[], float]) -> None:
        """Use the namespace `SUSPENDED`.

        Args:
            state: where they are kept.
            now: seconds since 1970.
        """
        self._state = state
        self._now = now

    def put(self, name: str, seconds: float | None, why: str) -> Suspension:
        """Suspend a destination for a number of seconds, or until it is resumed; this replaces an earlier one.

        Raises:
            ValueError: the name or the reason is too long.
        """
        until = None if seconds is None else self._now() + seconds
        value = json.dumps([until, why], ensure_ascii=False).encode()
        self._state.put(SUSPENDED, name.encode(), value, UNLIMITED if seconds is None else seconds)
        return Suspension(name, until, why)

    def remove(self, name: str) -> bool:
        """End a suspension; return False if there is none."""
        found = self._state.get(SUSPENDED, name.encode()) is not None
        self._state.remove(SUSPENDED, name.encode())
        return found

    def all(self) -> dict[str, Suspension]:
        """The suspensions by name."""
        found: dict[str, Suspension] = {}
        for key in self._state.keys(SUSPENDED):
            entry = self._state.get(SUSPENDED, key)
            if entry is not None:
                until, why = json.loads(entry.value)
                found[key.decode()] = Suspension(key.decode(), until, why)
        return found
