"""Documents are true: their links resolve, the tour names what exists, examples run where a test can run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

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
        "service",
    } <= named


def test_every_security_number_has_a_row_and_every_test_it_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    rows = {int(number): row for number, row in re.findall(r"^\| R(\d+) \|(.*)\|$", text, re.M)}
    assert sorted(rows) == list(range(1, 57))
    absent = []
    for number, row in rows.items():
        for path, name in re.findall(r"`(tests/[\w/.-]+\.(?:py|rs))(?:::(\w+))?`", row):
            file = ROOT / path
            if not file.is_file() or (name and not re.search(rf"\b(?:def|fn) {name}\b", file.read_text())):
                absent.append(f"R{number}: {path}::{name}")
    assert absent == []


def test_make_says_what_it_offers() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"run", "build", "test", "bench", "clean", "fmt", "lint", "docs-check"} <= targets
    promised = set(re.findall(r"`make ([a-z-]+)`", " ".join(path.read_text() for path in DOCUMENTS)))
    assert promised <= targets


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
