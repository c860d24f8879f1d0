"""`serve --workers`: several processes that act as one server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import smtplib
import socket
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.model import Address, Envelope, Recipient
from ironpost.operations.control_socket import ask
from ironpost.operations.operation import merged
from ironpost.processes.requests import RequestRefused
from ironpost.queue.store import NewMessage
from ironpost.storage.sqlite.shards import SHARDS, ShardsReader
from ironpost.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., Any]
    Until = Callable[[Callable[[], bool], Callable[[], str]], None]

LATER = '[[route]]\ndomains = ["later.example"]\nsmart_host = ["127.0.0.1:1"]\n'
"""Port 1 is closed, so this mail is deferred."""


def send(port: int, to: str, count: int, subject: str = "number") -> None:
    """Send `count` messages over one connection each, so that every worker gets some."""
    for number in range(count):
        with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=30) as client:
            client.sendmail("from@client.example", [to], f"Subject: {subject} {number}\r\n\r\nx\r\n")


def status(server: Any) -> dict[str, Any]:
    return ask(server.data / "control.sock", {"do": "status"})


def pids(server: Any) -> list[int]:
    return [worker["pid"] for worker in status(server)["workers"]]


def sizes(port: int, times: int = 40) -> set[str]:
    """Return the SIZE values that workers announce; the connections miss a worker once in a million runs."""
    found = set()
    for _ in range(times):
        with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=30) as client:
            client.ehlo()
            found.add(client.esmtp_features["size"])
    return found


def shards_with_mail(data: Path) -> list[str]:
    found = []
    for directory in sorted((data / "shards").glob("[0-9]*")):
        reader = ShardsReader.open_readonly(data)
        reader.close()
        store = SqliteStore.at(directory, reserve=0)
        if asyncio.run(store.list()):
            found.append(directory.name)
        store.abandon()
    return found


def test_several_workers_act_as_one_server(serve: Serve) -> None:
    server = serve(workers=3)
    assert len(set(pids(server))) == 3
    assert server.process.pid not in pids(server)
    assert [place["role"] for place in status(server)["listening"]] == ["mx"]
    send(server.port, "you@localhost", 30)
    assert len(server.wait_for_mail(30)) == 30
    server.wait_until_empty()
    counts = ask(server.data / "control.sock", {"do": "metrics"})["counts"]
    assert counts["connections"] == {"mx": 30}, "those of all workers together"
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log().splitlines()]
    assert "error" not in {record["level"] for record in records}
    accepted = [record["worker"] for record in records if record.get("event") == "accepted"]
    assert len(accepted) == 30
    assert set(accepted) <= {0, 1, 2}


def test_queue_commands_cover_all_shards(serve: Serve) -> None:
    server = serve(LATER, workers=3)
    send(server.port, "you@later.example", 24)
    listed = server.json("queue", "list")
    assert len(listed) == 24
    assert [each["accepted"] for each in listed] == sorted(each["accepted"] for each in listed)
    assert len(server.json("queue", "list", "--limit", "5")) == 5
    ids = [each["id"] for each in listed]
    assert server.json("queue", "show", ids[17])["id"] == ids[17]
    assert server.json("queue", "retry", "--all")["recipients"] == 24
    assert server.json("queue", "retry", *ids[:10])["recipients"] == 10
    refused = server.run("queue", "drop", *ids[:4], "nosuchid")
    assert (refused.returncode, refused.stderr) == (
        66,
        b"ironpost: nothing was changed: no message nosuchid in the queue; "
        b"what happened to it: ironpost trace nosuchid\n",
    )  # fmt: skip
    assert len(server.json("queue", "list")) == 24
    assert server.json("queue", "hold", ids[0], ids[1]) == {"recipients": 2}
    assert server.json("queue", "release", ids[0], ids[1]) == {"recipients": 2}
    assert server.json("queue", "drop", *ids[:20]) == {"recipients": 20}
    server.stop()
    assert [each["id"] for each in server.json("queue", "list")] == ids[20:], "without a server, too"
    assert len(shards_with_mail(server.data)) >= 1


def test_fewer_workers_than_before_deliver_everything(serve: Serve) -> None:
    server = serve(LATER, workers=4)
    send(server.port, "you@later.example", 40)
    server.stop()
    assert len(shards_with_mail(server.data)) == 4
    server.configure('[local]\ndomains = ["later.example"]\n')
    server.start("--workers", "2")
    server.json("queue", "retry", "--all")
    server.wait_until_empty()
    send(server.port, "you@later.example", 1, "one")
    server.stop()
    server.start()  # and one process
    server.wait_until_empty()
    subjects = sorted(re.search(rb"^Subject: (\w+ \d+)", text, re.M)[1] for text in server.wait_for_mail(41))  # type: ignore[index]
    assert subjects == sorted([b"number %d" % number for number in range(40)] + [b"one 0"])


def test_a_data_directory_without_shards_is_migrated(serve: Serve, tmp_path: Path) -> None:
    server = serve(workers=2)
    server.stop()
    for path in (server.data / "shards").rglob("*"):
        if path.is_file():
            path.unlink()

    async def old() -> None:
        store = SqliteStore.at(server.data, reserve=0)
        spool = store.spool()
        spool.write(b"Subject: old\r\n\r\nx\r\n")
        to = (Recipient(Address.parse("you@localhost")),)
        await store.commit(NewMessage("old1", Envelope(Address.parse("a@b.example"), to), 1.7e9, b"", spool))
        await store.close()

    asyncio.run(old())
    assert [each["id"] for each in server.json("queue", "list")] == ["old1"]
    server.start("--workers", "2")
    assert b"Subject: old" in server.wait_for_mail(1)[0]
    server.wait_until_empty()


def test_a_valid_reload_reaches_every_worker_and_an_invalid_one_none(serve: Serve, wait_until: Until) -> None:
    server = serve('max_message = "1MiB"\n', workers=3)
    assert sizes(server.port) == {str(1 << 20)}
    server.configure('max_message = "2MiB"\n')
    assert b"replaces" in server.run("reload").stdout
    assert sizes(server.port) == {str(2 << 20)}
    server.configure('max_mesage = "3MiB"\n')
    refused = server.run("reload")
    assert refused.returncode == 78
    assert b'did you mean "max_message"?' in refused.stderr
    assert sizes(server.port) == {str(2 << 20)}
    # A restarted worker has the configuration of the others, not the one in the file.
    os.kill(pids(server)[1], signal.SIGKILL)
    wait_until(lambda: status(server)["workers"][1]["starts"] == 2, server.log)
    wait_until(lambda: status(server)["workers"][1]["ready"], server.log)
    assert sizes(server.port) == {str(2 << 20)}
    server.configure('max_message = "4MiB"\n')
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: '"ironpost.supervisor", "message": "configuration' in server.log(), server.log)
    assert sizes(server.port) == {str(4 << 20)}
    server.configure(f'data = "elsewhere"\n{server.file.read_text()}')
    assert server.run("reload").returncode == 78


def test_a_worker_that_ends_is_restarted_while_the_others_continue(serve: Serve, wait_until: Until) -> None:
    server = serve(workers=2)
    before = pids(server)
    for starts in (2, 3):
        os.kill(pids(server)[0], signal.SIGKILL)
        wait_until(lambda starts=starts: status(server)["workers"][0]["starts"] == starts, server.log)  # type: ignore[misc]
    assert pids(server)[1] == before[1]
    assert "worker 0 was ended by SIGKILL; restarting in 0.5 s" in server.log()
    assert "restarting in 1 s" in server.log(), "the pause grows"
    send(server.port, "you@localhost", 10)
    server.wait_for_mail(10)
    assert server.stop() == 0


def test_connection_limits_apply_to_all_workers_together(serve: Serve, wait_until: Until) -> None:
    server = serve("[limits]\nconnections = 12\n", workers=3)
    clients: list[socket.socket] = []

    def one_more() -> bytes:
        client = socket.create_connection(("127.0.0.1", server.port), 30)
        clients.append(client)
        return client.recv(100)[:3]

    def open_now() -> int:
        return int(status(server)["connections"])

    most = 12 + 2 * 2  # two for each other worker: connections that arrive between updates
    try:
        wait_until(lambda: one_more() == b"421" and open_now() >= 12, lambda: f"{open_now()}")
        assert open_now() <= most
        os.kill(pids(server)[0], signal.SIGKILL)
        wait_until(lambda: status(server)["workers"][0]["starts"] == 2, server.log)
        assert open_now() <= most  # connections of the killed worker no longer count
        wait_until(lambda: one_more() == b"421" and open_now() >= 12, lambda: f"{open_now()}")
        assert open_now() <= most + 2  # and a new worker
    finally:
        for client in clients:
            client.close()
    assert server.stop() == 0


def test_r24_hostile_bytes_on_the_control_socket_of_a_supervisor_cost_their_own_connection_only(serve: Serve) -> None:
    server = serve(workers=2)
    before = pids(server)
    hostile = [
        b"\x00\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"do":"known"}\n',
        b'{"do":"retry","ids":["\\ud800"]}\n',
        b'{"do":"drop","ids":[1]}\n',
        b'{"do":"drop","ids":"all"}\n',
        b'{"do":"hold"}\n',
        b'{"do":"reload","text":"x = 1"}\n',
        b'{"do":"status"',
    ]
    for octets in hostile:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(ConnectionError):
            client.connect(str(server.data / "control.sock"))
            client.sendall(octets)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
    assert pids(server) == before
    assert all(worker["starts"] == 1 for worker in status(server)["workers"])
    with pytest.raises(RequestRefused, match="unknown command"):
        ask(server.data / "control.sock", {"do": "known", "ids": ["x"]})
    assert server.stop() == 0


def test_an_address_in_use_is_named_before_any_worker_starts(serve: Serve) -> None:
    first = serve(workers=2)
    with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{first.port}: another program listens there"):
        serve("", f'role = "mx"\nlisten = ["127.0.0.1:{first.port}"]', workers=2)


def test_startup_errors_are_the_same_with_workers(serve: Serve) -> None:
    server = serve(workers=2)
    second = server.run("serve", "-c", str(server.file), "--workers", "2")
    assert second.returncode == 75
    assert f"is in use by process {server.process.pid}" in second.stderr.decode()
    server.stop()
    many = server.run("serve", "-c", str(server.file), "--workers", str(SHARDS + 1))
    assert (many.returncode, many.stderr.decode()) == (
        64, f"ironpost: {SHARDS + 1} workers are too many: this data directory has room for {SHARDS}\n",
    )  # fmt: skip
    for path in (server.data / "shards" / "01").glob("queue.sqlite3*"):
        path.write_bytes(b"no database " * 1000)
    server.start("--workers", "2")
    assert f"the shard {server.data}/shards/01 cannot be used" in server.log()
    assert server.run("queue", "list").returncode == 0, "the others are read"


def test_responses_of_several_workers_are_merged() -> None:
    one = {"n": 1, "of": "x", "at": [1], "in": {"a": 1}}
    other = {"n": 2, "of": "x", "at": [1, 2], "in": {"b": 1}}
    assert merged([one, other]) == {"n": 3, "of": "x", "at": [1, 2], "in": {"a": 1, "b": 1}}
