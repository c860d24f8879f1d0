"""The sender's domain exists and takes mail, so that a report could come back (RFC 2505 §2.9, RFC 7505 §4.1).

Promises: without an answer of DNS nothing is concluded (SECURITY R27): the client is deferred if it would otherwise be
refused, and left alone if not. Not asked about the null reverse-path, address literals, local domains, and clients that
are trusted or authenticated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.ports import ResolverError
from ironpost.model.verdict import defer
from ironpost.policy.settings import Measure
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.ports import Resolver
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class SenderDomain:
    """Asked at MAIL."""

    name: Final = "sender-domain"
    stage: Final = Stage.MAIL

    def __init__(self, settings: Settings, resolver: Resolver) -> None:
        self._settings = settings
        self._resolver = resolver

    def judge(self, facts: Facts) -> Finding | Awaitable[Finding]:
        """Looks, where there is something to look for."""
        settings, sender = self._settings, facts.reverse_path
        if sender is None or not sender.domain or sender.domain.startswith("[") or sender.key in settings.local_domains:
            return _NOTHING
        if facts.identity is not None or settings.knows(facts):
            return _NOTHING
        return self._look(sender.key)

    async def _look(self, domain: str) -> Finding:
        measure, delay = self._settings.sender_domain, self._settings.delay
        try:
            found = await self._resolver.mx(domain)
            if len(found.exchangers) == 1 and not found.exchangers[0].host:
                reason = f"{domain} takes no mail (null MX)"
                return measure.finding(reason, text="Your sender's domain takes no mail", status="7.27", delay=delay)
            if found.exchangers or (await self._resolver.addresses(domain)).addresses:
                return _NOTHING
        except ResolverError as error:
            refuses = measure in {Measure.DEFER, Measure.REJECT}
            verdict = defer("Your sender's domain cannot be looked up now", status="1.8") if refuses else NEUTRAL
            return Finding(verdict, f"no answer about {domain}: {error}", noted=True)
        reason = f"{domain} has neither MX nor address"
        return measure.finding(reason, text="Your sender's domain does not exist", status="1.8", delay=delay)


def build(settings: Settings, ports: Ports) -> SenderDomain | None:
    """The check, if it is wanted."""
    if settings.sender_domain is Measure.OFF or ports.resolver is None:
        return None
    return SenderDomain(settings, ports.resolver)
