"""The port of a storage backend: opens the store of a server or worker, and readers in other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from ironpost.queue.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ironpost.queue.store import StandaloneReader

WORKER_ENDED: Final = "ended"
"""The topic on which the supervisor announces the number of a worker that ended."""

RequestHandler: TypeAlias = "Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]"


class StoreOptions(NamedTuple):
    """The `[queue]` section, as far as it concerns storage."""

    now: Callable[[], float]
    """Seconds since 1970."""
    reserve: int
    """Disk space that new mail does not use, in octets."""
    memory: int
    """Maximum size of incoming content that a process holds in memory, in octets."""
    history: float
    """Seconds for which attempts and events are kept."""
    history_size: int
    """Approximate maximum size of them in each shard, in octets."""
    submissions: float
    """Seconds for which keys of submissions are kept (`NewMessage.submission`)."""


class Peers(Protocol):
    """The other workers of a server (`processes.bus.WorkerBus` implements it)."""

    def publish(self, topic: str, value: Any) -> None:
        """Notify all of them; return at once."""
        ...

    async def request(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the answers of those that answer in time.

        Raises:
            OSError: none can be asked.
        """
        ...

    def subscribe(self, topic: str, receive: Callable[[Any], None]) -> None:
        """Register the receiver of a topic."""
        ...


class WorkerStore(Store, Protocol):
    """The store of one of several workers."""

    def join(self, peers: Peers, number: int, workers: int, wake: Callable[[], None]) -> dict[str, RequestHandler]:
        """Connect the store to the other workers.

        Args:
            peers: the other workers.
            number: number of this worker, from 0.
            workers: number of workers.
            wake: notifies this worker's queue runner that something may be due.

        Returns:
            Handlers for requests of the others, by name.
        """
        ...


@runtime_checkable
class KeepsHistory(Protocol):
    """A store that keeps attempts and events of finished mail."""

    async def prune_history(self) -> int:
        """Remove overdue history, and return free space to the disk; return the number of shards that had any.

        Raises:
            OSError: a shard cannot be read or written; the others were pruned.
        """
        ...


class Damage(NamedTuple):
    """One fault that `Backend.verify` found."""

    shard: Path
    message: str
    """The message's id; empty if the shard itself is damaged."""
    sentence: str


class CheckedAmount(NamedTuple):
    """The amount that `Backend.verify` read."""

    messages: int
    octets: int


class CopiedQueue(NamedTuple):
    """What `Backend.copy` copied."""

    messages: int
    finished: int
    """Messages that were delivered, returned or dropped meanwhile, and are not in the copy."""
    damage: Sequence[Damage]
    """Faults of messages; they are in the copy, as far as they can be read."""


class Backend(Protocol):
    """A storage backend. Register it in `storage.BACKENDS`."""

    def prepare(self, data: Path) -> int:
        """Prepare a data directory, whose lock the caller holds; return how many workers it can have.

        Raises:
            StoreUnusable: another program or version wrote it.
            OSError: it cannot be written.
        """
        ...

    def open(self, data: Path, options: StoreOptions) -> Store:
        """Open the store of a server with one process, after `prepare`.

        Raises:
            StoreUnusable, OSError: as for `prepare`.
        """
        ...

    def open_worker(self, data: Path, options: StoreOptions, number: int, workers: int) -> WorkerStore:
        """Open the store of worker `number` (from 0) of several, after `prepare` in another process.

        Raises:
            StoreUnusable, OSError: as for `prepare`.
        """
        ...

    def open_reader(self, data: Path) -> StandaloneReader:
        """Open the queue for reading, whether or not a server is running.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            StoreUnusable: another version wrote it, or only the server can read it.
            OSError: it cannot be read.
        """
        ...

    def verify(self, data: Path) -> AsyncIterator[Damage | CheckedAmount]:
        """Read everything in the queue; yield each damage, then the amount that was read.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            StoreUnusable: it cannot be read from outside.
        """
        ...

    @property
    def folders(self) -> Collection[str]:
        """The names in a data directory that only the backend can copy."""
        ...

    async def copy(self, data: Path, target: Path) -> CopiedQueue:
        """Copy the queue into a new directory that `prepare` and `open` accept, whether or not a server is running.

        Every message that was committed before the call is in the copy, unless it was finished meanwhile.

        Raises:
            FileNotFoundError: there is no queue in this directory.
            StoreUnusable: another version wrote it, or only the server can read it.
            OSError: it cannot be read or written.
        """
        ...
