"""`ironpost route explain`: the real program on a configuration, without a server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = """
hostname = "mx.here.example"
[local]
domains = ["here.example"]
recipients = ["jo@here.example"]
[[route]]
domains = ["partner.example"]
smart_host = ["192.0.2.9:2525"]
[policy]
helo_own_name = "reject"
[[policy.access]]
networks = ["203.0.113.0/24"]
action = "reject"
text = "Not from there"
[[policy.access]]
networks = ["198.51.100.66/32"]
action = "tarpit"
[[policy.sender]]
senders = ["spam.example"]
action = "drop"
text = "the attack of May"
[[policy.sender]]
senders = ["slow.example"]
action = "defer"
[policy.sender_login]
jo = ["jo@here.example"]
"""


def explain(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "ironpost.toml").write_text(CONFIGURATION)
    done = subprocess.run(
        [sys.executable, "-m", "ironpost.cli", "route", "explain", *arguments], cwd=folder, capture_output=True,
        text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done


def steps(folder: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    done = explain(folder, *arguments, "--json")
    found = json.loads(done.stdout)
    return done.returncode, found["outcome"], {step["name"]: step for step in found["steps"]}


def test_a_local_recipient(tmp_path: Path) -> None:
    code, outcome, found = steps(tmp_path, "Jo@Here.example", "--client", "198.51.100.7")
    assert (code, outcome) == (0, "accepted")
    assert list(found) == ["connect", "mail", "recipient", "route", "next hop"]
    assert found["recipient"]["reasons"] == ["relay: Jo@Here.example is a local mailbox"]
    assert found["route"]["reasons"] == ["here.example is a local domain"]
    assert found["next hop"]["answer"] == "Maildir ironpost-data/mail"


def test_a_relay_by_rule_for_who_may(tmp_path: Path) -> None:
    for who, why in {
        ("--client", "127.0.0.1"): "relay: 127.0.0.1 is in a trusted network",
        ("--as", "jo", "--from", "jo@here.example"): "relay: jo is authenticated",
    }.items():
        code, outcome, found = steps(tmp_path, "grace@partner.example", *who)
        assert (code, outcome) == (0, "accepted")
        assert found["recipient"]["reasons"] == [why]
        assert found["route"]["reasons"][-1] == "rule 1 matches by partner.example: smart host 192.0.2.9:2525"
        assert found["next hop"]["answer"] == "[192.0.2.9]:2525"


@pytest.mark.parametrize(
    ("arguments", "code", "outcome", "last", "answer"),
    [
        (["grace@partner.example"], 65, "refused", "recipient", "reject (550 5.7.1 Relaying denied)"),
        (["flo@here.example"], 65, "refused", "recipient", "reject (550 5.1.1 No such recipient here)"),
        (["jo@here.example", "--client", "203.0.113.5"], 65, "refused", "connect", "reject (550 5.7.1 Not from there)"),
        (
            ["jo@here.example", "--client", "198.51.100.7", "--helo", "mx.here.example"],
            65,
            "refused",
            "hello",
            "reject",
        ),
        (["jo@here.example", "--from", "x@slow.example"], 75, "deferred", "mail", "defer (450 4.7.1 Access denied)"),
        (["jo@here.example", "--from", "x@spam.example"], 0, "dropped", "mail", "drop: the attack of May"),
        (["x@y.example", "--as", "jo", "--from", "boss@here.example"], 65, "refused", "mail", "reject (553 5.7.1"),
        (["jo@here.example", "--client", "198.51.100.66"], 0, "accepted", "next hop", "Maildir"),
        (["x@[127.0.0.1]", "--client", "::1"], 65, "refused", "next hop", "none: 554 5.4.6"),
    ],
)
def test_the_stage_that_ends_it_is_the_last(
    tmp_path: Path, arguments: list[str], code: int, outcome: str, last: str, answer: str
) -> None:
    returned, told, found = steps(tmp_path, *arguments)
    assert (returned, told) == (code, outcome)
    assert list(found)[-1] == last
    assert found[last]["answer"].startswith(answer)
    if "198.51.100.66" in arguments:
        assert found["connect"]["answer"] == "tarpit 10 s, then accept"


def test_what_a_person_reads_is_what_the_documentation_shows(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    match = re.search(r"```\n\$ ironpost route explain (.*)\n((?:.*\n)*?)```", text)
    assert match is not None
    done = explain(tmp_path, *match[1].split())
    assert done.stdout == match[2]
    assert (done.returncode, done.stderr) == (65, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["jo@"], "the recipient jo@ is no address"),
        ([""], "the recipient is empty"),
        (["jo@here.example", "--from", "x y"], "the sender x y is no address"),
        (["jo@here.example", "--client", "localhost"], "no IP address"),
    ],
)
def test_arguments_that_are_none_are_one_line(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = explain(tmp_path, *arguments)
    assert done.returncode == 64
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
