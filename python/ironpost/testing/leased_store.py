"""A store whose lease can be lost: several of them share one shard, as nodes over one database do. For tests.

Promises: `queue.store` as `MemoryStore`. Each use renews the lease; after `LEASE_SECONDS` without one another store may
take it over, under the next token, and the claims of the earlier owner are void. A store that is not the owner sees an
empty shard, and what it commits or records raises `LeaseLost` and changes nothing.
"""

from __future__ import annotations

import errno
import secrets
from typing import TYPE_CHECKING

from ironpost.queue.store import Lease, LeaseLost
from ironpost.storage.memory import Entries, MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ironpost.queue.store import NewMessage

LEASE_SECONDS = 30.0
"""Seconds for which a lease lasts after it was renewed."""


class LeasedShard:
    """The shard that several `LeasedStore` share, with its row of the lease table."""

    def __init__(self) -> None:
        self.token = secrets.randbits(32)
        self.until = 0.0
        """Time at which the lease ends, in seconds since 1970."""
        self.entries = Entries()


class LeasedStore(MemoryStore):
    """One node's store over a shared shard."""

    def __init__(self, shard: LeasedShard, now: Callable[[], float]) -> None:
        """Take the lease if it is free.

        Args:
            shard: shared with the other nodes.
            now: the clock of the shared database, in seconds since 1970.
        """
        super().__init__(now=now)
        self._shared = shard
        self.lease = Lease("shared", 0)
        self._own()

    def _own(self) -> bool:
        """Renew the lease, or take it over if it is free."""
        now = self._now()
        if self.lease.token != self._shared.token or not self.lease.token:
            if now < self._shared.until:
                return False
            self._shared.token += 1
            self.lease = Lease("shared", self._shared.token)
            for entry in self._shared.entries.values():
                entry.claimed.clear()  # claims of the earlier owner
        self._shared.until = now + LEASE_SECONDS
        return True

    @property
    def _entries(self) -> Entries:
        return self._shared.entries if self._own() else Entries()

    def _check(self, messages: Sequence[NewMessage]) -> None:
        if not self._own():
            raise LeaseLost(errno.ESTALE, "another node has the lease")
        super()._check(messages)

    def _check_lease(self, lease: Lease) -> None:
        self._own()
        super()._check_lease(lease)
