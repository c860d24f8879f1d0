"""Documents are true: their links resolve, the tour names what exists, examples run where a test can run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from tests.architecture import security_tests

from ironpost.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benches").glob("*.md"),
        *(ROOT / "tests").rglob("*.md"),
    ]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    broken = []
    for target in LINK.findall(document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in _anchors(path)):
            broken.append(target)
    assert broken == []


def _anchors(path: Path) -> set[str]:
    """The anchors that headings get: lower case, punctuation dropped, spaces to hyphens."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_tour_follows_the_path_of_a_message_through_every_tier() -> None:
    named = set(re.findall(r"\.\./python/ironpost/(\w+)", (ROOT / "docs" / "tour.md").read_text()))
    assert {
        "wire",
        "protocol",
        "message",
        "policy",
        "queue",
        "routing",
        "reports",
        "server",
        "delivery",
        "storage",
        "mta",
    } <= named


def test_every_security_number_has_a_row_and_every_one_that_is_done_has_a_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| R(\d+) \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", text, re.M)
    assert [int(number) for number, _, _ in rows] == list(range(1, 57))
    sections = set(re.findall(r"^## R(\d+)$", security_tests.PAGE.read_text(), re.M))
    for number, state, tests in rows:
        kept = state.startswith(("done", "partly"))
        assert kept or state.startswith("not yet"), f"R{number}"
        assert tests == (f"[tests](security-tests.md#r{number})" if kept else "-"), f"R{number}"
        assert (number in sections) == kept, f"R{number}"
    assert absent(text) == []


def test_the_page_of_security_tests_is_current() -> None:
    assert security_tests.PAGE.read_text() == security_tests.page(), (
        "docs/security-tests.md is out of date: run `python -m tests.architecture.security_tests`"
    )


def absent(row: str) -> list[str]:
    """The tests that a text names and that do not exist."""
    found = []
    for path, name in re.findall(r"`(tests/[\w/.-]+\.(?:py|rs))(?:::(\w+))?`", row):
        file = ROOT / path
        if not file.is_file() or (name and not re.search(rf"\b(?:def|fn) {name}\b", file.read_text())):
            found.append(f"{path}::{name}")
    return found


ADVISORIES = {
    1: "CVE-2023-51764 CVE-2023-51765 CVE-2023-51766 CVE-2023-51747 CVE-2024-27305 Haraka#3268 PR#246 python-slimta "
    "21Nails Stalwart CVE-2026-45185 PR#60 GHSA-r553 GHSA-w878",
    2: "CVE-2011-0411 CVE-2024-34083 STARTTLS GHSA-vxj7-4xrp-5vr4 CVE-2016-0772 GHSA-3588-2mr7-vrcm CVE-2026-41016 "
    "CVE-2026-49267 CVE-2026-41132",
    3: "GHSA-v3q9-hj7j-63hq cpython#87290 CVE-2026-43964 CVE-2020-8794",
    4: "CVE-2019-15846 CVE-2019-16928 CVE-2020-28007 CVE-2020-28026 CVE-2021-27216 CVE-2023-42114 CVE-2023-42115 "
    "CVE-2023-42116 CVE-2023-42117 CVE-2023-42219 CVE-2025-30232 CVE-2026-40684 CVE-2026-40687 CVE-2025-62875 "
    "CVE-2026-34752 CVE-2026-26312 CVE-2026-27859 CVE-2025-59028 OpenDKIM#271 KumoMTA Mailpit",
    6: "CVE-2019-10149 CVE-2025-26794 CVE-2025-67896 CVE-2020-7247 CVE-2020-8793 CVE-2016-1000282 CVE-2026-40193 "
    "CVE-2022-24732 mail-auth GHSA-54wq GHSA-qx5x CVE-2026-22689 CVE-2026-21859 CVE-2026-23845 CVE-2026-27808 "
    "CVE-2026-55187 CVE-2024-39929",
}
"""What each section of the security requirements, which lie outside the repository, names; both ends of a range."""


def test_r54_every_advisory_has_a_row_and_every_test_it_names_exists() -> None:
    section = (ROOT / "docs" / "security.md").read_text().partition("## Incidents")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.M)[1:]
    assert len(rows) == section.count("\n|") - 2, "a row has another number of columns"
    incidents = " ".join(row[0] for row in rows)
    names = " ".join(ADVISORIES.values()).split()
    assert [name for name in names if not re.search(rf"{re.escape(name)}(?![\w-])", incidents)] == []
    for incident, _, answer, tests in rows:
        assert absent(tests) == [], incident
        assert "::" in tests or answer.startswith("not built: "), f"{incident}: neither a test nor a reason"


def test_make_says_what_it_offers() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"run", "build", "test", "bench", "clean", "fmt", "lint", "docs-check"} <= targets
    promised = set(re.findall(r"`make ([a-z-]+)`", " ".join(path.read_text() for path in DOCUMENTS)))
    assert promised <= targets


def _commands(document: Path) -> list[str]:
    """The lines of a document's code blocks without a language, without comments, and commands in sentences."""
    text = document.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M)
    lines = (
        re.sub(r"\s+#.*", "", line).strip() for language, block in blocks if not language for line in block.splitlines()
    )
    return [*filter(None, lines), *re.findall(r"`(ironpost [^`]+)`", text)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documents_exist(document: Path) -> None:
    """Subcommands and options of `ironpost` everywhere, and targets of `make` in every code block."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    program = typer.main.get_command(app)
    for line in _commands(document):
        words = re.sub(r"[\[\]|<>]", " ", line).split()
        if words[0] == "make":
            assert words[1] in targets, line
        if words[0] == "ironpost" and len(words) > 1:
            command: Any = program
            for word in words[1:]:
                if word in getattr(command, "commands", ()):
                    command = command.commands[word]
            assert command is not program or words[1].startswith("-"), line
            options = {option for part in (command, program) for each in part.params for option in each.opts}
            assert {word for word in words if word.startswith("-")} <= options | {"--help", "--version"}, line


@pytest.mark.parametrize("number", [0, 1])
def test_the_examples_of_the_readme_run(number: int) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(examples) == 2
    done = subprocess.run(
        [sys.executable, "-c", examples[number]], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == [
            "The domain is empty. (octet 13, domain-empty)\n",
            "ada@mail.example Subject: hello\n\nworld\n\n",
        ][number]
    )
