"""Durable storage of the queue: the registry of backends, and what they share (bodies, locks, private files).

To add a backend, implement `storage.backend.Backend` in a module below this package and register it here; the contract
suite (tests/storage/test_contract.py) runs over its store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.storage.backend import Backend


def _sqlite() -> Backend:
    from ironpost.storage.sqlite.backend import SqliteBackend

    return SqliteBackend()


def _memory() -> Backend:
    from ironpost.storage.memory import MemoryBackend

    return MemoryBackend()


BACKENDS: dict[str, Callable[[], Backend]] = {"sqlite": _sqlite, "memory": _memory}
"""Backends by the name that `queue.backend` has in the configuration; each is imported when it is used."""
