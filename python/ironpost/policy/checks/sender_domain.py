"""Check that the sender's domain exists and accepts mail, so bounces can be delivered (RFC 2505 §2.9, RFC 7505 §4.1).

Promises: if a lookup fails nothing is concluded (SECURITY R27): the client is deferred if it would otherwise be
refused, and accepted if not. The null reverse-path, address literals, local domains, and trusted or authenticated
clients are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.model import dns
from ironpost.model.dns import ResolverError
from ironpost.model.verdict import defer
from ironpost.policy.check import NEUTRAL, NOTHING, Check, Finding
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from ironpost.model.dns import Resolver
    from ironpost.policy.check import Opinion
    from ironpost.policy.facts import Facts


class SenderDomain(Check):
    """Runs at MAIL, if there is a resolver."""

    name: Final = "sender-domain"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do about such senders."""

        sender_domain: Enforcement = Enforcement.OFF
        """The sender's domain does not exist, or does not accept mail. Values as for `helo_own_name`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there is a resolver."""
        return self.options.sender_domain is not Enforcement.OFF and self.context.ports.resolver is not None

    def mail(self, facts: Facts) -> Opinion:
        """Look up the domain of the reverse-path, unless the sender or the client is exempt."""
        system, sender = self.context.system, facts.reverse_path
        if sender is None or not sender.domain or sender.domain.startswith("[") or sender.key in system.local_domains:
            return NOTHING
        resolver = self.context.ports.resolver
        if resolver is None or facts.identity is not None or system.trusts(facts):
            return NOTHING
        return self._look_up(resolver, sender.key)

    async def _look_up(self, resolver: Resolver, domain: str) -> Finding:
        measure, delay = self.options.sender_domain, self.context.common.delay
        try:
            found = await dns.mx(resolver, domain)
            if len(found.data) == 1 and not found.data[0].host:
                reason = f"{domain} does not accept mail (null MX)"
                text = "Sender address rejected: domain does not accept mail"
                return measure.finding(reason, text=text, status="7.27", delay=delay)
            if found.data or (await dns.addresses(resolver, domain)).data:
                return NOTHING
        except ResolverError as error:
            refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
            verdict = defer("Sender address rejected: domain lookup failed", status="1.8") if refuses else NEUTRAL
            return Finding(verdict, f"lookup of {domain} failed: {error}", noted=True)
        reason = f"{domain} has neither MX nor address records"
        return measure.finding(reason, text="Sender address rejected: domain not found", status="1.8", delay=delay)
