"""DMARC: SPF or DKIM confirms the domain that a message names as its author's (RFC 9989).

Promises: the answer is written into the message (RFC 8601), and passed to the recorder of reports unless the message
is deferred for its chain (`arc`) and will be evaluated again. What the owner of the domain asks for is done with a
message that fails, but never more than the option allows, and nothing if an override applies. If a lookup
fails nothing is concluded (SECURITY R27): a message that might have to be refused or quarantined is deferred.
`policy.authentication` says which mail is checked.
Refuses: by the option, a message without exactly one author's domain, with which a forger could avoid DMARC (RFC 9989
§11.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ironpost.mail_auth import (
    ArcAnswer,
    Authenticated,
    DmarcEvaluation,
    DmarcPolicy,
    DmarcResult,
    Override,
    OverrideType,
    SpfAnswer,
    evaluate_dmarc,
    of_dmarc,
    of_spf,
)
from ironpost.mail_auth.dmarc import with_result
from ironpost.message.section import EMPTY
from ironpost.model import NULL
from ironpost.model.idna import a_labels
from ironpost.model.network import Network, within
from ironpost.model.parameters import EnvelopeId
from ironpost.model.patterns import DomainPattern, Domains
from ironpost.model.verdict import defer, quarantine, reject
from ironpost.policy.authentication import Authentication
from ironpost.policy.check import NEUTRAL, NOTHING, Finding
from ironpost.policy.checks.dkim import Signatures
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ironpost.mail_auth import DkimAnswer, DmarcAnswer
    from ironpost.model.verdict import Verdict
    from ironpost.policy.check import Opinion
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts

_POLICIES: Final = {Enforcement.QUARANTINE: DmarcPolicy.QUARANTINE, Enforcement.REJECT: DmarcPolicy.REJECT}
_SEVERITY: Final = list(DmarcPolicy).index
_DEFERRED: Final = defer("Message rejected: DMARC lookup failed", status="7.1")


@dataclass(frozen=True, slots=True)
class DmarcOverride:
    """Mail that is accepted although it fails."""

    reason: Literal[OverrideType.MAILING_LIST, OverrideType.TRUSTED_FORWARDER, OverrideType.LOCAL_POLICY]
    """In `[[policy.dmarc_override]]`: why mail that fails is accepted, for the log and for reports: `mailing_list`,
    `trusted_forwarder` or `local_policy`."""
    domains: tuple[DomainPattern, ...] = ()
    """Domains of mailing lists and forwarders: `lists.example`, `*.lists.example`. SPF or DKIM must pass for one, or it
    must have sealed a valid chain (`arc`) last."""
    networks: tuple[Network, ...] = ()
    """Networks of mailing lists and forwarders."""


class Dmarc(Authentication):
    """Runs when the content is complete, if there is a resolver."""

    name: Final = "dmarc"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do with mail that fails."""

        dmarc: Literal[Enforcement.OFF, Enforcement.RECORD, Enforcement.QUARANTINE, Enforcement.REJECT] = (
            Enforcement.OFF
        )
        """The most that is done with mail that fails, if the author's domain asks for it: `off`, `record` (nothing),
        `quarantine` or `reject`. Needs `dkim`."""
        dmarc_override: tuple[DmarcOverride, ...] = ()
        """Mailing lists and forwarders."""

    options: Options

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self._most = _POLICIES.get(options.dmarc, DmarcPolicy.NONE)
        self._overrides = [(each, Domains(map(a_labels, each.domains))) for each in options.dmarc_override]

    @property
    def enabled(self) -> bool:
        """Whether the check is not off, and there are a resolver and a clock."""
        return self.options.dmarc is not Enforcement.OFF and super().enabled

    def content(self, facts: Facts) -> Opinion:
        """Evaluate the message, unless the client is exempt."""
        return NOTHING if self.exempts(facts) else self._check(facts)

    async def _check(self, facts: Facts) -> Finding:
        known = facts.result(SpfAnswer)  # None if SPF is off, or if a rule accepted the sender before it
        spf = known or await self.spf(facts)
        signatures = facts.result(Signatures)
        dkim = () if signatures is None else signatures.answers
        header = EMPTY if facts.header is None else facts.header
        answer = await evaluate_dmarc(header, spf=spf, dkim=dkim, resolver=self.resolver())
        arc = facts.result(ArcAnswer)
        override = self._override(facts.ip, spf, dkim, arc) if answer.result is DmarcResult.FAIL else None
        measure = DmarcPolicy.NONE if override is not None else self._measure(answer)
        results = (of_dmarc(answer),) if known else (of_spf(spf), of_dmarc(answer))
        reason = f"{answer.result}: {answer.reason}"
        if arc is not None and arc.temporary and self._overrides and measure is not DmarcPolicy.NONE:
            # The chain might be evidence for an override.
            return Finding(_DEFERRED, f"{reason}; ARC: {arc.reason}", noted=True, authentication=results)
        if self.context.ports.dmarc_recorder is not None:
            envelope_id = facts.mail_parameters.get("ENVID")
            self.context.ports.dmarc_recorder(
                DmarcEvaluation(
                    facts.ip,
                    facts.reverse_path or NULL,
                    answer,
                    spf,
                    dkim,
                    measure,
                    () if override is None else (override,),
                    header,
                    envelope_id if isinstance(envelope_id, EnvelopeId) else None,
                )
            )
        if override is not None:
            reason = f"{reason}; accepted as {override.type}: {override.comment}"
        noted = answer.result not in {DmarcResult.PASS, DmarcResult.NONE}
        return Finding(self._verdict(answer, measure, reason), reason, noted, authentication=results)

    def _override(self, ip: str, spf: SpfAnswer, dkim: Iterable[DkimAnswer], arc: ArcAnswer | None) -> Override | None:
        """The first override that applies."""
        passed = with_result("pass", spf, dkim)
        if arc is not None and arc.sealers:
            passed = (Authenticated("arc", arc.sealers[-1]), *passed)
        for each, domains in self._overrides:
            if (network := within(ip, each.networks)) is not None:
                return Override(each.reason, f"the client is in {network}")
            for method, domain in passed:
                if domain in domains:
                    return Override(each.reason, f"{method}=pass of {domain}")
        return None

    def _measure(self, answer: DmarcAnswer) -> DmarcPolicy:
        """What is done with the message: the lesser of what is asked for and of what the option allows."""
        asked = DmarcPolicy.REJECT if answer.result is DmarcResult.PERMERROR else answer.policy
        return min(asked, self._most, key=_SEVERITY)

    def _verdict(self, answer: DmarcAnswer, measure: DmarcPolicy, reason: str) -> Verdict | None:
        if measure is DmarcPolicy.REJECT:
            by = f"the DMARC policy of {answer.policy_domain}" if answer.policy_domain else f"DMARC: {answer.reason}"
            return reject(f"Message rejected by {by}", status="7.1")  # RFC 9989 §7.2
        if measure is DmarcPolicy.QUARANTINE:
            return quarantine(f"DMARC {reason}")
        harmless = self._most is DmarcPolicy.NONE or (answer.record is not None and answer.record.monitors)
        return _DEFERRED if answer.result is DmarcResult.TEMPERROR and not harmless else NEUTRAL
