"""SIGKILL among the processes of `serve --workers`: nothing acknowledged is lost, nobody lives on alone."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from ironpost.service.control import ask
from ironpost.storage.lock import DirectoryInUse, DirectoryLock

if TYPE_CHECKING:
    from collections.abc import Callable

    Until = Callable[[Callable[[], bool], Callable[[], str]], None]

MESSAGES = 1500
CLIENTS = 8
WORKERS = 3


class Load:
    """Clients that send numbered messages; one whose connection breaks sends the same message over another."""

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


def test_killed_workers_under_load_lose_nothing_and_double_only_what_was_under_way(
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
    # Either the client heard no answer and asked again (RFC 5321 §4.1.1.10), or the copy was delivered and not yet
    # recorded: at most what one worker attempts at a time, for each that was killed.
    assert max(copies.values()) <= 3
    assert len(doubled - load.retried) <= WORKERS * (100 // WORKERS)
    assert len(load.retried) <= WORKERS * CLIENTS
    assert server.stop() == 0


def test_workers_end_with_a_supervisor_that_is_killed(serve: Callable[..., Any], wait_until: Until) -> None:
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
