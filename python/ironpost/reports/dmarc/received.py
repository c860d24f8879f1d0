"""The reports about DMARC that others send, of both kinds.

Promises: a message is searched once, for the first file that can be a report.
Refuses: what is not a report, with `ReportError`.
Standards: RFC 9990 §3.5.2 (aggregate reports), RFC 6591 §3 (failure reports).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.reports.dmarc import failure_reading, mail
from ironpost.reports.dmarc.reading import decoded

if TYPE_CHECKING:
    from ironpost.message.section import Header
    from ironpost.reports.dmarc.failure_reading import ReceivedFailure
    from ironpost.reports.dmarc.report import Report


def read(octets: bytes) -> tuple[Report | ReceivedFailure, Header]:
    """Return the report in a file, and the header section of the message in it; an empty one if it is not a message.

    Args:
        octets: of an aggregate report, compressed or not, or of a message that has a report.

    Raises:
        ReportError: the file has no report, or one that is not valid or exceeds a limit.
    """
    file = mail.extracted(octets, failure_reading.TYPE)
    report = failure_reading.failure_in(file) if file.media_type == failure_reading.TYPE else decoded(file.content)
    return report, file.header
