"""Mail on demand: ETRN and ATRN (RFC 1985, RFC 2645).

Promises: an authenticated client controls the mail of the domains that the configuration gives to its identity, and no
other. ETRN makes their mail due. ATRN sends it, message by message, over the connection that the customer opened: each
message is claimed, attempted once and recorded as by the queue runner, so that a connection that breaks loses nothing.
Mail that arrives meanwhile is sent too.
Refuses: a client that did not authenticate (530); domains that are not all its own (459, 450); a second ATRN of the
same customer while one runs in this process (450; in another process it finds only what is not claimed).

Standards: RFC 1985 §5; RFC 2645 §5.2.1 and §5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ironpost.client.connection import Connection
from ironpost.delivery import unreadable
from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.sending import Sending, too_many
from ironpost.protocol import replies
from ironpost.protocol.client.session import TIMEOUTS
from ironpost.protocol.server.transaction import HandOver
from ironpost.queue.selection import Selection
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from ironpost.delivery import Agent
    from ironpost.model import Outcome, Reply
    from ironpost.protocol.client.session import ClientStep
    from ironpost.protocol.server.session import ServerSession
    from ironpost.queue.store import QueuedMessage, QueuedRecipient, Store
    from ironpost.routing.route import Route

BATCH: Final = 100
"""Number of message ids read from the store at a time."""

_log: Final = logging.getLogger("ironpost.on_demand")


class OnDemand:
    """The hooks of ETRN and ATRN; one object per store."""

    def __init__(
        self,
        customers: Mapping[str, frozenset[str]],
        *,
        store: Store,
        attempt: Callable[[QueuedMessage, Agent], asyncio.Task[None]],
        retry: Callable[[Selection], Awaitable[object]],
        local_hostname: str | None = None,
        timeouts: Mapping[ClientStep, float] = TIMEOUTS,
        rewriting: DeliveryRewriting | None = None,
    ) -> None:
        """Create the hooks.

        Args:
            customers: identity to its domains, in lower case; the attribute may be replaced.
            store: the queue.
            attempt: `QueueRunner.attempt`: attempts a claimed message by an agent, and records the outcome.
            retry: `QueueRequests.retry`: attempts selected messages now.
            local_hostname: our name in EHLO to a customer's server; None for our address literal.
            timeouts: seconds by step of the delivery (RFC 5321 §4.5.3.2).
            rewriting: the rules for the addresses of what is sent; none if None.
        """
        self.customers = customers
        self._store = store
        self._attempt = attempt
        self._retry = retry
        self._local_hostname = local_hostname
        self._timeouts = timeouts
        self._rewriting = DeliveryRewriting() if rewriting is None else rewriting
        self._running: dict[asyncio.Task[None], str] = {}

    async def etrn(self, session: ServerSession, node: str) -> Reply:
        """Reply to ETRN for `example.org`, or `@example.org` (it and all subdomains). `#queue` is not supported."""
        if session.identity is None:
            return replies.AUTHENTICATION_FIRST
        login = session.identity.name
        domains = _requested_domains(node, self.customers.get(login, frozenset()))
        if not domains:
            record(
                _log,
                "etrn",
                session=session.id,
                ip=session.peer.ip,
                identity=login,
                node=node,
                reply=str(replies.NODE_NOT_ALLOWED),
            )
            return replies.NODE_NOT_ALLOWED
        try:
            found = await self._store.waiting(domains)
            if found:
                await self._retry(Selection.of(*found))
        except OSError as error:
            record(_log, "store-fault", logging.ERROR, session=session.id, detail=str(error))
            return replies.NODE_FAILED
        record(_log, "etrn", session=session.id, ip=session.peer.ip, identity=login, node=node, messages=len(found))
        return replies.waiting(len(found)) if found else replies.NOTHING_WAITS

    async def turn(self, session: ServerSession, domains: tuple[str, ...]) -> HandOver | Reply:
        """Decide about ATRN: hand the connection over, or refuse with the reply (RFC 2645 §5.2.1, §7)."""
        if session.identity is None:
            return replies.AUTHENTICATION_FIRST
        login, ip = session.identity.name, session.peer.ip
        own = self.customers.get(login, frozenset())
        asked = tuple(domains) or tuple(sorted(own))
        if not asked or not own.issuperset(asked):
            record(
                _log,
                "atrn",
                session=session.id,
                ip=ip,
                identity=login,
                domains=list(asked),
                reply=str(replies.TURN_REFUSED),
            )
            return replies.TURN_REFUSED
        if login in self._running.values():
            return replies.TURN_RUNNING
        try:
            if not await self._store.waiting(asked, 1):
                return replies.NO_MAIL
        except OSError as error:
            record(_log, "store-fault", logging.ERROR, session=session.id, detail=str(error))
            return replies.CANNOT_TURN

        def successor() -> Connection:
            connection = Connection(self._local_hostname, f"{login} [{ip}]" if ip else login, self._timeouts)
            task = asyncio.get_running_loop().create_task(self._send(session.id, login, ip, asked, connection))
            self._running[task] = login
            task.add_done_callback(self._running.pop)
            return connection

        return HandOver(successor)

    async def stop(self) -> None:
        """Cancel running turns; their messages stay in the queue. Call it before the queue runner stops."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _send(self, session: str, login: str, ip: str, domains: Sequence[str], connection: Connection) -> None:
        """Attempt every queued message once over the customer's connection."""
        tried: dict[str, None] = {}
        agent = _ReversedConnection(connection, self._rewriting)
        try:
            await connection.opened()
            while new := await self._untried(domains, tried, connection):
                for identifier in new:
                    tried[identifier] = None
                    if not _accepts_more(connection):
                        break
                    message = await self._store.take(identifier, domains)
                    if message is not None:
                        # `wait`, because cancelling this task must not cancel the attempt, whose outcome is recorded.
                        await asyncio.wait([self._attempt(message, agent)])
            if not connection.gone:
                await connection.quit()
        except OSError as error:
            record(_log, "store-fault", logging.ERROR, session=session, detail=str(error))
        finally:
            connection.abort()
            sent = connection.session.transactions
            reason = connection.session.reason
            ended = None if reason is None else str(reason)
            record(
                _log, "atrn", session=session, ip=ip, identity=login, domains=list(domains), messages=sent, ended=ended
            )

    async def _untried(
        self, domains: Sequence[str], tried: Mapping[str, None], connection: Connection
    ) -> Sequence[str]:
        if not _accepts_more(connection):
            return ()
        found = await self._store.waiting(domains, BATCH + len(tried))
        return [identifier for identifier in found if identifier not in tried]


class _ReversedConnection:
    """Implements `ironpost.delivery.Agent` over one connection that a customer opened."""

    def __init__(self, connection: Connection, rewriting: DeliveryRewriting) -> None:
        self._connection = connection
        self._rewriting = rewriting

    async def deliver(
        self,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        route: Route,  # noqa: ARG002 - the agent port's
    ) -> Sequence[tuple[int, Outcome]]:
        try:
            message, recipients = await self._rewriting.apply(message, recipients)
            sending = await Sending.of(message)
        except OSError as error:
            return [(each.number, unreadable(error)) for each in recipients]
        settled: dict[int, Outcome] = {}
        while recipients:
            results = await sending.over(self._connection, recipients)
            settled.update((each.number, outcome) for each, outcome in results)
            recipients = too_many(results)
        return list(settled.items())


def _accepts_more(connection: Connection) -> bool:
    session = connection.session
    return connection.ready and session.transactions < (session.limits.transactions or session.transactions + 1)


def _requested_domains(node: str, own: frozenset[str]) -> tuple[str, ...]:
    """Return those of a customer's domains that ETRN requests (RFC 1985 §5.3)."""
    if not node.startswith("@"):
        return (node,) if node in own else ()
    suffix = "." + node[1:]
    return tuple(sorted(domain for domain in own if domain == node[1:] or domain.endswith(suffix)))
