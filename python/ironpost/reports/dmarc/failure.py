"""Whether the owner of a domain wants a failure report about a message (RFC 9991), and what is reported.

Promises: without a tag `ruf` an evaluation costs a comparison. A lookup that failed is not a failure (SECURITY R27).
At most `HEADER_OCTETS` of a header section are kept.
Refuses: reports about automatic messages, among them reports and bounces, and about mail to the address that reports
come from, because reports about such mail could go in a loop; and reports about mail that an override accepts, because
its failure is expected, and they would tell who reads a mailing list.
Limitations: a message has one report. One about DMARC is preferred to one about DKIM, and that to one about SPF.
Standards: RFC 9991 §2 (`psd=y`), §3 (kinds of reports), §4 (fields); RFC 9989 §4.7 (`fo`); RFC 6591 §3.3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import DkimResult, DmarcResult, SpfResult, of_dkim, of_dmarc, of_spf
from ironpost.mail_auth.dmarc import with_result
from ironpost.mail_auth.dmarc_record import Psd
from ironpost.mail_auth.names import is_within
from ironpost.message.address_list import addresses
from ironpost.message.section import Header
from ironpost.model import NULL

if TYPE_CHECKING:
    from ironpost.mail_auth import DkimAnswer, DmarcEvaluation, MethodResult, SpfAnswer
    from ironpost.model import Address

HEADER_OCTETS: Final = 65_536
"""Octets of a header section that a report contains; later fields are left out."""
FIELD_OCTETS: Final = 2048
"""Octets of the first field To, and of Cc, that are searched for the address that reports come from; it takes some
milliseconds."""

_REPORTS: Final = frozenset({"multipart/report", "message/feedback-report"})
_HARMLESS: Final = frozenset({DkimResult.PASS, DkimResult.NONE, DkimResult.TEMPERROR})
_SPF_FAILURES: Final = frozenset({SpfResult.FAIL, SpfResult.SOFTFAIL, SpfResult.PERMERROR})


@dataclass(frozen=True, slots=True)
class Failure:
    """What a report says about one message."""

    kind: str
    """The value of Auth-Failure: `dmarc`, `spf` or one of `DkimFailure` (RFC 6591 §3.3, RFC 9991 §4)."""
    result: MethodResult
    """The result of the method that is reported."""
    evaluation: DmarcEvaluation
    """Its header section may be shortened."""
    methods: tuple[str, ...]
    """Those of `dkim` and `spf` that confirmed no aligned domain."""
    signature: DkimAnswer | None
    """One that is not valid, of the author's domain if there is one; None if the failure does not concern DKIM."""
    spf: SpfAnswer | None
    """The result of SPF, if it is not `pass`; None if the failure does not concern SPF."""

    @property
    def domain(self) -> str:
        """The domain that publishes the record."""
        return self.evaluation.answer.policy_domain


def failure_of(evaluation: DmarcEvaluation) -> Failure | None:
    """Return what a report about a message says; None if the owner of the domain wants none, or may not have one."""
    answer, record = evaluation.answer, evaluation.answer.record
    if record is None or not record.failure or record.psd is Psd.YES or evaluation.overrides:
        return None
    if answer.result not in {DmarcResult.PASS, DmarcResult.FAIL} or evaluation.reverse_path == NULL:
        return None
    options, methods = record.failure_options, _unconfirmed(evaluation)
    signature, spf = _invalid(evaluation), evaluation.spf
    if ("0" in options and answer.result is DmarcResult.FAIL) or ("1" in options and methods):
        kind, result = "dmarc", of_dmarc(answer)
    elif "d" in options and signature is not None:
        kind, result, spf = str(signature.failure), of_dkim(signature), None
    elif "s" in options and spf is not None and spf.result in _SPF_FAILURES:
        kind, result, signature = "spf", of_spf(spf), None
    else:
        return None
    if spf is not None and spf.result is SpfResult.PASS:
        spf = None
    return Failure(kind, result, replace(evaluation, header=_shortened(evaluation.header)), methods, signature, spf)


def is_automatic(evaluation: DmarcEvaluation, contact: Address) -> bool:
    """Whether a message that is not a bounce could be the answer to a report, or a report.

    Args:
        evaluation: that of the message.
        contact: the address that reports come from.
    """
    if evaluation.reverse_path == contact:
        return True
    fields = evaluation.header.select(frozenset({"auto-submitted", "content-type", "to", "cc"}))
    if any(value.lower() != b"no" for value in fields.get("auto-submitted", ())):  # RFC 3834 §5
        return True
    media_types = (value.partition(b";")[0].strip() for value in fields.get("content-type", ()))
    if any(each.decode("ascii", "replace").lower() in _REPORTS for each in media_types):
        return True
    first = (value[:FIELD_OCTETS] for name in ("to", "cc") for value in fields.get(name, ())[:1])
    return any(each.address == contact for value in first for each in addresses(value))


def _unconfirmed(evaluation: DmarcEvaluation) -> tuple[str, ...]:
    """The methods that confirmed no aligned domain, as far as that is known."""
    answer = evaluation.answer
    known = {each.method for each in answer.alignment}
    if answer.result is DmarcResult.PASS:
        known |= {each.method for each in with_result("temperror", evaluation.spf, evaluation.dkim)}
    return tuple(method for method in ("dkim", "spf") if method not in known)


def _invalid(evaluation: DmarcEvaluation) -> DkimAnswer | None:
    """A signature that is not valid: of the author's domain, of one within the policy domain, or else any."""
    answer = evaluation.answer
    invalid = [each for each in evaluation.dkim if each.domain and each.result not in _HARMLESS]
    return min(
        invalid,
        key=lambda each: (each.domain != answer.author, not is_within(each.domain, answer.policy_domain)),
        default=None,
    )


def _shortened(header: Header) -> Header:
    """The first fields of a header section; the same object if it is small."""
    if len(header.octets) <= HEADER_OCTETS:
        return header
    end = max((each.end for each in header.section.fields if each.end <= HEADER_OCTETS), default=0)
    return Header(header.octets[:end])
