"""What an operator does to the queue of a running server, with the program."""

from __future__ import annotations

import errno
import os
import re
import smtplib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.queue.store import RecipientState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = b"Message-ID: <one@client.example>\r\nSubject: x\r\n\r\nthe text\r\n"


@pytest.fixture
def down() -> Iterator[str]:
    """A rule that routes `far.example` and `typo.example` to a port on which nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{nobody.getsockname()[1]}"
        yield f'[[route]]\ndomains = ["far.example", "typo.example"]\nsmart_host = ["{where}"]\n'


def submit(server: Any, *recipients: str, sender: str = "ada@localhost") -> None:
    with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30) as client:
        client.sendmail(sender, recipients, MESSAGE)


def identifiers(server: Any, *selection: str) -> list[str]:
    return [each["id"] for each in server.json("queue", "list", *selection)]


@pytest.mark.parametrize("workers", [1, 2])
def test_mail_is_selected_printed_edited_and_returned(serve: Callable[..., Any], down: str, workers: int) -> None:
    server = serve(down, workers=workers)
    submit(server, "jo@far.example", "flo@far.example")
    submit(server, "ada@typo.example", sender="grace@client.example")
    (one,) = identifiers(server, "--domain", "far.example")
    (two,) = identifiers(server, "--from", "client.example", "--state", "queued")
    assert identifiers(server, "--older-than", "1d") == []
    assert server.run("queue", "list", "--older-than", "1d").stdout == b"No such mail is in the queue.\n"
    stored = server.run("queue", "cat", one).stdout
    assert stored.startswith(b"Received: ")
    assert stored.endswith(MESSAGE)
    assert server.run("queue", "cat", one, "--header").stdout == stored.removesuffix(b"the text\r\n")
    assert server.run("queue", "cat", "nosuch").returncode == 66

    done = server.run("queue", "edit", two, "ada@typo.example", "ada@localhost")
    assert done.stdout == b"ada@typo.example is replaced by ada@localhost\n", done.stderr
    (delivered,) = server.wait_for_mail(1)
    assert b"Delivered-To: ada@localhost\n" in delivered
    for wrong in (["nobody@far.example", "x@localhost"], ["jo@far.example", "two words"]):
        assert server.run("queue", "edit", one, *wrong).returncode in {64, 66}

    done = server.run("queue", "bounce", "--to", "jo@far.example", "--why", "no such person")
    assert done.stdout == b"1 recipient is returned to the sender\n", done.stderr
    assert b"554 5.3.0 Returned by the administrator: no such person" in server.wait_for_mail(2)[1]
    (left,) = server.json("queue", "list", "--state", "queued")
    assert [each["to"] for each in left["recipients"]] == ["flo@far.example"]
    assert server.json("queue", "drop", "--to", "*") == {"recipients": 1}
    assert identifiers(server) == []
    for command in ("retry", "hold", "release", "bounce", "drop"):
        done = server.run("queue", command, "--domain", "far.example")
        assert (done.returncode, done.stderr[:23]) == (66, b"ironpost: no such mail "), command
        assert server.run("queue", command, "--all").returncode == (66 if command == "release" else 0)
    for command in ("explain", "show", "cat"):
        gone = server.run("queue", command, one)
        sentence = f"ironpost: no message {one} in the queue; what happened to it: ironpost trace {one}\n"
        assert (gone.returncode, gone.stderr.decode()) == (66, sentence), command


def test_an_edited_recipient_is_one_that_takes_mail(serve: Callable[..., Any], down: str) -> None:
    boxes = (
        '[[mailbox]]\naddress = "ada@localhost"\n[[alias]]\naddress = "team@localhost"\ntargets = ["ada@localhost"]\n'
    )
    server = serve(down + boxes)
    submit(server, "jo@far.example")
    (one,) = identifiers(server)
    for new, why in {"typo@localhost": "takes no mail: 550 5.1.1", "team@localhost": "name a target of it"}.items():
        done = server.run("queue", "edit", one, "jo@far.example", new)
        assert done.returncode in {64, 66}
        assert why in done.stderr.decode()
    assert server.run("queue", "edit", one, "jo@far.example", "ada@localhost").returncode == 0
    assert len(server.wait_for_mail(1)) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_destination_is_suspended_over_restarts_and_shown(
    serve: Callable[..., Any], down: str, workers: int, wait_until: Callable[..., None]
) -> None:
    server = serve(down, workers=workers)
    where = down.rpartition('["')[2].partition('"')[0]
    refused = server.run("suspend", "far.example")
    goes = f"mail for far.example goes to the smart host {where}; suspend that: ironpost suspend {where}\n"
    assert (refused.returncode, refused.stderr.decode().endswith(goes)) == (64, True)
    assert b"mail for localhost stays on this system" in server.run("suspend", "localhost").stderr
    assert server.run("suspend", "two words").returncode == 64
    assert server.run("suspend", "mx.example", "--for", "1").returncode == 64
    done = server.run("suspend", where, "--why", "they move")
    assert done.stdout == f"{where} is suspended until it is resumed\n".encode(), done.stderr
    assert server.json("suspend", "by-mx.example", "--for", "1h")["until"].endswith("Z")
    submit(server, "jo@far.example", "flo@far.example", "ada@by-mx.example")

    def shown() -> None:
        assert [(each["name"], each["why"]) for each in server.json("status")["suspended"]] == [
            (where, "they move"), ("by-mx.example", ""),
        ]  # fmt: skip
        assert f"suspended {where} until it is resumed: they move" in server.run("status").stdout.decode()
        shape = server.json("queue", "shape")
        assert [(each["domain"], each["total"], each["destination"]["state"]) for each in shape["domains"]] == [
            ("far.example", 2, "suspended"), ("by-mx.example", 1, "suspended"),
        ]  # fmt: skip
        text = server.run("queue", "shape").stdout.decode()
        assert re.search(rf"far\.example +2 +2 +0 .*smart host {where}: suspended: they move", text)

    done = server.run("queue", "retry", "--domain", "far.example")
    assert done.stdout == b"2 recipients are due now\n"
    assert f"{where} is suspended until it is resumed; to attempt delivery there: ironpost resume {where}" in (
        done.stderr.decode()
    )
    listed = server.run("queue", "list").stdout.decode()
    assert re.search(r"jo@far\.example and 2 more +suspended", listed), listed
    assert server.run("queue", "show", identifiers(server)[0]).stdout.count(b"  next try  suspended") == 3
    other = server.run("resume", "far.example")
    assert (other.returncode, f"waits for {where}: ironpost resume {where}" in other.stderr.decode()) == (66, True)
    found = server.json("metrics")["gauges"]
    assert found["destinations"] == {"up": 0, "down": 0, "suspended": 2}
    assert 0 < found["resources_used"]["disk"] < found["resources_most"]["disk"]
    assert found["resources_short"]["disk"] == 0
    shown()
    wait_until(lambda: (server.data / "state.sqlite3").exists(), lambda: "no state")
    server.stop()
    assert "unknown" in server.run("queue", "shape").stdout.decode()
    server.start(*(["--workers", str(workers)] if workers > 1 else []))
    shown()
    (message,) = server.json("queue", "list")
    assert [each["attempts"] for each in message["recipients"]] == [0, 0, 0]
    assert server.run("resume", where).stdout == f"{where} is resumed\n".encode()
    assert server.run("resume", where).returncode == 66
    assert [each["name"] for each in server.json("status")["suspended"]] == ["by-mx.example"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_is_explained_and_traced_after_its_end(
    serve: Callable[..., Any], down: str, workers: int, wait_until: Callable[..., None]
) -> None:
    server = serve(down, workers=workers)
    where = down.rpartition('["')[2].partition('"')[0]
    assert server.run("suspend", where, "--why", "they move").returncode == 0
    submit(server, "jo@far.example", "flo@localhost", sender="Ada@localhost")
    delivered = RecipientState.DELIVERED
    wait_until(lambda: any(to.state is delivered for each in server.queue() for to in each.recipients), server.log)
    (one,) = identifiers(server)
    first, second = server.json("queue", "explain", one)["recipients"]
    assert (first["route"], first["destination"]["state"], first["next"]) == (f"smart host {where}", "suspended", None)
    assert (first["why"], first["destination"]["why"]) == ("the destination is suspended", "they move")
    assert first["reasons"][0] == "far.example is not local"
    assert first["expires"].endswith("Z")
    assert (second["state"], second["next"], second["expires"]) == ("delivered", None, None)
    text = server.run("queue", "explain", one).stdout.decode()
    assert "next try  - (the destination is suspended)" in text
    assert "delivered <flo@localhost> 250" in text
    assert server.run("queue", "explain", "nosuch").returncode == 66
    assert server.run("queue", "hold", one).returncode == 0
    assert server.json("queue", "explain", one)["recipients"][0]["why"] == "held until it is released"
    assert server.run("queue", "bounce", one, "--why", "no").returncode == 0
    server.wait_until_empty()
    for what in (one, "<one@client.example>", "one@client.example", "JO@far.example", "ada@localhost"):
        found = server.json("trace", what)
        assert found[0]["id"] == one, what
        assert found[0]["message_id"] == "<one@client.example>"
        kinds = [(each["kind"], each["address"]) for each in found[0]["events"]]
        assert sorted(kinds) == [
            ("accepted", "Ada@localhost"), ("delivered", "flo@localhost"), ("failed", "jo@far.example"),
            ("held", "jo@far.example"),
        ]  # fmt: skip
    text = server.run("trace", one).stdout.decode()
    assert "failed <jo@far.example> 554 5.3.0 Returned by the administrator: no" in text
    assert server.run("trace", "nobody@far.example").returncode == 66


@pytest.mark.parametrize("workers", [1, 2])
def test_the_views_of_all_shards_are_queried_in_sql(serve: Callable[..., Any], down: str, workers: int) -> None:
    server = serve(down, workers=workers)
    for number in range(4 * workers):
        submit(server, "jo@far.example", sender=f"ada{number}@localhost")
    rows = server.json("queue", "sql", "SELECT domain, tenant, count(*) AS n FROM queue GROUP BY domain, tenant")
    assert [(each["domain"], each["n"]) for each in rows] == [("far.example", 4 * workers)]
    accepted = server.json("queue", "sql", "SELECT message_id FROM events WHERE kind = 'accepted'")
    assert accepted == [{"message_id": "<one@client.example>"}] * 4 * workers
    text = server.run(
        "queue", "sql", "SELECT 1 AS a, NULL AS b, count(*) AS c FROM attempts WHERE message = 'x'"
    ).stdout
    assert text == b"a\tb\tc\n1\t\t0\n"
    assert server.json("queue", "sql", "SELECT count(*) AS n FROM queue") == [{"n": 4 * workers}]
    few = server.run("queue", "sql", "SELECT * FROM queue", "--limit", "2")
    assert (len(few.stdout.splitlines()), b"ends after 2 rows" in few.stderr) == (3, True)
    for refused in (
        "DELETE FROM queue", "SELECT * FROM shard0.message", "SELECT * FROM sqlite_schema", "PRAGMA user_version",
        "ATTACH 'x' AS y", "SELECT load_extension('x')", "SELECT", "SELECT 1; SELECT 2", "BEGIN", "",
    ):  # fmt: skip
        done = server.run("queue", "sql", refused)
        assert (done.returncode, done.stderr[:32]) == (64, b"ironpost: the query is refused: "), refused
    assert not (server.folder / "x").exists()


def test_a_destination_that_is_down_is_shown(
    serve: Callable[..., Any], down: str, wait_until: Callable[..., None]
) -> None:
    once = '[delivery]\ninitial_connections = 1\nprobe_wait = "1h"\nlongest_probe_wait = "1h"\n'
    server = serve(down + once)
    where = down.rpartition('["')[2].partition('"')[0]
    submit(server, "jo@far.example")
    wait_until(lambda: server.json("status")["down"], server.log)
    (found,) = server.json("status")["down"]
    why = f"451 4.4.1 Cannot connect: {os.strerror(errno.ECONNREFUSED)}"
    assert (found["destination"], found["why"]) == (f"smart host {where}", why)
    until = found["until"]
    assert f"down smart host {where} until {until}: {why}" in server.run("status").stdout.decode()
    assert server.json("metrics")["gauges"]["destinations"] == {"up": 0, "down": 1, "suspended": 0}
    submit(server, "flo@far.example")
    assert re.search(rf"flo@far\.example +down until {until} +", server.run("queue", "list").stdout.decode())
