"""`ironpost conform`: its output and exit codes."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

from ironpost.conform import cases

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def test_a_conforming_server_exits_with_0(serve: Callable[..., Any]) -> None:
    running = serve()
    done = running.run("conform", f"127.0.0.1:{running.port}", "--only", "pipelining", "--parallel", "4")
    said = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "mx.example ESMTP ironpost" in said
    assert "PIPELINING" in said.splitlines()[-2]
    assert said.splitlines()[-1].split()[0] == "all"


def test_a_violation_exits_with_1(serve: Callable[..., Any]) -> None:
    running = serve()
    # The same server, tested as LMTP: it refuses LHLO, so there is no session.
    done = running.run("conform", f"127.0.0.1:{running.port}", "--profile", "lmtp")
    assert done.returncode == 69
    assert b"no session with 127.0.0.1" in done.stderr
    # The recipient given as rejected is one that the server accepts.
    name = "rfc5321-4.1.1.3-rcpt-rejected"
    done = running.run(
        "conform", f"127.0.0.1:{running.port}", "--rejected", "somebody@localhost", "--only", name, "--json"
    )
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["counts"] == {"pass": 0, "fail": 1, "warn": 0, "error": 0, "n.a.": 0}
    (case,) = report["cases"]
    assert (case["id"], case["outcome"], case["level"]) == (name, "fail", "MUST")
    assert "RFC 5321 §4.1.1.3" in case["cites"]
    assert "C: RCPT TO:<somebody@localhost>" in case["dialogue"]


def test_verbose_shows_the_dialogue_of_every_case(serve: Callable[..., Any]) -> None:
    running = serve()
    done = running.run("conform", f"127.0.0.1:{running.port}", "--only", "rfc5321-3.1-greeting", "-v")
    assert done.returncode == 0
    assert b"| S: 220 mx.example ESMTP ironpost" in done.stdout
    assert b"| C: QUIT" in done.stdout


def test_a_folder_in_which_nothing_appears_is_named(serve: Callable[..., Any], tmp_path: Any) -> None:
    running = serve()
    empty = tmp_path / "empty"
    empty.mkdir()
    done = running.run(
        "conform", f"127.0.0.1:{running.port}", "--maildir", str(empty), "--only", "session", "--timeout", "0.5"
    )
    assert done.returncode == 69
    assert f"does not appear in {empty}".encode() in done.stderr


def test_missing_server_recipient_or_case_is_reported(serve: Callable[..., Any]) -> None:
    running = serve('trusted = ["192.0.2.0/24"]\n')
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = running.run("conform", f"127.0.0.1:{unused.getsockname()[1]}")
    assert done.returncode == 69
    assert b"127.0.0.1" in done.stderr
    done = running.run("conform", f"127.0.0.1:{running.port}", "--to", "nobody@elsewhere.example")
    assert done.returncode == 69
    assert b"does not accept nobody@elsewhere.example" in done.stderr
    for arguments, word in (
        (["conform", "localhost"], b"HOST:PORT"),
        (["conform", "localhost:25", "--only", "no-such-case"], b"no case matches"),
        (["conform", "localhost:25", "--profile", "pop3"], b"mx, submission, lmtp"),
    ):
        done = running.run(*arguments)
        assert done.returncode == 64
        assert word in done.stderr


def test_the_cases_are_listed_without_a_server(serve: Callable[..., Any]) -> None:
    running = serve()
    listed = json.loads(running.run("conform", "localhost:25", "--list", "--json").stdout)
    assert [case["id"] for case in listed] == [case.id for case in cases()]
    assert len(listed) >= 250


def test_the_help_text_warns(serve: Callable[..., Any]) -> None:
    said = " ".join(serve().run("conform", "--help").stdout.decode().split())
    assert "WARNING: this sends mail" in said
    assert "only against servers that you operate" in said
