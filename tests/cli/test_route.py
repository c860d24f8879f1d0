"""`ironpost route explain`: the real program on a configuration, without a server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests import preloaded

if TYPE_CHECKING:
    import subprocess

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = """
hostname = "mx.here.example"
[local]
domains = ["here.example"]
recipients = ["jo@here.example"]
[[alias]]
address = "team@here.example"
targets = ["jo@here.example", "max@partner.example"]
[[rewrite]]
addresses = ["old.example"]
to = "@here.example"
[[rewrite]]
addresses = ["jo@here.example"]
to = "jo.smith@here.example"
at = "delivery"
[[route]]
domains = ["partner.example"]
smart_host = ["192.0.2.9:2525"]
[[route]]
senders = ["news.example", "<>"]
domains = ["by-sender.example"]
smart_host = ["192.0.2.10:587"]
source = ["192.0.2.1"]
[route.auth]
user = "relay"
password = "file:there/is/no/such/file"
[[route]]
logins = ["ada"]
domains = ["by-login.example"]
smart_host = ["192.0.2.11:25"]
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
    done = preloaded.said(folder, "route", "explain", *arguments)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def steps(folder: Path, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    done = explain(folder, *arguments, "--json")
    found = json.loads(done.stdout)
    return done.returncode, found["outcome"], {step["name"]: step for step in found["steps"]}


def test_an_alias_shows_its_targets_and_where_each_goes(tmp_path: Path) -> None:
    done = explain(tmp_path, "team@here.example", "--json")
    found = json.loads(done.stdout)["steps"][2:]
    assert [(step["level"], step["name"], step["about"], step["answer"]) for step in found[1:]] == [
        (0, "entry", "<team@here.example>", "alias of 2 targets"),
        (1, "entry", "<jo@here.example>", "mailbox"),
        (1, "route", "<jo@here.example>", "local ironpost-data/mail"),
        (1, "next hop", "here.example", "Maildir ironpost-data/mail"),
        (1, "entry", "<max@partner.example>", "not local"),
        (1, "route", "<max@partner.example>", "smart host 192.0.2.9:2525"),
        (1, "next hop", "partner.example", "[192.0.2.9]:2525"),
    ]
    assert found[1]["reasons"] == ["here.example is local; team@here.example: alias[1]"]


def test_rewriting_shows_its_rules(tmp_path: Path) -> None:
    arguments = ("max@partner.example", "--from", "jo@old.example", "--client", "127.0.0.1", "--json")
    found = json.loads(explain(tmp_path, *arguments).stdout)["steps"]
    assert [step["name"] for step in found] == [
        "rewriting", "connect", "mail", "recipient", "route", "next hop", "rewriting",
    ]  # fmt: skip
    assert (found[0]["about"], found[0]["answer"]) == ("<jo@old.example>", "<jo@here.example>")
    assert found[0]["reasons"] == ["reverse-path: jo@old.example becomes jo@here.example by rewrite[1]"]
    assert found[2]["about"] == "<jo@old.example>"
    assert found[-1]["reasons"] == ["reverse-path: jo@here.example becomes jo.smith@here.example by rewrite[2]"]


def test_checks_see_the_new_recipient(tmp_path: Path) -> None:
    code, outcome, found = steps(tmp_path, "jo@old.example", "--client", "198.51.100.7")
    assert (code, outcome, found["rewriting"]["answer"]) == (0, "accepted", "<jo@here.example>")
    assert found["recipient"]["about"] == "<jo@here.example>"
    assert found["next hop"]["answer"] == "Maildir ironpost-data/mail"


def test_a_local_recipient(tmp_path: Path) -> None:
    code, outcome, found = steps(tmp_path, "Jo@Here.example", "--client", "198.51.100.7")
    assert (code, outcome) == (0, "accepted")
    assert list(found) == ["connect", "mail", "recipient", "route", "next hop"]
    assert found["recipient"]["reasons"] == ["relay: here.example is local; jo@here.example is listed"]
    assert found["route"]["reasons"] == ["here.example is local; jo@here.example is listed"]
    assert found["next hop"]["answer"] == "Maildir ironpost-data/mail"


def test_a_trusted_client_is_relayed_by_a_route_rule(tmp_path: Path) -> None:
    for who, why in {
        ("--client", "127.0.0.1"): "relay: 127.0.0.1 is in a trusted network",
        ("--as", "jo", "--from", "jo@here.example"): "relay: jo is authenticated",
    }.items():
        code, outcome, found = steps(tmp_path, "grace@partner.example", *who)
        assert (code, outcome) == (0, "accepted")
        assert found["recipient"]["reasons"] == [why]
        assert found["route"]["reasons"][-1] == "route[1] matches by partner.example: smart host 192.0.2.9:2525"
        assert found["next hop"]["answer"] == "[192.0.2.9]:2525"


@pytest.mark.parametrize(
    ("arguments", "code", "outcome", "last", "answer"),
    [
        (["grace@partner.example"], 65, "refused", "recipient", "reject (550 5.7.1 Relay access denied)"),
        (["flo@here.example"], 65, "refused", "recipient", "reject (550 5.1.1 User unknown)"),
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
        (["x@[127.0.0.1]", "--client", "::1"], 65, "accepted", "next hop", "none: 554 5.4.6"),
    ],
)
def test_the_output_ends_with_the_refusing_stage(
    tmp_path: Path, arguments: list[str], code: int, outcome: str, last: str, answer: str
) -> None:
    returned, told, found = steps(tmp_path, *arguments)
    assert (returned, told) == (code, outcome)
    assert list(found)[-1] == last
    assert found[last]["answer"].startswith(answer)
    if "198.51.100.66" in arguments:
        assert found["connect"]["answer"] == "tarpit 10 s, then accept"


def test_the_text_output_is_that_of_the_documentation(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "delivery.md").read_text()
    match = re.search(r"```\n\$ ironpost route explain (.*)\n((?:.*\n)*?)```", text)
    assert match is not None
    done = explain(tmp_path, *match[1].split())
    assert done.stdout == match[2]
    assert (done.returncode, done.stderr) == (65, "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["jo@"], "invalid recipient jo@"),
        ([""], "the recipient is empty"),
        (["jo@here.example", "--from", "x y"], "invalid sender x y"),
        (["jo@here.example", "--client", "localhost"], "not an IP address"),
    ],
)
def test_invalid_arguments_are_reported_on_one_line(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    done = explain(tmp_path, *arguments)
    assert done.returncode == 64
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_route_depends_on_sender_and_login(tmp_path: Path) -> None:
    client = ("--client", "127.0.0.1")
    expected = "smart host 192.0.2.10:587 (from 192.0.2.1, TLS verify, login relay)"
    for sender in ("x@news.example", ""):
        _, outcome, found = steps(tmp_path, "x@by-sender.example", *client, "--from", sender)
        assert (outcome, found["route"]["answer"]) == ("accepted", expected)
        pattern = "news.example" if sender else "<>"
        assert found["route"]["reasons"][-1] == f"route[2] matches by by-sender.example, sender {pattern}: {expected}"
        assert "192.0.2.10" in found["next hop"]["answer"]
        assert any("TLS verify: the route" in reason for reason in found["next hop"]["reasons"])
    _, _, found = steps(tmp_path, "x@by-sender.example", *client, "--from", "x@other.example")
    assert found["route"]["answer"] == "mx"
    for login, answer in (("ada", "smart host 192.0.2.11:25"), ("jo", "mx")):
        _, _, found = steps(tmp_path, "x@by-login.example", *client, "--as", login, "--from", f"{login}@here.example")
        assert found["route"]["answer"] == answer
