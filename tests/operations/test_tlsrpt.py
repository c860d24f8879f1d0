"""`tlsrpt check`: what is found, what is wrong with it, and how the command shows it."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.operations.command_kit import assert_encodable, checked

from ironpost.cli import input_file, tlsrpt, tlsrpt_reports
from ironpost.cli.app import CommandError
from ironpost.model import Address
from ironpost.operations.operation import OperationError
from ironpost.operations.tlsrpt import CHECK, TlsrptCheck, TlsrptCheckRequest, TlsrptDestination, TlsrptResult
from ironpost.reports.tlsrpt.mail import message
from ironpost.reports.tlsrpt.report import Failure, Policy, PolicyResult, Report, compressed, encoded
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RECORD = b"v=TLSRPTv1; rua=mailto:tls@a.example,https://reports.a.example/"


class Data:
    """A `DataDirectory` whose DNS answers from the test."""

    def __init__(self, resolver: StaticResolver) -> None:
        self._resolver = resolver

    def resolver(self) -> StaticResolver:
        return self._resolver


async def _run(resolver: StaticResolver, domain: str) -> TlsrptCheck:
    data: Any = Data(resolver)
    return await CHECK.run(data, TlsrptCheckRequest(domain))


def check(records: Sequence[bytes] = (RECORD,), failing: Sequence[str] = (), domain: str = "A.example") -> TlsrptCheck:
    resolver = StaticResolver(txt={"_smtp._tls.a.example": records}, failing=failing)
    found = asyncio.run(_run(resolver, domain))
    assert_encodable(found)
    return found


def test_a_good_record() -> None:
    assert check() == TlsrptCheck(
        "a.example",
        TlsrptResult.GOOD,
        (RECORD.decode(),),
        (TlsrptDestination("mailto:tls@a.example", "mail"), TlsrptDestination("https://reports.a.example/", "https")),
        (),
    )


def test_an_internationalised_domain_is_looked_up_by_its_a_labels() -> None:
    resolver = StaticResolver(txt={"_smtp._tls.xn--bcher-kva.example": [RECORD]})
    found = asyncio.run(_run(resolver, "bücher.example"))
    assert (found.domain, found.result) == ("xn--bcher-kva.example", TlsrptResult.GOOD)


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ((RECORD, RECORD), "2 records"),
        ((b"v=TLSRPTv1",), "no record starts with"),
        ((b"v=TLSRPTv1;\x1b[2J",), "field 1"),
        ((b"v=TLSRPTv1; rua=ftp:x,mailto:tls@a.example",), "ftp:x: neither mailto nor https"),
        ((b"v=TLSRPTv1; rua=,mailto:tls@a.example",), "an empty URI"),
    ],
)
def test_faults_are_named(records: Sequence[bytes], problem: str) -> None:
    found = check(records)
    assert found.result is TlsrptResult.FAULTY
    assert problem in "; ".join(found.problems)


def test_a_domain_without_record() -> None:
    assert check(()).result is TlsrptResult.ABSENT


def test_r27_a_failed_lookup_decides_nothing() -> None:
    found = check(failing=["_smtp._tls.a.example"])
    assert (found.result, found.destinations) == (TlsrptResult.UNKNOWN, ())
    assert "DNS lookup failed" in found.problems[0]


@pytest.mark.parametrize("domain", ["", "[192.0.2.1]", "a b", "\u2488.example"])
def test_other_names_are_refused(domain: str) -> None:
    with pytest.raises(OperationError, match="not a domain"):
        check(domain=domain)


@pytest.mark.parametrize(
    ("options", "code", "last"),
    [
        ({}, 0, "a.example: good"),
        ({"records": ()}, 66, "a.example: no record"),
        ({"records": (b"v=TLSRPTv1;\x1b[2J",)}, 1, "a.example: faulty"),
        ({"failing": ["_smtp._tls.a.example"]}, 75, "a.example: unknown"),
    ],
)
def test_the_command_prints_what_was_found_and_exits_by_result(
    options: dict[str, Any],
    code: int,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = checked(tlsrpt, check(**options), code, last, monkeypatch, capsys)
    if not code:
        assert "reports to mailto:tls@a.example (mail)" in lines


# -- received reports -------------------------------------------------------------------------------------------------

REPORT = Report(
    "Company \x1b[2J",
    "tls@company.example",
    "id\u202e",
    86_400,
    2 * 86_400 - 1,
    (
        PolicyResult(
            Policy("sts", "a.example"),
            5,
            3,
            ((Failure("certificate-expired", "192.0.2.1", "mx.a.example", reason="a\nb"), 2), (Failure("new"), 1)),
        ),
    ),
)


@pytest.mark.parametrize("whole", [encoded(REPORT), compressed(REPORT)])
def test_r20_a_received_report_is_shown_escaped(
    whole: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report"
    file.write_bytes(whole)
    tlsrpt.show(str(file), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "from       Company \\x1b[2J (tls@company.example)",
        "period     1970-01-02T00:00:00Z to 1970-01-02T23:59:59Z",
        "report     id\\u202e",
        "a.example (sts): 5 sessions succeeded, 3 failed",
        "  2 certificate-expired at mx.a.example from 192.0.2.1: a\\nb",
        "  1 new",
    ]
    tlsrpt.show(str(file), as_json=True)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == json.loads(encoded(REPORT))


def test_a_report_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encoded(REPORT))))
    tlsrpt.show("-", as_json=False)
    assert "5 sessions succeeded" in capsys.readouterr().out


def test_files_without_a_report_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report"
    with pytest.raises(CommandError) as missing:
        tlsrpt.show(str(file), as_json=False)
    assert missing.value.code == 66
    file.write_bytes(b'{"organization-name": "x", "contact-info": "x", "report-id": "x"}')
    with pytest.raises(CommandError, match="date-range is not an object") as invalid:
        tlsrpt.show(str(file), as_json=False)
    assert invalid.value.code == 1
    monkeypatch.setattr(input_file, "REPORT_LIMIT", 9)
    with pytest.raises(CommandError, match="more than 9 octets"):
        tlsrpt.show(str(file), as_json=False)


def test_the_reports_in_a_maildir_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = REPORT._replace(id="2", start=2 * 86_400, end=3 * 86_400 - 1)
    other = REPORT._replace(organization="Other", contact="tls@other.example", id="3")
    for number, each in enumerate((REPORT._replace(id="1"), later, later, other)):
        folder = tmp_path / ("new" if number % 2 else "cur")
        folder.mkdir(exist_ok=True)
        to = Address.parse("tls@a.example")
        (folder / str(number)).write_bytes(message(each, "a.example", to, now=0.0, token=str(number)))
    (tmp_path / "new" / "letter").write_bytes(b"Subject: x\r\n\r\nx\r\n")
    tlsrpt_reports.summarise([str(tmp_path)], as_json=False)
    failures = ["  4 certificate-expired at mx.a.example from 192.0.2.1: a\\nb", "  2 new"]
    ours, theirs = "10 sessions succeeded, 6 failed; 2 reports", "5 sessions succeeded, 3 failed; 1 report"
    assert capsys.readouterr().out.splitlines() == [
        f"Company \\x1b[2J about a.example (sts): {ours}, 1970-01-02T00:00:00Z to 1970-01-03T23:59:59Z",
        *failures,
        f"Other about a.example (sts): {theirs}, 1970-01-02T00:00:00Z to 1970-01-02T23:59:59Z",
        "  2 certificate-expired at mx.a.example from 192.0.2.1: a\\nb",
        "  1 new",
    ]
    tlsrpt_reports.summarise([str(tmp_path / "cur" / "0")], as_json=True)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["reports"], found["failures"], found["start"]) == (1, 3, "1970-01-02T00:00:00Z")
    assert found["details"] == {failures[0][4:]: 2, "new": 1}


def test_a_directory_or_file_without_a_report_is_refused(tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_bytes(b"Subject: x\r\n\r\nx\r\n")
    for place, code in ((tmp_path, 66), (letter, 1), (tmp_path / "none", 66)):
        with pytest.raises(CommandError) as refused:
            tlsrpt_reports.summarise([str(place)], as_json=False)
        assert refused.value.code == code
