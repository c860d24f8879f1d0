"""Workers that behave badly: small scripts in the place of a real one."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from ironpost.service import workers as module
from ironpost.service.workers import WorkerFailed, Workers

HEAD = """
import json, os, signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[-1]))
orders = json.loads(channel.makefile("rb").readline())["note"]
tell = lambda **note: channel.sendall(json.dumps({"note": note}).encode() + b"\\n")
"""
READY = "tell(ready=True)\nchannel.recv(1)\n"
"""Ready, and ends with its link."""


def crew(script: str, count: int = 2, **options: Any) -> Workers:
    return Workers(count, ("-c", script), lambda number: {"number": number}, **options)


async def within(work: Any) -> Any:
    return await asyncio.wait_for(work, 30)


def ended(workers: Workers) -> bool:
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


def test_a_worker_that_dies_before_it_is_ready_is_told_of() -> None:
    async def run() -> None:
        workers = crew(HEAD + "os.kill(os.getpid(), signal.SIGKILL)")
        with pytest.raises(WorkerFailed, match="was ended by SIGKILL before it was ready") as failed:
            await within(workers.start())
        assert failed.value.code == 70
        assert ended(workers)

    asyncio.run(run())


def test_a_start_that_is_called_off_leaves_nobody() -> None:
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
        workers = crew(HEAD + READY, began=lambda worker: began.append(worker.number), ended=gone.append)
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
    script = HEAD + 'tell(ready=True)\ntell(word=orders["number"])\nwhile channel.recv(65536): tell(heard=1)\n'
    heard: list[tuple[int, Any]] = []

    async def run() -> None:
        workers = crew(script, heard=lambda number, note: heard.append((number, note)))
        await within(workers.start())
        while len(heard) < 2:
            await asyncio.sleep(0)
        assert sorted((number, note["word"]) for number, note in heard) == [(0, 0), (1, 1)]
        heard.clear()
        workers.tell_others(0, {"x": 1})
        while not heard:
            await asyncio.sleep(0)
        assert heard == [(1, {"heard": 1})]
        await within(workers.stop())

    asyncio.run(run())
