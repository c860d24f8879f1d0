"""A server that is killed or stopped under load keeps acknowledged mail."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MESSAGES = 1000
CLIENTS = 8


class Load:
    """Clients that submit numbered messages until all are accepted or the server has ended."""

    def __init__(self, port: int, tell: Callable[[int], None]) -> None:
        self.port = port
        self.acknowledged: set[int] = set()
        self._numbers = iter(range(MESSAGES))
        self._lock = threading.Lock()
        self._tell = tell
        self.threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _client(self) -> None:
        try:
            with smtplib.SMTP("127.0.0.1", self.port, "client.example", timeout=30) as client:
                while True:
                    with self._lock:
                        number = next(self._numbers, None)
                    if number is None:
                        return
                    text = f"Subject: number {number}\r\n\r\n{'x' * 800}\r\n"
                    client.sendmail("", [f"n{number}@localhost"], text)
                    with self._lock:
                        self.acknowledged.add(number)
                        self._tell(len(self.acknowledged))
        except (OSError, smtplib.SMTPException):
            pass  # the server has ended, as intended

    def wait(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


def numbers(mail: list[bytes]) -> list[int]:
    return sorted(int(re.search(rb"^Subject: number (\d+)$", text, re.M)[1]) for text in mail)  # type: ignore[index]


def test_sigkill_during_submissions_loses_no_acknowledged_mail(serve: Callable[[str], Any]) -> None:
    server = serve("")
    load = Load(server.port, lambda count: server.process.kill() if count == MESSAGES // 2 else None)
    load.wait()
    assert server.process.wait(60) == -signal.SIGKILL
    assert MESSAGES // 2 <= len(load.acknowledged) < MESSAGES
    server.process.stdout.close()
    server.start()
    server.wait_until_empty()
    found = numbers(server.mail())
    missing = load.acknowledged - set(found)
    assert missing == set()


def test_sigterm_during_load_loses_nothing_and_exits_0(serve: Callable[[str], Any]) -> None:
    server = serve("")
    load = Load(server.port, lambda count: server.process.terminate() if count == MESSAGES // 2 else None)
    load.wait()
    assert server.process.wait(60) == 0, server.log()
    server.process.stdout.close()
    server.start()
    server.wait_until_empty()
    found = numbers(server.mail())
    # A regular stop causes no duplicates either.
    assert len(found) == len(set(found))
    assert load.acknowledged <= set(found)


def test_stop_lets_a_message_in_progress_finish(serve: Callable[[str], Any]) -> None:
    server = serve("")
    with socket.create_connection(("127.0.0.1", server.port), 30) as client, client.makefile("rb") as replies:
        assert replies.readline().startswith(b"220")
        for command in (b"HELO client.example\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<a@localhost>\r\n", b"DATA\r\n"):
            client.sendall(command)
            assert replies.readline()[:1] in b"23"
        server.process.terminate()
        # New connections are refused soon after; this one may finish.
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), 30).close()
            except OSError:
                break
        client.sendall(b"Subject: late\r\n\r\n.\r\n")
        assert replies.readline().startswith(b"250 2.0.0")
        assert replies.readline().startswith(b"421")
    assert server.process.wait(60) == 0
    server.process.stdout.close()
    server.start()
    server.wait_for_mail()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_a_message_of_200_mb_uses_bounded_memory(serve: Callable[[str], Any], tmp_path: Path) -> None:
    server = serve("")
    file = tmp_path / "large"
    line = b"0123456789" * 7 + b"abcde\n"
    with file.open("wb") as out:
        out.write(b"Subject: large\n\n")
        for _ in range(200 * 1000 * 1000 // (len(line) * 1000)):
            out.write(line * 1000)
    # The first message causes one-time imports and allocations.
    small = server.run("send", "--to", "a@localhost", "--port", str(server.port), "-", stdin=b"Subject: small\n\nx\n")
    assert small.returncode == 0, small.stderr
    server.wait_for_mail()
    before = peak(server.process.pid)
    done = server.run("send", "--to", "a@localhost", "--port", str(server.port), str(file))
    assert done.returncode == 0, done.stderr
    server.wait_until_empty()
    grown = peak(server.process.pid) - before
    paths = sorted((server.data / "mail" / "new").iterdir(), key=lambda path: path.stat().st_size)
    assert len(paths) == 2
    with paths[1].open("rb") as stored, file.open("rb") as sent:
        while not stored.readline().startswith(b"Subject: large"):
            pass
        sent.readline()
        while piece := sent.read(1 << 20):
            assert stored.read(len(piece)) == piece
        assert stored.read() == b""
    assert grown < 32 * 1024 * 1024, f"{grown >> 20} MiB"


def peak(process: int) -> int:
    """Return the sum of the peak resident memory of the process and its children, in octets."""
    kibibytes = 0
    for family in (process, *children(process)):
        status = Path(f"/proc/{family}/status").read_text()
        kibibytes += int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])  # type: ignore[index]
    return kibibytes * 1024


def children(process: int) -> list[int]:
    return [
        int(found)
        for task in Path(f"/proc/{process}/task").iterdir()
        for found in (task / "children").read_text().split()
    ]
