"""A report about TLS that was posted to this system, as a message to the people who read such reports.

Promises: the message has the report unchanged, in the form of reports by mail, so `extracted` finds it. Nothing in the
report can add a field or a part (SECURITY R43); it is read with the limits of `report` (SECURITY R23).
Refuses: what is not a valid report, with `ReportError`.
Standards: RFC 8460 §5.3 (subject and parts), RFC 3834 §5 (Auto-Submitted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message import header
from ironpost.reports import mime
from ironpost.reports.received import ReportError, decompressed
from ironpost.reports.tlsrpt.mail import TYPES
from ironpost.reports.tlsrpt.report import decoded

if TYPE_CHECKING:
    from ironpost.model import Address

MAX_POSTED: Final = 2_000_000
"""Octets of a posted report after decompression: reading so much takes some 50 ms, during which nothing else runs."""


def message(octets: bytes, media_type: str, to: Address, *, ip: str) -> bytes:
    """Return the message with a report. Blocks while the report is read.

    Args:
        octets: the report.
        media_type: one of `mail.TYPES`.
        to: the recipient, who is also the author: the sender of the report is not known for certain.
        ip: the address that posted it.

    Raises:
        ReportError: it is invalid, or exceeds a limit.
    """
    report = decoded(decompressed(octets, MAX_POSTED) if TYPES[media_type] else octets)
    domains = sorted({each.policy.domain for each in report.policies})
    if not domains or not all((*domains, report.organization, report.contact, report.id)):
        raise ReportError("a policy, or the name of a domain or of the sender, is missing")
    about = ("Report", "Domain:", *header.words(domains[0]), "Submitter:", *header.words(report.submitter))
    text = f"This report was posted by {ip or 'a local client'}. Its sender was not authenticated."
    parts = (
        mime.part("text/plain; charset=us-ascii", text.encode("ascii")),
        mime.attachment(media_type, octets, "report.json.gz" if TYPES[media_type] else "report.json"),
    )
    boundary, body = mime.multipart(parts, "tlsrpt")
    fields = [
        header.field("From", (header.path(to),), utf8=to.needs_smtputf8),
        header.field("To", (header.path(to),), utf8=to.needs_smtputf8),
        header.field("Subject", (*about, "Report-ID:", *header.words(f"<{report.id}>"))),
        header.field("Auto-Submitted", ("auto-generated",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/report;", 'report-type="tlsrpt";', f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body
