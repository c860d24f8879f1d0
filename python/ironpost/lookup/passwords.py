"""Passwords: argon2id to store and check them, in a bounded number of threads beside the event loop.

Promises: a check costs the same whether the account exists or not (SECURITY R53): for a name that nobody has, the
password is hashed at the cost of the hash that was checked last. The event loop never waits for a hash, and no more
than `THREADS` of them are computed at one time; whoever comes when `WAITING` wait already is told to come later.
Refuses: to run without the package argon2-cffi, with a sentence that says what to install.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ironpost.protocol.answering import Overloaded
from ironpost.protocol.sasl.names import PASSWORD, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from argon2 import PasswordHasher

TIME_COST: Final = 2
"""Passes over the memory."""
MEMORY_COST: Final = 19 * 1024
"""KiB for one hash. With two passes and one lane: about 20 ms, and what OWASP calls enough."""
PARALLELISM: Final = 1
THREADS: Final = 2
"""Hashes that are computed at one time."""
WAITING: Final = 256
"""Checks that run or wait for a thread; the last of them waits for a few seconds."""
SHARE: Final = 64
"""Those of one network, so that who guesses leaves room for others."""

T = TypeVar("T")


class Busy(Overloaded):
    """Too many checks wait already."""


def hash_password(password: str) -> str:
    """What is to be stored, `$argon2id$...`; about 20 ms.

    Raises:
        PrepareError: the password holds what RFC 4013 prohibits.
    """
    return _hasher(TIME_COST, MEMORY_COST, PARALLELISM).hash(prepare(password, PASSWORD))


class PasswordChecker:
    """Checks passwords. Its methods may be called in any thread."""

    def __init__(self) -> None:
        self._cost = TIME_COST, MEMORY_COST, PARALLELISM

    def check(self, stored: str | None, password: str) -> bool:
        """Whether `password` (prepared) is the one of the hash; None, for a name that nobody has, takes as long.

        Raises:
            argon2.exceptions.InvalidHashError: what is stored is no hash of argon2.
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


class Pool:
    """Some threads for what takes too long for the event loop."""

    def __init__(self, threads: int = THREADS, waiting: int = WAITING, share: int = SHARE) -> None:
        """Starts no thread yet.

        Args:
            threads: that run at one time.
            waiting: calls that run or wait, before `run` raises.
            share: of them, for one client of `run_for`.
        """
        self._threads = ThreadPoolExecutor(threads, "ironpost-users")
        self._room = threading.BoundedSemaphore(waiting)
        self._share = share
        self._clients: Counter[str] = Counter()

    async def run_for(self, client: str, function: Callable[..., T], *arguments: Any) -> T:
        """As `run`; `client` says who waits, and may not fill the queue alone.

        Raises:
            Busy: too many wait, or too many for that client.
        """
        if self._clients[client] >= self._share:
            raise Busy("too many logins from there wait for a thread")
        self._clients[client] += 1
        try:
            return await self.run(function, *arguments)
        finally:
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def run(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """What the function returns, later.

        Raises:
            Busy: too many wait.
        """
        if not self._room.acquire(blocking=False):
            raise Busy("too many logins wait for a thread")
        future = self._threads.submit(function, *arguments)
        future.add_done_callback(lambda _: self._room.release())  # also if nobody waits for it any more
        return asyncio.wrap_future(future)


def _hasher(time_cost: int, memory_cost: int, parallelism: int) -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        raise ModuleNotFoundError(
            "passwords need the package argon2-cffi; it comes with: pip install 'ironpost[mta]'"
        ) from None
    return PasswordHasher(time_cost, memory_cost, parallelism)
