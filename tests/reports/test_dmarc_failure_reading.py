"""Failure reports of others: what is read, and what is not one."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reports.dmarc_kit import FAILED, FAILURE_MESSAGE, MIDNIGHT, RECEIVED, RECORD

from ironpost.model import Address
from ironpost.reports.dmarc.failure import failure_of
from ironpost.reports.dmarc.failure_mail import message
from ironpost.reports.dmarc.failure_reading import MAX_FIELDS, MAX_INCIDENTS, MAX_OCTETS, MAX_TEXT, ReceivedFailure
from ironpost.reports.dmarc.received import read
from ironpost.reports.received import ReportError


def failure_in(octets: bytes) -> ReceivedFailure:
    """The failure report in a message."""
    found, header = read(octets)
    assert isinstance(found, ReceivedFailure)
    assert header.first("Content-Type") is not None, "it is the header section of the message"
    return found


def test_the_fields_of_a_report() -> None:
    found = failure_in(FAILURE_MESSAGE)
    assert found._replace(fields=()) == RECEIVED
    assert dict(found.fields)["Authentication-Results"] == "mx.ours.example;  dmarc=fail header.from=a.example"
    assert failure_in(FAILURE_MESSAGE.replace(b"\n", b"\r\n")) == found


def test_a_report_of_ours_is_read() -> None:
    evaluation = replace(
        FAILED, ip="2001:db8::1", answer=replace(FAILED.answer, record=replace(RECORD, failure=("x:",)))
    )
    failure = failure_of(evaluation)
    assert failure is not None
    contact, to = Address.parse("dmarc@ours.example"), [Address.parse("x@a.example")]
    octets = message(failure, to, contact=contact, host="mx", incidents=7, now=MIDNIGHT, token="1", key=b"k")
    found = failure_in(octets)
    assert found._replace(fields=()) == RECEIVED._replace(ip="2001:db8::1")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"auth-failure", b"abuse", "a feedback report of the type 'abuse'"),
        (b"Feedback-Type: auth-failure\n", b"", "a feedback report of the type ''"),
        (b"Reported-Domain: A.example\n", b"", "Reported-Domain: '' is not a domain name"),
        (b"A.example\n", b"a..example\n", "Reported-Domain"),
    ],
)
def test_other_reports_are_refused(old: bytes, new: bytes, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        failure_in(FAILURE_MESSAGE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"Source-IP: 192.0.2.1", b"Source-IP: nowhere", RECEIVED._replace(ip="")),
        (b"Source-IP: 192.0.2.1", b"Source-IP: [IPv6:::1]", RECEIVED._replace(ip="::1")),
        (b"Incidents: 7", b"Incidents: 0", RECEIVED._replace(incidents=1)),
        (b"Incidents: 7", b"Incidents: \xc2\xb2", RECEIVED._replace(incidents=1)),
        (b"Incidents: 7", b"Incidents: " + b"9" * 2000, RECEIVED._replace(incidents=MAX_INCIDENTS)),
        (b"From: <dmarc@ours.example>", b"From: a@b.example, c@d.example", RECEIVED._replace(organization="")),
    ],
)
def test_what_is_invalid_beside_the_domain_is_as_if_absent(old: bytes, new: bytes, expected: object) -> None:
    found = failure_in(FAILURE_MESSAGE.replace(old, new, 1))
    assert found._replace(fields=()) == expected


def test_a_report_without_a_message_id_has_the_digest_of_its_fields() -> None:
    without = FAILURE_MESSAGE.replace(b"Message-ID: <1@ours.example>\n", b"")
    first, second = failure_in(without), failure_in(without.replace(b"192.0.2.1", b"192.0.2.2"))
    assert first.id != second.id
    assert len(first.id) == 64


def test_a_message_without_a_feedback_report_is_not_a_failure_report() -> None:
    with pytest.raises(ReportError, match="neither a report nor a message with one"):
        read(b"Subject: x\n\nwords\n")


def test_r23_what_is_read_is_limited() -> None:
    many = b"".join(b"X-%d: %s\n" % (number, b"x" * 600) for number in range(MAX_FIELDS))
    found = failure_in(FAILURE_MESSAGE.replace(b"Incidents: 7\n", many))
    assert len(found.fields) == MAX_FIELDS
    found = failure_in(FAILURE_MESSAGE.replace(b"Incidents: 7\n", b"X: %s\nIncidents: 7\n" % (b"x" * MAX_OCTETS)))
    assert found.fields[-1] == ("X", "x" * MAX_TEXT)
    assert found.incidents == 1, "what follows the first octets is not read"


@given(st.binary(max_size=500), st.integers(0, len(FAILURE_MESSAGE)), st.integers(0, 50))
def test_r22_any_octets_are_read_or_refused(octets: bytes, at: int, skipped: int) -> None:
    with suppress(ReportError):
        read(FAILURE_MESSAGE[:at] + octets + FAILURE_MESSAGE[at + skipped :])
