"""A report about TLS as a message: written, and found in received ones.

Promises: a message is 7-bit, unless its recipient's address needs SMTPUTF8. Nothing in a report can add a field or a
part (SECURITY R43). It asks the next hops to deliver it even without the TLS that its recipient's domain demands,
because a report about broken TLS would not arrive otherwise.
Limitations: a signature on a received message (RFC 8460 §3) is not verified.
Standards: RFC 8460 §3 (delivery despite failures), §5.3 (form), RFC 6522 §3, RFC 8689 §3 (TLS-Required), RFC 3834 §5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.reports import mime
from ironpost.reports.received import GZIP, ReportError, attached, decompressed
from ironpost.reports.tlsrpt.report import MAX_OCTETS, compressed, filename

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Address
    from ironpost.reports.tlsrpt.report import Report

GZIP_TYPE: Final = "application/tlsrpt+gzip"
"""The media type of a compressed report (RFC 8460 §5.3, §5.4)."""
TYPES: Final[Mapping[str, bool]] = {GZIP_TYPE: True, "application/tlsrpt+json": False}
"""The media types of reports, and whether they are compressed (RFC 8460 §5.3)."""


def message(report: Report, domain: str, to: Address, *, now: float, token: str) -> bytes:
    """Return the message with a report.

    Args:
        report: the report; its contact is the author.
        domain: the domain that it is about, in A-labels.
        to: where it is sent.
        now: seconds since 1970.
        token: an unguessable text, for the boundary and the Message-ID.

    Raises:
        HeaderError: the domain or the report's id contains an invalid character.
    """
    submitter = report.submitter
    introduction = f"This is a report of {submitter} about TLS on connections to {domain}."
    lines = [
        f"{header.shown(each.policy.type)}: {each.successes} sessions succeeded, {each.failures} failed."
        for each in report.policies
    ]
    parts = (
        mime.part("text/plain; charset=us-ascii", "\r\n".join((introduction, "", *lines)).encode("ascii")),
        mime.attachment(GZIP_TYPE, compressed(report), filename(report, domain)),
    )
    boundary, body = mime.multipart(parts, f"tlsrpt-{token}")
    subject = ("Report", "Domain:", domain, "Submitter:", submitter, "Report-ID:", f"<{report.id}>")
    fields = [
        header.field("Date", (date_time(now),)),
        header.field("From", (f"<{report.contact}>",)),
        header.field("To", (header.path(to),), utf8=to.needs_smtputf8),
        header.field("Subject", subject),
        header.field("Message-ID", (f"<{token}@{submitter}>",)),
        header.field("TLS-Report-Domain", (domain,)),
        header.field("TLS-Report-Submitter", (submitter,)),
        header.field("TLS-Required", ("No",)),
        header.field("Auto-Submitted", ("auto-generated",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/report;", 'report-type="tlsrpt";', f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body


def extracted(octets: bytes) -> bytes:
    """Return the JSON of a report from a file: of the report itself, compressed or not, or of a message that has it.

    Raises:
        ReportError: the file has no report, or it exceeds a limit.
    """
    if octets.startswith(GZIP):
        return decompressed(octets, MAX_OCTETS)
    if octets.lstrip(b" \t\r\n").startswith(b"{"):
        return octets
    found = attached(octets, TYPES)
    if found is None:
        raise ReportError("neither a report nor a message with one")
    return decompressed(found.content, MAX_OCTETS) if TYPES[found.media_type] else found.content
