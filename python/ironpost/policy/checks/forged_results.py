"""Fields Authentication-Results that claim to be from this server are removed (RFC 8601 §5, SECURITY R48).

Promises: no client can write such a field, with a login or without, whatever other checks are on. Only trusted clients
without a login are exempt: a filter or a front server passes on what it found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.check import Check

if TYPE_CHECKING:
    from ironpost.policy.facts import Facts


class ForgedResults(Check):
    """Has services, and runs at no stage."""

    name: Final = "forged-results"

    def services(self, facts: Facts) -> frozenset[str]:
        """The name of this server, unless the client is trusted and has not authenticated."""
        if facts.identity is None and self.context.system.trusts(facts):
            return frozenset()
        return frozenset({self.context.system.name})
