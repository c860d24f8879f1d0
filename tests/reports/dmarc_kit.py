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
