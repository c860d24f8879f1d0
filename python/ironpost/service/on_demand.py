"""Mail on demand: what ETRN and ATRN do to the queue (RFC 1985, RFC 2645).

Promises: a client gets at the mail of the domains that the configuration gives to its identity, and at no other's; it
asks for all of them, or for those that it names. ETRN makes their mail due. ATRN takes it out of the queue message by
message over the connection that the customer opened: each is claimed as the queue runner claims, attempted once, and
recorded as every attempt is, so that a connection that breaks loses nothing. Mail that arrives meanwhile goes too.
Refuses: a client that did not authenticate (530); domains that are not all its own (459, 450); a second ATRN of the
same customer while one runs in this process (450; in another one it finds what is not claimed).

Standards: RFC 1985 §5; RFC 2645 §5.2.1 and §5.3.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ironpost.client.connection import Connection
from ironpost.delivery import unreadable
from ironpost.delivery.sending import Sending, too_many
from ironpost.protocol import replies
from ironpost.protocol.client import TIMEOUTS
from ironpost.service.journal import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ironpost.delivery import Agent
    from ironpost.model import Outcome, Reply
    from ironpost.model.ports import Clock
    from ironpost.protocol.client import Step
    from ironpost.protocol.server import ServerSession
    from ironpost.queue.store import QueuedMessage, QueuedRecipient, Store

BATCH: Final = 100
"""Messages whose ids are asked for at a time."""

_log: Final = logging.getLogger("ironpost.on_demand")


class OnDemand:
    """One per store."""

    claims: Final = frozenset({"ETRN", "ATRN"})
    """The extensions that it keeps."""

    def __init__(
        self,
        customers: Mapping[str, frozenset[str]],
        *,
        store: Store,
        attempt: Callable[[QueuedMessage, Agent], asyncio.Task[None]],
        wake: Callable[[], None],
        clock: Clock,
        local_hostname: str | None = None,
        timeouts: Mapping[Step, float] = TIMEOUTS,
    ) -> None:
        """Nothing runs before somebody asks.

        Args:
            customers: identity to its domains, in lower case; the attribute may be replaced.
            store: the queue.
            attempt: the queue runner's: attempts a claimed message by an agent, and records what became of it.
            wake: tells the queue runner that something is due.
            clock: time.
            local_hostname: what we say in EHLO to a customer's server; None for our address literal.
            timeouts: seconds by step of the delivery (RFC 5321 §4.5.3.2).
        """
        self.customers = customers
        self._store = store
        self._attempt = attempt
        self._wake = wake
        self._clock = clock
        self._local_hostname = local_hostname
        self._timeouts = timeouts
        self._running: dict[asyncio.Task[None], str] = {}

    async def etrn(self, session: ServerSession, node: str) -> Reply:
        """The answer to ETRN: `example.org`, `@example.org` (and all below it), or `#queue`, of which there is none."""
        if session.identity is None:
            return replies.AUTHENTICATION_FIRST
        login = session.identity.name
        domains = _asked(node, self.customers.get(login, frozenset()))
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
        now = self._clock.now()
        try:
            found = await self._store.waiting(domains, now)
            if found:
                await self._store.retry(found, now)
        except OSError as error:
            record(_log, "store-fault", logging.ERROR, session=session.id, detail=str(error))
            return replies.NODE_FAILED
        self._wake()
        record(_log, "etrn", session=session.id, ip=session.peer.ip, identity=login, node=node, messages=len(found))
        return replies.waiting(len(found)) if found else replies.NOTHING_WAITS

    async def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Reply | None:
        """The answer to ATRN; None if the connection is to be turned round."""
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
            if not await self._store.waiting(asked, self._clock.now(), 1):
                return replies.NO_MAIL
        except OSError as error:
            record(_log, "store-fault", logging.ERROR, session=session.id, detail=str(error))
            return replies.CANNOT_TURN

        def successor() -> Connection:
            connection = Connection(self._local_hostname, f"{login} [{ip}]" if ip else login, self._timeouts)
            task = asyncio.get_running_loop().create_task(self._give(session.id, login, ip, asked, connection))
            self._running[task] = login
            task.add_done_callback(self._running.pop)
            return connection

        session.successor = successor
        return None

    async def stop(self) -> None:
        """Cuts off what runs: its messages stay in the queue. Before the queue runner stops."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _give(self, session: str, login: str, ip: str, domains: Sequence[str], connection: Connection) -> None:
        """All that waits, once each, over the customer's connection."""
        tried: dict[str, None] = {}
        agent = _Turned(connection)
        try:
            await connection.opened()
            while new := await self._untried(domains, tried, connection):
                for identifier in new:
                    tried[identifier] = None
                    if not _takes_more(connection):
                        break
                    message = await self._store.take(identifier, domains, self._clock.now())
                    if message is not None:
                        # Not awaited: the runner may cut it off, and whoever cuts us off must not cut off its records.
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
        if not _takes_more(connection):
            return ()
        found = await self._store.waiting(domains, self._clock.now(), BATCH + len(tried))
        return [identifier for identifier in found if identifier not in tried]


class _Turned:
    """Implements `ironpost.delivery.Agent` over one connection that a customer opened."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient]
    ) -> Sequence[tuple[int, Outcome]]:
        try:
            sending = await Sending.of(message)
        except OSError as error:
            return [(each.number, unreadable(error)) for each in recipients]
        settled: dict[int, Outcome] = {}
        while recipients:
            results = await sending.over(self._connection, recipients)
            settled.update((each.number, outcome) for each, outcome in results)
            recipients = too_many(results)
        return list(settled.items())


def _takes_more(connection: Connection) -> bool:
    session = connection.session
    return connection.ready and session.transactions < (session.limits.transactions or session.transactions + 1)


def _asked(node: str, own: frozenset[str]) -> tuple[str, ...]:
    """Which of a customer's domains ETRN means (RFC 1985 §5.3)."""
    if not node.startswith("@"):
        return (node,) if node in own else ()
    suffix = "." + node[1:]
    return tuple(sorted(domain for domain in own if domain == node[1:] or domain.endswith(suffix)))
