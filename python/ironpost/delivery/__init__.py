"""Delivery: the agent port. The agents are modules of this package, listed by route kind in `agents.AGENTS`.

Promises: an agent returns one `Outcome` for every recipient it was given, and raises nothing for a fault of the
network or of a peer: that is an `Outcome` too. `DELIVERED` means that another system, or a file, holds the message.
A recipient whose fate is unknown is `DEFERRED`: mail may be duplicated, but is never lost.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.body import BodyDamaged
from ironpost.model.text import error_text, escape
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Sequence

    from ironpost.model import Address
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

__all__ = ["Agent", "Agents", "NextHops", "RouteAgent", "concurrently", "crashed", "misconfigured", "unreadable"]

T = TypeVar("T")

_UNREADABLE: Final = Reply(451, "4.3.0", ("The stored message cannot be read now",))
_MISCONFIGURED: Final = Reply(451, "4.3.5", ("Local delivery is not configured correctly",))
_DAMAGED: Final = Reply(451, "4.3.0", ("The stored message is damaged",))


class Agent(Protocol):
    """Delivers messages."""

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Attempt delivery of one message to some of its recipients, all of them on `route`.

        Returns:
            (`QueuedRecipient.number`, outcome) for each of `recipients`, in any order. An outcome with a `crash` is
            that of a recipient for whom the attempt raised, while others have results (`concurrently`).
        """
        ...


class NextHops(NamedTuple):
    """The next hops that an agent would use now."""

    text: str
    """Hosts with addresses in the order of the attempts, or a mailbox."""
    reasons: tuple[str, ...] = ()
    failure: Reply | None = None
    """The reply in the recipient's outcome, if delivery is impossible."""


class RouteAgent(Agent, Protocol):
    """The agent of all routes of one kind."""

    async def preview(self, address: Address, route: Route) -> NextHops:
        """Return where mail for `address` would go now. Sends nothing."""
        ...

    def close(self) -> Awaitable[None] | None:
        """Release connections and threads; running deliveries end first or by themselves."""
        ...


class Agents(Protocol):
    """Chooses the agent of a route, for the queue runner."""

    def __call__(self, route: Route) -> Agent:
        """The agent of `route`."""
        ...


async def concurrently(attempts: Iterable[Coroutine[Any, Any, T]], limit: int | None = None) -> list[T | Outcome]:
    """Make the attempts of an agent, at most `limit` at a time; return their results in order.

    All of them end: if one raises, its result is the outcome of its recipients, so that those of the others are
    recorded and nothing is sent to them again.
    """
    waiting = iter(attempts)
    results: list[T | Outcome] = []
    while True:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_ended(each)) for each in islice(waiting, limit)]
        if not running:
            return results
        results += [task.result() for task in running]


async def _ended(attempt: Coroutine[Any, Any, T]) -> T | Outcome:
    try:
        return await attempt
    except Exception as error:  # noqa: BLE001 - one recipient never affects the others
        return crashed(error)


def crashed(error: Exception) -> Outcome:
    """The outcome if an attempt raises: deferred, and held if that happens repeatedly; or as the error says."""
    if isinstance(error, BodyDamaged):
        return unreadable(error)
    reply = replies.HOOK_FAILED.because(escape(f"{type(error).__name__}: {error}"))
    return Outcome(Disposition.DEFERRED, reply, crash=error)


def misconfigured(why: str) -> Outcome:
    """The outcome if the configuration of local delivery does not fit this system: deferred, until it is repaired."""
    return Outcome(Disposition.DEFERRED, _MISCONFIGURED.because(why), ours=True)


def unreadable(error: OSError) -> Outcome:
    """The outcome if the body cannot be read: deferred, since the next read may succeed; held if it is damaged."""
    if isinstance(error, BodyDamaged):
        return Outcome(Disposition.HELD, _DAMAGED.because(error_text(error)))
    return Outcome(Disposition.DEFERRED, _UNREADABLE.because(error_text(error)))
