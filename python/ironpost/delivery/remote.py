"""Delivery to other systems over SMTP: next hops, connection reuse, one transaction per destination.

Promises: one outcome for each recipient; recipients of one destination share a transaction, up to the peer's limit; if
a host cannot be reached or refuses service, the next one is tried; a reused connection that turns out to be closed is
replaced once. After a timeout or a protocol error a connection is closed, never reused (SECURITY R19). A recipient
without a reply is deferred. A message is sent only over a connection with the TLS that `routing.tls` requires for it.
Standards: RFC 5321 §5.1 (order of hosts), §4.5.4.1 (sending strategy), §3.6.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import nullcontext
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.client.reach import SourceUnusable, connect_text
from ironpost.client.tls import failure_text, failure_type
from ironpost.delivery import concurrently, unreadable
from ironpost.delivery.access import AccessError, Accesses, NoLoginError
from ironpost.delivery.dialer import Dialer, login_rejected
from ironpost.delivery.families import BrokenFamilies, concerns_family
from ironpost.delivery.next_hop import (
    MAX_ADDRESSES,
    NoHostError,
    configured_hosts,
    describe_hosts,
    describe_mx,
    exchangers,
    reachable_from,
)
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.pool import ConnectionPool, Link
from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.sending import Sending, too_many, undecided
from ironpost.delivery.settings import (
    ATTEMPT_SECONDS,
    CONNECTION_MESSAGES,
    DESTINATION_LIMIT,
    IDLE_SECONDS,
    LEAST_RATE,
)
from ironpost.model import NULL, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.model.memory import MemoryBody
from ironpost.model.ports import Uncounted
from ironpost.model.tls import (
    PolicyType,
    PublishedPolicy,
    TlsFailure,
    TlsLevel,
    TlsOutcome,
    TlsResult,
)
from ironpost.protocol import replies
from ironpost.protocol.client.session import ClientStep, Ending
from ironpost.protocol.extensions import next_hop_refusal
from ironpost.queue.greylisting import greylisted
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.routing.limits import DeliveryLimits
from ironpost.routing.route import SMTP_PORT, Route, destination_label
from ironpost.routing.tls import Refusal, Requirement, TlsUse, tls_policies
from ironpost.routing.tls.policy import of_use

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from ironpost.client.connection import Connection
    from ironpost.delivery import NextHops
    from ironpost.delivery.access import Access
    from ironpost.delivery.next_hop import Endpoint, HostAddress
    from ironpost.delivery.pool import Destination
    from ironpost.model import Address
    from ironpost.model.dns import Resolver
    from ironpost.model.ports import Metrics, Random
    from ironpost.model.tls import TlsRecorder
    from ironpost.routing.profile import ConnectionProfile
    from ironpost.routing.tls import TlsPolicies

    Results: TypeAlias = list[tuple[int, Outcome]]

_OVER: Final = Outcome(
    Disposition.DEFERRED,
    Reply(451, "4.4.1", ("No host accepted the message within the time of one attempt",)),
    asked=True,
)
_MISCONFIGURED: Final = Reply(451, "4.3.5", ("System incorrectly configured",))
"""RFC 3463 §3.4."""
_UNIX_SOCKET: Final = of_use(TlsUse.NONE, "a Unix socket does not leave this machine")
SERVICE_NOT_AVAILABLE: Final = 421
"""RFC 5321 §4.2.2."""
AUTHENTICATION_NEEDED: Final = frozenset({530, 535, 538})
"""RFC 4954 §6: authentication, or TLS, is required."""


class _ServiceError(Exception):
    """No host of a destination accepted the session."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


class _Hosts:
    """The hosts of one attempt, in order; a host that failed is not tried again."""

    __slots__ = ("_group", "_targets", "broken", "failed", "late", "worst")

    def __init__(
        self,
        targets: AsyncGenerator[Sequence[HostAddress], None],
        late: frozenset[int] = frozenset(),
        failed: Iterable[Endpoint] = (),
        worst: Outcome | None = None,
    ) -> None:
        """`late` are the versions of IP that are tried last, among the addresses of one group of `targets`."""
        self._targets = targets
        self._group: list[HostAddress] = []
        """The addresses of the current group that were not returned yet."""
        self.late = late
        self.broken: frozenset[int] = frozenset()
        """Versions of IP that did not work in this attempt."""
        self.failed = set(failed)
        """Endpoints that could not be used."""
        self.worst = worst
        """The outcome of the hosts that refused the session. A transient failure outweighs a permanent one: as long as
        one host is only unreachable, the message is deferred."""

    async def next(self) -> HostAddress:
        """The next host.

        Raises:
            NoHostError: DNS names no host.
            _ServiceError: all hosts were tried.
        """
        try:
            while len(self.failed) < MAX_ADDRESSES and (target := await self._target()) is not None:
                if target.endpoint not in self.failed:
                    return target
        except NoHostError as error:
            if self.worst is None:
                raise
            if self.worst.disposition is Disposition.FAILED:
                self.blame(None, error.outcome)
        assert self.worst is not None, "without any target NoHostError is raised"
        raise _ServiceError(self.worst)

    async def _target(self) -> HostAddress | None:
        """The next target; None after the last."""
        if not self._group:
            group = await anext(self._targets, None)
            if group is None:
                return None
            self._group = list(group)
        target = next((each for each in self._group if each.version not in self.late), self._group[0])
        self._group.remove(target)
        return target

    def unreachable(self, version: int) -> None:
        """Record that a version of IP did not work: other addresses of it are tried last in each group."""
        self.broken |= {version}
        self.late |= {version}

    def blame(self, target: HostAddress | None, outcome: Outcome) -> None:
        """Record that a host could not be used, or not be looked up (None)."""
        if target is not None:
            self.failed.add(target.endpoint)
        if self.worst is None or outcome.disposition is Disposition.DEFERRED:
            self.worst = outcome

    async def close(self) -> None:
        """Stop resolving hosts."""
        await self._targets.aclose()


@dataclass(slots=True)
class _Attempt:
    """One message on its way to one destination."""

    destination: Destination
    message: QueuedMessage
    route: Route
    domain: str
    """Empty for a configured host."""
    hosts: _Hosts
    requirement: Requirement | None
    """The domain's TLS requirement; None for configured hosts, which have one each."""
    access: Access | None
    """Of the route's profile, if it has one."""


class RemoteDelivery:
    """The agent of routes to other systems (`ironpost.delivery.RouteAgent`); owns the connections to them."""

    def __init__(
        self,
        resolver: Resolver,
        random: Random,
        dialer: Dialer | None = None,
        *,
        policies: TlsPolicies | None = None,
        accesses: Accesses | None = None,
        own: OwnSystem = OwnSystem(),  # noqa: B008 - immutable
        port: int = SMTP_PORT,
        limits: DeliveryLimits = DeliveryLimits(DESTINATION_LIMIT),  # noqa: B008 - immutable
        idle_seconds: float = IDLE_SECONDS,
        connection_messages: int = CONNECTION_MESSAGES,
        attempt_seconds: float = ATTEMPT_SECONDS,
        metrics: Metrics | None = None,
        recorder: TlsRecorder | None = None,
        rewriting: DeliveryRewriting | None = None,
    ) -> None:
        """Create the agent; no connection is opened yet.

        Args:
            resolver: DNS.
            random: shuffles exchangers of equal preference.
            dialer: opens connections; one with default settings if None.
            policies: TLS by domain and host; the registry's without local rules if None.
            accesses: logins and client certificates of routes; read when they are needed if None.
            own: the names and listeners of this system: a next hop that leads there is a loop.
            port: the port of exchangers.
            limits: concurrent connections to each destination.
            idle_seconds: seconds for which an idle connection is kept.
            connection_messages: messages sent over one connection.
            metrics: counts connections; nothing if None.
            recorder: records the TLS of each new connection for reports; nothing if None.
            attempt_seconds: seconds for one message at one destination; large content gets more.
            rewriting: the rules for the addresses of what is sent; none if None.
        """
        self._own = own
        self._resolver = resolver
        self._random = random
        self._dialer = Dialer() if dialer is None else dialer
        self._policies = tls_policies() if policies is None else policies
        self.accesses = Accesses() if accesses is None else accesses
        self._port = port
        self._attempt_seconds = attempt_seconds
        self._families = BrokenFamilies(monotonic)
        self._metrics = metrics or Uncounted()
        self._recorder = recorder
        self._rewriting = DeliveryRewriting() if rewriting is None else rewriting
        self._pool = ConnectionPool(
            limit=lambda key: limits.of(*key).deliveries, messages=connection_messages, idle_seconds=idle_seconds
        )

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Attempt delivery to other systems: one transaction for each destination, concurrently."""
        if route.hosts:
            return await self._send(route, "", message, recipients)
        groups: dict[str, list[QueuedRecipient]] = {}
        for each in recipients:
            groups.setdefault(each.recipient.address.key, []).append(each)
        if len(groups) == 1:
            ((domain, group),) = groups.items()
            return await self._send(route, domain, message, group)
        sent = await concurrently(self._send(route, domain, message, each) for domain, each in groups.items())
        results: Results = []
        for group, done in zip(groups.values(), sent, strict=True):
            results += [(each.number, done) for each in group] if isinstance(done, Outcome) else done
        return results

    async def preview(self, address: Address, route: Route) -> NextHops:
        """The hosts that would be tried now for `address`, the MX records they come from, and the TLS they need."""
        domain = "" if route.hosts else address.key
        message = Envelope(NULL, (Recipient(address),))
        reasons: tuple[str, ...] = ()
        requirement = None
        if domain:
            requirement = await self._policies.for_domain(domain, message, least(route.profile))
            reasons = (*await describe_mx(domain, self._resolver), _described("TLS", requirement))

        async def note(target: HostAddress) -> str | None:
            found = await self._required(target, route, domain, message, requirement)
            if isinstance(found, Refusal):
                return f"{target} is not used: {found.reply}"
            return None if found == requirement else _described(f"{target}: TLS", found)

        return await describe_hosts(self._targets(route, address.key), reasons, note)

    async def callout(self, address: Address, route: Route) -> Outcome:
        """Ask the next hop for one recipient from the null reverse-path, as delivery would, but without content.

        Returns:
            DELIVERED if it accepts the recipient; FAILED if mail would fail permanently because of it or of its domain;
            DEFERRED if that is not known.
        """
        recipient = QueuedRecipient(0, Recipient(address))
        message = QueuedMessage("callout", Envelope(NULL, (recipient.recipient,)), 0.0, MemoryBody(b""), (recipient,))
        domain = "" if route.hosts else address.key
        ((_, outcome),) = await self._send(route, domain, message, (recipient,), callout=True)
        return outcome

    async def close(self) -> None:
        """Send QUIT on every idle connection. Running deliveries finish, and then close theirs."""
        await self._pool.close()
        await self.accesses.close()

    # -- one destination ----------------------------------------------------------------------------------------------

    async def _send(
        self,
        route: Route,
        domain: str,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        *,
        callout: bool = False,
    ) -> Results:
        """Send one message to its recipients at one destination (`domain` is empty for a configured host)."""
        destination = self._pool.enter((route, domain))
        try:
            async with destination.gate:
                return await self._attempt(destination, route, domain, message, recipients, callout=callout)
        finally:
            self._pool.leave((route, domain), destination)

    async def _attempt(
        self,
        destination: Destination,
        route: Route,
        domain: str,
        message: QueuedMessage,
        recipients: Sequence[QueuedRecipient],
        *,
        callout: bool,
    ) -> Results:
        try:
            message, recipients = await self._rewriting.apply(message, recipients, logged=not callout)
            sending = await Sending.of(message, callout=callout)
        except OSError as error:
            outcome = unreadable(error)
            return [(each.number, outcome) for each in recipients]
        try:
            access = self.accesses.of(route.profile)
        except AccessError as error:
            outcome = Outcome(Disposition.DEFERRED, _MISCONFIGURED.because(str(error)), ours=True)
            return [(each.number, outcome) for each in recipients]
        settled: dict[int, Outcome] = {}
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._attempt_seconds + message.body.size / LEAST_RATE
        requirement = None
        if domain:
            requirement = await self._policies.for_domain(domain, message.envelope, least(route.profile))
        hosts = _Hosts(self._targets(route, domain), self._families.of((route, domain)))
        attempt = _Attempt(destination, message, route, domain, hosts, requirement, access)
        link: Link | None = None
        try:
            while recipients:
                if loop.time() >= deadline:
                    if link is not None:
                        self._pool.dismiss(link.connection)
                    raise _ServiceError(_OVER)
                link = link or await self._reused(attempt) or await self._open(attempt)
                transaction, results = await sending.transact(link.connection, recipients, deadline=deadline)
                if link.reused and _was_dead(link.connection):
                    link = None
                    continue
                if route.hosts or callout:  # a refusal of the null reverse-path says nothing about the recipient
                    early = transaction.failed_at is ClientStep.MAIL and not transaction.unsupported
                    results = [(each, _excused(outcome, early=early)) for each, outcome in results]
                settled.update((each.number, outcome.over(link.tls)) for each, outcome in results)
                if transaction.without_chunks:
                    # The peer offers BDAT but rejects it; every peer accepts DATA: try the same host again.
                    destination.without_chunks.add(link.target.endpoint)
                    recipients = undecided(transaction, results)
                    link = await self._connected(link.target, attempt)
                elif transaction.undecided or any(outcome.ours for _, outcome in results):
                    # RFC 5321 §5.1: this host did not decide about the recipients, so the next one is tried.
                    recipients = undecided(transaction, results)
                    attempt.hosts.blame(link.target, settled[recipients[0].number])
                    self._pool.dismiss(link.connection)
                    link = None
                else:
                    self._pool.keep(destination, link)
                    link = None
                    recipients = too_many(results)
                    if recipients:
                        await attempt.hosts.close()
                        hosts = attempt.hosts
                        attempt.hosts = _Hosts(self._targets(route, domain), hosts.late, hosts.failed, hosts.worst)
        except NoHostError as error:
            _settle_rest(settled, recipients, _unreachable(error.outcome))
        except _ServiceError as refused:
            outcome = _unreachable(refused.outcome)
            if route.hosts:
                outcome = _excused(outcome, early=False)
            _settle_rest(settled, recipients, outcome)
        finally:
            await attempt.hosts.close()
        return [(number, _service_refused(outcome)) for number, outcome in settled.items()]

    async def _reused(self, attempt: _Attempt) -> Link | None:
        """An idle connection that may carry the message."""

        async def fits(link: Link) -> bool:
            if _unfit(link.connection, attempt.message) is not None:
                return False
            requirement = await self._required(
                link.target, attempt.route, attempt.domain, attempt.message.envelope, attempt.requirement
            )
            return not isinstance(requirement, Refusal) and link.fulfils(requirement, attempt.access)

        return await self._pool.take(attempt.destination, fits) if attempt.destination.idle else None

    async def _open(self, attempt: _Attempt) -> Link:
        """A ready connection to the first host that accepts the session and may receive the message."""
        access = attempt.access
        async with nullcontext() if access is None else access.one_at_a_time():
            while True:
                link = await self._connected(await attempt.hosts.next(), attempt)
                if link is not None:
                    return link

    async def _connected(self, target: HostAddress, attempt: _Attempt) -> Link | None:
        """A ready connection to one host; if the host cannot be used, None, and `hosts` records the failure."""
        remote = str(target)
        requirement = await self._required(
            target, attempt.route, attempt.domain, attempt.message.envelope, attempt.requirement
        )
        if isinstance(requirement, Refusal):
            outcome = Outcome.of(requirement.reply, remote, asked=False)
            level = attempt.requirement.level if attempt.requirement is not None else TlsLevel.NONE
            tls = TlsResult(target.host, TlsLevel.NONE, level, str(requirement.reply), requirement.failure)
            attempt.hosts.blame(target, outcome.over(tls))
            self._record(requirement.policy, attempt, target, tls)
            return None
        try:
            chunking = target.endpoint not in attempt.destination.without_chunks
            connection, tls = await self._dialer.dial(target, requirement, chunking=chunking, access=attempt.access)
        except NoLoginError as error:  # the same for all hosts
            raise _ServiceError(Outcome(Disposition.DEFERRED, error.reply, remote, ours=error.ours)) from None
        except OSError as error:
            if concerns_family(error):
                attempt.hosts.unreachable(target.version)
            outcome = _not_connected(error, target, requirement)
            attempt.hosts.blame(target, outcome)
            if outcome.tls is not None:
                self._record(requirement.policy, attempt, target, outcome.tls)
            return None
        self._families.connected((attempt.route, attempt.domain), target.version, attempt.hosts.broken)
        self._metrics.count("outgoing_connections", destination_label(attempt.route, attempt.domain))
        if requirement.use is not TlsUse.NONE:
            violation = requirement.violation
            seen = replace(tls, failure=TlsFailure.VALIDATION_FAILURE, reason=violation) if violation else tls
            self._record(requirement.policy, attempt, target, seen, connection.local_ip)
        session = connection.session
        unfit = _unfit(connection, attempt.message)
        if connection.ready and unfit is None:
            return Link(connection, target, requirement, tls, attempt.access)
        if connection.ready:
            self._pool.dismiss(connection)
        reply = session.reason or unfit or Reply(451, "4.4.2", ("The connection was closed",))
        if login_rejected(session) is not None:  # at another host the same login would count as one more wrong guess
            rejected = Outcome(Disposition.DEFERRED, reply, remote, asked=True, ours=True)
            raise _ServiceError(rejected.over(tls))
        ours = session.refused_permanently
        if session.ending is Ending.INSECURE:
            # RFC 8689 §4.2.1 lets mail fail for missing TLS, not for a login that is impossible.
            missing = requirement if session.ended_at is not ClientStep.AUTH else Requirement(requirement.use)
            reply = missing.refusal(reply)
            ours = not missing.permanent
        ours = ours and bool(attempt.route.hosts)
        attempt.hosts.blame(target, replace(Outcome.of(reply, remote), ours=ours, tls=tls))
        return None

    def _record(
        self, policy: PublishedPolicy | None, attempt: _Attempt, target: HostAddress, tls: TlsResult, our_ip: str = ""
    ) -> None:
        """Record the TLS of a host, unless it is unknown or no domain is concerned.

        With `TLS-Required: No` the policy of the domain was not looked up, so there is no result; reports about TLS
        are sent like that, and so do not cause further reports (RFC 8460 §3).
        """
        if self._recorder is None or (tls.failure is None and tls.level is TlsLevel.NONE):
            return
        if attempt.message.envelope.tls_optional:
            return
        if policy is None:
            domain = attempt.domain
            if not domain or domain.startswith("["):
                return
            policy = PublishedPolicy(PolicyType.NONE, domain)
        detail = tls.reason if tls.failure is not None else ""
        self._recorder(TlsOutcome(policy, tls.failure, detail, target.host, target.ip, our_ip, attempt.domain))

    async def _required(
        self, target: HostAddress, route: Route, domain: str, envelope: Envelope, requirement: Requirement | None
    ) -> Requirement | Refusal:
        """The TLS requirement of a message at one host, or the refusal if the host must not be used.

        Args:
            target: the host; TLS is not used over a Unix socket.
            route: the route.
            domain: the recipient's domain; empty for a configured host, to which the rules apply by its name.
            envelope: of the message.
            requirement: the domain's; None for a configured host.
        """
        if target.path is not None:
            return _UNIX_SOCKET
        host = target.for_domain(domain)
        if requirement is None:
            requirement = await self._policies.for_domain(host.name, envelope, least(route.profile))
        return await self._policies.for_host(host, envelope, requirement)

    def _targets(self, route: Route, domain: str) -> AsyncGenerator[Sequence[HostAddress], None]:
        if route.hosts:
            targets = configured_hosts(route.hosts, self._resolver, self._own)
        else:
            targets = exchangers(domain, self._resolver, self._random, self._own, self._port)
        sources = route.profile.sources if route.profile is not None else ()
        return reachable_from(sources, targets) if sources else targets


def least(profile: ConnectionProfile | None) -> Requirement | None:
    """The TLS that a route itself requires; None if it leaves that to the policies."""
    if profile is None or profile.tls is None:
        return None
    return of_use(profile.tls, "the route")


def _not_connected(error: OSError, target: HostAddress, requirement: Requirement) -> Outcome:
    """The outcome of a host to which there is no connection."""
    remote = str(target)
    if isinstance(error, ssl.SSLError):  # implicit TLS; after STARTTLS the session ends with the reason
        reply = requirement.refusal(replies.HANDSHAKE_FAILED.because(failure_text(error)))
        text = f"TLS failed: {reply.detail}"
        tls = TlsResult(target.host, TlsLevel.NONE, requirement.level, text, failure_type(error))
        return Outcome(Outcome.of(reply).disposition, reply, remote, asked=True, tls=tls)
    reply = Reply(451, "4.4.1", (f"Cannot connect: {connect_text(error)}",))
    if isinstance(error, SourceUnusable):
        return Outcome(Disposition.DEFERRED, replace(reply, enhanced="4.3.5"), remote, ours=True)
    return Outcome(Disposition.DEFERRED, reply, remote, asked=True)


def _excused(outcome: Outcome, *, early: bool) -> Outcome:
    """The outcome at a configured host: a refusal before any recipient was decided is a fault of our configuration.

    Args:
        outcome: the outcome as it would be at an exchanger.
        early: no recipient had been decided.
    """
    login_required = outcome.reply.code in AUTHENTICATION_NEEDED
    if (outcome.disposition is Disposition.FAILED and early) or login_required or outcome.ours:
        return replace(outcome, disposition=Disposition.DEFERRED, ours=True)
    return outcome


def _unreachable(outcome: Outcome) -> Outcome:
    """Mark a deferral that other messages for the destination would share; greylisting concerns only this one."""
    if outcome.disposition is not Disposition.DEFERRED or greylisted(str(outcome.reply)):
        return outcome
    return replace(outcome, unreachable=True)


def _service_refused(outcome: Outcome) -> Outcome:
    """Mark a 421: whatever command it answers, the host offers no service now (RFC 5321 §3.8)."""
    return _unreachable(outcome) if outcome.reply.code == SERVICE_NOT_AVAILABLE else outcome


def _settle_rest(settled: dict[int, Outcome], recipients: Sequence[QueuedRecipient], outcome: Outcome) -> None:
    """Set the outcome of recipients without one; an earlier reply about a recipient is better than the last error."""
    for each in recipients:
        settled.setdefault(each.number, outcome)


def _unfit(connection: Connection, message: QueuedMessage) -> Reply | None:
    """Return the reason why this host may not receive the message, though another may; None if it may."""
    session = connection.session
    return next_hop_refusal(message.envelope, session.offered, verified=session.verified)


def _described(what: str, requirement: Requirement) -> str:
    return f"{what} {requirement}: {'; '.join(requirement.reasons)}"


def _was_dead(connection: Connection) -> bool:
    """Whether a reused connection had been closed by the peer before it replied about this message."""
    session = connection.session
    transaction = session.transaction
    if transaction is not None and transaction.failed_at is ClientStep.RSET:
        return True  # the reset of the transaction before failed: the peer has not replied about this one
    if session.ending is Ending.REFUSED:
        return session.replies <= 1 and session.reason is not None and session.reason.code == SERVICE_NOT_AVAILABLE
    return session.ending is Ending.LOST and session.replies == 0
