"""What the checks of mail authentication have in common: whom they check, and for how long they ask DNS.

Promises: mail from trusted and authenticated clients, and from those without an IP address, is not checked. In all
other mail, received fields Authentication-Results are removed if one of these checks is on, because they may be forged
(SECURITY R48, RFC 8601 §5); those with our name are removed in any case (`checks.forged_results`). Each evaluation, of
SPF for instance, sends no query after its first 20 seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ironpost.mail_auth import check_spf
from ironpost.mail_auth.results import NAME
from ironpost.model.dns import ResolverError
from ironpost.model.network import parse_ip
from ironpost.policy.check import Check

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.mail_auth import SpfAnswer
    from ironpost.model.dns import Records, RecordType, Resolver
    from ironpost.model.ports import Clock
    from ironpost.policy.facts import Facts

SECONDS: Final = 20.0
"""Time after which one evaluation sends no more queries (RFC 7208 §4.6.4)."""
_RESULTS: Final = frozenset({NAME.lower()})


class Authentication(Check):
    """A check of mail authentication."""

    @property
    def enabled(self) -> bool:
        """Whether there are a resolver and a clock."""
        return self.context.ports.resolver is not None and self.context.ports.clock is not None

    def strip(self, facts: Facts) -> frozenset[str]:
        """The results that the message may bring with it, unless the client is exempt."""
        return frozenset() if self.exempts(facts) else _RESULTS

    def exempts(self, facts: Facts) -> bool:
        """Whether mail of the client is not checked."""
        return facts.identity is not None or self.context.system.trusts(facts) or parse_ip(facts.ip) is None

    @property
    def clock(self) -> Clock:
        """The clock, of a check that is enabled."""
        assert self.context.ports.clock is not None
        return self.context.ports.clock

    async def spf(self, facts: Facts) -> SpfAnswer:
        """Check the domain of the reverse-path, or of HELO if it is null."""
        return await check_spf(
            ip=facts.ip,
            helo=facts.helo,
            sender=str(facts.reverse_path),
            resolver=self.resolver(),
            now=self.clock.now(),
            receiver=self.context.system.name,
        )

    def resolver(self) -> Resolver:
        """A resolver that sends no more queries after `SECONDS`, for one evaluation."""
        assert self.context.ports.resolver is not None
        return _Timed(self.context.ports.resolver, self.clock)


class _Timed:
    """A resolver that sends no more queries after a while."""

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._deadline = clock.monotonic() + SECONDS

    def resolve(self, name: str, kind: RecordType, /) -> Awaitable[Records[Any]]:
        late = self._clock.monotonic() > self._deadline
        return _too_late(name, kind) if late else self._resolver.resolve(name, kind)


async def _too_late(name: str, kind: RecordType) -> Records[Any]:
    raise ResolverError(f"{name} {kind}: no time is left")
