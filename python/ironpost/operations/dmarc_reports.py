"""What others report about mail from our domains: sums of aggregate reports (RFC 9990), and failure reports (RFC 9991).

Promises: nothing is changed, and no server is needed. Everything is what others claim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth.names import normalised
from ironpost.model.text import error_text
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.operations.queue import moment

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory

LONGEST: Final = 90
"""Days for which reports are kept."""


@dataclass(frozen=True, slots=True)
class DmarcSource:
    """The messages of a domain that came from one address with the same results."""

    ip: str
    author: str
    """The domain in From."""
    dkim: str
    """`pass` or `fail`: whether an aligned signature was valid."""
    spf: str
    disposition: str
    """What was done with the messages."""
    passed: bool
    messages: int
    authenticated: int
    """Those that authenticated senders report."""
    organizations: int
    """How many report it."""


@dataclass(frozen=True, slots=True)
class DmarcSummary:
    """The sums of all reports about a domain."""

    domain: str
    reports: int
    authenticated: int
    """Those of authenticated senders: DMARC or a signature confirmed the domain of the mail that carried them."""
    organizations: int
    """How many sent them."""
    start: float = field(metadata={"json": moment})
    """The start of the earliest period, in seconds since 1970."""
    end: float = field(metadata={"json": moment})
    """The end of the latest period, in seconds since 1970."""
    passed: int
    """Messages that passed DMARC."""
    failed: int


@dataclass(frozen=True, slots=True)
class DmarcFailure:
    """One failure report."""

    domain: str
    """The domain in From."""
    received: float = field(metadata={"json": moment})
    """When the report arrived, in seconds since 1970."""
    authenticated: bool
    """Whether its sender is authenticated."""
    organization: str
    """The domain of its author."""
    kind: str
    """What failed: `dmarc`, `signature` or `spf`, for instance."""
    ip: str
    """The client that the message came from; empty if the report does not say."""
    sender: str
    """The reverse-path of the message."""
    incidents: int
    """The number of messages that the report stands for."""


@dataclass(frozen=True, slots=True)
class DmarcReportRequest:
    """The reports to sum up."""

    domain: str = ""
    """All domains if empty; for one domain the sources of its mail are listed. Failures of subdomains are included."""
    days: int = 30
    """How long ago the reports arrived, at most."""


@dataclass(frozen=True, slots=True)
class DmarcReportResult:
    """The sums."""

    domains: tuple[DmarcSummary, ...]
    """By name; empty if there are no reports."""
    sources: tuple[DmarcSource, ...] = ()
    """Of the one domain that was asked for: what failed comes first, then by number; at most 1,000."""
    failures: tuple[DmarcFailure, ...] = ()
    """The latest failure reports first; at most 1,000."""


async def _report(data: DataDirectory, request: DmarcReportRequest) -> DmarcReportResult:
    if not 1 <= request.days <= LONGEST:
        raise OperationError(Reason.INVALID, f"--days {request.days}: expected 1 to {LONGEST}")
    try:
        domain = normalised(request.domain) if request.domain else None
    except ValueError as error:
        raise OperationError(Reason.INVALID, str(error)) from None
    try:
        found = data.dmarc_reports(domain, request.days)
    except FileNotFoundError:
        return DmarcReportResult(())
    except PermissionError:
        sentence = f"permission denied: {data.path}: only the user who runs the server may read its reports"
        raise OperationError(Reason.FORBIDDEN, sentence) from None
    except OSError as error:
        sentence = f"{data.path}: the reports cannot be read: {error_text(error)}"
        raise OperationError(Reason.UNAVAILABLE, sentence) from None
    return DmarcReportResult(
        tuple(DmarcSummary(*each) for each in found.domains),
        tuple(DmarcSource(*each) for each in found.sources),
        tuple(DmarcFailure(*each) for each in found.failures),
    )


REPORT: Final = Operation("dmarc.report", DmarcReportRequest, DmarcReportResult, Scope.LOCAL, _report)
