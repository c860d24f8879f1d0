"""Delivery status notifications, and reports about TLS and DMARC. Pure: no I/O and no clock; DNS is a port."""

from ironpost.reports.dsn import Failure, failure_report, report_envelope

__all__ = ["Failure", "failure_report", "report_envelope"]
