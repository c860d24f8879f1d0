"""Reads the failure reports about DMARC, DKIM and SPF that others send.

Promises: the memory and time that are used are bounded, whatever a report contains (SECURITY R23). The reported message
is not read.
Refuses: a feedback report about another thing, such as spam, and one that names no domain, with `ReportError`.
Standards: RFC 5965 §3 (fields), RFC 6591 §3.1.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.mail_auth.dmarc import author_domain
from ironpost.mail_auth.names import normalised
from ironpost.message.section import Header
from ironpost.model.network import parse_ip
from ironpost.reports.mime import lines_of
from ironpost.reports.received import ReportError
from ironpost.wire import unfold

if TYPE_CHECKING:
    from ironpost.reports.received import AttachedFile

MAX_OCTETS: Final = 65_536
"""Octets of the fields of a report that are read."""
MAX_FIELDS: Final = 100
"""Fields of a report that are read."""
MAX_TEXT: Final = 1000
"""Characters of one of them that are read."""
MAX_INCIDENTS: Final = 2**32 - 1

TYPE: Final = "message/feedback-report"
"""The media type of the part with the fields."""


class ReceivedFailure(NamedTuple):
    """One failure report."""

    organization: str
    """The domain of its author; empty if there is not exactly one."""
    id: str
    """Its Message-ID, or a digest of its fields."""
    domain: str
    """The domain that the report is about, in A-labels and lower case."""
    kind: str
    """What failed: `dmarc`, `signature`, `spf` or another value of Auth-Failure."""
    ip: str
    """The client that the message came from; empty if the report does not say."""
    sender: str
    """The reverse-path of the message; empty if the report does not say."""
    incidents: int
    """The number of messages that the report stands for."""
    fields: tuple[tuple[str, str], ...]
    """All fields of the report, with their names."""


def failure_in(part: AttachedFile) -> ReceivedFailure:
    """Return the failure report in a part of the media type `TYPE`.

    Raises:
        ReportError: it is another feedback report, or an invalid one.
    """
    read = Header(lines_of(part.content.lstrip(b"\r\n")[:MAX_OCTETS]))
    fields = tuple(
        (each.name, unfold(read.octets[each.value : each.end]).decode("utf-8", "replace").strip()[:MAX_TEXT])
        for each in read.section.fields[:MAX_FIELDS]
    )
    values = {name.lower(): value for name, value in reversed(fields)}  # the first of a name counts
    if (kind := values.get("feedback-type", "").lower()) != "auth-failure":
        raise ReportError(f"a feedback report of the type {kind!a}")
    try:
        domain = normalised(values.get("reported-domain", ""))
    except ValueError as error:
        raise ReportError(f"Reported-Domain: {error}") from None
    address = parse_ip(values.get("source-ip", "").strip("[]").removeprefix("IPv6:"))
    incidents = values.get("incidents", "")
    return ReceivedFailure(
        _organization(part.header),
        (part.header.first("Message-ID") or sha256(part.content).hexdigest().encode()).decode("utf-8", "replace")[
            :MAX_TEXT
        ],
        domain,
        values.get("auth-failure", "").lower(),
        "" if address is None else str(address),
        values.get("original-mail-from", "").removeprefix("<").removesuffix(">"),
        min(max(int(incidents), 1), MAX_INCIDENTS) if incidents.isascii() and incidents.isdecimal() else 1,
        fields,
    )


def _organization(header: Header) -> str:
    try:
        return author_domain(header)
    except ValueError:
        return ""
