"""Forward-confirmed reverse DNS: a name of the client's address that leads back to that address.

Promises: a name that is confirmed is in `facts.name` from then on; no more than `NAMES` names of an address are looked
up. Where DNS gives no answer nothing is concluded (SECURITY R27): the client is deferred if it would otherwise be
refused (RFC 2505 §2.13), and left alone if not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.ports import ResolverError
from ironpost.model.verdict import defer
from ironpost.policy.settings import Measure, address_of
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.ports import Resolver
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

NAMES: Final = 10
"""Names of one address that are looked at; an address may have thousands."""

_NOTHING: Final = Finding(NEUTRAL)


class ReverseDns:
    """Asked when a client outside the trusted networks connects."""

    name: Final = "reverse-dns"
    stage: Final = Stage.CONNECT

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        self._settings = settings
        self._resolver = resolver

    def judge(self, facts: Facts) -> Finding | Awaitable[Finding]:
        """Looks, unless the client is trusted, has no address, or has a name that a front end told."""
        if facts.name or address_of(facts.ip) is None or self._settings.knows(facts):
            return _NOTHING
        return self._look(facts)

    async def _look(self, facts: Facts) -> Finding:
        settings = self._settings
        address = address_of(facts.ip)
        silent = ""
        names: list[str] = []
        try:
            names = list((await self._resolver.names(str(address))).names)[:NAMES]
        except ResolverError as error:
            silent = str(error)
        for name in names:
            try:
                found = await self._resolver.addresses(name)
            except ResolverError as error:
                silent = str(error)
                continue
            if any(address_of(each) == address for each in found.addresses):
                facts.name = name.lower()
                return Finding(NEUTRAL, f"{facts.ip} is {facts.name}")
        measure = settings.reverse_dns
        if silent:
            refuses = measure in {Measure.DEFER, Measure.REJECT}
            verdict = defer("Your name cannot be looked up now", status="7.25") if refuses else NEUTRAL
            return Finding(verdict, f"no answer about {facts.ip}: {silent}", noted=True)
        told = f"none of {len(names)} names of {facts.ip} leads back to it" if names else f"{facts.ip} has no name"
        return measure.finding(
            told, text="Your address has no name that leads back to it", status="7.25", delay=settings.delay
        )


def build(settings: Settings, ports: Ports) -> ReverseDns | None:
    """The check, if it is wanted."""
    if settings.reverse_dns is Measure.OFF or ports.resolver is None:
        return None
    return ReverseDns(settings, ports.resolver)
