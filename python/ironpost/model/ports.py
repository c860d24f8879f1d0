"""Ports of the pure tiers: clock, randomness and metrics.

The I/O packages implement them. Tests replace them, so that five days of retries take milliseconds.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """A clock."""

    def now(self) -> float:
        """Return the seconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start, which never decrease."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class Random(Protocol):
    """Randomness for shuffles, jitter and identifiers."""

    def uniform(self, low: float, high: float) -> float:
        """Return a random number from `low` to `high`."""
        ...

    def shuffle(self, items: list[str]) -> None:
        """Shuffle a list in place."""
        ...

    def token(self) -> str:
        """Return a new identifier of letters and digits, unguessable and never reused."""
        ...


class Metrics(Protocol):
    """Counters and histograms for monitoring."""

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Increment a counter of `telemetry.metrics.COUNTERS`; `label` is the value of its label. It must be cheap."""
        ...

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram of `telemetry.metrics.HISTOGRAMS`. Cheap."""
        ...


class Uncounted:
    """A `Metrics` that counts nothing."""

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Do nothing."""

    def observe(self, name: str, value: float) -> None:
        """Do nothing."""
