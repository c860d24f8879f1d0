"""Real servers that are short of descriptors or memory: they refuse connections, and deliver what they have."""

from __future__ import annotations

import json
import re
import socket
import sys
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPEN_FILES = 200
"""Descriptors that a process may open in these tests: half of them are reserved."""
FEW_FILES = (
    "import resource, sys\n"
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({OPEN_FILES // 2}, {OPEN_FILES}))\n"
    "from ironpost.cli import main\n"
    "sys.exit(main())\n"
)
"""The program with a low limit of open files, which its workers inherit."""
WITHOUT_UVLOOP = "import sys\nsys.modules['uvloop'] = None\n" + FEW_FILES
GIVEN_MEMORY = (
    sys.executable, "-c",
    "import pathlib, sys\n"
    "from ironpost.cli import main\n"
    "from ironpost.processes import jobs, resources\n"
    "jobs.FIRST_SECONDS = 0.0\n"
    "given = pathlib.Path('memory')\n"
    "resources.resident_memory = lambda: (int(given.read_text()) if given.exists() else 100) << 20\n"
    "sys.exit(main())\n",
)  # fmt: skip
"""The program, with the resident memory that the file `memory` gives, in MiB; 100 without one."""
REFUSAL = b"421 4.3.2 Insufficient system resources, try again later\r\n"
MESSAGE = b"Subject: x\r\n\r\n" + b"0123456789 0123456789 0123456789\r\n" * 10_000 + b".\r\n"


class Talk:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.lines = self.socket.makefile("rb")
        self.greeting = self.lines.readline()

    def say(self, octets: bytes, replies: int = 1) -> list[bytes]:
        """Send octets and return the codes of this number of one-line replies."""
        self.socket.sendall(octets)
        return [self.lines.readline()[:3] for _ in range(replies)]

    def close(self) -> None:
        self.lines.close()
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[[Any], Talk]]:
    """Connects to the first listener of a server; the connections are closed at the end."""
    with ExitStack() as stack:

        def connect(server: Any) -> Talk:
            talk = Talk(server.port)
            stack.callback(talk.close)
            return talk

        yield connect


def metrics(server: Any) -> dict[str, dict[str, float]]:
    answer = server.json("metrics", "-c", str(server.file))
    return {**answer["counts"], **answer["gauges"]}


def records(server: Any, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in server.log().splitlines()]
    return [record for record in found if record.get("event") == event]


@pytest.mark.parametrize(("workers", "program"), [(1, FEW_FILES), (2, FEW_FILES), (1, WITHOUT_UVLOOP)])
def test_connections_leave_descriptors_for_the_queue_and_for_deliveries(
    serve: Callable[..., Any],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
    workers: int,
    program: str,
) -> None:
    text = '[queue]\nmemory = "64KiB"\n[limits]\nconnections = 5000\n'
    server = serve(text, workers=workers, program=(sys.executable, "-c", program))
    with ExitStack() as stack:
        talks = [stack.enter_context(closing(Talk(server.port))) for _ in range(2 * OPEN_FILES)]
        served = [talk for talk in talks if talk.greeting.startswith(b"220 ")]
        refused = [talk for talk in talks if talk.greeting.startswith(b"421 4.3.2 ")]
        assert len(served) + len(refused) == 2 * OPEN_FILES, "everyone gets a reply"
        assert 20 * workers < len(served) < workers * OPEN_FILES // 2
        # Each of these needs more descriptors: a file for the content, a directory and a file in the Maildir.
        for talk in served[:20]:
            assert talk.say(b"HELO x.example\r\nMAIL FROM:<>\r\nRCPT TO:<you@localhost>\r\nDATA\r\n", 4)[3] == b"354"
            talk.socket.sendall(MESSAGE[:-3])
        for talk in served[:20]:
            assert talk.say(MESSAGE[-3:]) == [b"250"]
        assert len(server.wait_for_mail(20)) == 20
        server.wait_until_empty()
        found = metrics(server)
        assert found["connections"]["mx"] == len(served)
        assert sum(found["connections_refused"].values()) == len(refused)
        assert found["accept_failures"] == {}
        assert len(served) < found["resources_used"]["descriptors"] < workers * OPEN_FILES

    def served_again() -> bool:
        with closing(Talk(server.port)) as talk:
            return talk.greeting.startswith(b"220 ")

    wait_until(served_again, server.log)  # the server notices a moment later that the connections are closed
    assert server.stop() == 0
    assert f"limits.connections allow 5000 connections, but {OPEN_FILES} open files permit only" in server.log()
    assert not [line for line in server.log().splitlines() if json.loads(line)["level"] in {"error", "critical"}]


def test_a_server_that_is_short_of_memory_ends_idle_sessions_and_recovers(
    serve: Callable[..., Any], connect: Callable[[Any], Talk], wait_until: Callable[..., None]
) -> None:
    def use(mebibytes: int) -> None:
        (server.folder / "new").write_text(str(mebibytes))
        (server.folder / "new").rename(server.folder / "memory")

    server = serve('[limits]\nmemory = "200MiB"\n', program=GIVEN_MEMORY)
    idle, sending = connect(server), connect(server)
    assert idle.say(b"HELO x.example\r\n") == [b"250"]
    assert sending.say(b"HELO x.example\r\nMAIL FROM:<>\r\n", 2) == [b"250", b"250"]
    use(200)
    assert idle.lines.read() == REFUSAL
    assert connect(server).greeting == REFUSAL
    assert sending.say(b"RCPT TO:<you@localhost>\r\nDATA\r\n", 2) == [b"250", b"354"]
    assert sending.say(MESSAGE) == [b"250"]
    assert sending.lines.read() == REFUSAL
    server.wait_for_mail()
    use(185)
    assert b"; short: new connections are refused" in server.run("status", "-c", str(server.file)).stdout
    assert metrics(server)["resources_short"] == {"memory": 1, "descriptors": 0, "disk": 0}
    assert metrics(server)["connections_refused"] == {"memory": 1}
    use(100)
    wait_until(lambda: connect(server).greeting.startswith(b"220 "), server.log)
    assert re.search(
        rb"^memory \(worker 0\): 100 of 200 MiB$", server.run("status", "-c", str(server.file)).stdout, re.M
    )
    assert server.stop() == 0
    assert [(each["resource"], each["used"]) for each in records(server, "resource-short")] == [("memory", 200 << 20)]
    assert [each["used"] for each in records(server, "resource-sufficient")] == [100 << 20]


def test_all_workers_are_short_and_a_reload_changes_the_limit(
    serve: Callable[..., Any], connect: Callable[[Any], Talk]
) -> None:
    server = serve(workers=2)
    assert connect(server).greeting.startswith(b"220 ")
    server.configure('[limits]\nmemory = "1MiB"\n')
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    for _ in range(20):
        assert connect(server).greeting == REFUSAL
    found = server.json("status", "-c", str(server.file))["resources"]
    assert {(each["worker"], each["resource"], each["short"]) for each in found} == {
        (0, "memory", True), (1, "memory", True), (0, "descriptors", False), (1, "descriptors", False),
        (0, "disk", False),
    }  # fmt: skip
    assert {each["most"] for each in found if each["resource"] == "memory"} == {1 << 19}, "each has its share"
    server.configure("")
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    for _ in range(20):
        assert connect(server).greeting.startswith(b"220 ")
    assert server.stop() == 0
    assert sorted(each["worker"] for each in records(server, "resource-short")) == [0, 1]
