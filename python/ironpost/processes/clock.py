"""The system's clock and randomness, as `model.ports` defines them."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKENS: Final = 64
"""Number of tokens for which random bits are fetched from the system at once."""


class SystemClock:
    """Implements `model.ports.Clock`."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for a number of seconds."""
        await asyncio.sleep(seconds)


class SystemRandom:
    """Implements `model.ports.Random`."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - for shuffles and jitter; tokens come from `secrets`
        self._secret: Iterator[str] = iter(())

    def uniform(self, low: float, high: float) -> float:
        """A number from low to high."""
        return self._random.uniform(low, high)

    def shuffle(self, items: list[str]) -> None:
        """Shuffle in place."""
        self._random.shuffle(items)

    def token(self) -> str:
        """Return the time in milliseconds (12 hexadecimal digits), then 64 random bits (16 digits).

        Tokens made later sort later, so a store's index of them grows at its end. The random part cannot be guessed.
        """
        secret = next(self._secret, None)
        if secret is None:
            # One system call for many tokens.
            digits = secrets.token_hex(8 * _TOKENS)
            self._secret = (digits[at : at + 16] for at in range(0, len(digits), 16))
            secret = next(self._secret)
        return f"{time.time_ns() // 1_000_000:012x}{secret}"
