"""SPF: the domain of the sender allows the client to send its mail (RFC 7208).

Promises: the answer is a result for later checks, and is written into the message (RFC 8601); received fields
Authentication-Results are removed, because they may be forged (SECURITY R48). Only `fail` has consequences, by the
option (RFC 7208 §8). If a lookup fails nothing is concluded (SECURITY R27): the client is deferred if it would
otherwise be refused, and accepted if not. No query is sent after 20 seconds. Trusted and authenticated clients, and
those without an IP address, are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ironpost.mail_auth import SpfResult, check_spf, of_spf, results_field
from ironpost.mail_auth.results import NAME
from ironpost.model.dns import ResolverError
from ironpost.model.network import parse_ip
from ironpost.model.verdict import defer
from ironpost.policy.check import NEUTRAL, NOTHING, Check, Finding
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.mail_auth import SpfAnswer
    from ironpost.model.dns import Records, RecordType, Resolver
    from ironpost.model.ports import Clock
    from ironpost.policy.check import Opinion
    from ironpost.policy.facts import Facts

SECONDS: Final = 20.0
"""Time after which no more queries are sent (RFC 7208 §4.6.4)."""


class Spf(Check):
    """Runs at MAIL, if there is a resolver."""

    name: Final = "spf"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do if the result is `fail`."""

        spf: Enforcement = Enforcement.OFF
        """The sender's domain does not allow the client to send its mail. Values as for `helo_own_name`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there are a resolver and a clock."""
        ports = self.context.ports
        return self.options.spf is not Enforcement.OFF and ports.resolver is not None and ports.clock is not None

    def mail(self, facts: Facts) -> Opinion:
        """Check the domain of the reverse-path, or of HELO if it is null, unless the client is exempt."""
        clock, resolver = self.context.ports.clock, self.context.ports.resolver
        exempt = facts.identity is not None or self.context.system.trusts(facts) or parse_ip(facts.ip) is None
        if clock is None or resolver is None or facts.reverse_path is None or exempt:
            return NOTHING
        return self._check(facts, clock, resolver)

    async def _check(self, facts: Facts, clock: Clock, resolver: Resolver) -> Finding:
        service = self.context.system.name
        answer = await check_spf(
            ip=facts.ip,
            helo=facts.helo,
            sender=str(facts.reverse_path),
            resolver=_Timed(resolver, clock),
            now=clock.now(),
            receiver=service,
        )
        finding = self._finding(answer)
        return finding._replace(
            result=answer, fields=(results_field(service, [of_spf(answer)]),), strip=frozenset({NAME})
        )

    def _finding(self, answer: SpfAnswer) -> Finding:
        reason = f"{answer.result}: {answer.reason}"
        measure = self.options.spf
        if answer.result is SpfResult.FAIL:
            text = f"Sender address rejected: SPF of {answer.domain} does not allow this client"
            if answer.explanation:
                text = f"{text}. The domain explains: {answer.explanation}"  # RFC 7208 §6.2: by a third party
            return measure.finding(reason, text=text, status="7.23", delay=self.context.common.delay)
        if answer.result is SpfResult.TEMPERROR:
            refuses = measure in {Enforcement.DEFER, Enforcement.REJECT}
            verdict = defer("Sender address rejected: SPF lookup failed", status="7.24") if refuses else NEUTRAL
            return Finding(verdict, reason, noted=True)
        return Finding(NEUTRAL, reason)


class _Timed:
    """A resolver that sends no more queries after a while."""

    def __init__(self, resolver: Resolver, clock: Clock) -> None:
        self._resolver = resolver
        self._clock = clock
        self._deadline = clock.monotonic() + SECONDS

    def resolve(self, name: str, kind: RecordType, /) -> Awaitable[Records[Any]]:
        if self._clock.monotonic() > self._deadline:
            raise ResolverError(f"{name} {kind}: no time is left")
        return self._resolver.resolve(name, kind)
