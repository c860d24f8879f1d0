"""Composes delivery: routes and delivery agents of a configuration.

Promises: where local mail goes is part of its route, so a reload may change it; running deliveries finish where they
began. Without a name server, mail that needs no DNS is still delivered.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial
from socket import AF_INET, AF_INET6, IPPROTO_IPV6, IPV6_V6ONLY
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ironpost.client.tls import provides_chain
from ironpost.compose.directory import directory
from ironpost.config.quantities import Endpoint
from ironpost.config.rewriting import rewrite_rules
from ironpost.delivery import forward_files
from ironpost.delivery.access import AccessError, Accesses
from ironpost.delivery.agents import AgentContext, create_agents
from ironpost.delivery.local import LOCAL_AGENTS, Verifiable
from ironpost.delivery.mailbox import unusable
from ironpost.delivery.maildir import MaildirOptions
from ironpost.delivery.mbox import MboxOptions
from ironpost.delivery.own_system import ANY, OwnSystem, reached
from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.sts_cache import StsCache
from ironpost.dns.resolver import DnsResolver
from ironpost.dns.unconfigured import UnconfiguredResolver
from ironpost.http import HttpClient
from ironpost.model.dns import ResolverError, txt
from ironpost.model.patterns import EVERY, Domains
from ironpost.queue.concurrency import ConcurrencyPolicy
from ironpost.queue.reply_rules import Action, ReplyRule, ReplyRules
from ironpost.queue.retry import WAITS, RetryPolicy
from ironpost.routing.archive import ArchiveRule
from ironpost.routing.limits import DeliveryLimits, LimitRule
from ironpost.routing.rewriting import Rewriting
from ironpost.routing.route import SMTP_PORT, Host, Route, Routes, Rule
from ironpost.routing.tls import TlsRule, TlsUse
from ironpost.server.tls import trust
from ironpost.storage import drop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ironpost.config import Configuration, QueueSection
    from ironpost.config.delivery import DeliverySection
    from ironpost.config.routes import RouteSection
    from ironpost.config.schema import DnsSection, HttpSection
    from ironpost.delivery import RouteAgent
    from ironpost.delivery.access import Access
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.network import IPAddress
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.model.tls import TlsRecorder
    from ironpost.routing.directory import Directory
    from ironpost.routing.profile import ConnectionProfile
    from ironpost.routing.records import RecordSource

log = logging.getLogger("ironpost.compose")

NOTHING: Final[Mapping[str, Sequence[socket.socket]]] = MappingProxyType({})


class DeliveryAgents:
    """The delivery agents of one configuration."""

    def __init__(
        self,
        configuration: Configuration,
        name: str,
        own: OwnSystem,
        clock: Clock,
        random: Random,
        metrics: Metrics | None = None,
        resolver: Resolver | None = None,
        state: KeyedState | None = None,
        tls_recorder: TlsRecorder | None = None,
        directory: Callable[[], Directory] | None = None,
    ) -> None:
        """Create an agent for each kind of route.

        Args:
            configuration: the configuration of the agents.
            name: our host name.
            own: the names and addresses of this system.
            clock: time.
            random: randomness.
            metrics: counts; nothing if None.
            resolver: DNS; the system's if None.
            state: where MTA-STS policies are kept; without it they are not used.
            tls_recorder: records the TLS of deliveries for reports; nothing if None.
            directory: gives the directory that agents of local mail ask; without it each address is a mailbox.

        Raises:
            TlsError: `delivery.ca` or `http.ca` cannot be used.
        """
        delivery = configuration.delivery
        if delivery.ca is not None:  # checked here, for an error that names the file
            trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), delivery.ca)
        if delivery.dane and not provides_chain():
            log.warning(
                "hosts whose only usable TLSA records are DANE-TA(2) get no mail, because the ssl module of this Python"
                " does not provide the certificates that a host sends: use another Python, or set delivery.dane = false"
            )
        self.resolver = configured_resolver(configuration.dns) if resolver is None else resolver
        """The one DNS resolver of this process."""
        self._accesses = Accesses(delivery.ca)
        self.http = http_client(configuration.http, self.resolver)
        """The one HTTP client of this process."""
        self.rewriting = DeliveryRewriting(rewriting(configuration, "delivery"), metrics)
        """The rules for the addresses of mail that leaves; a reload replaces them."""
        self.reported = reported_domains(configuration)
        """What received reports about DMARC may be about; a reload replaces it."""
        self.sts: StsCache | None = None
        """The MTA-STS policies; None if they are not used."""
        if delivery.mta_sts and state is not None:
            self.sts = StsCache(self.resolver, self.http, state, recorder=tls_recorder, metrics=metrics)
        self.context = AgentContext(
            clock=clock,
            random=random,
            resolver=self.resolver,
            metrics=metrics,
            name=name,
            own=own,
            data=configuration.data,
            http=self.http,
            directory=directory,
            reported=lambda: self.reported,
            limits=delivery_limits(delivery),
            connection_messages=delivery.connection_messages,
            idle=delivery.idle,
            connect_timeout=delivery.connect_timeout,
            attempt=delivery.attempt,
            chunking=delivery.chunking,
            tolerances=frozenset(delivery.tolerances),
            tls_rules=tuple(TlsRule(rule.domains, TlsUse[rule.level.upper()], rule.published) for rule in delivery.tls),
            dane=delivery.dane,
            sts=self.sts,
            tls_recorder=tls_recorder,
            authorities=delivery.ca,
            accesses=self._accesses,
            rewriting=self.rewriting,
        )
        """Everything the agents are made from."""
        self._agents = create_agents(self.context)

    def agent(self, route: Route) -> RouteAgent:
        """Return the agent of a route."""
        return self._agents[route.kind]

    def prepare(self, configuration: Configuration) -> Callable[[], None]:
        """Read the logins, certificates and authorities of the routes; the result uses them from now on.

        Raises:
            AccessError: one cannot be read, or local delivery needs what this system does not have; the text names the
                key, and the file, variable or user.
        """
        for error in local_errors(configuration):
            raise error
        prepared: dict[ConnectionProfile, Access] = {}
        for found in route_accesses(configuration, self._accesses):
            if isinstance(found, AccessError):
                raise found
            prepared[found.profile] = found
        return partial(self._accesses.use, prepared)

    async def dane_obstacle(self) -> str:
        """Return why no host is authenticated by DANE now; empty if hosts with signed TLSA records are."""
        return await dane_obstacle(self.resolver) if self.context.dane else "it is turned off (delivery.dane)"

    async def close(self) -> None:
        """Close connections and end threads."""
        for agent in dict.fromkeys(self._agents.values()):
            closing = agent.close()
            if closing is not None:
                await closing
        if self.sts is not None:
            await self.sts.close()


def routes(
    configuration: Configuration,
    sources: Sequence[RecordSource] = (),
    *,
    callout: RecordSource | None = None,
    metrics: Metrics | None = None,
) -> Routes:
    """The routing table of a configuration, with its directory (`compose.directory`)."""
    waiting = [domain for customer in configuration.on_demand if customer.waits for domain in customer.domains]
    rules = [Rule(tuple(waiting), Route.on_demand(), "on_demand")] if waiting else []
    rules += [
        Rule(each.domains, route_of(each), f"route[{number}]", each.senders or (), frozenset(each.logins or ()))
        for number, each in enumerate(configuration.route, 1)
    ]
    local = Route.local(options=MaildirOptions(configuration.maildir))
    known = directory(configuration, sources, callout=callout, metrics=metrics)
    return Routes(known, rules, local=local, local_rules=configuration.local.rules)


def route_of(section: RouteSection) -> Route:
    """The route of one `[[route]]`."""
    if section.smart_host is None:
        return Route.mx(section.profile())
    return Route.smart((Host(hop.host, hop.port) for hop in section.smart_host), section.profile())


def delivery_limits(delivery: DeliverySection) -> DeliveryLimits:
    """The limits of destinations of a configuration."""
    rules = [
        LimitRule(rule.domains, rule.connections, 1 / rule.rate if rule.rate else 0.0) for rule in delivery.destination
    ]
    return DeliveryLimits(delivery.connections, rules)


def concurrency_policy(delivery: DeliverySection) -> ConcurrencyPolicy:
    """The concurrency control of a configuration."""
    initial = min(delivery.initial_connections, delivery.connections)
    return ConcurrencyPolicy(initial, delivery.connections, delivery.probe_wait, delivery.longest_probe_wait)


def retry_policy(queue: QueueSection) -> RetryPolicy:
    """The retry policy of a configuration."""
    waits = tuple((line.age, line.wait) for line in queue.retry) or WAITS
    return RetryPolicy(waits, queue.expire, queue.jitter, queue.greylist_wait, queue.warn_after)


def reply_rules(queue: QueueSection) -> ReplyRules:
    """Return the reply rules of a configuration."""
    return ReplyRules([ReplyRule(each.domains, each.text, Action(each.action), each.wait) for each in queue.reply])


def archives(configuration: Configuration) -> tuple[ArchiveRule, ...]:
    """The archive copies of a configuration."""
    return tuple(ArchiveRule(each.domains, each.to) for each in configuration.archive)


def reported_domains(configuration: Configuration) -> Domains:
    """The domains of a configuration, the names below them, and those above, where their policies may be published."""
    patterns = set(configuration.local.domains)
    for relay in configuration.relay:
        patterns.update(relay.domains)
    for customer in configuration.on_demand:
        patterns.update(customer.domains)
    if EVERY in patterns:
        return Domains((EVERY,))
    names = {each.removeprefix("*.") for each in patterns} | {key.domain for key in configuration.dkim}
    found = {f"*.{each}" for each in names}
    for name in names:
        found.add(name)
        while "." in (name := name.partition(".")[2]):
            found.add(name)
    return Domains(found)


def rewriting(configuration: Configuration, at: str) -> Rewriting | None:
    """The address rewriting of a configuration at `reception` or `delivery`; None without rules."""
    rules = rewrite_rules(configuration.rewrite, at)
    return Rewriting(rules, configuration.smtp.trusted) if rules else None


def customers(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Map each customer's login to the domains whose mail it may fetch."""
    found: dict[str, frozenset[str]] = {}
    for customer in configuration.on_demand:
        found[customer.login] = found.get(customer.login, frozenset()) | frozenset(customer.domains)
    return found


def route_accesses(configuration: Configuration, accesses: Accesses) -> Iterator[Access | AccessError]:
    """Read what each route names; yield its access, or the error, which names the key of the route."""
    for number, section in enumerate(configuration.route, 1):
        profile = section.profile()
        if profile is not None:
            try:
                yield accesses.prepare(profile)
            except AccessError as error:
                yield AccessError(f"route[{number}].{error}")


def local_errors(configuration: Configuration) -> Iterator[AccessError]:
    """Look for what local mail needs on this system; yield an error, which names the key, for each lack.

    That is what `[local]`, `directory.forward_files` and `sendmail.directory` name.
    """
    maildir = configuration.maildir
    if maildir.base != configuration.data and (why := unusable(maildir)):  # that is created at start
        yield AccessError(f"local.maildir: {why}")
    keys = {agent.kind: key for key, agent in LOCAL_AGENTS.items()}
    for rule in configuration.local.rules:
        options = rule.route.options
        if isinstance(options, Verifiable):
            try:
                options.verify()
            except ValueError as error:
                yield AccessError(f"{rule.name}.{keys[rule.route.kind]}.{error}")
    if configuration.directory.forward_files is not None:
        try:
            forward_files.verify(configuration.directory.forward_files)
        except ValueError as error:
            yield AccessError(f"directory.forward_files: {error}")
    if configuration.sendmail.directory is not None:
        try:
            drop.verify(configuration.sendmail.directory)
        except ValueError as error:
            yield AccessError(f"sendmail.directory: {error}")


def local_warnings(configuration: Configuration, user: int | None) -> Iterator[str]:
    """Find mailboxes that the server writes as root (SECURITY R47); each warning names the key and a remedy.

    Args:
        configuration: the configuration.
        user: the id of the server's user; None if it is not known.
    """
    if user:
        return
    told = "the server runs as root, so it writes" if user == 0 else "if the server runs as root, it writes"
    told += " this mail with all rights, and root owns it"
    if configuration.local.maildir is not None:
        yield f"local.maildir: {told}; use [[local.delivery]] with a user"
    for rule in configuration.local.rules:
        options = rule.route.options
        if isinstance(options, MaildirOptions | MboxOptions) and not options.user:
            yield f"{rule.name}: {told}; set its user"


def configured_resolver(section: DnsSection) -> Resolver:
    """The resolver of a configuration, or one that fails every query if the system configures none either."""
    try:
        return DnsResolver(nameservers=section.servers or None, trusted=section.trusted)
    except ResolverError as error:
        log.warning("mail that needs DNS is deferred: %s", error)
        return UnconfiguredResolver(str(error))


async def dane_obstacle(resolver: Resolver) -> str:
    """Return why no answer of the resolver counts as validated; empty if a query for the signed root does.

    DANE needs no such test, because it uses validated answers only: this explains why there are none.
    """
    if isinstance(resolver, DnsResolver) and resolver.distrust:
        return resolver.distrust
    try:
        root = await txt(resolver, ".")
    except ResolverError as error:
        return f"DNS does not answer: {error}"
    return "" if root.authentic else "the name servers do not validate DNSSEC"


def http_client(section: HttpSection, resolver: Resolver) -> HttpClient:
    """Return the HTTP client of a configuration.

    Raises:
        TlsError: `http.ca` cannot be used.
    """
    if section.ca is not None:  # checked here, for an error that names the file
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), section.ca)
    return HttpClient(resolver, authorities=section.ca, allowed=section.allow)


def own_system(
    configuration: Configuration, name: str, handed_over: Mapping[str, Sequence[socket.socket]] = NOTHING
) -> OwnSystem:
    """The names and addresses by which this system is recognised as a next hop.

    Args:
        configuration: its listeners.
        name: our host name.
        handed_over: inherited listening sockets.
    """
    names = {name}
    listening: set[tuple[IPAddress, int]] = set()
    for endpoint in (endpoint for listener in configuration.listener for endpoint in listener.listen):
        if isinstance(endpoint, Endpoint):
            try:
                listening.add((reached(endpoint.host), endpoint.port))
            except ValueError:
                if endpoint.port == SMTP_PORT:
                    names.add(endpoint.host.lower().removesuffix("."))
    for sock in (sock for sockets in handed_over.values() for sock in sockets):
        if sock.family in (AF_INET, AF_INET6):
            host, port = sock.getsockname()[:2]
            listening.add((reached(host), port))
            if sock.family == AF_INET6 and not sock.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY):
                listening.add((ANY[4], port))
    return OwnSystem(frozenset(names), listening=frozenset(listening))
