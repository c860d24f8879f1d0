"""Destinations: where the current routes send mail for an address, and how that divides a message.

Promises: recipients of a message that share a destination are one `Part`, with one queue. Recipients whose routing
raises are a part of their own, without a route. Nothing here waits unless the directory needs I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ironpost.delivery.agents import AGENTS, Scope
from ironpost.model import NULL, Address
from ironpost.protocol.replies import NOT_FETCHED
from ironpost.queue.scheduler import FOREVER, Queue
from ironpost.routing.directory import POSTMASTER
from ironpost.routing.route import Route, RouteDecision, SenderNeeded

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from ironpost.model import Envelope
    from ironpost.mta.suspended import SuspendedDestinations
    from ironpost.queue.concurrency import DestinationLimits
    from ironpost.queue.scheduler import Destination, Scheduler
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.limits import DeliveryLimits
    from ironpost.routing.route import Routes


class Part(NamedTuple):
    """The recipients of one message that share a destination."""

    message: QueuedMessage
    """The message, with these recipients only."""
    route: Route | None
    """Their route; None if routing raised: the attempt asks again, and defers the recipients."""
    octets: int
    """Size of its body in memory, in octets."""


Parts: TypeAlias = "list[tuple[Queue[Part], Part]]"


class Destinations:
    """The destinations of one queue runner."""

    def __init__(self, routes: Routes, scheduler: Scheduler[Part], suspended: SuspendedDestinations) -> None:
        """Use these routes; the attribute may be replaced at any time."""
        self.routes = routes
        self._scheduler = scheduler
        self._suspended = suspended

    async def of_domain(self, domain: str) -> Destination:
        """The destination of mail from the null reverse-path for the postmaster of a domain.

        Raises:
            ValueError: it is not a domain.
            DirectoryError: the directory cannot answer now.
        """
        decision: RouteDecision = await resolved(self.routes.decide(Address(POSTMASTER, domain), NULL))
        return self.of(decision.route, domain)

    async def decide(self, envelope: Envelope, address: Address) -> tuple[RouteDecision, Destination]:
        """The route of a recipient of a message, and its destination.

        Raises:
            DirectoryError: the directory cannot answer now.
        """
        decision: RouteDecision = await resolved(self.routed(envelope, address))
        return decision, self.of(decision.route, address.key)

    async def of_messages(self, messages: Sequence[QueuedMessage], seconds: float) -> Sequence[Destination]:
        """The destinations of the recipients of messages, each once, as far as the directory answers in these seconds.

        Messages that follow an address for which it does not answer in time are left out.
        """
        found: dict[Destination, None] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for message in messages:
                    for to in message.recipients:
                        with contextlib.suppress(Exception):  # as in `_decide`
                            found[(await self.decide(message.envelope, to.recipient.address))[1]] = None
                    await asyncio.sleep(0)  # sessions are served meanwhile
        return tuple(found)

    def of_mail(self, address: Address, tenant: str) -> Destination | Awaitable[Destination]:
        """Return the destination of a tenant's mail for an address; an awaitable only if the directory needs I/O."""
        decision = self.routes.decide(address, None, tenant)
        if isinstance(decision, RouteDecision):
            return self.of(decision.route, address.key)
        return self._later(decision, address.key)

    async def _later(self, decision: Awaitable[RouteDecision], domain: str) -> Destination:
        return self.of((await decision).route, domain)

    def of(self, route: Route | None, domain: str) -> Destination:
        """Return the destination of a route and a domain (in lower case), as `destination_key` has it."""
        key, scope = destination_key(route, domain)
        destination = self._scheduler.destination(key, stays=scope is Scope.SYSTEM)
        if scope is Scope.FETCHED:
            destination.suspended_until, destination.reason = FOREVER, NOT_FETCHED.text[0]
        else:
            self._suspended.apply(destination)
        return destination

    def may_be(self, destination: Destination, tenant: str, address: Address) -> bool:
        """Whether a tenant's mail for this address goes to the same destination, as far as that is known without I/O.

        If the routes of both depend on the sender, it may, and they are claimed together.
        """
        try:
            decision = self.routes.decide(address, None, tenant)
        except SenderNeeded:
            return self.of(None, address.key) is destination
        except Exception:  # noqa: BLE001 - the attempt raises again, and defers the recipients
            return False
        if isinstance(decision, RouteDecision):
            return self.of(decision.route, address.key) is destination
        decision.close()
        return False

    def _queue_of(self, message: QueuedMessage, route: Route | None, to: QueuedRecipient) -> Queue[Part]:
        domain, envelope = to.recipient.address.key, message.envelope
        destination = self.of(route, domain)
        return self._scheduler.queue(domain, envelope.origin.tenant, envelope.priority, destination)

    def parts(self, message: QueuedMessage, octets: int) -> Parts | Awaitable[Parts]:
        """Divide a message into parts, each with its queue; an awaitable only if the directory needs I/O.

        Recipients whose routing raises are a part of their own, without a route.
        """
        decisions = [self._decide(message.envelope, to.recipient.address) for to in message.recipients]
        if len(decisions) == 1 and isinstance(decisions[0], RouteDecision):  # the usual case
            route = decisions[0].route
            return [(self._queue_of(message, route, message.recipients[0]), Part(message, route, octets))]
        ready = [decision for decision in decisions if not isinstance(decision, Awaitable)]
        if len(ready) == len(decisions):
            return self._divided(message, ready, octets)
        return self._divided_later(message, decisions, octets)

    def routed(self, envelope: Envelope, address: Address) -> RouteDecision | Awaitable[RouteDecision]:
        """Return the route of a recipient; an awaitable only if the directory needs I/O."""
        return self.routes.decide(address, envelope.reverse_path, envelope.origin.tenant)

    def _decide(self, envelope: Envelope, address: Address) -> RouteDecision | Awaitable[RouteDecision | None] | None:
        """Return the route of a recipient; None if routing raises: the attempt raises again, and defers."""
        try:
            decision = self.routed(envelope, address)
        except Exception:  # noqa: BLE001 - see above
            return None
        return decision if isinstance(decision, RouteDecision) else _or_none(decision)

    async def _divided_later(
        self,
        message: QueuedMessage,
        decisions: Sequence[RouteDecision | Awaitable[RouteDecision | None] | None],
        octets: int,
    ) -> Parts:
        return self._divided(message, [await resolved(each) for each in decisions], octets)

    def _divided(self, message: QueuedMessage, decisions: Sequence[RouteDecision | None], octets: int) -> Parts:
        groups: dict[Any, tuple[Route | None, list[QueuedRecipient]]] = {}
        for to, decision in zip(message.recipients, decisions, strict=True):
            route = None if decision is None else decision.route
            key = destination_key(route, to.recipient.address.key)[0], route  # routes of this system share one
            groups.setdefault(key, (route, []))[1].append(to)
        return [
            (
                self._queue_of(message, route, recipients[0]),
                Part(message._replace(recipients=tuple(recipients)), route, octets),
            )
            for route, recipients in groups.values()
        ]


def destination_key(route: Route | None, domain: str) -> tuple[Hashable, Scope]:
    """Return the key of a destination, equal for all mail that shares it, and its scope."""
    if route is None:
        return None, Scope.SYSTEM
    scope = AGENTS[route.kind].destination
    if scope is Scope.SYSTEM:
        return "", scope
    return (route, "" if scope is Scope.ROUTE else domain), scope


def limits_of(limits: DeliveryLimits, key: Any) -> DestinationLimits:
    """The limits of a destination that is not this system, by the key that `destination_key` made."""
    return limits.of(*key)


async def _or_none(decision: Awaitable[RouteDecision]) -> RouteDecision | None:
    try:
        return await decision
    except Exception:  # noqa: BLE001 - as in `Destinations._decide`
        return None


async def resolved(value: Any) -> Any:
    """Return a value, or the result of an awaitable."""
    return await value if isinstance(value, Awaitable) else value
