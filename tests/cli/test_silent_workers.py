"""`serve --workers` with a worker that hangs: commands work without it, the server replaces it and ends in time."""

from __future__ import annotations

import json
import os
import select
import signal
import smtplib
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.operations.control_socket import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Serve = Callable[..., Any]
    Until = Callable[[Callable[[], bool], Callable[[], str]], None]

LATER = '[[route]]\ndomains = ["later.example"]\nsmart_host = ["127.0.0.1:1"]\n'
"""Port 1 is closed, so this mail is deferred."""

ANSWER_SECONDS = 1.5
"""Seconds to wait for a worker: enough for one that runs, on a busy machine too, and short for one that does not."""
SECONDS = 60.0
"""Seconds after which a test fails."""
SILENT = [{"worker": 1, "why": "worker 1 did not answer within 1.5 s"}]
SAID = b"ironpost: worker 1 did not answer within 1.5 s\n"
PATIENT = 1_000_000
"""Pings that a worker may miss in tests of commands."""


def program(tmp_path: Path, **constants: float) -> tuple[str, ...]:
    """Return the program with other constants of `processes.worker_pool` and a short timeout for responses."""
    lines = ["import sys", "from ironpost.processes import channel, worker_pool", "from ironpost.cli import app"]
    constants = {"ANSWER_SECONDS": ANSWER_SECONDS, "PING_SECONDS": 0.2, "FIRST_PAUSE": 0.0, **constants}
    lines += [f"worker_pool.{name} = {value!r}" for name, value in constants.items()]
    lines += ["channel.GRACE_SECONDS = 0.2"]
    script = tmp_path / "ironpost_quick.py"
    script.write_text("\n".join([*lines, "sys.exit(app.run())", ""]))
    return (sys.executable, str(script))


def status(server: Any) -> dict[str, Any]:
    return ask(server.data / "control.sock", {"do": "status"})


def suspend(server: Any, number: int, wait_until: Until) -> int:
    """Stop a worker with SIGSTOP and return its process id; it no longer responds when this returns."""
    pid: int = status(server)["workers"][number]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: bool(status(server)["silent"]), server.log)
    return pid


def owners(server: Any, count: int) -> dict[int, list[str]]:
    """Queue deferred messages; return their ids by the number of the worker that accepted them."""
    sent = 0
    while True:
        for _ in range(count):
            with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30) as client:
                client.sendmail("from@client.example", ["you@later.example"], "Subject: x\r\n\r\nx\r\n")
        sent += count
        end = time.monotonic() + SECONDS
        found: dict[int, list[str]] = {}
        pause = select.poll()
        while sum(map(len, found.values())) < sent:  # the log is written slightly later
            assert time.monotonic() < end, "not every message is in the log"
            pause.poll(10)
            found = accepted(server)
        if len(found) == 2:
            return found


def accepted(server: Any) -> dict[int, list[str]]:
    """Return the ids of accepted messages in the log, by worker."""
    found: dict[int, list[str]] = {}
    for line in server.log().splitlines():
        if line.endswith("}"):
            record = json.loads(line)
            if record.get("event") == "accepted":
                found.setdefault(record["worker"], []).append(record["id"])
    return found


def test_f14_metrics_and_status_have_the_values_of_responding_workers(
    serve: Serve, tmp_path: Path, wait_until: Until
) -> None:
    server = serve(LATER, workers=2, program=program(tmp_path, MISSED_PINGS=PATIENT))
    mine = owners(server, 6)
    pid = suspend(server, 1, wait_until)
    shown = server.run("metrics")
    assert (shown.returncode, shown.stderr) == (0, SAID)
    assert b"ironpost_workers_silent 1.0\n" in shown.stdout
    assert f'ironpost_messages_total{{result="accepted"}} {len(mine[0])}.0\n'.encode() in shown.stdout
    assert f"ironpost_queue_messages {len(mine[0]) + len(mine[1])}.0\n".encode() in shown.stdout
    assert server.json("metrics")["silent"] == SILENT
    shown = server.run("status")
    assert (shown.returncode, shown.stderr) == (0, SAID)
    assert f"listening on 127.0.0.1:{server.port} for mx\n".encode() in shown.stdout
    assert server.json("status")["silent"] == SILENT
    os.kill(pid, signal.SIGCONT)  # a stopped process would outlive its supervisor
    assert server.stop() == 0


def test_f14_changes_are_made_by_responding_workers_and_not_later(
    serve: Serve, tmp_path: Path, wait_until: Until
) -> None:
    server = serve(LATER, workers=2, program=program(tmp_path, MISSED_PINGS=PATIENT))
    mine = owners(server, 6)
    pid = suspend(server, 1, wait_until)
    done = server.run("queue", "retry", "--all", "--json")
    assert (done.returncode, done.stderr) == (75, SAID)
    found = json.loads(done.stdout)
    assert found == {"recipients": len(mine[0]), "suspended": [], "early": 0, "silent": SILENT}
    held = server.run("queue", "hold", mine[0][0], mine[1][0], "--json")
    assert (held.returncode, held.stderr) == (
        75, SAID + f"ironpost: these messages may be unchanged: {mine[1][0]}\n".encode(),
    )  # fmt: skip
    assert json.loads(held.stdout) == {"recipients": 1, "silent": SILENT, "not_done": [mine[1][0]]}
    assert server.json("queue", "release", mine[0][0]) == {"recipients": 1}, "whose owner answers"
    dropped = server.run("queue", "drop", mine[1][0])
    assert (dropped.returncode, dropped.stdout, dropped.stderr) == (75, b"", SAID)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not status(server)["silent"], server.log)
    listed = server.json("queue", "list")
    assert len(listed) == len(mine[0]) + len(mine[1])
    assert {each["recipients"][0]["state"] for each in listed} == {"queued"}, (
        "the worker executed a change after its deadline"
    )
    assert server.stop() == 0


@pytest.mark.parametrize("number", [0, 1])
def test_f14_a_reload_reaches_a_silent_worker_when_it_responds(
    serve: Serve, tmp_path: Path, wait_until: Until, number: int
) -> None:
    server = serve('max_message = "1MiB"\n', workers=2, program=program(tmp_path, MISSED_PINGS=PATIENT))
    pid = suspend(server, number, wait_until)
    server.configure('max_message = "2MiB"\n')
    done = server.run("reload")
    assert done.returncode == 75
    assert done.stderr == f"ironpost: worker {number} did not answer within 1.5 s\n".encode()
    assert b"replaces" in done.stdout
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: f"worker {number} answers again; sending" in server.log(), server.log)

    def sizes() -> set[str]:
        found = set()
        for _ in range(20):
            with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30) as client:
                client.ehlo()
                found.add(client.esmtp_features["size"])
        return found

    wait_until(lambda: sizes() == {str(2 << 20)}, server.log)
    assert status(server)["workers"][number]["starts"] == 1
    assert server.stop() == 0


def test_f14_a_reload_without_any_response_changes_nothing(serve: Serve, tmp_path: Path, wait_until: Until) -> None:
    server = serve('max_message = "1MiB"\n', workers=2, program=program(tmp_path, MISSED_PINGS=PATIENT))
    before = status(server)["configuration"]
    for number in (0, 1):
        suspend(server, number, wait_until)
    wait_until(lambda: len(status(server)["silent"]) == 2, server.log)
    server.configure('max_message = "2MiB"\n')
    done = server.run("reload")
    assert (done.returncode, done.stdout) == (75, b"")
    assert b"the old configuration stays in effect\n" in done.stderr
    for number in (0, 1):
        assert f"worker {number} did not answer within 1.5 s\n".encode() in done.stderr
        os.kill(status(server)["workers"][number]["pid"], signal.SIGCONT)
    assert status(server)["configuration"] == before
    assert server.run("metrics").returncode == 0
    assert server.stop() == 0


def test_f14_a_hung_worker_is_replaced(serve: Serve, tmp_path: Path, wait_until: Until) -> None:
    server = serve(workers=2, program=program(tmp_path, MISSED_PINGS=20))
    pid: int = status(server)["workers"][1]["pid"]
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: status(server)["workers"][1]["starts"] == 2, server.log)
    killed = [each for each in map(json.loads, server.log().splitlines()) if each.get("event") == "worker-killed"]
    assert ("error", 1, pid, "did not answer for 4 s") in [
        (each["level"], each["number"], each["pid"], each["reason"]) for each in killed
    ]
    assert b"ironpost_worker_restarts_total 1.0\n" in server.run("metrics").stdout
    for _ in range(20):
        with smtplib.SMTP("127.0.0.1", server.port, "client.example", timeout=30) as client:
            client.sendmail("from@client.example", ["you@localhost"], "Subject: x\r\n\r\nx\r\n")
    assert len(server.wait_for_mail(20)) == 20
    assert server.stop() == 0


def test_f14_sigterm_ends_the_server_although_a_worker_is_stopped(
    serve: Serve, tmp_path: Path, wait_until: Until
) -> None:
    server = serve(workers=2, program=program(tmp_path, MISSED_PINGS=PATIENT, MISSED_WHEN_STOPPING=10))
    pid = suspend(server, 1, wait_until)
    assert server.stop() == 0
    assert "did not answer for" in server.log()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_f16_a_worker_killed_before_all_are_ready_does_not_end_the_server(serve: Serve, tmp_path: Path) -> None:
    mark = tmp_path / "died"
    victim = tmp_path / "victim.py"
    victim.write_text(
        "import os, signal, sys\n"
        f"try: os.close(os.open({str(mark)!r}, os.O_CREAT | os.O_EXCL))\n"
        "except FileExistsError: pass\n"
        "else: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from ironpost.cli.worker import main\n"
        "sys.exit(main(int(sys.argv[-1])))\n"
    )
    script = tmp_path / "ironpost_victim.py"
    script.write_text(
        "import sys\n"
        "from ironpost.cli import app\n"
        "from ironpost.compose import workers\n"
        f"workers.WORKER = ({str(victim)!r},)\n"
        "sys.exit(app.run())\n"
    )
    server = serve(workers=2, program=(sys.executable, str(script)))
    assert mark.exists()
    assert sum(worker["starts"] for worker in status(server)["workers"]) == 2
    assert b"ironpost_worker_restarts_total 1.0\n" in server.run("metrics").stdout
    assert server.stop() == 0


def test_f14_status_of_one_process(serve: Serve) -> None:
    server = serve()
    shown = server.run("status")
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert f"listening on 127.0.0.1:{server.port} for mx\n".encode() in shown.stdout
    assert server.json("status")["connections"] == 0
    assert server.stop() == 0
