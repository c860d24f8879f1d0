"""Every `RFC nnnn §x` that the code cites exists in that RFC."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ROOT.parent / "shared" / "rfc"
CITED = re.compile(r"RFC (\d{3,5}),? (?:§|section )(\d+(?:\.\d+)*)")


def citations() -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for folder, suffixes in (
        ("python", {".py", ".pyi"}),
        ("src", {".rs"}),
        ("tests", {".py", ".toml", ".rs"}),
        ("docs", {".md"}),
    ):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "architecture" not in path.parts:
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    for rfc, section in CITED.findall(line):
                        found.setdefault((rfc, section), f"{path.relative_to(ROOT)}:{number}")
    return found


@functools.cache
def sections(rfc: str) -> frozenset[str]:
    """The section numbers that stand at the start of a line of the RFC."""
    path = TEXTS / f"rfc{rfc}.txt"
    if not path.is_file():
        return frozenset()
    return frozenset(
        match[1].rstrip(".")
        for match in re.finditer(r"^ {0,6}(\d+(?:\.\d+)*\.?)(?:\s|$)", path.read_text(errors="replace"), re.M)
    )


def standards() -> list[tuple[str, str]]:
    """Every RFC and section of the tables in docs/standards.md."""
    smtp, others = (ROOT / "docs" / "standards.md").read_text().split("## Others")
    rows = [("5321", row) for row in re.findall(r"^\| (\d[\d., to]*) \|", smtp, re.M)]
    rows += re.findall(r"^\| (\d+) \| ([^|]+) \|", others, re.M)
    return [(rfc, section) for rfc, row in rows for section in re.findall(r"\d+(?:\.\d+)*", row)]


def test_the_code_cites_rfcs() -> None:
    assert len(citations()) > 10


@pytest.mark.skipif(not TEXTS.is_dir(), reason="the RFC texts do not stand beside this clone")
def test_every_cited_section_exists() -> None:
    missing = [
        f"{where}: RFC {rfc} §{section}"
        for (rfc, section), where in citations().items()
        if (TEXTS / f"rfc{rfc}.txt").is_file() and section not in sections(rfc)
    ]
    assert missing == []


@pytest.mark.skipif(not TEXTS.is_dir(), reason="the RFC texts do not stand beside this clone")
def test_every_cited_rfc_is_at_hand_but_those_named_here() -> None:
    # DNS, IP addresses, timestamps, channel bindings, SASLprep, X.509, TLS: cited for one fact each. LIMITS and
    # DMARC are younger than the collection.
    elsewhere = {"1034", "1035", "2308", "3339", "3454", "4013", "4291", "5929", "6761", "9422", "9989", "9990", "9991"}
    elsewhere |= {"6585", "9112"}  # HTTP/1.1
    elsewhere |= {"3720", "3986", "4514", "5280", "5890", "6890", "8446"}
    assert {rfc for rfc, _ in citations() if not (TEXTS / f"rfc{rfc}.txt").is_file()} <= elsewhere


@pytest.mark.skipif(not TEXTS.is_dir(), reason="the RFC texts do not stand beside this clone")
def test_every_section_of_the_support_table_exists() -> None:
    listed = standards()
    assert len(listed) > 60
    assert [(rfc, section) for rfc, section in listed if section not in sections(rfc)] == []
