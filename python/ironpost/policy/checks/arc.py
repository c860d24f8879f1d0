"""ARC: what mailing lists and forwarders found when they received the message (RFC 8617).

Promises: the answer is a result for later checks, and is written into the message (RFC 8601) if it has a chain. No
result refuses a message: a chain that is not valid counts as none. `policy.authentication` says which mail is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import ArcResult, ArcVerifier, DkimVerifier, of_arc
from ironpost.policy.authentication import Authentication
from ironpost.policy.check import NEUTRAL, NOTHING, Finding, Scanner
from ironpost.policy.options import Enforcement, Recorded

if TYPE_CHECKING:
    from ironpost.message.section import Header
    from ironpost.policy.facts import Facts


class Arc(Authentication):
    """Scans the content, if there is a resolver."""

    name: Final = "arc"

    @dataclass(frozen=True, slots=True)
    class Options:
        """Whether chains are verified."""

        arc: Recorded = Enforcement.OFF
        """Verify the chains of results of mailing lists and forwarders (ARC): `off` or `record`. One that is valid is
        evidence for `dmarc_override`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there are a resolver and a clock."""
        return self.options.arc is not Enforcement.OFF and super().enabled

    def scanner(self, facts: Facts) -> Scanner | None:
        """A scanner for the message, unless the client is exempt."""
        return None if self.exempts(facts) else _Scanner(self, facts.result(DkimVerifier))


class _Scanner(Scanner):
    def __init__(self, check: Arc, dkim: DkimVerifier | None) -> None:
        self._check = check
        self._verifier = ArcVerifier(dkim)

    def header(self, header: Header) -> None:
        self._verifier.header(header)

    def body(self, piece: bytes) -> None:
        self._verifier.body(piece)

    async def finish(self, facts: Facts) -> Finding:
        answer = await self._verifier.finish(self._check.resolver(), self._check.clock.now())
        if answer.result is ArcResult.NONE:
            return NOTHING
        reason = f"{answer.result}: {answer.reason}"
        return Finding(NEUTRAL, reason, result=answer, authentication=(of_arc(answer, facts.ip),))
