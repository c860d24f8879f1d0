"""The registry of delivery agents: the agent for each kind of route, and what counts as one destination.

To add an agent: a module with a class that implements `RouteAgent`, a member of `routing.route.Kind`, and one line in
`AGENTS`. Kinds with the same factory share one agent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.delivery import settings
from ironpost.delivery.access import Accesses
from ironpost.delivery.dialer import Dialer
from ironpost.delivery.discard import Discard
from ironpost.delivery.dmarc_reports import DmarcReports
from ironpost.delivery.lmtp import Lmtp
from ironpost.delivery.maildir import Maildir
from ironpost.delivery.maildir_process import MaildirProcess
from ironpost.delivery.mbox import Mbox
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.pipe import Pipe
from ironpost.delivery.post import Post
from ironpost.delivery.remote import RemoteDelivery
from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.waiting import WaitingAgent
from ironpost.model.patterns import EVERY, Domains
from ironpost.protocol.client.name import full_name
from ironpost.protocol.client.tolerance import TOLERANCES
from ironpost.protocol.dialect import LMTP, SMTP
from ironpost.routing.limits import DeliveryLimits
from ironpost.routing.route import Kind
from ironpost.routing.tls import Dane, tls_policies

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from ironpost.delivery import RouteAgent
    from ironpost.http import HttpClient
    from ironpost.model.dns import Resolver
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.model.tls import TlsRecorder
    from ironpost.protocol.client.tolerance import Tolerance
    from ironpost.protocol.dialect import Dialect
    from ironpost.routing.directory import Directory
    from ironpost.routing.tls import TlsRule
    from ironpost.routing.tls.mta_sts import StsPolicies


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentContext:
    """Everything an agent can be made from: ports, and the configuration of delivery."""

    clock: Clock
    random: Random
    resolver: Resolver
    metrics: Metrics | None = None
    name: str
    """Our host name."""
    own: OwnSystem = OwnSystem()  # noqa: RUF009 - immutable
    """The names and addresses of this system: an MX or smart host that leads there is a loop."""
    data: Path | None = None
    """The data directory; None where nothing is delivered into it."""
    http: HttpClient | None = None
    """The HTTP client; None where nothing is delivered by HTTP."""
    directory: Callable[[], Directory] | None = None
    """Gives the directory that knows the mailboxes of local addresses; without it each address is one."""
    reported: Callable[[], Domains] = lambda: Domains((EVERY,))
    """Gives the domains that received reports about DMARC may be about."""
    limits: DeliveryLimits = DeliveryLimits(settings.DESTINATION_LIMIT)  # noqa: RUF009 - immutable
    connection_messages: int = settings.CONNECTION_MESSAGES
    idle: float = settings.IDLE_SECONDS
    connect_timeout: float = settings.CONNECT_TIMEOUT
    attempt: float = settings.ATTEMPT_SECONDS
    chunking: bool = True
    tolerances: Collection[Tolerance] = field(default=TOLERANCES)
    tls_rules: Sequence[TlsRule] = ()
    """Rules for TLS with some next hops; the first that matches decides."""
    sts: StsPolicies | None = None
    """Finds MTA-STS policies; None if they are not used."""
    tls_recorder: TlsRecorder | None = None
    """Records the TLS of outgoing connections for reports."""
    dane: bool = True
    """Whether hosts are authenticated by their TLSA records, where those are signed (RFC 7672)."""
    authorities: Path | None = None
    """PEM file of the authorities that verify other hosts; the system's if None."""
    accesses: Accesses = field(default_factory=Accesses)
    """Logins and client certificates of routes."""
    rewriting: DeliveryRewriting = field(default_factory=DeliveryRewriting)
    """The rules for the addresses of mail that leaves."""


def _maildir(context: AgentContext) -> Maildir:
    return Maildir(
        clock=context.clock,
        random=context.random,
        host=context.name,
        directory=context.directory,
        process=MaildirProcess(),
    )


def _mbox(context: AgentContext) -> Mbox:
    return Mbox(clock=context.clock, host=context.name, directory=context.directory)


def dialer(context: AgentContext, dialect: Dialect = SMTP) -> Dialer:
    """What opens connections to other hosts."""
    return Dialer(
        local_hostname=full_name(context.name),
        connect_timeout=context.connect_timeout,
        dialect=dialect,
        chunking=context.chunking,
        tolerances=context.tolerances,
        metrics=context.metrics,
        authorities=context.authorities,
    )


def _remote(context: AgentContext, dialect: Dialect = SMTP) -> RemoteDelivery:
    return RemoteDelivery(
        context.resolver,
        context.random,
        dialer(context, dialect),
        policies=tls_policies(
            context.tls_rules,
            dane=Dane(context.resolver, context.clock) if context.dane else None,
            sts=context.sts,
        ),
        accesses=context.accesses,
        own=context.own,
        limits=context.limits,
        connection_messages=context.connection_messages,
        idle_seconds=context.idle,
        attempt_seconds=context.attempt,
        metrics=context.metrics,
        recorder=context.tls_recorder,
        rewriting=context.rewriting if dialect is SMTP else None,
    )


def _lmtp(context: AgentContext) -> Lmtp:
    return Lmtp(_remote(context, LMTP))


def _discard(_context: AgentContext) -> Discard:
    return Discard()


def _dmarc_reports(context: AgentContext) -> DmarcReports:
    return DmarcReports(context.data, context.clock, context.reported)


def _pipe(context: AgentContext) -> Pipe:
    return Pipe(context.name)


def _post(context: AgentContext) -> Post:
    return Post(context.http, context.clock, context.name)


def _waiting(_context: AgentContext) -> WaitingAgent:
    return WaitingAgent()


class Scope(Enum):
    """Extent of one destination. The scheduler limits the deliveries to each (`queue.scheduler`)."""

    SYSTEM = "this system"
    """All mail of all such routes; it does not leave the system."""
    FETCHED = "fetched"
    """The mail for one recipient domain; it is never attempted, because its owner fetches it."""
    ROUTE = "route"
    """All mail of one route."""
    DOMAIN = "domain"
    """The mail of one route for one recipient domain."""


class AgentEntry(NamedTuple):
    """One line of the registry."""

    create: Callable[[AgentContext], RouteAgent]
    destination: Scope


AGENTS: Final[Mapping[Kind, AgentEntry]] = {
    Kind.LOCAL: AgentEntry(_maildir, Scope.SYSTEM),
    Kind.MBOX: AgentEntry(_mbox, Scope.ROUTE),
    Kind.DISCARD: AgentEntry(_discard, Scope.SYSTEM),
    Kind.DMARC_REPORTS: AgentEntry(_dmarc_reports, Scope.SYSTEM),
    Kind.PIPE: AgentEntry(_pipe, Scope.ROUTE),
    Kind.POST: AgentEntry(_post, Scope.ROUTE),
    Kind.LMTP: AgentEntry(_lmtp, Scope.ROUTE),
    Kind.SMART_HOST: AgentEntry(_remote, Scope.ROUTE),
    Kind.MX: AgentEntry(_remote, Scope.DOMAIN),
    Kind.ON_DEMAND: AgentEntry(_waiting, Scope.FETCHED),
}
"""The agent of each kind of route."""


def create_agents(context: AgentContext) -> dict[Kind, RouteAgent]:
    """The agent of each kind of route; nothing is opened before the first delivery."""
    made = {create: create(context) for create in dict.fromkeys(entry.create for entry in AGENTS.values())}
    return {kind: made[entry.create] for kind, entry in AGENTS.items()}
