"""`dmarc report` and `dmarc show`: what others report about our domains, and how the commands show it."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from typing import TYPE_CHECKING

import pytest
import typer
from tests.reports.dmarc_kit import FAILING, FAILURE_MESSAGE, PASSING, POLICY, RECEIVED, REPORT

from ironpost.cli import dmarc_reports
from ironpost.cli.app import CommandError
from ironpost.reports.dmarc.report import Reason, encoded
from ironpost.storage.sqlite.received_reports import REPORTS_FILE, ReportSender, add, add_failure

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A configuration with received reports, one of them authenticated."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    now = time.time()
    add(data, REPORT, ReportSender("b.example", True), now)
    add(data, REPORT._replace(rows=((PASSING, 1),)), ReportSender("b.example", False), now)
    other = REPORT._replace(policy=POLICY._replace(domain="b.example"), rows=((PASSING, 1),))
    add(data, other, ReportSender("b.example", False), now - 40 * 86_400)
    file = tmp_path / "ironpost.toml"
    file.write_text(f'data = "{data}"\n')
    return file


def run(configuration: Path, domain: str = "", days: int = 30, *, as_json: bool = False) -> int:
    try:
        dmarc_reports.summarise(configuration, domain, days, as_json=as_json)
    except typer.Exit as end:
        return end.exit_code
    return 0


def test_all_domains(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(configuration) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.example: 4 passed, 2 failed; 2 reports (1 authenticated) from 1 organization, "
        "2023-11-14T00:00:00Z to 2023-11-14T23:59:59Z",
    ]
    assert run(configuration, days=90) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["a.example", "b.example"]


def test_the_sources_of_one_domain(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(configuration, "A.example") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  FAIL 2 from 2001:db8::1  dkim fail, spf fail, none, From news.a.example",
        "  pass 4 from 192.0.2.1  dkim fail, spf pass, pass, From a.example (1 in reports that are not authenticated)",
    ]


def test_json(configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(configuration, "a.example", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    (domain,) = found["domains"]
    assert (domain["domain"], domain["passed"], domain["start"]) == ("a.example", 4, "2023-11-14T00:00:00Z")
    assert [(each["messages"], each["authenticated"]) for each in found["sources"]] == [(2, 2), (4, 3)]


def test_no_reports(tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(configuration, "c.example") == 66
    (tmp_path / "data" / REPORTS_FILE).unlink()
    assert run(configuration) == 66
    with configuration.open("a") as file:
        file.write('[[local.delivery]]\nrecipients = ["dmarc@a.example"]\ndmarc_reports = {}\n')
    assert run(configuration) == 66
    unread = "no reports: no [[local.delivery]] has dmarc_reports, which reads them"
    assert capsys.readouterr().out.splitlines() == [unread, unread, "no reports"]


def test_failure_reports_are_counted_and_listed_for_one_domain(
    tmp_path: Path, configuration: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = RECEIVED._replace(id="2", domain="c.example", ip="", organization="x\x1b", sender="x\x1b", incidents=1)
    for failure in (RECEIVED, hostile):
        add_failure(tmp_path / "data", failure, ReportSender("b.example", False), time.time())
    assert run(configuration) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["2 failure reports; give a domain to list them"]
    assert run(configuration, "a.example") == 0
    *_, line = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"  failure 7 from 192\.0\.2\.1  dmarc, sender <news@a\.example>, From a\.example, \S+Z"
        r" by ours\.example \(not authenticated\)",
        line,
    )
    assert run(configuration, "c.example") == 0, "there is no aggregate report"
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("  failure 1 from an unknown client  dmarc, sender <x\\x1b>, From c.example, ")
    assert line.isprintable()
    assert run(configuration, "a.example", as_json=True) == 0
    (found,) = json.loads(capsys.readouterr().out)["failures"]
    assert (found["kind"], found["incidents"], found["received"][-1]) == ("dmarc", 7, "Z")


@pytest.mark.parametrize(
    ("domain", "days", "why"), [("a..b", 30, "domain name"), ("", 0, "1 to 90"), ("", 91, "1 to 90")]
)
def test_invalid_requests(configuration: Path, domain: str, days: int, why: str) -> None:
    with pytest.raises(CommandError, match=why) as caught:
        run(configuration, domain, days)
    assert caught.value.code == 64


def test_a_file_that_cannot_be_read(tmp_path: Path, configuration: Path) -> None:
    (tmp_path / "data" / REPORTS_FILE).write_bytes(b"no database" * 100)
    with pytest.raises(CommandError, match="cannot be read"):
        run(configuration)


# -- show -------------------------------------------------------------------------------------------------------------


def test_a_received_report_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.xml.gz"
    file.write_bytes(gzip.compress(encoded(REPORT)))
    dmarc_reports.show(str(file), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "from       Ours Ltd (dmarc@ours.example)",
        "period     2023-11-14T00:00:00Z to 2023-11-14T23:59:59Z",
        "report     19675.a.example@ours.example",
        "policy     reject, published by a.example",
        "pass 3 from 192.0.2.1  dkim fail, spf pass, pass, From a.example",
        "  dkim     fail a.example s1",
        "  spf      pass a.example",
        "FAIL 2 from 2001:db8::1  dkim fail, spf fail, none, From news.a.example",
        "  because  mailing_list: arc=pass of lists.example",
        "  because  other",
    ]
    dmarc_reports.show(str(file), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["policy"]["domain"] == "a.example"
    assert [each["messages"] for each in found["rows"]] == [3, 2]
    assert found["rows"][1]["reasons"][0] == {"type": "mailing_list", "comment": "arc=pass of lists.example"}
    assert found["rows"][0]["dkim_results"] == [{"domain": "a.example", "selector": "s1", "result": "fail"}]


def test_r20_a_received_report_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "x\x85\u202ey"
    row = FAILING._replace(author=hostile, disposition=hostile, reasons=(Reason(hostile, hostile),))
    xml = encoded(REPORT._replace(organization="HOSTILE", error="HOSTILE", rows=((row, 1),))).decode()
    file = tmp_path / "report.xml"
    escaped = hostile.encode("unicode_escape").decode()
    file.write_bytes(xml.replace("HOSTILE", hostile).replace(escaped, hostile).encode())
    dmarc_reports.show(str(file), as_json=False)
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.split("\n"))
    assert printed.count(escaped) == 6


def test_r20_a_failure_report_is_shown_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "message"
    file.write_bytes(FAILURE_MESSAGE.replace(b"other/1", b"other/1 \x1b\xe2\x80\xae"))
    dmarc_reports.show(str(file), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["from       ours.example", "Feedback-Type: auth-failure", "Version: 1"]
    assert "User-Agent: other/1 \\x1b\\u202e" in lines
    dmarc_reports.show(str(file), as_json=True)
    assert json.loads(capsys.readouterr().out)["domain"] == "a.example"


def test_a_report_is_read_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encoded(REPORT))))
    dmarc_reports.show("-", as_json=False)
    assert "19675.a.example@ours.example" in capsys.readouterr().out


def test_files_without_a_report_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "message"
    with pytest.raises(CommandError, match="No such file") as missing:
        dmarc_reports.show(str(file), as_json=False)
    assert missing.value.code == 66
    file.write_bytes(b"Subject: x\n\nwords\n")
    with pytest.raises(CommandError, match="neither a report") as other:
        dmarc_reports.show(str(file), as_json=False)
    assert other.value.code == 1
