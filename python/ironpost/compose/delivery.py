"""The part of the composition that sends: routes and delivery agents from a configuration.

Promises: local mail goes to one Maildir, which a reload may change; what is being delivered ends where it began. A
system without a name server delivers what needs no DNS.
"""

from __future__ import annotations

import contextlib
import logging
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from ironpost.config.quantities import Endpoint
from ironpost.delivery.maildir import Maildir
from ironpost.delivery.next_hop import LOOPBACK, OwnSystem, networks
from ironpost.delivery.remote import RemoteDelivery
from ironpost.delivery.waiting import Waiting
from ironpost.lookup.dns import DnsResolver
from ironpost.model.ports import Answer, ResolverError
from ironpost.protocol.client_name import full_name
from ironpost.routing.route import SMTP_PORT, Host, Kind, Route, Routes, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.config import Configuration
    from ironpost.delivery import Agent
    from ironpost.model.ports import Metrics, Resolver
    from ironpost.service.clock import SystemClock, SystemRandom

log = logging.getLogger("ironpost.compose")


class Ways:
    """The delivery agents."""

    def __init__(
        self, configuration: Configuration, name: str, clock: SystemClock, random: SystemRandom, metrics: Metrics
    ) -> None:
        self._make = partial(Maildir, clock=clock, random=random, host=name)
        self._maildir = self._make(configuration.maildir)
        self._former: list[Maildir] = []
        self._waiting = Waiting()
        self.resolver = resolver()
        """Which everything that asks DNS shares."""
        self._remote = RemoteDelivery(
            self.resolver,
            random,
            local_hostname=full_name(name),
            own_names=(name,),
            own_networks=_own_networks(configuration),
            limit=configuration.delivery.connections,
            connection_messages=configuration.delivery.connection_messages,
            idle_seconds=configuration.delivery.idle,
            connect_timeout=configuration.delivery.connect_timeout,
            attempt_seconds=configuration.delivery.attempt,
            chunking=configuration.delivery.chunking,
            tolerances=frozenset(configuration.delivery.tolerances),
            metrics=metrics,
        )

    def agent(self, route: Route) -> Agent:
        """The agent of a route."""
        if route.kind is Kind.LOCAL:
            return self._maildir
        return self._waiting if route.kind is Kind.ON_DEMAND else self._remote.agent(route)

    def deliver_to(self, path: Path) -> None:
        """Local mail goes there from now on; what is being delivered ends where it began."""
        if path != self._maildir.path:
            self._former.append(self._maildir)
            self._maildir = self._make(path)

    async def close(self) -> None:
        """Ends connections and threads."""
        await self._remote.close()
        for maildir in (*self._former, self._maildir):
            maildir.close()


def routes(configuration: Configuration) -> Routes:
    """Where mail goes, by the configuration's rules."""
    waiting = [domain for customer in configuration.on_demand if customer.waits for domain in customer.domains]
    rules = [Rule(tuple(waiting), Route.on_demand(), "on_demand")] if waiting else []
    rules += [
        Rule(rule.domains, Route.smart(Host(hop.host, hop.port) for hop in rule.smart_host))
        for rule in configuration.route
    ]
    return Routes(configuration.local.domains, rules)


def customers(configuration: Configuration) -> dict[str, frozenset[str]]:
    """Who may fetch the mail of which domains."""
    found: dict[str, frozenset[str]] = {}
    for customer in configuration.on_demand:
        found[customer.login] = found.get(customer.login, frozenset()) | frozenset(customer.domains)
    return found


class _NoResolver:
    """For a system that names no name server: local mail and smart hosts by address work, the rest waits."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def mx(self, _domain: str, /) -> Answer:
        raise ResolverError(self._reason)

    addresses = names = mx


def resolver() -> Resolver:
    """DNS, or what says for every question that there is none."""
    try:
        return DnsResolver()
    except ResolverError as error:
        log.warning("mail that needs DNS will wait: %s", error)
        return _NoResolver(str(error))


def own_system(configuration: Configuration, name: str) -> OwnSystem:
    """What leads back to this system."""
    return OwnSystem(frozenset({name}), networks(_own_networks(configuration)))


def _own_networks(configuration: Configuration) -> tuple[str, ...]:
    return (*LOOPBACK, *_own_addresses(configuration))


def _own_addresses(configuration: Configuration) -> list[str]:
    """Where other systems' mail reaches this one: an MX that leads there is a loop."""
    found = []
    for place in (place for listener in configuration.listener for place in listener.listen):
        if isinstance(place, Endpoint) and place.port == SMTP_PORT:
            with contextlib.suppress(ValueError):  # a name
                address = ip_address(place.host)
                if not address.is_unspecified:
                    found.append(str(address))
    return found
