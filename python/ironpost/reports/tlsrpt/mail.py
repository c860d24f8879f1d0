"""A report about TLS as a message: written, and found in received ones.

Promises: a message is 7-bit, unless its recipient's address needs SMTPUTF8. Nothing in a report can add a field or a
part (SECURITY R43). It asks the next hops to deliver it even without the TLS that its recipient's domain demands,
because a report about broken TLS would not arrive otherwise. In a received message only the first `MAX_PARTS` parts of
`MAX_LEVELS` levels are searched (SECURITY R23).
Limitations: a signature on a received message (RFC 8460 §3) is not verified.
Standards: RFC 8460 §3 (delivery despite failures), §5.3 (form), RFC 6522 §3, RFC 8689 §3 (TLS-Required), RFC 3834 §5.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.message.section import Header
from ironpost.reports import mime
from ironpost.reports.tlsrpt.report import ReportError, compressed, decompressed, filename

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.model import Address
    from ironpost.reports.tlsrpt.report import Report

MAX_LEVELS: Final = 4
"""Nested multiparts of a received message that are searched."""
MAX_PARTS: Final = 100
"""Parts of each of them that are searched."""
_BOUNDARY: Final = re.compile(r'\bboundary=(?:"([^"]{1,200})"|([^\s;"]{1,200}))', re.IGNORECASE)
_GZIP: Final = b"\x1f\x8b"
"""The first octets of a gzip file."""
_TYPES: Final[Mapping[str, bool]] = {"application/tlsrpt+gzip": True, "application/tlsrpt+json": False}
"""The media types of reports, and whether they are compressed (RFC 8460 §5.3)."""
_DECODERS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "base64": binascii.a2b_base64,
    "quoted-printable": binascii.a2b_qp,
    "7bit": bytes,
    "8bit": bytes,
    "binary": bytes,
}
"""Transfer encodings (RFC 2045 §6)."""


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
        mime.attachment("application/tlsrpt+gzip", compressed(report), filename(report, domain)),
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
    if octets.startswith(_GZIP):
        return decompressed(octets)
    if octets.lstrip(b" \t\r\n").startswith(b"{"):
        return octets
    found = _attached(mime.lines_of(octets), MAX_LEVELS)
    if found is None:
        raise ReportError("neither a report nor a message with one")
    return decompressed(found.content) if found.compressed else found.content


class _Attached(NamedTuple):
    """The file in a part."""

    content: bytes
    compressed: bool


def _attached(octets: bytes, levels: int) -> _Attached | None:
    """The first report in a message or part with CRLF line endings, of which at most `levels` may be nested."""
    section = Header(octets)
    kind = (section.first("Content-Type") or b"").decode("ascii", "replace")
    media_type = kind.partition(";")[0].strip().lower()
    body = octets[section.section.end :]
    if media_type.startswith("multipart/") and levels:
        boundary = _BOUNDARY.search(kind)
        if boundary is None:
            return None
        mark = b"\r\n--" + (boundary[1] or boundary[2]).encode("ascii", "replace")
        for part in (b"\r\n" + body).split(mark, MAX_PARTS)[1:]:
            if part.startswith(b"--"):
                break
            found = _attached(part.partition(b"\r\n")[2], levels - 1)
            if found is not None:
                return found
    if media_type not in _TYPES:
        return None
    encoding = (section.first("Content-Transfer-Encoding") or b"7bit").decode("ascii", "replace").lower()
    if encoding not in _DECODERS:
        raise ReportError(f"unknown transfer encoding {encoding}")
    try:
        return _Attached(_DECODERS[encoding](body), _TYPES[media_type])
    except binascii.Error as error:
        raise ReportError(f"invalid {encoding}: {error}") from None
