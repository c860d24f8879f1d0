"""Reports: of the fate of messages (delivery status notifications), of TLS and of DMARC. Pure: no I/O and no clock."""

from ironpost.reports.dsn import Failure, failure_report, report_envelope

__all__ = ["Failure", "failure_report", "report_envelope"]
