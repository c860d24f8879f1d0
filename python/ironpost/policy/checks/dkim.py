"""DKIM: the signatures of a message (RFC 6376).

Promises: the answers are a result for later checks, and are written into the message (RFC 8601). No result refuses a
message: a signature that is not valid counts as none (RFC 6376 §6.3). `policy.authentication` says which mail is
checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mail_auth import DkimVerifier, MethodResult, of_dkim
from ironpost.policy.authentication import Authentication
from ironpost.policy.check import NEUTRAL, Finding, Scanner
from ironpost.policy.options import Enforcement, Recorded

if TYPE_CHECKING:
    from ironpost.mail_auth import DkimAnswer
    from ironpost.message.section import Header
    from ironpost.policy.facts import Facts

UNSIGNED: Final = MethodResult("dkim", "none")


class Signatures(NamedTuple):
    """The result of the check."""

    answers: tuple[DkimAnswer, ...]
    """One for each signature that was verified."""


class Dkim(Authentication):
    """Scans the content, if there is a resolver."""

    name: Final = "dkim"

    @dataclass(frozen=True, slots=True)
    class Options:
        """Whether signatures are verified."""

        dkim: Recorded = Enforcement.OFF
        """Verify the signatures of mail: `off` or `record`. No result refuses mail, except through `dmarc`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there are a resolver and a clock."""
        return self.options.dkim is not Enforcement.OFF and super().enabled

    def scanner(self, facts: Facts) -> Scanner | None:
        """A scanner for the message, unless the client is exempt."""
        return None if self.exempts(facts) else _Scanner(self)


class _Scanner(Scanner):
    def __init__(self, check: Dkim) -> None:
        self._check = check
        self.shared = self._verifier = DkimVerifier()

    def header(self, header: Header) -> None:
        self._verifier.header(header)

    def body(self, piece: bytes) -> None:
        self._verifier.body(piece)

    async def finish(self, facts: Facts) -> Finding:
        del facts
        answers = await self._verifier.finish(self._check.resolver(), self._check.clock.now())
        results = tuple(map(of_dkim, answers)) or (UNSIGNED,)
        reason = "; ".join(f"{each.result} of {each.domain or 'a signature'}: {each.reason}" for each in answers)
        return Finding(NEUTRAL, reason, result=Signatures(answers), authentication=results)
