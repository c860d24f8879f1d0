"""An aggregate report about DMARC as a message: written, and found in received ones.

Promises: a message is 7-bit, unless the address of a recipient needs SMTPUTF8. Nothing in a report can add a field or a
part (SECURITY R43).
Standards: RFC 9990 §3.5.2 (form), RFC 3834 §5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.message.section import EMPTY
from ironpost.model.text import counted
from ironpost.reports import mime
from ironpost.reports.dmarc.reading import MAX_OCTETS
from ironpost.reports.dmarc.report import compressed, filename
from ironpost.reports.received import GZIP, ZIP, AttachedFile, ReportError, attached, decompressed, unzipped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address
    from ironpost.reports.dmarc.report import Report

_TYPES: Final = frozenset(
    {
        "application/gzip",
        "text/xml",
        "application/x-gzip",
        "application/xml",
        "application/zip",
        "application/x-zip-compressed",
        "application/octet-stream",
    }
)
"""The media types of RFC 9990, and those that others use."""
_XML: Final = (b"<", b"\xef\xbb\xbf<", b"\xff\xfe", b"\xfe\xff")
"""The first octets of XML: UTF-8 with and without a byte order mark, UTF-16 with one."""


def message(report: Report, to: Sequence[Address], *, now: float, token: str) -> bytes:
    """Return the message with a report.

    Args:
        report: the report; its contact, a mail address, is the author.
        to: where it is sent.
        now: seconds since 1970.
        token: an unguessable text, for the boundary and the Message-ID.

    Raises:
        HeaderError: the domain or the report's id contains an invalid character.
    """
    submitter, domain = report.submitter, report.policy.domain
    introduction = (
        f"This is a report of {submitter} about mail whose author is in {domain}.\r\n\r\n"
        f"{counted(report.passed, 'message')} passed DMARC, {report.failed} failed."
    )
    parts = (
        mime.part("text/plain; charset=us-ascii", introduction.encode("ascii")),
        mime.attachment("application/gzip", compressed(report), filename(report)),
    )
    boundary, body = mime.multipart(parts, f"dmarc-{token}")
    subject = ("Report", "Domain:", domain, "Submitter:", submitter, "Report-ID:", f"<{report.id}>")
    fields = [
        header.field("Date", (date_time(now),)),
        header.field("From", (f"<{report.contact}>",)),
        to_field(to),
        header.field("Subject", subject),
        header.field("Message-ID", (f"<{token}@{submitter}>",)),
        header.field("Auto-Submitted", ("auto-generated",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/mixed;", f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body


def to_field(to: Sequence[Address]) -> bytes:
    """Return the field To of a report."""
    addresses = [f"{header.path(each)}," for each in to]
    addresses[-1] = addresses[-1].removesuffix(",")
    return header.field("To", addresses, utf8=any(each.needs_smtputf8 for each in to))


def extracted(octets: bytes, *others: str) -> AttachedFile:
    """Return the XML of a report from a file: of the report itself, compressed or not, or of a message that has it.

    Args:
        octets: of the file.
        others: media types of files in a message that are returned as they are.

    Raises:
        ReportError: the file has no report, or it exceeds a limit.
    """
    found = _uncompressed(octets)
    if found is not None:
        return AttachedFile("text/xml", found, EMPTY)
    part = attached(octets, _TYPES.union(others))
    if part is not None and part.media_type in others:
        return part
    found = None if part is None else _uncompressed(part.content)
    if part is None or found is None:
        raise ReportError("neither a report nor a message with one")
    return part._replace(content=found)


def _uncompressed(octets: bytes) -> bytes | None:
    """The XML in a file; None if it has another format."""
    if octets.startswith(GZIP):
        return decompressed(octets, MAX_OCTETS)
    if octets.startswith(ZIP):
        return unzipped(octets, MAX_OCTETS)
    xml = octets.lstrip(b" \t\r\n")
    return xml if xml.startswith(_XML) else None
