"""Reports that the system writes itself: what became of a message. Pure: bytes out of values."""

from ironpost.reports.dsn import Failure, failure_report, report_envelope

__all__ = ["Failure", "failure_report", "report_envelope"]
