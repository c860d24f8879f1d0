"""`ironpost directory find`: the real program on a configuration, without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests import preloaded

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]
COMPANY = """
hostname = "mx.mail.example"
local.domains = ["mail.example"]
[[mailbox]]
address = "ada@mail.example"
[[mailbox]]
address = "jo@mail.example"
forward = ["jo@other.example"]
keep = true
[[mailbox]]
address = "left@mail.example"
disabled = true
[[alias]]
address = "team@mail.example"
targets = ["ada@mail.example", "jo@mail.example", "gone@mail.example"]
[[alias]]
address = "ping@mail.example"
targets = ["pong@mail.example"]
[[alias]]
address = "pong@mail.example"
targets = ["ping@mail.example"]
[[relay]]
domains = ["branch.example"]
recipients = ["jo@branch.example"]
[[route]]
domains = ["other.example", "branch.example"]
smart_host = ["192.0.2.9:25"]
"""


def find(folder: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "ironpost.toml").write_text(COMPANY)
    return preloaded.said(folder, "directory", "find", address, *options)


def test_the_whole_derivation_is_nested(tmp_path: Path) -> None:
    done = find(tmp_path, "team@mail.example", "--json")
    found = json.loads(done.stdout)
    assert [(step["level"], step["name"], step["about"], step["answer"]) for step in found["steps"]] == [
        (0, "entry", "<team@mail.example>", "alias of 3 targets"),
        (1, "entry", "<ada@mail.example>", "mailbox"),
        (1, "route", "<ada@mail.example>", "local ironpost-data/mail"),
        (1, "next hop", "mail.example", "Maildir ironpost-data/mail"),
        (1, "entry", "<jo@mail.example>", "alias of 2 targets"),
        (2, "entry", "<jo@other.example>", "not local"),
        (2, "route", "<jo@other.example>", "smart host 192.0.2.9:25"),
        (2, "next hop", "other.example", "[192.0.2.9]"),
        (2, "entry", "<jo@mail.example>", "mailbox"),
        (2, "route", "<jo@mail.example>", "local ironpost-data/mail"),
        (2, "next hop", "mail.example", "Maildir ironpost-data/mail"),
        (1, "entry", "<gone@mail.example>", "refused: 550 5.1.1 User unknown"),
    ]
    assert (done.returncode, found["outcome"]) == (65, "accepted")
    assert (found["targets"], found["failing"], found["deferred"]) == (4, 1, 0)


@pytest.mark.parametrize(
    ("address", "code", "answers"),
    [
        ("ADA+news@mail.example", 0, ["mailbox", "local ironpost-data/mail", "Maildir ironpost-data/mail"]),
        ("left@mail.example", 65, ["refused: 550 5.2.1 Mailbox disabled, not accepting messages"]),
        ("nobody@mail.example", 65, ["refused: 550 5.1.1 User unknown"]),
        ("jo@branch.example", 0, ["relayed", "smart host 192.0.2.9:25", "[192.0.2.9]"]),
        ("nobody@branch.example", 65, ["refused: 550 5.1.1 User unknown"]),
        (
            "ping@mail.example",
            65,
            ["alias of 1 target", "alias of 1 target", "refused: 550 5.4.6 The recipient's alias leads back to it"],
        ),
    ],
)
def test_what_the_directory_says(tmp_path: Path, address: str, code: int, answers: list[str]) -> None:
    done = find(tmp_path, address, "--json")
    assert [step["answer"] for step in json.loads(done.stdout)["steps"]] == answers
    assert done.returncode == code


@pytest.mark.parametrize(
    ("address", "code", "summary"),
    [
        ("ada@mail.example", 0, "accepted"),
        ("nobody@mail.example", 65, "refused"),
        ("ping@mail.example", 65, "accepted; its mail fails"),
        ("team@mail.example", 65, "accepted; mail for 1 of 4 targets fails"),
    ],
)
def test_the_last_line_tells_what_the_client_hears_from_what_happens_later(
    tmp_path: Path, address: str, code: int, summary: str
) -> None:
    for command in (["directory", "find"], ["route", "explain"]):
        (tmp_path / "ironpost.toml").write_text(COMPANY)
        done = preloaded.said(tmp_path, *command, address)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (code, summary)


def test_the_text_output_is_that_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "addresses.md").read_text()
    match = re.search(r"```\n\$ ironpost directory find (.*)\n((?:.*\n)*?)```", text)
    assert match is not None
    done = find(tmp_path, match[1])
    assert (done.stdout, done.stderr, done.returncode) == (match[2], "", 0)


def test_route_explain_shows_the_same_lines(tmp_path: Path) -> None:
    done = find(tmp_path, "team@mail.example")
    explained = preloaded.said(tmp_path, "route", "explain", "team@mail.example")
    assert explained.stdout.endswith(done.stdout)


def test_an_invalid_address_is_reported_on_one_line(tmp_path: Path) -> None:
    done = find(tmp_path, "jo@")
    assert (done.returncode, done.stderr.count("\n")) == (64, 1)
    assert "invalid address jo@" in done.stderr
