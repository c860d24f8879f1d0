"""Local rules: how TLS is used with which domains, from the configuration.

Promises: the first matching rule decides; without one there is no requirement, and TLS is opportunistic. What the
domain publishes (DANE, MTA-STS) applies too, and `verify` is fulfilled by a host that DANE authenticates, unless the
rule ignores what is published (RFC 7672 §9.1). TLS-Required: No does not weaken a rule: it concerns the recipient's
policies only (RFC 8689 §3).
Limitations: `verify` proves the name of the host; for a domain with unsigned MX records, an attacker who can forge DNS
answers also chooses that name. DANE and MTA-STS close this gap, or a smart host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ironpost.model.patterns import Domains
from ironpost.routing.tls.policy import Requirement, TlsPolicy, of_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Envelope
    from ironpost.routing.tls.levels import TlsUse


@dataclass(frozen=True, slots=True)
class TlsRule:
    """Domains and how TLS is used with them."""

    domains: tuple[str, ...]
    """Patterns (`model.patterns`) for recipient domains and for names of smart hosts."""
    use: TlsUse
    published: bool = True
    """Whether what these domains publish about TLS also applies (DANE, MTA-STS)."""
    _domains: Domains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))

    def matches(self, domain: str) -> str | None:
        """The pattern that matches `domain` (in lower case), or None."""
        return self._domains.match(domain)


class LocalRules(TlsPolicy):
    """The rules of one configuration."""

    def __init__(self, rules: Sequence[TlsRule] = ()) -> None:
        """Rules in order."""
        self._rules = tuple(rules)

    def for_domain(self, domain: str, envelope: Envelope) -> Requirement | None:  # noqa: ARG002 - any message
        """The requirement of the first rule that matches."""
        for position, rule in enumerate(self._rules, 1):
            pattern = rule.matches(domain)
            if pattern is not None:
                reason = f"TLS rule {position} matches by {pattern}"
                return of_use(rule.use, reason, ignores_published=not rule.published)
        return None
