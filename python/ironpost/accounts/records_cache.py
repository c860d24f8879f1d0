"""The cache in front of a source that takes a while, such as a database.

Promises: concurrent lookups of one key are one query, which continues if one of them is cancelled. Records are used for
a time without asking again, and unknown keys for a shorter one; both are limited in number, and separately, so that
guessed addresses evict no record. Errors are not cached. While the source cannot answer, the last record of a key can
be used for longer; an unknown key cannot, because it may have been added since. A record that disables `postmaster`
(RFC 5321 §4.5.1) or `abuse` is ignored, with a warning.
Limitations: each worker has a separate cache, which a reload empties.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from ironpost.model.options import Seconds, at_least_a_second
from ironpost.routing.directory import DirectoryError
from ironpost.routing.mail_directory import is_role

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.ports import Clock
    from ironpost.routing.records import Record, RecordSource

LOG = logging.getLogger("ironpost.accounts")
CACHE: Final = Seconds(60.0)
CACHE_MISSING: Final = Seconds(10.0)
CACHE_STALE: Final = Seconds(0.0)
TIMEOUT: Final = Seconds(10.0)
ENTRIES: Final = 50_000
"""Number of records, and of unknown keys, that one cache holds; the oldest is removed first."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The keys of `[directory]` that all of its sources share."""

    cache: Seconds = CACHE
    """How long a record of a source is used without asking again; `"0s"` to ask every time."""
    cache_missing: Seconds = CACHE_MISSING
    """How long an address that a source does not know is taken as unknown without asking again."""
    cache_stale: Seconds = CACHE_STALE
    """How long after `cache` a record is still used while its source does not answer. Without such a record, mail is
    deferred."""
    timeout: Annotated[Seconds, at_least_a_second] = TIMEOUT
    """The longest that a lookup may take; after that, the source does not answer."""


class RecordCache:
    """Implements `routing.records.RecordSource` over another one, with a time limit."""

    def __init__(self, source: RecordSource, name: str, clock: Clock, options: CacheOptions) -> None:
        """Create an empty cache.

        Args:
            source: what is asked.
            name: what errors and the log call it.
            clock: the clock.
            options: how long it is used, and how long a lookup may take.
        """
        self._source = source
        self._name = name
        self._clock = clock
        self._options = options
        self._found: dict[str, tuple[Record, float]] = {}
        """Records, with the time at which the source returned them."""
        self._missing: dict[str, float] = {}
        """Unknown keys, with the time at which the source did not know them."""
        self._running: dict[str, asyncio.Task[Record | None]] = {}
        self._failing = False
        """Records are used after their time, which the log has reported."""

    def lookup(self, key: str, /) -> Record | Awaitable[Record | None] | None:
        """See `RecordSource.lookup`. What is in the cache is returned at once."""
        now = self._clock.monotonic()
        found = self._found.get(key)
        if found is not None and now < found[1] + self._options.cache:
            return found[0]
        missing = self._missing.get(key)
        if missing is not None and now < missing + self._options.cache_missing:
            return None
        return self._shared(key)

    async def _shared(self, key: str) -> Record | None:
        """The result of the one query for a key that runs now."""
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.ensure_future(self._ask(key))
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    def _finished(self, key: str, task: asyncio.Task[Record | None]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # retrieved, even if nobody waits any more

    async def _ask(self, key: str) -> Record | None:
        try:
            async with asyncio.timeout(self._options.timeout):
                answer = self._source.lookup(key)
                record = answer if answer is None or isinstance(answer, tuple) else await answer
        except TimeoutError:
            return self._stale(key, DirectoryError(f"{self._name}: no answer after {self._options.timeout:g} s"))
        except DirectoryError as error:
            return self._stale(key, error)
        if record is not None and record.disabled and not record.targets and is_role(key):
            LOG.warning("%s: %s is disabled, which is ignored, because its mail must be accepted", self._name, key)
            record = None
        if self._failing:
            self._failing = False
            LOG.info("%s answers again", self._name)
        self._found.pop(key, None)
        self._missing.pop(key, None)
        now = self._clock.monotonic()
        if record is None:
            _put(self._missing, key, now)
        else:
            _put(self._found, key, (record, now))
        return record

    def _stale(self, key: str, error: DirectoryError) -> Record:
        """Return the last record of a key although its time is over.

        Raises:
            DirectoryError: there is none, or it is too old.
        """
        options = self._options
        found = self._found.get(key)
        if found is None or self._clock.monotonic() >= found[1] + options.cache + options.cache_stale:
            raise error
        if not self._failing:
            self._failing = True
            LOG.error("%s; using records from before for %g s at most", error, options.cache_stale)
        return found[0]


def _put(entries: dict[str, T], key: str, value: T) -> None:
    """Add an entry; remove the oldest if there are too many."""
    if len(entries) >= ENTRIES:
        del entries[next(iter(entries))]
    entries[key] = value
