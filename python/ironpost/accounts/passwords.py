"""Passwords: argon2id hashes, computed and checked in a bounded number of threads.

Promises: a check takes the same time whether the account exists or not (SECURITY R53): for an unknown name, the
password is hashed with the parameters of the hash that was checked last. The event loop never waits for a hash, and at
most `THREADS` are computed concurrently; when `WAITING` logins already wait, further ones are deferred.
Refuses: to run without the package argon2-cffi; the error says what to install.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ironpost.model.packages import PackageMissing
from ironpost.protocol.sasl.names import PASSWORD, prepare
from ironpost.protocol.server.output import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from argon2 import PasswordHasher

TIME_COST: Final = 2
"""argon2 time cost: passes over the memory."""
MEMORY_COST: Final = 19 * 1024
"""argon2 memory cost in KiB. With two passes and one lane a hash takes about 20 ms; OWASP recommends these values."""
PARALLELISM: Final = 1
THREADS: Final = 2
"""Number of hashes computed concurrently."""
WAITING: Final = 256
"""Maximum number of checks that run or wait for a thread; the last one waits for a few seconds."""
NETWORK_WAITING: Final = 64
"""Maximum number of them from one network, so that password guessing there leaves room for others."""

T = TypeVar("T")


class PasswordPoolBusy(Overloaded):
    """Too many password checks are waiting."""


def hash_password(password: str) -> str:
    """Hash a password for storage, as `$argon2id$...`; takes about 20 ms.

    Raises:
        PrepareError: the password holds what RFC 4013 prohibits.
    """
    return _hasher(TIME_COST, MEMORY_COST, PARALLELISM).hash(prepare(password, PASSWORD))


class PasswordChecker:
    """Checks passwords against hashes. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._cost = TIME_COST, MEMORY_COST, PARALLELISM

    def check(self, stored: str | None, password: str) -> bool:
        """Return whether `password` (prepared) matches the hash; None, for an unknown name, takes as long.

        Raises:
            argon2.exceptions.InvalidHashError: the stored text is not a valid argon2 hash.
        """
        import argon2

        if stored is None:
            _hasher(*self._cost).hash(password)
            return False
        found = argon2.extract_parameters(stored)
        self._cost = found.time_cost, found.memory_cost, found.parallelism
        try:
            return _hasher(*self._cost).verify(stored, password)
        except argon2.exceptions.VerifyMismatchError:
            return False


class PasswordPool:
    """A bounded thread pool for work that takes too long for the event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING, share: int = NETWORK_WAITING) -> None:
        """Create a pool; threads start when needed.

        Args:
            threads: maximum number of threads.
            waiting: calls that may run or wait before `run` raises.
            share: calls of one client that may run or wait before `run_for` raises.
        """
        self._threads = ThreadPoolExecutor(threads, "ironpost-users")
        self._room = threading.BoundedSemaphore(waiting)
        self._share = share
        self._clients: Counter[str] = Counter()

    async def run_for(self, client: str, function: Callable[..., T], *arguments: Any) -> T:
        """Like `run`, but one `client` cannot fill the queue alone.

        Raises:
            PasswordPoolBusy: too many calls wait, in total or for that client.
        """
        if self._clients[client] >= self._share:
            raise PasswordPoolBusy("too many logins from this client wait for a thread")
        self._clients[client] += 1
        try:
            return await self.run(function, *arguments)
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Run a function in a thread; the future holds its result.

        Raises:
            PasswordPoolBusy: too many calls wait.
        """
        if not self._room.acquire(blocking=False):
            raise PasswordPoolBusy("too many logins wait for a thread")
        future = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self._room.release())  # even if the caller was cancelled
        return asyncio.wrap_future(future)


def _hasher(time_cost: int, memory_cost: int, parallelism: int) -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise PackageMissing(
            "passwords need the package argon2-cffi; it comes with: pip install 'ironpost[mta]'"
        ) from None
    return PasswordHasher(time_cost, memory_cost, parallelism)
