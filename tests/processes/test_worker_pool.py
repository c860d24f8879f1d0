"""Workers that behave badly: small scripts in the place of a real one."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.processes import worker_pool as module
from ironpost.processes.worker_pool import Worker, WorkerFailed, WorkerPool

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
import json, os, signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[-1]))
orders = json.loads(channel.makefile("rb").readline())["note"]
tell = lambda **note: channel.sendall(json.dumps({"note": note}).encode() + b"\\n")
"""
SERVE = """
for line in channel.makefile("rb"):
    line = json.loads(line)
    if "ping" in line:
        channel.sendall(b'{"pong": true}\\n')
    elif "ask" in line:
        answer = {"to": line["ask"], "answer": {"from": orders["number"]}}
        channel.sendall(json.dumps(answer).encode() + b"\\n")
"""
"""Answers pings and questions, and ends with its link."""
READY = "tell(ready=True)" + SERVE


def crew(script: str, count: int = 2, **options: Any) -> WorkerPool:
    return WorkerPool(count, ("-c", script), lambda number: {"number": number}, **options)


async def within(work: Any) -> Any:
    return await asyncio.wait_for(work, 30)


def suspend(worker: Worker) -> int:
    """Stops the process of a worker with SIGSTOP; its id. It has stopped when this returns."""
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED | os.WNOWAIT)
    return worker.process.pid


def ended(workers: WorkerPool) -> bool:
    return all(worker.process is None or worker.process.returncode is not None for worker in workers.all)


def test_a_worker_that_cannot_start_is_named_and_takes_the_others_with_it() -> None:
    script = HEAD + 'if orders["number"] == 1: tell(failed="no such thing", code=73); sys.exit(73)\n' + READY

    async def run() -> None:
        workers = crew(script)
        with pytest.raises(WorkerFailed, match="no such thing") as failed:
            await within(workers.start())
        assert failed.value.code == 73
        assert ended(workers)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("end", "how"),
    [("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"), ("sys.exit(3)", "ended with exit code 3")],
)
def test_f16_a_worker_that_always_dies_before_it_is_ready_fails_the_start(
    end: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)

    async def run() -> None:
        workers = crew(HEAD + end, 1)
        with pytest.raises(WorkerFailed, match=f"worker 0 {how} before it was ready, 3 times in a row") as failed:
            await within(workers.start())
        assert failed.value.code == 70
        assert ended(workers)

    asyncio.run(run())


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(3)"])
def test_f16_a_worker_that_dies_once_before_it_is_ready_is_started_again(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    mark = tmp_path / "died"
    script = HEAD + f"if orders['number'] == 1 and not os.path.exists({str(mark)!r}): open({str(mark)!r}, 'w'); {end}\n"

    async def run() -> None:
        workers = crew(script + READY)
        await within(workers.start())
        assert mark.exists()
        assert [worker.ready.is_set() for worker in workers.all] == [True, True]
        assert workers.restarts == 1
        await within(workers.stop())

    asyncio.run(run())


def test_f14_a_worker_that_is_never_ready_fails_the_start_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.05)
    monkeypatch.setattr(module, "START_SECONDS", 0.2)
    script = HEAD + "if orders['number'] == 1: os.kill(os.getpid(), signal.SIGSTOP)\n"

    async def run() -> None:
        workers = crew(script + "tell(ready=True)\nchannel.recv(1)")
        # The other one may be late as well, on a busy machine: any of them is named with its process.
        with pytest.raises(WorkerFailed, match=r"^worker \d \(process \d+\) was not ready within 0.2 s") as failed:
            await within(workers.start())
        assert failed.value.code == 75
        assert ended(workers)

    asyncio.run(run())


def test_f14_a_worker_that_stops_answering_is_killed_and_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    monkeypatch.setattr(module, "MISSED_PINGS", 10)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    gone: list[int] = []

    async def run() -> None:
        workers = crew(HEAD + READY, on_end=gone.append)
        await within(workers.start())
        first = workers.all[1].process
        assert first is not None
        assert suspend(workers.all[1]) == first.pid
        async with asyncio.timeout(30):
            while workers.all[1].starts < 2:
                await asyncio.sleep(0)
        assert first.returncode == -signal.SIGKILL
        assert gone == [1]
        assert workers.restarts == 1
        assert workers.all[0].starts == 1
        event = next(each for each in caplog.records if getattr(each, "event", "") == "worker-killed")
        assert event.levelname == "ERROR"
        assert event.fields == {"number": 1, "pid": first.pid, "reason": "did not answer for 2 s"}  # type: ignore[attr-defined]
        assert "did not answer for 2 s and was killed; restarting" in caplog.text
        await within(workers.stop())

    asyncio.run(run())


def test_f14_a_worker_that_answers_is_left_alone_and_said_to_be_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.1)
    alive: set[int] = set()

    async def run() -> None:
        workers = crew(HEAD + READY, on_alive=lambda worker: alive.add(worker.number))
        await within(workers.start())
        async with asyncio.timeout(30):
            while alive != {0, 1}:
                await asyncio.sleep(0)
        assert [worker.starts for worker in workers.all] == [1, 1]
        await within(workers.stop())

    asyncio.run(run())


def test_f14_a_process_that_closed_its_link_and_lives_on_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENDING_SECONDS", 0.1)
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    script = HEAD + "tell(ready=True)\nchannel.recv(1)\nchannel.close()\nwhile True: signal.pause()\n"

    async def run() -> None:
        workers = crew(script, 1)
        await within(workers.start())
        workers.notify(0, {"please": "close"})
        async with asyncio.timeout(30):
            while workers.all[0].starts < 2:
                await asyncio.sleep(0)
        await within(workers.stop())

    asyncio.run(run())


def test_f14_a_stopped_worker_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    monkeypatch.setattr(module, "MISSED_PINGS", 1_000_000)
    monkeypatch.setattr(module, "STOP_SECONDS", 600.0)

    async def run() -> None:
        workers = crew(HEAD + READY)
        await within(workers.start())
        suspend(workers.all[1])
        await within(workers.stop())
        assert [worker.process and worker.process.returncode for worker in workers.all] == [
            -signal.SIGTERM, -signal.SIGKILL,
        ]  # fmt: skip
        assert "did not answer for" in caplog.text

    asyncio.run(run())


def test_f14_answers_come_with_the_names_of_those_who_gave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.5)
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    monkeypatch.setattr(module, "MISSED_PINGS", 1_000_000)
    monkeypatch.setattr(module, "FIRST_PAUSE", 600.0)

    async def run() -> None:
        workers = crew(HEAD + READY, 3)
        await within(workers.start())
        suspend(workers.all[1])
        process = workers.all[2].process
        assert process is not None
        process.kill()
        async with asyncio.timeout(30):
            while workers.all[2].ready.is_set():
                await asyncio.sleep(0)
        given, silent = await within(workers.ask_all({"do": "anything"}))
        assert given == {0: {"from": 0}}
        assert silent == {
            1: "worker 1 did not answer within 0.5 s",
            2: "worker 2 is restarting",
        }
        others = await within(workers._ask_others(workers.all[0], {"request": {"do": "anything"}}))
        assert others == {"answers": []}
        await within(workers.stop())

    asyncio.run(run())


def test_a_cancelled_start_leaves_no_process() -> None:
    async def run() -> None:
        workers = crew(HEAD + "channel.recv(1)")  # never ready
        start = asyncio.create_task(workers.start())
        while not all(worker.process is not None for worker in workers.all):
            await asyncio.sleep(0)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(start)
        assert ended(workers)

    asyncio.run(run())


def test_a_worker_that_does_not_stop_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.1)
    script = HEAD + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntell(ready=True)\nwhile True: signal.pause()\n"

    async def run() -> None:
        workers = crew(script)
        await within(workers.start())
        await within(workers.stop())
        assert [worker.process and worker.process.returncode for worker in workers.all] == [-signal.SIGKILL] * 2

    asyncio.run(run())


def test_one_that_ends_is_started_again_and_everybody_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)
    began: list[int] = []
    gone: list[int] = []

    async def run() -> None:
        workers = crew(HEAD + READY, on_ready=lambda worker: began.append(worker.number), on_end=gone.append)
        await within(workers.start())
        first = workers.all[0].process
        assert first is not None
        first.kill()
        while workers.all[0].starts < 2:
            await asyncio.sleep(0)
        assert sorted(began) == [0, 0, 1]
        assert gone == [0]
        assert workers.all[0].process is not first
        await within(workers.stop())
        assert sorted(gone) == [0, 0, 1]

    asyncio.run(run())


def test_what_workers_say_to_each_other_is_passed_on() -> None:
    script = (
        HEAD + 'tell(ready=True)\ntell(word=orders["number"])\nwhile channel.recv(65536): tell(on_notification=1)\n'
    )
    heard: list[tuple[int, Any]] = []

    async def run() -> None:
        workers = crew(script, on_notification=lambda number, note: heard.append((number, note)))
        await within(workers.start())
        while len(heard) < 2:
            await asyncio.sleep(0)
        assert sorted((number, note["word"]) for number, note in heard) == [(0, 0), (1, 1)]
        heard.clear()
        workers.notify_others(0, {"x": 1})
        while not heard:
            await asyncio.sleep(0)
        assert heard == [(1, {"on_notification": 1})]
        await within(workers.stop())

    asyncio.run(run())
