"""Aggregate reports about DMARC: their XML, against two other implementations, and their message."""

from __future__ import annotations

import os
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.reports.dmarc_kit import FAILING, MIDNIGHT, PASSING, POLICY, REPORT

from ironpost.mail_auth.dmarc_record import parse_record
from ironpost.message.header import HeaderError
from ironpost.model import Address
from ironpost.reports.dmarc import mail
from ironpost.reports.dmarc.reading import decoded
from ironpost.reports.dmarc.report import (
    NAMESPACE,
    TEXT,
    DkimResult,
    Reason,
    Report,
    Row,
    SpfResult,
    compressed,
    encoded,
    filename,
    published,
)

TO = Address.parse("dmarc@a.example")


def schema() -> Any:
    """The schema of RFC 9990, from the package `dmarc`."""
    if not os.environ.get("CI"):
        pytest.importorskip("xmlschema", reason="xmlschema is not installed: pip install '.[test]'")
    from dmarc.report import DMARC2Schema

    return DMARC2Schema


def test_the_elements_of_a_report() -> None:
    root = ElementTree.fromstring(encoded(REPORT))
    names = {"": NAMESPACE}
    assert root.tag == f"{{{NAMESPACE}}}feedback"
    assert root.findtext("version", namespaces=names) == "1.0"
    assert root.findtext("report_metadata/org_name", namespaces=names) == "Ours Ltd"
    assert root.findtext("report_metadata/email", namespaces=names) == "dmarc@ours.example"
    assert root.findtext("report_metadata/date_range/end", namespaces=names) == str(int(MIDNIGHT) + 86_399)
    assert root.find("report_metadata/error", names) is None
    policy = root.find("policy_published", names)
    assert policy is not None
    assert {each.tag.rpartition("}")[2]: each.text for each in policy} == {
        "domain": "a.example",
        "discovery_method": "treewalk",
        "p": "reject",
        "sp": "quarantine",
        "np": "quarantine",
        "fo": "0",
        "adkim": "r",
        "aspf": "s",
        "testing": "n",
    }
    passing, failing = root.findall("record", names)
    assert passing.findtext("row/count", namespaces=names) == "3"
    assert passing.findtext("auth_results/dkim/selector", namespaces=names) == "s1"
    assert passing.findtext("auth_results/spf/scope", namespaces=names) == "mfrom"
    assert [each.text for each in failing.findall("row/policy_evaluated/reason/type", names)] == [
        "mailing_list",
        "other",
    ]
    assert failing.findtext("identifiers/envelope_from", namespaces=names) == "", "a null reverse-path is empty"


def test_the_schema_accepts_reports() -> None:
    for report in (REPORT, REPORT._replace(error="rows are missing", rows=((FAILING._replace(sender=None), 1),))):
        schema().validate(encoded(report).decode())


def test_the_schema_refuses_other_values() -> None:
    wrong = REPORT._replace(policy=POLICY._replace(policy="maybe"))
    assert not schema().is_valid(encoded(wrong).decode())


def test_another_reader_understands_a_report() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("dmarc_report", reason="dmarc-report is not installed: pip install '.[test]'")
    from dmarc_report.parser import DMARCParser

    report = DMARCParser.parse_bytes(compressed(REPORT))
    assert report.format.name == "RFC_9990"
    assert not report.warnings
    assert (report.policy_published.domain, report.policy_published.p.value) == ("a.example", "reject")
    passing, failing = report.records
    assert (passing.source_ip, passing.count, passing.policy_evaluated.spf.value) == ("192.0.2.1", 3, "pass")
    assert (failing.identifiers.header_from, failing.identifiers.envelope_from) == ("news.a.example", "")


text = st.text(st.characters(codec="utf-8"), max_size=30)
rows = st.builds(
    Row,
    text,
    text,
    text,
    text,
    st.lists(st.builds(Reason, text, text), max_size=2).map(tuple),
    text,
    st.none() | text,
    st.lists(st.builds(DkimResult, text, text, text), max_size=2).map(tuple),
    st.lists(st.builds(SpfResult, text, text), max_size=1).map(tuple),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows, text)
def test_r43_any_text_gives_valid_xml(row: Row, error: str) -> None:
    octets = encoded(REPORT._replace(rows=((row, 1),), error=error))
    assert octets.isascii()
    root = ElementTree.fromstring(octets)
    assert {each.tag.rpartition("}")[0] for each in root.iter()} == {"{" + NAMESPACE}
    assert len(root.findall("record", {"": NAMESPACE})) == 1


@given(st.integers(1, 2**32 - 1), st.booleans())
def test_a_report_is_read_as_it_was_written(count: int, testing: bool) -> None:
    policy = POLICY._replace(testing="y" if testing else "n")
    report = REPORT._replace(policy=policy, rows=((PASSING, count), (FAILING, 1)), error="incomplete")
    assert decoded(encoded(report)) == report


def test_long_texts_are_cut_off() -> None:
    report = decoded(encoded(REPORT._replace(organization="x" * 5000)))
    assert report.organization == "x" * TEXT


def test_a_record_is_reported_with_its_defaults() -> None:
    record = parse_record(b"v=DMARC1; p=none; t=y; adkim=s; fo=1:d:s")
    assert published("a.example", record) == ("a.example", "none", "none", "none", "s", "r", "1:d:s", "y")


def test_equal_reports_are_equal_octets() -> None:
    assert compressed(REPORT) == compressed(REPORT)


def test_the_name_of_the_file() -> None:
    assert filename(REPORT) == f"ours.example!a.example!{int(MIDNIGHT)}!{int(MIDNIGHT) + 86_399}.xml.gz"


# -- the message ------------------------------------------------------------------------------------------------------


def read(octets: bytes) -> EmailMessage:
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_message() -> None:
    content = mail.message(REPORT, [TO], now=MIDNIGHT, token="T0KEN")
    assert content.isascii()
    message = read(content)
    assert message["Subject"] == (
        "Report Domain: a.example Submitter: ours.example Report-ID: <19675.a.example@ours.example>"
    )
    assert message["From"] == "dmarc@ours.example"
    assert message["To"] == "dmarc@a.example"
    assert message["Auto-Submitted"] == "auto-generated"
    words, attached = message.iter_parts()
    assert isinstance(words, EmailMessage)
    assert isinstance(attached, EmailMessage)
    assert "3 messages passed DMARC, 2 failed." in words.get_content()
    assert attached.get_content_type() == "application/gzip"
    assert attached.get_filename() == filename(REPORT)
    assert decoded(mail.extracted(attached.get_payload(decode=True)).content) == REPORT


def test_several_recipients() -> None:
    content = mail.message(REPORT, [TO, Address.parse("jö@b.example")], now=MIDNIGHT, token="T0KEN")
    assert "To: <dmarc@a.example>, <jö@b.example>\r\n".encode() in content


@pytest.mark.parametrize("hostile", ["x\r\nBcc: y@a.example", "x\n--dmarc-T0KEN", "ä.example"])
def test_r43_nothing_in_a_report_adds_a_field_or_a_part(hostile: str) -> None:
    changed: list[Report] = [REPORT._replace(id=hostile), REPORT._replace(policy=POLICY._replace(domain=hostile))]
    for report in changed:
        with pytest.raises((HeaderError, UnicodeEncodeError)):
            mail.message(report, [TO], now=MIDNIGHT, token="T0KEN")
