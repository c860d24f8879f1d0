"""Rules that limit the deliveries to some destinations.

Promises: the first rule with a pattern that matches decides; without one, the default. A destination found in DNS is
named by the recipients' domain, a smart host route by the names of its hosts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ironpost.model.patterns import Domains
from ironpost.queue.concurrency import DestinationLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.routing.route import Route


@dataclass(frozen=True, slots=True)
class LimitRule:
    """The limits of some destinations."""

    domains: tuple[str, ...]
    """Patterns of recipient domains or of smart hosts (`model.patterns`)."""
    deliveries: int | None = None
    """Maximum number of concurrent deliveries; None for the default."""
    interval: float = 0.0
    """Seconds between the starts of two deliveries; 0 without a rate limit."""
    _domains: Domains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))

    def __contains__(self, name: str) -> bool:
        return name in self._domains


class DeliveryLimits:
    """The limits of every destination."""

    __slots__ = ("_default", "_rules")

    def __init__(self, deliveries: int, rules: Sequence[LimitRule] = ()) -> None:
        """`deliveries`: concurrent deliveries to a destination that no rule matches (a count)."""
        self._default = DestinationLimits(deliveries)
        self._rules = tuple(rules)

    def of(self, route: Route, domain: str) -> DestinationLimits:
        """The limits of a destination; `domain` in lower case, empty for a smart host."""
        names = [domain] if domain else [host.name.lower() for host in route.hosts]
        for rule in self._rules:
            if any(name in rule for name in names):
                return DestinationLimits(rule.deliveries or self._default.deliveries, rule.interval)
        return self._default
