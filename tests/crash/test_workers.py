"""SIGKILL of processes of `serve --workers`: no acknowledged mail is lost, and no process survives its supervisor."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.operations.control_socket import ask
from ironpost.storage.lock import DirectoryInUse, DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Until = Callable[[Callable[[], bool], Callable[[], str]], None]

MESSAGES = 1500
CLIENTS = 8
WORKERS = 3


class Load:
    """Clients that send numbered messages; if a connection breaks, the message is sent again over another."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: set[int] = set()
        self.retried: set[int] = set()
        self._numbers = iter(range(MESSAGES))
        self._lock = threading.Lock()
        self.over = threading.Event()
        """Nobody listens any more; before, a worker will come back."""
        self.threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _client(self) -> None:
        number: int | None = None
        while True:
            try:
                with smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=30) as client:
                    while True:
                        if number is None:
                            with self._lock:
                                number = next(self._numbers, None)
                        if number is None:
                            return
                        client.sendmail("", [f"n{number}@localhost"], f"Subject: number {number}\r\n\r\nx\r\n")
                        with self._lock:
                            self.acknowledged.add(number)
                        number = None
            except ConnectionRefusedError:
                if self.over.wait(0.01):
                    return
            except (OSError, smtplib.SMTPException):
                if number is not None:
                    self.retried.add(number)


def workers(server: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(server.data / "control.sock", {"do": "status"})["workers"]
    return found


def delivered(server: Any) -> Counter[int]:
    return Counter(int(re.search(rb"^Subject: number (\d+)", text, re.M)[1]) for text in server.mail())  # type: ignore[index]


def test_killed_workers_lose_nothing_and_duplicate_only_mail_in_progress(
    serve: Callable[..., Any], wait_until: Until
) -> None:
    server = serve(workers=WORKERS)
    load = Load(server.port)
    for victim in range(WORKERS):
        goal = (victim + 1) * MESSAGES // (WORKERS + 2)
        wait_until(lambda goal=goal: len(load.acknowledged) >= goal, server.log)  # type: ignore[misc]
        os.kill(workers(server)[victim]["pid"], signal.SIGKILL)
    for thread in load.threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(load.acknowledged) == MESSAGES
    wait_until(lambda: all(worker["ready"] and worker["starts"] == 2 for worker in workers(server)), server.log)
    server.wait_until_empty()
    copies = delivered(server)
    assert set(copies) == set(range(MESSAGES))
    doubled = {number for number, count in copies.items() if count > 1}
    # Either the client got no reply and sent the message again (RFC 5321 §4.1.1.10), or the copy was delivered and not
    # yet recorded: at most the concurrent attempts of one worker, for each that was killed.
    assert max(copies.values()) <= 3
    assert len(doubled - load.retried) <= WORKERS * (100 // WORKERS)
    assert len(load.retried) <= WORKERS * CLIENTS
    assert server.stop() == 0


def test_workers_exit_when_their_supervisor_is_killed(serve: Callable[..., Any], wait_until: Until) -> None:
    server = serve(workers=WORKERS)
    load = Load(server.port)
    wait_until(lambda: len(load.acknowledged) >= 100, server.log)
    server.process.kill()
    server.process.wait()

    def all_gone() -> bool:
        try:
            DirectoryLock(server.data).release()  # each worker holds it, too
        except DirectoryInUse:
            return False
        return True

    wait_until(all_gone, server.log)
    load.over.set()
    for thread in load.threads:
        thread.join(60)
        assert not thread.is_alive()
    server.process.stdout.close()
    server.start("--workers", "2")
    server.wait_until_empty()
    assert load.acknowledged <= set(delivered(server))
    assert server.stop() == 0


def test_a_stop_under_load_keeps_what_was_acknowledged(serve: Callable[..., Any], wait_until: Until) -> None:
    server = serve(workers=WORKERS)
    load = Load(server.port)
    wait_until(lambda: len(load.acknowledged) >= 300, server.log)
    load.over.set()
    assert server.stop() == 0
    for thread in load.threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(load.acknowledged) < MESSAGES, "it was stopped under load"
    server.start()
    server.wait_until_empty()
    copies = delivered(server)
    assert load.acknowledged <= set(copies)
    assert {number for number, count in copies.items() if count > 1} <= load.retried
    assert server.stop() == 0


def test_a_worker_whose_disk_fails_exits_with_74_and_is_restarted(
    serve: Callable[..., Any], wait_until: Until, shim: Any, faults: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in shim.environment().items():
        monkeypatch.setenv(name, value)
    server = serve(workers=2)
    before = {worker["pid"] for worker in workers(server)}
    client = smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30)
    client.sendmail("", ["first@localhost"], "Subject: number 1\r\n\r\nx\r\n")  # SQLite syncs a new log by itself
    server.wait_for_mail(1)
    # The sync of the log fails, and then that of the database into which it is copied: recovery fails.
    lost = shim.arm(faults.Fault("log", faults.SYNC, "*/queue.sqlite3-wal", faults.FAIL))
    final = shim.arm(faults.Fault("database", faults.SYNC, "*/queue.sqlite3", faults.FAIL, skip=2))
    with pytest.raises(smtplib.SMTPServerDisconnected):  # no reply: the message may be there after the restart
        client.sendmail("", ["second@localhost"], "Subject: number 2\r\n\r\nx\r\n")
    assert (shim.fired(lost), shim.fired(final)) == (1, 1)

    def again() -> bool:
        found = workers(server)
        return all(each["ready"] for each in found) and sorted(each["starts"] for each in found) == [1, 2]

    wait_until(again, server.log)
    assert len(before & {worker["pid"] for worker in workers(server)}) == 1  # the other one went on
    assert re.search(
        r"the queue's log cannot be recovered, the process ends: .*database cannot be synced"
        r"(?s:.*)worker [01] ended with exit code 74 \(its disk failed\); restarting in",
        server.log(),
    )
    with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30) as client:
        client.sendmail("", ["second@localhost"], "Subject: number 2\r\n\r\nx\r\n")
    wait_until(lambda: set(delivered(server)) == {1, 2}, server.log)
    assert server.stop() == 0
