"""One report about TLS: its JSON form, compression and file name.

Promises: `decoded(encoded(report)) == report` for a report within the limits. Reading a report uses bounded memory and
time, whatever it contains (SECURITY R23): the limits are `MAX_OCTETS`, `MAX_DEPTH`, `MAX_VALUES` and `MAX_QUOTES`.
Refuses: values of another type than the schema's, with `ReportError`. Unknown members are ignored; text is returned as
it is, so it must be escaped before it is shown (SECURITY R20).
Standards: RFC 8460 §4.4 (schema), §4.5 (policies), §5.1 (file name), §5.2 (gzip).
"""

from __future__ import annotations

import gzip
import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ironpost.model.parameters import moment_text
from ironpost.reports.received import ReportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_OCTETS: Final = 20_000_000
"""Octets of a report after decompression."""
MAX_DEPTH: Final = 16
"""Levels of nested arrays and objects; the schema has 6."""
MAX_VALUES: Final = 500_000
"""Commas and brackets of a report, which bound the number of its values."""
MAX_QUOTES: Final = 4 * MAX_VALUES
"""Quotation marks of a report, which bound the time for finding its strings."""
MAX_COUNT: Final = 2**53 - 1
"""The largest number of sessions: integers of I-JSON (RFC 7493)."""

_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_STRUCTURE: Final = b"[]{},"
_OTHERS: Final = bytes(octet for octet in range(256) if octet not in _STRUCTURE)
_AS_ARRAYS: Final = bytes.maketrans(b"{}", b"[]")


class Policy(NamedTuple):
    """A policy that was applied."""

    type: str
    """A `PolicyType`, or one that is not known here."""
    domain: str
    """The policy domain, in A-labels."""
    strings: tuple[str, ...] = ()
    """The lines of an MTA-STS policy, or TLSA records in presentation format."""
    mx: tuple[str, ...] = ()
    """The host name patterns of an MTA-STS policy."""


class Failure(NamedTuple):
    """What sessions that failed for the same reason have in common; empty members are left out of the report."""

    type: str
    """A `TlsFailure`, or a type that is not known here."""
    our_ip: str = ""
    host: str = ""
    host_ip: str = ""
    helo: str = ""
    """The name in the host's reply to EHLO."""
    reason: str = ""
    information: str = ""
    """A URI."""


class PolicyResult(NamedTuple):
    """The sessions to which a policy was applied."""

    policy: Policy
    successes: int
    failures: int
    details: tuple[tuple[Failure, int], ...] = ()
    """The numbers of failed sessions by their reason, which may overlap (RFC 8460 §4)."""


class Report(NamedTuple):
    """One report."""

    organization: str
    contact: str
    """A mail address; reports are submitted in the name of its domain."""
    id: str
    start: int
    """The first second of the period, since 1970."""
    end: int
    """The last second of the period."""
    policies: tuple[PolicyResult, ...]

    @property
    def submitter(self) -> str:
        """The domain of `contact` (RFC 8460 §5.3)."""
        return self.contact.rpartition("@")[2]


def encoded(report: Report) -> bytes:
    """Return a report as JSON."""
    return _dumped(
        {
            "organization-name": report.organization,
            "date-range": {"start-datetime": moment_text(report.start), "end-datetime": moment_text(report.end)},
            "contact-info": report.contact,
            "report-id": report.id,
            "policies": [_encoded(each) for each in report.policies],
        }
    )


def compressed(report: Report) -> bytes:
    """Return a report as JSON that is compressed with gzip; equal reports give equal octets."""
    return gzip.compress(encoded(report), mtime=0)


def filename(report: Report, domain: str) -> str:
    """Return the name of the file with a compressed report about a domain (RFC 8460 §5.1)."""
    return f"{report.submitter}!{domain}!{report.start}!{report.end}.json.gz"


def decoded(octets: bytes) -> Report:
    """Read a report from JSON.

    Raises:
        ReportError: it is invalid, or exceeds a limit.
    """
    values = _members("the report", _parsed(octets))
    period = _members("date-range", values.get("date-range"))
    return Report(
        _text(values, "organization-name"),
        _text(values, "contact-info"),
        _text(values, "report-id"),
        _seconds(period, "start-datetime"),
        _seconds(period, "end-datetime"),
        _results(values.get("policies")),
    )


def encoded_results(results: Iterable[PolicyResult]) -> bytes:
    """Return results as JSON, in the form that they have in a report."""
    return _dumped([_encoded(each) for each in results])


def decoded_results(octets: bytes) -> tuple[PolicyResult, ...]:
    """Read what `encoded_results` returned.

    Raises:
        ReportError: it is something else.
    """
    return _results(_parsed(octets))


def _results(policies: Any) -> tuple[PolicyResult, ...]:
    if not isinstance(policies, list):
        raise ReportError("policies is not an array")
    return tuple(_decoded(_members("a policy", each)) for each in policies)


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def _encoded(result: PolicyResult) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": result.policy.type, "policy-string": list(result.policy.strings)}
    policy["policy-domain"] = result.policy.domain
    if result.policy.mx:
        policy["mx-host"] = list(result.policy.mx)
    found: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": result.successes,
            "total-failure-session-count": result.failures,
        },
    }
    if result.details:
        found["failure-details"] = [
            {name: value for name, value in zip(_DETAILS, failure, strict=True) if value}
            | {"failed-session-count": count}
            for failure, count in result.details
        ]
    return found


_DETAILS: Final = (
    "result-type",
    "sending-mta-ip",
    "receiving-mx-hostname",
    "receiving-ip",
    "receiving-mx-helo",
    "failure-reason-code",
    "additional-information",
)
"""The members of a failure, in the order of `Failure`."""


def _decoded(values: Mapping[str, Any]) -> PolicyResult:
    policy = _members("policy", values.get("policy"))
    summary = _members("summary", values.get("summary"))
    details = []
    for each in _list(values, "failure-details", optional=True):
        detail = _members("a failure", each)
        failure = Failure(_text(detail, _DETAILS[0]), *(_text(detail, name, optional=True) for name in _DETAILS[1:]))
        details.append((failure, _count(detail, "failed-session-count")))
    return PolicyResult(
        Policy(
            _text(policy, "policy-type"),
            _text(policy, "policy-domain"),
            _texts(policy, "policy-string"),
            _texts(policy, "mx-host"),
        ),
        _count(summary, "total-successful-session-count"),
        _count(summary, "total-failure-session-count"),
        tuple(details),
    )


def _parsed(octets: bytes) -> Any:
    """Parse JSON whose depth and number of values are within the limits."""
    if len(octets) > MAX_OCTETS:
        raise ReportError(f"more than {MAX_OCTETS} octets")
    if octets.count(b'"') > MAX_QUOTES:
        raise ReportError("too many strings")
    structure = _STRING.sub(b"", octets).translate(_AS_ARRAYS, _OTHERS)
    if len(structure) > MAX_VALUES:
        raise ReportError("too many values")
    nested = structure.replace(b",", b"")
    for _ in range(MAX_DEPTH):
        nested = nested.replace(b"[]", b"")
    if nested:
        raise ReportError(f"invalid JSON, or nested more than {MAX_DEPTH} levels deep")
    try:
        # Not the octets: `json` would detect UTF-16 and UTF-32, in which the counts above mean nothing.
        return json.loads(octets.decode())
    except ValueError as error:  # of JSON, of UTF-8, or an integer with too many digits
        raise ReportError(f"invalid JSON: {error}") from None


def _members(what: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ReportError(f"{what} is not an object")
    return value


def _list(values: Mapping[str, Any], name: str, *, optional: bool = False) -> list[Any]:
    value = values.get(name, [] if optional else None)
    if not isinstance(value, list):
        raise ReportError(f"{name} is not an array")
    return value


def _text(values: Mapping[str, Any], name: str, *, optional: bool = False) -> str:
    value = values.get(name, "" if optional else None)
    if not isinstance(value, str):
        raise ReportError(f"{name} is not a string")
    return value


def _texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """An array of strings; a single string, as in the example of RFC 8460, is an array of one."""
    value = values.get(name, [])
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ReportError(f"{name} is not an array of strings")
    return tuple(value)


def _count(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ReportError(f"{name} is not a number of sessions")
    return value


def _seconds(values: Mapping[str, Any], name: str) -> int:
    text = _text(values, name)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ReportError(f"{name} is not a date and time") from None
    if moment.tzinfo is None or not 1970 <= moment.year < 9999:
        raise ReportError(f"{name} is not a time since 1970 with its offset from UTC")
    return max(0, int(moment.timestamp()))
