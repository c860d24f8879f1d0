"""Backups under load and under faults: a backup is complete, or it is not accepted."""

from __future__ import annotations

import errno
import re
import signal
import smtplib
import subprocess
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from tests.conftest import environment

from ironpost.storage.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Until = Callable[[Callable[[], bool], Callable[[], str]], None]

CLIENTS = 6
ROUTES = '[[route]]\ndomains = ["later.example"]\nsmart_host = ["127.0.0.1:1"]\n'
"""Nothing listens on port 1: mail for later.example stays in the queue, and mail for localhost is delivered at once."""
BODIES = ("x\r\n", "0123456789abcdef0123456789abcdef\r\n" * 4000)
"""One that is stored in its row, and one that is not."""


class Load:
    """Clients that send numbered messages until they are stopped, each of them waiting for every reply."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: set[int] = set()
        self._numbers = count()
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _client(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=60) as client:
            while not self._stopped.is_set():
                with self._lock:
                    number = next(self._numbers)
                to = f"n{number}@{'later.example' if number % 3 else 'localhost'}"
                client.sendmail("", [to], f"Subject: number {number}\r\n\r\n{BODIES[number % 2]}")
                with self._lock:
                    self.acknowledged.add(number)

    def so_far(self) -> set[int]:
        with self._lock:
            return set(self.acknowledged)

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


def numbers(texts: list[bytes]) -> set[int]:
    return {int(re.search(rb"^Subject: number (\d+)", text, re.M)[1]) for text in texts}  # type: ignore[index]


def queued(server: Any) -> set[int]:
    listed = server.json("queue", "list", "--limit", "1000000")
    return {int(message["recipients"][0]["to"][1:].partition("@")[0]) for message in listed}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_backup_under_load_has_every_message_that_was_acknowledged_before(
    serve: Callable[..., Any], wait_until: Until, workers: int
) -> None:
    server = serve(ROUTES, workers=workers)
    load = Load(server.port)
    wait_until(lambda: len(load.so_far()) >= 200, server.log)
    before = load.so_far()
    made = server.json("backup", "backup", "--mail")
    meanwhile = load.so_far() - before
    load.stop()
    assert made["damaged"] == []
    assert meanwhile, "it was made under load"
    assert server.stop() == 0

    server.data.rename(server.folder / "old")
    assert server.json("restore", "backup")["messages"] == made["messages"]
    assert server.run("check", str(server.file), "--data").returncode == 0
    delivered = numbers(server.mail())
    server.start("--workers", str(workers))
    found = queued(server)
    assert len(found) == made["messages"]
    assert before <= found | delivered
    assert {number for number in before if number % 3} <= found, "nobody delivered these"
    assert numbers(server.mail()) == delivered, "everything is held"
    copies = len(server.mail()) + len([number for number in found if number % 3 == 0])
    server.run("queue", "release", "--to", "localhost")  # there may be none
    assert {number for number in before if number % 3 == 0} <= numbers(server.wait_for_mail(copies))
    assert server.stop() == 0


def backup(server: Any, shim: Any, name: str) -> subprocess.CompletedProcess[str]:
    """Run `ironpost backup` under the shim."""
    return subprocess.run(
        [sys.executable, "-m", "ironpost.cli", "backup", name, "-c", str(server.file)], cwd=server.folder,
        env=environment(**shim.environment()), capture_output=True, text=True, check=False, timeout=60,
        start_new_session=True,
    )  # fmt: skip


def filled(serve: Callable[..., Any]) -> Any:
    """A server that was stopped with a message of each kind in its queue."""
    server = serve(ROUTES)
    with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=60) as client:
        for number, body in enumerate(BODIES):
            client.sendmail("", [f"n{number}@later.example"], f"Subject: number {number}\r\n\r\n{body}")
    assert server.stop() == 0
    return server


@pytest.mark.parametrize(
    ("calls", "path", "skip"),
    [("WRITE", "*/backup/*", 0), ("WRITE", "*/backup/*", 5), ("WRITE", "*/backup/*", 40), ("RENAME", MANIFEST, 0)],
)
def test_a_backup_that_was_killed_is_not_accepted(
    serve: Callable[..., Any], shim: Any, faults: ModuleType, calls: str, path: str, skip: int
) -> None:
    server = filled(serve)
    shim.arm(faults.Fault("death", getattr(faults, calls), path, faults.KILL_BEFORE, skip=skip))
    killed = backup(server, shim, "backup")
    assert killed.returncode == -signal.SIGKILL
    server.data.rename(server.folder / "old")
    done = server.run("restore", "backup")
    assert done.returncode == 66
    assert b"not a backup, or one that was interrupted" in done.stderr
    server.start()
    assert server.json("queue", "list") == []
    assert server.stop() == 0


@pytest.mark.parametrize("path", ["*/queue.sqlite3", "*/segments/*", "users", f"{MANIFEST}*"])
def test_a_full_disk_is_named_and_leaves_nothing(
    serve: Callable[..., Any], shim: Any, faults: ModuleType, path: str
) -> None:
    server = filled(serve)
    (server.data / "users").write_text("# nobody\n")
    rule = shim.arm(faults.Fault("full", faults.WRITE, f"*/backup/{path}", faults.FAIL, errno.ENOSPC))
    done = backup(server, shim, "backup")
    assert shim.fired(rule) == 1
    assert (done.returncode, "No space left on device" in done.stderr) == (73, True), done.stderr
    assert list((server.folder / "backup").iterdir()) == []
    assert backup(server, shim, "backup").returncode == 0
