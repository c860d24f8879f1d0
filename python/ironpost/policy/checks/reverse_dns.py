"""Forward-confirmed reverse DNS: a PTR name of the client's address that resolves to that address.

Promises: a confirmed name is the result `ConfirmedName`; at most `NAMES` names of an address are looked up. If a lookup
fails nothing is concluded (SECURITY R27): the client is deferred if it would otherwise be refused (RFC 2505 §2.13),
and accepted if not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.network import parse_ip
from ironpost.model.text import counted
from ironpost.model.verdict import defer
from ironpost.policy.check import NEUTRAL, NOTHING, Check, Finding
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from ironpost.model.dns import Resolver
    from ironpost.policy.check import Opinion
    from ironpost.policy.facts import Facts

NAMES: Final = 10
"""Names of one address that are looked up (a count); an address may have thousands."""


class ConfirmedName(NamedTuple):
    """The result of a successful lookup."""

    name: str
    """The client's host name, in lower case."""


class ReverseDns(Check):
    """Runs when a client outside the trusted networks connects, if there is a resolver."""

    name: Final = "reverse-dns"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do about clients without such a name."""

        reverse_dns: Enforcement = Enforcement.OFF
        """The client's address has no forward-confirmed reverse DNS. Values as for `helo_own_name`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there is a resolver."""
        return self.options.reverse_dns is not Enforcement.OFF and self.context.ports.resolver is not None

    def connect(self, facts: Facts) -> Opinion:
        """Look the client up, unless it is trusted, has no IP address, or was named by a front end."""
        resolver = self.context.ports.resolver
        if resolver is None or facts.name or parse_ip(facts.ip) is None or self.context.system.trusts(facts):
            return NOTHING
        return self._look_up(resolver, facts.ip)

    async def _look_up(self, resolver: Resolver, ip: str) -> Finding:
        address = parse_ip(ip)
        failure = ""
        names: list[str] = []
        try:
            names = list((await dns.names(resolver, str(address))).data)[:NAMES]
        except ResolverError as error:
            failure = str(error)
        for name in names:
            try:
                found = await dns.addresses(resolver, name)
            except ResolverError as error:
                failure = str(error)
                continue
            if any(parse_ip(each) == address for each in found.data):
                confirmed = ConfirmedName(name.lower())
                return Finding(NEUTRAL, f"{ip} is {confirmed.name}", result=confirmed)
        measure = self.options.reverse_dns
        if failure:
            refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
            verdict = defer("Client host rejected: reverse DNS lookup failed", status="7.25") if refuses else NEUTRAL
            return Finding(verdict, f"reverse DNS lookup of {ip} failed: {failure}", noted=True)
        reason = (
            f"none of {counted(len(names), 'name')} of {ip} resolves to it"
            if names
            else f"{ip} has no reverse DNS name"
        )
        text = "Client host rejected: no forward-confirmed reverse DNS"
        return measure.finding(reason, text=text, status="7.25", delay=self.context.common.delay)
