"""The ports through which the pure tiers meet the world: so that five days of retries are tested in milliseconds.

Each port is one screen; the outer ring implements them (`lookup`, `storage`, `service`), tests script them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns after that long."""
        ...


class Random(Protocol):
    """Chance: shuffles, jitter, identifiers."""

    def uniform(self, low: float, high: float) -> float:
        """A number from low to high."""
        ...

    def shuffle(self, items: list[str]) -> None:
        """Reorders in place."""
        ...

    def token(self) -> str:
        """A fresh identifier of letters and digits, not to be guessed, unique for ever."""
        ...


class Metrics(Protocol):
    """What is counted, for those who watch."""

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Adds to a counter of `service.metrics.COUNTERS`; `label` says which kind. Cheap: once a command is fine."""
        ...


class Uncounted:
    """`Metrics` where nobody watches."""

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Forgets it."""


class ResolverError(Exception):
    """No answer can be had now (SERVFAIL, time-out, bogus): defer, never conclude (SECURITY R27)."""


@dataclass(frozen=True, slots=True)
class MX:
    """One mail exchanger. RFC 7505's null MX is the one record (0, "")."""

    preference: int
    host: str
    """Without its trailing dot."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Addresses, exchangers or names. `exists` is False for NXDOMAIN, True with no records for NODATA."""

    exists: bool
    addresses: Sequence[str] = ()
    exchangers: Sequence[MX] = ()
    names: Sequence[str] = ()


class Resolver(Protocol):
    """DNS."""

    async def mx(self, domain: str) -> Answer:
        """MX records (RFC 5321 §5.1).

        Raises:
            ResolverError: neither data, NODATA nor NXDOMAIN could be had.
        """
        ...

    async def addresses(self, host: str) -> Answer:
        """A and AAAA records, IPv6 and IPv4 as the system prefers.

        Raises:
            ResolverError: see `mx`.
        """
        ...

    async def names(self, ip: str) -> Answer:
        """PTR records of an IP address (RFC 1035 §3.5), without their trailing dots; none of them is confirmed.

        Raises:
            ResolverError: see `mx`.
            ValueError: `ip` is no IP address.
        """
        ...
