"""Keyed state of one process, shared with the other workers and kept in a file.

Promises: `SharedState.memory` is the `KeyedState`: reading and writing it never wait. Changes reach the other workers
with the next iteration of the event loop, and the file within `WRITE_SECONDS`, written by a thread. If the process is
killed, the file lacks the changes of that time; the other workers have them in memory. A worker that restarts reads the
file, so it can miss changes that other workers made within `WRITE_SECONDS` of that. If the file cannot be read or
written, the state continues in memory, and an event is logged (`state-unavailable`, `state-not-written`).
Limitations: changes that could not be written are not retried, so that they do not accumulate in memory while the disk
is full.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.model.keyed_state import Change, MemoryState
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ironpost.model.keyed_state import Namespace
    from ironpost.model.ports import Clock, Metrics
    from ironpost.processes.bus import WorkerBus
    from ironpost.storage.sqlite.state import StateFile

WRITE_SECONDS: Final = 1.0
"""Seconds from a change until it is written, with all others of that time."""
STATE: Final = "state"
"""Topic on the bus."""

log = logging.getLogger("ironpost.state")

WireChange: TypeAlias = "tuple[str, str, str | int | None, float]"
"""A `Change` in JSON: octets in hexadecimal."""


class SharedState:
    """Component: the keyed state of one worker.

    Before `start` and after `stop`, changes to `memory` are not shared.
    """

    def __init__(
        self,
        namespaces: Iterable[Namespace],
        clock: Clock,
        open_file: Callable[[], StateFile],
        *,
        metrics: Metrics | None = None,
        bus: WorkerBus | None = None,
    ) -> None:
        """Create the state in memory; `start` opens the file.

        Args:
            namespaces: all that will be used; entries of other namespaces in the file are kept until they expire.
            clock: time.
            open_file: opens the file; raises OSError.
            metrics: counts evictions.
            bus: connects the workers; None if there are no others.
        """
        self.memory = MemoryState(namespaces, clock.now, metrics=metrics, changed=self._changed)
        self._names = {each.namespace for each in self.memory.usage()}
        self._clock = clock
        self._open_file = open_file
        self._bus = bus
        self._file: StateFile | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unsent: list[Change] = []
        self._unwritten: dict[tuple[str, bytes], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        """Serialises access to the file, which threads read and write."""
        self._failing = False
        if bus is not None:
            bus.subscribe(STATE, self._receive)

    async def start(self) -> None:
        """Open and read the file."""
        self._loop = asyncio.get_running_loop()
        try:
            self._file = self._open_file()
            rows = self._file.load()
        except OSError as error:
            record(log, "state-unavailable", logging.ERROR, detail=str(error))
            if self._file is not None:
                self._file.close()
                self._file = None
            return
        now = self._clock.now()
        for row in rows:
            if row.namespace in self._names and row.expires > now:
                for key in self.memory.apply(Change(*row)):  # evicted: the namespace's limit was lowered
                    self._unwritten[row.namespace, key] = None

    async def stop(self) -> None:
        """Publish and write what remains, and close the file."""
        self._send()
        self._loop = None
        if self._timer is not None:
            self._timer.cancel()
        await self._write()
        if self._file is not None:
            await asyncio.to_thread(self._file.close)
            self._file = None

    async def remove_expired(self) -> int:
        """Remove expired entries from memory and from the file; return how many were in memory.

        Raises:
            OSError: the file cannot be written.
        """
        removed = 0
        for name in self._names:
            removed += self.memory.remove_expired(name)
            await asyncio.sleep(0)  # a large namespace takes milliseconds
        async with self._lock:
            if self._file is not None:
                await asyncio.to_thread(self._file.remove_expired, self._clock.now())
        return removed

    # -- exchange between workers

    def _receive(self, changes: Sequence[WireChange]) -> None:
        for namespace, key, value, expires in changes:
            octets = bytes.fromhex(value) if isinstance(value, str) else value
            self.memory.apply(Change(namespace, bytes.fromhex(key), octets, expires))

    def _send(self) -> None:
        changes, self._unsent = self._unsent, []
        if self._bus is not None and changes:
            self._bus.publish(STATE, [_wire(each) for each in changes])

    # -- changes in this worker

    def _changed(self, change: Change, evicted: Sequence[bytes]) -> None:
        if self._loop is None:
            return
        if self._bus is not None:
            if not self._unsent:
                self._loop.call_soon(self._send)
            self._unsent.append(change)
        if self._file is None:
            return
        for key in (change.key, *evicted):
            self._unwritten.pop((change.namespace, key), None)  # keys are written in the order of their last change
            self._unwritten[change.namespace, key] = None
        if self._timer is None:
            self._timer = self._loop.call_later(WRITE_SECONDS, self._begin_writing)

    def _begin_writing(self) -> None:
        self._timer = None
        task = asyncio.ensure_future(self._write())
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _write(self) -> None:
        async with self._lock:
            keys, self._unwritten = self._unwritten, {}
            if self._file is None or not keys:
                return
            found = {each: self.memory.row(*each) for each in keys}
            rows = [row for row in found.values() if row is not None]
            removed = [each for each, row in found.items() if row is None]
            try:
                await asyncio.to_thread(self._file.write, rows, removed)
            except OSError as error:
                if not self._failing:
                    record(log, "state-not-written", logging.ERROR, detail=str(error))
                self._failing = True
            else:
                self._failing = False


def _wire(change: Change) -> Any:
    value = change.value.hex() if isinstance(change.value, bytes) else change.value
    return change.namespace, change.key.hex(), value, change.expires
