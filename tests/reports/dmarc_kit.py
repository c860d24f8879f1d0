"""Evaluations of DMARC and a report, for tests."""

from __future__ import annotations

from dataclasses import replace

from ironpost.mail_auth import (
    Authenticated,
    DkimAnswer,
    DkimResult,
    DmarcAnswer,
    DmarcEvaluation,
    DmarcPolicy,
    DmarcResult,
    SpfAnswer,
    SpfResult,
)
from ironpost.mail_auth.dmarc_record import parse_record
from ironpost.model import Address
from ironpost.reports import daily
from ironpost.reports.dmarc import report
from ironpost.reports.dmarc.failure_reading import ReceivedFailure

MIDNIGHT = 19_675 * float(daily.DAY)
RECORD = parse_record(b"v=DMARC1; p=reject; sp=quarantine; aspf=s; rua=mailto:dmarc@a.example")
SPF = SpfAnswer(SpfResult.PASS, "192.0.2.1 matches", "a.example", "mailfrom")

PASSED = DmarcEvaluation(
    "192.0.2.1",
    Address("news", "a.example"),
    DmarcAnswer(
        DmarcResult.PASS,
        "spf of a.example confirms a.example",
        "a.example",
        DmarcPolicy.NONE,
        (Authenticated("spf", "a.example"),),
        "a.example",
        RECORD,
    ),
    SPF,
    (DkimAnswer(DkimResult.FAIL, "the body does not match its hash", "a.example", "s1", identity="@a.example"),),
    DmarcPolicy.NONE,
)
FAILED = replace(
    PASSED,
    answer=replace(PASSED.answer, result=DmarcResult.FAIL, policy=DmarcPolicy.REJECT, alignment=()),
    spf=replace(SPF, result=SpfResult.FAIL),
    disposition=DmarcPolicy.REJECT,
)
"""The same message when nothing is aligned, and it was refused."""

POLICY = report.published("a.example", RECORD)
PASSING = report.Row(
    "192.0.2.1",
    "pass",
    "fail",
    "pass",
    (),
    "a.example",
    "a.example",
    (report.DkimResult("a.example", "s1", "fail"),),
    (report.SpfResult("a.example", "pass"),),
)
FAILING = report.Row(
    "2001:db8::1",
    "none",
    "fail",
    "fail",
    (report.Reason("mailing_list", "arc=pass of lists.example"), report.Reason("other")),
    "news.a.example",
    "",
)
REPORT = report.Report(
    "Ours Ltd",
    "dmarc@ours.example",
    "19675.a.example@ours.example",
    int(MIDNIGHT),
    int(MIDNIGHT) + daily.DAY - 1,
    POLICY,
    ((PASSING, 3), (FAILING, 2)),
)
RECEIVED = ReceivedFailure(
    "ours.example", "<1@ours.example>", "a.example", "dmarc", "192.0.2.1", "news@a.example", 7, ()
)
"""A failure report."""
FAILURE_MESSAGE = b"""From: <dmarc@ours.example>
Message-ID: <1@ours.example>
Content-Type: multipart/report; report-type=feedback-report; boundary="x"

--x
Content-Type: text/plain

This is an authentication failure report.
--x
Content-Type: message/feedback-report

Feedback-Type: auth-failure
Version: 1
User-Agent: other/1
Auth-Failure: dmarc
Authentication-Results: mx.ours.example;
  dmarc=fail header.from=a.example
Reported-Domain: A.example
Source-IP: 192.0.2.1
Original-Mail-From: <news@a.example>
Incidents: 7
--x
Content-Type: text/rfc822-headers

From: ada@a.example
--x--
"""
"""It as a message."""
