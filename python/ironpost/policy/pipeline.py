"""The pipeline: runs the checks of a stage in order; the first one that accepts or refuses decides.

Promises: a stage without a decisive check is accepted, except RECIPIENT, which is refused (RFC 5321 §3.6.1: a server
need not relay). A quarantine or a delay does not decide, it modifies the decision of later checks, so neither can
replace the acceptance that a recipient needs. A decision is synchronous unless a check returns an awaitable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.message import header
from ironpost.model.verdict import LONGEST, Action, Verdict, quarantine, tarpit
from ironpost.policy.check import ACCEPT, NOTHING, Check, Finding, PolicyDecision
from ironpost.policy.facts import PolicyStage
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from ironpost.mail_auth import MethodResult
    from ironpost.message.section import Header
    from ironpost.policy.check import Opinion, Scanner
    from ironpost.policy.facts import Facts

PendingDecision: TypeAlias = "PolicyDecision | Awaitable[PolicyDecision]"
Judge: TypeAlias = "tuple[str, Callable[[Facts], Opinion]]"
"""The name of a check, and its method for a stage."""
Judges: TypeAlias = tuple[Judge, ...]

_NOTHING_AGAINST: Final = PolicyDecision(ACCEPT, ())
_NOBODY: Final = PolicyDecision(Verdict.refuse(replies.RELAY_DENIED), ("no check accepts the recipient",))


class Policy:
    """Checks, grouped by stage, run in the given order."""

    __slots__ = ("_judges", "_reading", "_scanning", "_serving", "_stripping")

    def __init__(self, checks: Iterable[Check]) -> None:
        listed = tuple(checks)
        self._judges: dict[PolicyStage, Judges] = {
            stage: tuple((check.name, getattr(check, stage.value)) for check in listed if _defines(check, stage.value))
            for stage in PolicyStage
        }
        self._scanning = any(_defines(check, "scanner") for check in listed)
        self._reading = tuple(
            (check, _defines(check, PolicyStage.CONTENT.value))
            for check in listed
            if _defines(check, "scanner") or _defines(check, PolicyStage.CONTENT.value)
        )
        """The checks that read content or run when it is complete, and whether they run then."""
        self._stripping = tuple(check for check in listed if _defines(check, "strip"))
        self._serving = tuple(check for check in listed if _defines(check, "services"))

    def scan(self, facts: Facts) -> Scan | None:
        """The scanners for a message whose content is about to arrive; None if no check reads it."""
        if not self._scanning:
            return None
        scanners: list[Scanner] = []
        judges: list[Judge] = []
        for check, judges_content in self._reading:
            scanner = check.scanner(facts)
            if scanner is not None:
                scanners.append(scanner)
                judges.append((check.name, scanner.finish))
                if scanner.shared is not None:
                    facts.keep(PolicyStage.CONTENT, scanner.shared)
            if judges_content:
                judges.append((check.name, check.content))
        facts.begin(PolicyStage.CONTENT)  # idle sessions hold no content
        return Scan(tuple(scanners), tuple(judges)) if scanners else None

    def strip(self, facts: Facts) -> frozenset[str]:
        """Names of fields to remove from a message whose content is about to arrive, in lower case."""
        return frozenset[str]().union(*(check.strip(facts) for check in self._stripping))

    def services(self, facts: Facts) -> frozenset[str]:
        """Services whose fields Authentication-Results are removed from that message."""
        return frozenset[str]().union(*(check.services(facts) for check in self._serving))

    def decide(self, stage: PolicyStage, facts: Facts, scan: Scan | None = None) -> PendingDecision:
        """The decision for a stage; an awaitable if a check returned one.

        Args:
            stage: the stage that the session has reached.
            facts: what is known about the session.
            scan: CONTENT: what `scan` returned, after it was fed the content.

        Raises:
            ValueError: a finding adds header fields at a stage where it cannot, or adds something else than a field.
        """
        facts.begin(stage)
        judges = self._judges[stage] if scan is None else scan.judges
        tally: _Tally | None = None
        for at, (name, judge) in enumerate(judges):
            opinion = judge(facts)
            if opinion is NOTHING:
                continue
            if tally is None:
                tally = _Tally(stage, facts)
            if not isinstance(opinion, Finding):
                return self._decide_later(judges, at, opinion, facts, tally)
            if tally.add(name, opinion):
                return tally.decision(opinion.verdict)
        if tally is None:
            return _NOBODY if stage is PolicyStage.RECIPIENT else _NOTHING_AGAINST
        return tally.decision(None)

    async def _decide_later(
        self, judges: Judges, at: int, opinion: Opinion, facts: Facts, tally: _Tally
    ) -> PolicyDecision:
        while True:
            finding = opinion if isinstance(opinion, Finding) else await opinion
            if tally.add(judges[at][0], finding):
                return tally.decision(finding.verdict)
            at += 1
            if at == len(judges):
                return tally.decision(None)
            opinion = judges[at][1](facts)


class Scan:
    """The scanners of one message."""

    __slots__ = ("_scanners", "judges")

    def __init__(self, scanners: tuple[Scanner, ...], judges: Judges) -> None:
        self._scanners = scanners
        self.judges = judges
        """The scanners, and the checks that define CONTENT, in the order of the checks."""

    def header(self, header: Header) -> None:
        """Feed the header section, whole."""
        for scanner in self._scanners:
            scanner.header(header)

    def body(self, piece: bytes) -> None:
        """Feed the next octets of the body."""
        for scanner in self._scanners:
            scanner.body(piece)


def _defines(check: Check, method: str) -> bool:
    return getattr(type(check), method) is not getattr(Check, method)


class _Tally:
    """Collects the findings of the checks of one stage."""

    __slots__ = ("_authentication", "_facts", "_fields", "_noted", "_quarantine", "_reasons", "_seconds", "_stage")

    def __init__(self, stage: PolicyStage, facts: Facts) -> None:
        self._stage = stage
        self._facts = facts
        self._reasons: tuple[str, ...] = ()
        self._seconds = 0.0
        self._noted = False
        self._quarantine = ""
        """Reason of the quarantine; empty if there is none."""
        self._fields: tuple[bytes, ...] = ()
        self._authentication: tuple[MethodResult, ...] = ()

    def add(self, name: str, finding: Finding) -> bool:
        """Record the finding of a check; return whether it decides."""
        if finding.result is not None:
            self._facts.keep(self._stage, finding.result)
        if finding.fields or finding.authentication:
            self._add_fields(name, finding)
        if finding.reason:
            self._reasons = (*self._reasons, f"{name}: {finding.reason}")
            self._noted = self._noted or finding.noted
        verdict = finding.verdict
        if verdict is None:
            return False
        if verdict.then is not None:
            self._seconds += verdict.seconds
            verdict = verdict.then
            if verdict.action is Action.ACCEPT:
                return False
        if verdict.action is Action.QUARANTINE:
            self._quarantine = f"{self._quarantine}; {verdict.reason}" if self._quarantine else verdict.reason
            return False
        return True

    def _add_fields(self, name: str, finding: Finding) -> None:
        if self._stage not in {PolicyStage.MAIL, PolicyStage.CONTENT}:
            raise ValueError(f"{name}: a finding for {self._stage.value} cannot add header fields")
        self._fields += tuple(map(header.checked_field, finding.fields))
        self._authentication += finding.authentication

    def decision(self, verdict: Verdict | None) -> PolicyDecision:
        """The decision; `verdict` is None if no check decided."""
        reasons = self._reasons
        if verdict is None:
            if self._stage is PolicyStage.RECIPIENT:
                verdict, reasons = _NOBODY.verdict, (*reasons, *_NOBODY.reasons)
            else:
                verdict = ACCEPT
        verdict = verdict.final
        if self._quarantine and verdict.action is Action.ACCEPT:
            verdict = quarantine(self._quarantine)
        if self._seconds:
            verdict = tarpit(min(self._seconds, LONGEST), verdict)
        return PolicyDecision(verdict, reasons, self._noted, self._fields, self._authentication)
