"""The store port: where accepted mail lives until somebody else is responsible for it.

Promises, which every backend keeps and the contract suite checks: what `commit` and `record` acknowledge survives a
crash at any later moment; nothing else is promised. Reads see what was acknowledged. One living owner at a time works
on a message: `claim` hands each due recipient to one caller until it is recorded or its lease ends.

Errors: `StoreFull` when the disk is, `OSError` for other storage faults. Nothing is half done after an error.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ironpost.model import Body, Envelope, Outcome, Recipient
    from ironpost.model.body import Spool


class StoreFull(OSError):
    """No room: 452 4.3.1 to the client; the server lives."""


class State(Enum):
    """What the queue knows of one recipient."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"
    """A bounce was queued with the same commit, or none is due (null reverse-path)."""
    DROPPED = "dropped"
    """Removed by an operator."""
    HELD = "held"
    """Set aside by policy or an operator: no attempt is made until it is resumed."""


UNFINISHED: Final = (State.QUEUED, State.HELD)
"""States in which somebody still has to do something."""


class QueuedRecipient(NamedTuple):
    """One recipient's row."""

    number: int
    """Position in the envelope, from 0."""
    recipient: Recipient
    state: State = State.QUEUED
    attempts: int = 0
    """How often a remote was asked."""
    due: float = 0.0
    """Seconds since 1970: when the next attempt may be made."""
    last: str = ""
    """The last reply, for people."""
    remote: str = ""
    """Who gave it."""
    changed: float = 0.0
    """Seconds since 1970: when this row last changed."""


class QueuedMessage(NamedTuple):
    """A message with the recipients that a call concerns."""

    id: str
    """Letters and digits, unique for ever."""
    envelope: Envelope
    """All recipients, as accepted."""
    accepted: float
    """Seconds since 1970."""
    body: Body
    recipients: tuple[QueuedRecipient, ...] = ()
    released: float = 0.0
    """Seconds since 1970: from when it may be delivered. Retries and expiry count from here (`queue.retry`)."""
    fault: str = ""
    """Why the message cannot be read back, if it cannot. The rest is then what could be read, to be shown and nothing
    else: such a message is never claimed."""


class NewMessage(NamedTuple):
    """A message to commit: id and time are the caller's, so that Received can name them."""

    id: str
    envelope: Envelope
    accepted: float
    prefix: bytes
    """Trace fields that stand before the content (RFC 5321 §4.4); part of the stored body."""
    content: Spool
    due: float | None = None
    """Seconds since 1970: no attempt is made before (RFC 4865 §4.2). None, or a time before `accepted`: at once."""
    held: bool = False
    """Quarantined: its recipients are HELD, until somebody resumes or drops them."""


class Update(NamedTuple):
    """What an attempt, or an operator, changes about one recipient."""

    message: str
    number: int
    state: State
    attempts: int
    due: float
    outcome: Outcome | None = None


Messages: TypeAlias = list[QueuedMessage]
"""A name of its own, because the port has a method `list`."""


class Store(Protocol):
    """One screen, every method with its meaning."""

    def spool(self, size_hint: int | None = None) -> Spool:
        """A place for content on its way in. `size_hint` is MAIL's SIZE in octets (RFC 1870 §6).

        Raises:
            StoreFull: at once, when the hint is known not to fit.
        """
        ...

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        """Makes the message durable with all its recipients. 250 may be said when the awaitable returns.

        Recipients that are due now come back claimed by this process: hand them to the scheduler without reading
        again. Those of a message that is held, or due later (`released` after `accepted`), are not claimed.
        """
        ...

    def record(self, updates: Sequence[Update], reports: Sequence[NewMessage] = ()) -> Awaitable[None]:
        """Makes the results of attempts durable and releases the claims; commits reports (bounces) with them.

        All of it or nothing. What was held while its attempt ran stays held if it is to be tried again. The updates of
        one call concern one message, unless the caller knows better: a store of several shards records what lies in
        one.

        A message whose recipients are all final is removed with its body; its history stays in the events.
        """
        ...

    def steady(self) -> Awaitable[None] | None:
        """None, unless a failed sync leaves it open what is durable: then something that ends when it is known.

        No attempt may begin before. Ask again after it ended.
        """
        ...

    async def claim(self, now: float, limit: int) -> Messages:
        """At most `limit` messages that have recipients due at `now` and not claimed, with those recipients.

        A message that cannot be read is held instead, with the reason in `last`, and costs no other (SECURITY R25).
        """
        ...

    async def release(self, messages: Sequence[str]) -> None:
        """Gives back claims without a result: the recipients are as they were, and due as they were."""
        ...

    async def waiting(self, domains: Sequence[str], now: float, limit: int = 1000) -> Sequence[str]:
        """Ids of messages with queued recipients at these domains (lower case), due or not, claimed or not, oldest
        first; without those that must not be delivered yet (`released` after `now` and after `accepted`)."""
        ...

    async def take(self, message: str, domains: Sequence[str], now: float) -> QueuedMessage | None:
        """Claims a message's queued recipients at these domains (lower case), due or not, and returns it with those
        recipients; None if there are none, or others have claimed them, or it must not be delivered yet."""
        ...

    async def next_due(self) -> float | None:
        """When the earliest unclaimed recipient is due; None if there is none."""
        ...

    async def list(self, limit: int = 1000) -> Messages:
        """Messages in the queue, oldest first, with all their recipients, claimed or not."""
        ...

    async def get(self, message: str) -> QueuedMessage | None:
        """One message with all its recipients."""
        ...

    async def retry(self, messages: Sequence[str] | None, now: float) -> int:
        """Makes queued recipients due now; how many recipients that concerned.

        None means every message that may be delivered now; one that may not (`released` after `now` and after
        `accepted`) must be named. A message that was merely accepted while the clock was ahead is not one of those.
        Many recipients are changed in several steps, each of which is durable by itself; the same holds for `hold`,
        `resume` and `drop`.
        """
        ...

    async def hold(self, messages: Sequence[str], now: float) -> int:
        """Sets queued recipients aside; how many recipients that concerned. Attempts that run go on to their end."""
        ...

    async def resume(self, messages: Sequence[str], now: float) -> int:
        """Makes held recipients queued again, due as they were; how many recipients that concerned.

        `released` becomes `now`, if it is not later anyway: a message that was held long is not expired for it.
        """
        ...

    async def drop(self, messages: Sequence[str], now: float) -> int:
        """Removes messages without a report; how many messages that were."""
        ...

    async def close(self) -> None:
        """Finishes what is being committed, then lets go of everything."""
        ...
