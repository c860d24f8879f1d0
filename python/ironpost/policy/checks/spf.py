"""SPF: the domain of the sender allows the client to send its mail (RFC 7208).

Promises: the answer is a result for later checks, and is written into the message (RFC 8601). Only `fail` has
consequences, by the option (RFC 7208 §8). If a lookup fails nothing is concluded (SECURITY R27): the client is deferred
if it would otherwise be refused, and accepted if not. `policy.authentication` says which mail is checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import SpfResult, of_spf
from ironpost.model.verdict import defer
from ironpost.policy.authentication import Authentication
from ironpost.policy.check import NEUTRAL, NOTHING, Finding
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from ironpost.mail_auth import SpfAnswer
    from ironpost.policy.check import Opinion
    from ironpost.policy.facts import Facts


class Spf(Authentication):
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
        return self.options.spf is not Enforcement.OFF and super().enabled

    def mail(self, facts: Facts) -> Opinion:
        """Check the domain of the reverse-path, or of HELO if it is null, unless the client is exempt."""
        return NOTHING if self.exempts(facts) else self._check(facts)

    async def _check(self, facts: Facts) -> Finding:
        answer = await self.spf(facts)
        return self._finding(answer)._replace(result=answer, authentication=(of_spf(answer),))

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
