"""One aggregate report about DMARC: its XML form, compression and file name.

Promises: what is written conforms to the schema, whatever the values are: other characters than printable ASCII are
escaped, and texts are cut off at `TEXT` characters (SECURITY R43).
Standards: RFC 9990 §3.1.1 (elements), §3.5.2 (file name), appendix A (schema).
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Final, NamedTuple
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from ironpost.model.text import escape

if TYPE_CHECKING:
    from ironpost.mail_auth import DmarcRecord

NAMESPACE: Final = "urn:ietf:params:xml:ns:dmarc-2.0"
TEXT: Final = 1000
"""Characters of a text that is written."""


class DkimResult(NamedTuple):
    """The result of one signature, whether it is aligned or not."""

    domain: str
    selector: str
    result: str


class SpfResult(NamedTuple):
    """The result of SPF, whether it is aligned or not."""

    domain: str
    result: str


class Reason(NamedTuple):
    """Why another policy was applied than the published one."""

    type: str
    """An `OverrideType`, or one that is not known here."""
    comment: str = ""


class Row(NamedTuple):
    """What messages that are counted together have in common."""

    ip: str
    """The address of the client."""
    disposition: str
    """What was done: `none`, `pass`, `quarantine` or `reject`."""
    dkim: str
    """`pass` if a valid signature is aligned, else `fail`."""
    spf: str
    """The same for SPF."""
    reasons: tuple[Reason, ...]
    author: str
    """The domain in From."""
    sender: str | None = None
    """The domain of the reverse-path; empty if that was null, None if the report does not say."""
    dkim_results: tuple[DkimResult, ...] = ()
    spf_results: tuple[SpfResult, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the messages passed DMARC."""
        return "pass" in {self.dkim, self.spf}


class PublishedPolicy(NamedTuple):
    """The record that applied; a member is empty if the report does not say."""

    domain: str
    """Where it is published."""
    policy: str
    subdomains: str = ""
    nonexistent: str = ""
    dkim_alignment: str = ""
    """`r` or `s`."""
    spf_alignment: str = ""
    failure_options: str = ""
    testing: str = ""
    """`y` or `n`."""


class Report(NamedTuple):
    """One report."""

    organization: str
    contact: str
    """Usually a mail address; reports are submitted in the name of its domain."""
    id: str
    start: int
    """The first second of the period, since 1970."""
    end: int
    """The last second of the period."""
    policy: PublishedPolicy
    rows: tuple[tuple[Row, int], ...]
    """With the number of messages of each."""
    error: str = ""
    """What went wrong, for the owner of the domain."""

    @property
    def domain(self) -> str:
        """The domain that the report is about."""
        return self.policy.domain

    @property
    def submitter(self) -> str:
        """The domain of `contact` (RFC 9990 §3.5.2)."""
        return self.contact.rpartition("@")[2]

    @property
    def passed(self) -> int:
        """Messages that passed DMARC."""
        return sum(count for row, count in self.rows if row.passed)

    @property
    def failed(self) -> int:
        """Messages that failed DMARC."""
        return sum(count for row, count in self.rows if not row.passed)


def published(domain: str, record: DmarcRecord) -> PublishedPolicy:
    """Return a record as it is reported, with the defaults of absent tags."""
    return PublishedPolicy(
        domain,
        record.policy,
        record.subdomains,
        record.nonexistent,
        "s" if record.strict_dkim else "r",
        "s" if record.strict_spf else "r",
        ":".join(sorted(record.failure_options)),
        "y" if record.testing else "n",
    )


def encoded(report: Report) -> bytes:
    """Return a report, which has at least one row, as XML."""
    root = Element("feedback", xmlns=NAMESPACE)
    _add(root, "version", "1.0")
    _metadata(SubElement(root, "report_metadata"), report)
    _policy(SubElement(root, "policy_published"), report.policy)
    for row, count in report.rows:
        _record(SubElement(root, "record"), row, count)
    indent(root, " ")
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def compressed(report: Report) -> bytes:
    """Return a report as XML that is compressed with gzip; equal reports give equal octets."""
    return gzip.compress(encoded(report), mtime=0)


def filename(report: Report) -> str:
    """Return the name of the file with a compressed report (RFC 9990 §3.5.2)."""
    return f"{report.submitter}!{report.policy.domain}!{report.start}!{report.end}.xml.gz"


def _metadata(parent: Element, report: Report) -> None:
    _add(parent, "org_name", report.organization)
    _add(parent, "email", report.contact)
    _add(parent, "report_id", report.id)
    period = SubElement(parent, "date_range")
    _add(period, "begin", str(report.start))
    _add(period, "end", str(report.end))
    _add(parent, "error", report.error, optional=True)
    _add(parent, "generator", "ironpost")


def _policy(parent: Element, policy: PublishedPolicy) -> None:
    _add(parent, "domain", policy.domain)
    _add(parent, "discovery_method", "treewalk")
    _add(parent, "p", policy.policy)
    _add(parent, "sp", policy.subdomains, optional=True)
    _add(parent, "np", policy.nonexistent, optional=True)
    _add(parent, "fo", policy.failure_options, optional=True)
    _add(parent, "adkim", policy.dkim_alignment, optional=True)
    _add(parent, "aspf", policy.spf_alignment, optional=True)
    _add(parent, "testing", policy.testing, optional=True)


def _record(parent: Element, row: Row, count: int) -> None:
    described = SubElement(parent, "row")
    _add(described, "source_ip", row.ip)
    _add(described, "count", str(count))
    evaluated = SubElement(described, "policy_evaluated")
    _add(evaluated, "disposition", row.disposition)
    _add(evaluated, "dkim", row.dkim)
    _add(evaluated, "spf", row.spf)
    for reason in row.reasons:
        why = SubElement(evaluated, "reason")
        _add(why, "type", reason.type)
        _add(why, "comment", reason.comment, optional=True)
    identifiers = SubElement(parent, "identifiers")
    _add(identifiers, "header_from", row.author)
    if row.sender is not None:
        _add(identifiers, "envelope_from", row.sender)
    results = SubElement(parent, "auth_results")
    for signature in row.dkim_results:
        found = SubElement(results, "dkim")
        _add(found, "domain", signature.domain)
        _add(found, "selector", signature.selector)
        _add(found, "result", signature.result)
    for spf in row.spf_results:
        found = SubElement(results, "spf")
        _add(found, "domain", spf.domain)
        _add(found, "scope", "mfrom")
        _add(found, "result", spf.result)


def _add(parent: Element, name: str, text: str, *, optional: bool = False) -> None:
    if text or not optional:
        SubElement(parent, name).text = escape(text[:TEXT], ascii_only=True)
