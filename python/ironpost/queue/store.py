"""The store port: keeps accepted mail until it is delivered, bounced or dropped.

Promises, which every backend keeps and the contract suite (tests/storage/test_contract.py) checks:
- What `commit` and `record` acknowledged survives a crash at any later moment. Reads see what was acknowledged.
- A store owns the messages of one or more shards under a `Lease` for each. It renews its leases by itself; only the
  owner of a shard claims, records or changes messages in it. A shard whose lease was lost has another owner with a
  newer lease: `record` under the old lease raises `LeaseLost` and changes nothing.
- Within its shards a store hands each due recipient to one caller (`claim`, `take`) until it is recorded or unclaimed.
  A claim is held in memory and never written: it ends with the lease.
- The store has its own clock, the same for all owners, by which it decides what is due.
Errors: `StoreFull` when the disk is full, `OSError` for other storage faults. A call that raised changed nothing.
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from ironpost.model import Address, Body, Envelope, Outcome, Recipient
    from ironpost.model.body import Spool
    from ironpost.queue.selection import Selection


class StoreFull(OSError):
    """No room: the client gets 452 4.3.1, and the server continues."""

    def __init__(self, *args: object) -> None:
        """As `OSError`; ENOSPC if no error number is given."""
        super().__init__(*args)
        if self.errno is None:
            self.errno = errno.ENOSPC


class LeaseLost(OSError):
    """Another owner has the shard. Nothing was changed, and the claims under this lease are void: discard them."""


class StoreUnusable(RuntimeError):
    """This program cannot use the stored queue, such as one written by a newer version. The text says what to do."""


class SubmittedBefore(Exception):
    """The tenant has submitted a message with this key before. Nothing was stored."""

    def __init__(self, message: str, *, same: bool) -> None:
        super().__init__(message)
        self.message = message
        """The id of the first one, which may have left the queue."""
        self.same = same
        """Whether the two are the same: this one is a repetition, and can be acknowledged."""


class SubmissionPending(Exception):
    """Another process is committing a message with this key. Nothing was stored; repeat it later."""


class QueryRefused(ValueError):
    """A query in SQL cannot be run. The text says why."""


class Lease(NamedTuple):
    """Ownership of one shard: a fence that every change is tested against."""

    shard: str
    """Name of the shard."""
    token: int
    """Differs for every owner that the shard ever had."""


UNCLAIMED: Final = Lease("", 0)
"""The lease of a message that was only read. No store accepts it."""


class RecipientState(Enum):
    """State of one recipient in the queue."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"
    """A bounce was queued with the same commit, or none is due (null reverse-path)."""
    DROPPED = "dropped"
    """Removed by an operator."""
    HELD = "held"
    """Set aside by policy or an operator: no attempt is made until it is released."""


UNFINISHED: Final = (RecipientState.QUEUED, RecipientState.HELD)
"""States that are not final."""


def divided(last: str) -> tuple[str, str]:
    """Divide a reply that the queue keeps (`Outcome.recorded`) into the reply and its detail."""
    reply, _, detail = last.partition("\n")
    return reply, detail


class QueuedRecipient(NamedTuple):
    """One recipient of a queued message."""

    number: int
    """Position in the envelope, from 0."""
    recipient: Recipient
    state: RecipientState = RecipientState.QUEUED
    attempts: int = 0
    """Number of attempts in which a remote server was contacted."""
    due: float = 0.0
    """Time of the next attempt, in seconds since 1970."""
    last: str = ""
    """The last reply, with its detail (`Outcome.recorded`), or why policy holds the message: for operators."""
    remote: str = ""
    """The server that sent it."""
    changed: float = 0.0
    """Time of the last change, in seconds since 1970."""
    warned: bool = False
    """The delay warning was sent, or the sender wants none."""
    deadline: float | None = None
    """When it is late (`deadline_of`), in seconds since 1970; None without a deadline, and after `Update.late`.
    `Update.put_off` moves it."""

    @property
    def reply(self) -> str:
        """The last reply without its detail, which must not leave this system."""
        return divided(self.last)[0]


class QueuedMessage(NamedTuple):
    """A message with the recipients that a call concerns."""

    id: str
    """Letters and digits, never used again."""
    envelope: Envelope
    """All recipients, as accepted."""
    accepted: float
    """Seconds since 1970."""
    body: Body
    recipients: tuple[QueuedRecipient, ...] = ()
    not_before: float = 0.0
    """Earliest time of an attempt, in seconds since 1970. Retries and expiry count from here (`queue.retry`)."""
    fault: str = ""
    """Reason why the message cannot be read back; empty if it can. The other fields then hold what could be read, for
    display only: such a message is never claimed."""
    lease: Lease = UNCLAIMED
    """The lease under which `recipients` are claimed."""


SUBMISSION_SECONDS: Final = 24 * 3600.0
"""Default time for which a store keeps the keys of submissions."""


class Submission(NamedTuple):
    """Identifies a submission that its client may repeat because it got no reply."""

    key: str
    """Chosen by the client; unique among the submissions of its tenant."""
    digest: bytes
    """Of the addresses of the envelope and of the content; equal for a repetition."""


class NewMessage(NamedTuple):
    """A message to commit. The caller chooses id and time, so that the Received field can name them."""

    id: str
    envelope: Envelope
    accepted: float
    prefix: bytes
    """Trace fields that precede the content (RFC 5321 §4.4); part of the stored body."""
    content: Spool
    due: float | None = None
    """Earliest time of an attempt (RFC 4865 §4.2), in seconds since 1970. None, or a time before `accepted`:
    immediately."""
    held: str | None = None
    """Why it is quarantined: its recipients are HELD until an operator releases or drops them. None if it is not."""
    message_id: str = ""
    """The field body of Message-ID, by which the history of the message is found (RFC 5322 §3.6.4)."""
    submission: Submission | None = None
    """Not None: the message is stored only if its tenant (`Origin.tenant`) did not submit this key before."""
    findings: str = ""
    """What mail authentication and policy found, for the history of the message."""


class Update(NamedTuple):
    """The new state of one recipient after an attempt."""

    message: str
    number: int
    state: RecipientState
    attempts: int
    due: float
    outcome: Outcome | None = None
    warned: bool = False
    """Set `QueuedRecipient.warned`; False leaves it as it is."""
    late: bool = False
    """The report that it is late is queued: remove the deadline."""
    put_off: float = 0.0
    """The deadline passed but could not be acted on: move it to this time, in seconds since 1970. 0 leaves it."""


def deadline_of(envelope: Envelope, accepted: float) -> float | None:
    """When the queue must act on a message that it has not delivered (RFC 2852 §4.1.3), in seconds since 1970.

    None without a deadline, and in mode N if it had passed before the message was accepted: an earlier hop told the
    sender.
    """
    by = envelope.deliver_by
    return None if by is None or (not by.returned and by.deadline <= accepted) else float(by.deadline)


AGES: Final = (300.0, 1800.0, 7200.0, 21_600.0, 86_400.0, 259_200.0)
"""Ages of messages in seconds, which divide `QueueReader.shape`."""


class Tally(NamedTuple):
    """Size of a queue."""

    messages: int
    recipients: Mapping[RecipientState, int]
    """Number of their recipients that are not finished, by state."""


class Event(NamedTuple):
    """One event of a message, as the view `events` has it (docs/storage.md)."""

    at: float
    """Seconds since 1970."""
    kind: str
    message: str
    """The id of the message."""
    number: int | None
    """Of the recipient; None if it concerns the message."""
    address: str
    attempts: int
    reply: str
    """As `QueuedRecipient.last`; of `accepted` what was found, of `redirected` the new address."""
    remote: str
    message_id: str
    """Only of `accepted`."""


class StoredQueue(NamedTuple):
    """Queued recipients of one domain, tenant and priority that are not claimed."""

    domain: str
    """In lower case; empty for addresses without one."""
    tenant: str
    """`Origin.tenant` of the messages."""
    priority: int
    """`Envelope.priority` of the messages."""
    due: float
    """Due time of the first of them, in seconds since 1970."""


class Claimed(NamedTuple):
    """Result of `Store.claim` and `Store.claim_late`."""

    messages: Messages
    """Each with the recipients that were claimed."""
    due: float | None
    """Due time (or deadline), in seconds since 1970, of the first recipient left in the queue; None if none is left."""


Messages: TypeAlias = list[QueuedMessage]
"""An alias, because the ports have a method `list`."""


class QueueReader(Protocol):
    """Queries that change nothing. A store answers them; a backend also opens readers for other processes."""

    async def list(self, limit: int = 1000) -> Messages:
        """Return the oldest messages in the queue with all their recipients, claimed or not."""
        ...

    async def select(self, selection: Selection, limit: int = 1000) -> Messages:
        """Return the oldest messages with selected recipients, and only these recipients, claimed or not."""
        ...

    async def get(self, message: str) -> QueuedMessage | None:
        """Return one message with all its recipients; None if it is not in the queue."""
        ...

    async def find(self, messages: Sequence[str]) -> Sequence[str]:
        """Return those of these ids that are in the queue."""
        ...

    async def tally(self) -> Tally:
        """Count messages and recipients."""
        ...

    async def shape(self) -> Mapping[str, Sequence[int]]:
        """Count unfinished recipients by domain and age of the message: up to each of `AGES`, and above the last."""
        ...


class StandaloneReader(QueueReader, Protocol):
    """A reader in another process, beside a running server or without one."""

    faults: list[str]
    """Parts of the queue that cannot be read, and are missing from the answers."""

    async def trace(self, what: str, limit: int) -> Sequence[Event]:
        """Return the events of the newest messages with this id, Message-ID, or address of a sender or recipient.

        Delivered, failed and dropped ones included, as far as history reaches. It reads the whole history.

        Args:
            what: the id or address, in any case; a Message-ID with or without its brackets.
            limit: the number of messages in each shard.
        """
        ...

    def query(self, statement: str, limit: int) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Run a SELECT over the views `queue`, `attempts` and `events` of all shards (docs/storage.md).

        Args:
            statement: the SELECT.
            limit: the number of rows to return.

        Returns:
            The names of the columns, and the rows.

        Raises:
            QueryRefused: the statement is invalid or refused; the text says why.
        """
        ...

    def close(self) -> None:
        """Close all files."""
        ...


class Store(QueueReader, Protocol):
    """Accepted mail: what the server commits, attempts and records."""

    def spool(self, size_hint: int | None = None) -> Spool:
        """Return a spool for incoming content, to be committed to this store.

        Args:
            size_hint: octets that MAIL announced with SIZE (RFC 1870 §6).

        Raises:
            StoreFull: at once, if the hint is known not to fit.
        """
        ...

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """Make the message durable with all its recipients. 250 may be sent when the awaitable returns.

        Recipients that are due now are returned claimed: pass them on without reading them again. Those of a message
        that is held or due later (`not_before` after `accepted`) are not claimed.

        The key of a `submission` becomes durable with the message, and is kept for as long as the store is configured
        to keep keys. A commit of the same key waits for one that this process has begun.

        Raises (from the awaitable):
            SubmittedBefore: the key of its `submission` is known.
            SubmissionPending: another process is committing that key.
            StoreFull: there is no room.
            OSError: the storage failed.
            ValueError: the id is in use.
        """
        ...

    def record(self, lease: Lease, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """Make the results of attempts durable, end the claims, and commit bounces with them: all or nothing.

        A recipient that was held during its attempt stays held if it is to be tried again. A message whose recipients
        are all final is removed with its body; its history stays in the events. A message that an operator dropped
        meanwhile is ignored.

        Args:
            lease: of the message that was attempted (`QueuedMessage.lease`).
            updates: of messages in that shard.
            reports: bounces about them.

        Raises (from the awaitable):
            LeaseLost: the lease has ended. Nothing was recorded.
            StoreFull: there is no room for the reports.
            OSError: the storage failed.
        """
        ...

    async def unclaim(self, messages: Sequence[QueuedMessage]) -> None:
        """End the claims on the recipients of these messages without a result; they stay due as they were.

        Messages whose lease has ended are ignored.
        """
        ...

    def steady(self) -> Awaitable[None] | None:
        """Return None, unless a sync has failed and it is unknown what is durable.

        Then the awaitable ends when that is known; no attempt may begin before. Call this again after it ended.
        """
        ...

    def queues(self) -> AsyncIterator[StoredQueue]:
        """Iterate over the queues with recipients that are not claimed, some perhaps twice.

        Raises:
            OSError: a part of the queue cannot be read; at the end, when the other parts were.
        """
        ...

    async def claim(
        self, domain: str, tenant: str, priority: int, limit: int, together: Callable[[Address], bool] | None = None
    ) -> Claimed:
        """Claim due recipients of one queue, earliest first, in at most `limit` messages.

        A message that cannot be read is held, with the reason in `last`, and costs no other (SECURITY R25).

        Args:
            domain: in lower case.
            tenant: `Origin.tenant`.
            priority: `Envelope.priority`.
            limit: the number of messages.
            together: which recipients in other domains, if due, are claimed with those of the same message.
        """
        ...

    def claim_old(
        self, before: float, *, after: float | None = None, unwarned: bool = False
    ) -> AsyncIterator[Messages]:
        """Claim all queued recipients of messages that could be delivered since `before` (`not_before`), oldest first.

        Due or not; without those that are claimed. It yields some messages at a time, and each message at most once;
        the event loop runs while it searches.

        Args:
            before: seconds since 1970.
            after: seconds since 1970; only messages that could first be delivered later than this.
            unwarned: only recipients that are not `warned`.

        Raises:
            OSError: the store failed, or a part of it, after the others were searched.
        """
        ...

    async def claim_late(self, limit: int) -> Claimed:
        """Claim queued recipients whose deadline has passed, the earliest first, in at most `limit` messages.

        Returns:
            The messages, none only if no claim is possible, and the next deadline that has not passed.
        """
        ...

    def claim_selected(self, selection: Selection) -> AsyncIterator[Messages]:
        """Claim the selected recipients that are not claimed, queued or held, due or not: some messages at a time.

        Messages that cannot be read are left out.
        """
        ...

    async def redirect(self, message: QueuedMessage, address: Address) -> None:
        """Replace the addresses of the claimed recipients of a message, which become due now. Ends the claims.

        Held recipients stay held. What an alias led to although it takes no mail (the tag `REFUSED`) is attempted.

        The earlier address becomes `Recipient.original`, unless there is one, and is kept in the event `redirected`.

        Args:
            message: as it was claimed.
            address: the new one.

        Raises:
            LeaseLost: the lease has ended. Nothing was changed.
            OSError: the storage failed.
        """
        ...

    async def take(self, message: str, domains: Sequence[str]) -> QueuedMessage | None:
        """Claim a message's queued recipients at these domains (lower case), due or not.

        Returns:
            The message with those recipients; None if there are none, if they are claimed, or before `not_before`.
        """
        ...

    async def waiting(self, domains: Sequence[str], limit: int = 1000) -> Sequence[str]:
        """Return ids of messages with queued recipients at these domains (lower case), oldest first.

        Due or not, claimed or not; without those that must not be delivered yet (`not_before` in the future and after
        `accepted`).
        """
        ...

    async def retry(self, selection: Selection) -> int:
        """Make the selected queued recipients due now; return how many.

        One whose message may not be delivered yet (`not_before` in the future and after `accepted`) must be selected by
        the id of the message; a message that was merely accepted while the clock was ahead is not one of those.
        Many recipients are changed in several steps, each durable by itself; likewise in `hold`, `release`, `drop`.
        """
        ...

    async def hold(self, selection: Selection) -> int:
        """Set the selected queued recipients aside; return how many. Running attempts finish."""
        ...

    async def release(self, selection: Selection) -> int:
        """Make the selected held recipients queued again, due as they were; return how many.

        `not_before` becomes now unless it is later: a message that was held for long does not expire for it.
        """
        ...

    async def drop(self, selection: Selection) -> int:
        """End the selected recipients without a bounce; return how many. Messages without any others are removed."""
        ...

    async def close(self) -> None:
        """Finish what is being committed, end all leases, and free everything."""
        ...
