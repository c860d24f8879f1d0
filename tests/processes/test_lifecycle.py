"""Order of start and stop, signals, reload."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from ironpost.processes.lifecycle import PeriodicLoop, Supervisor


class Part:
    def __init__(self, name: str, told: list[str], fault: Exception | None = None) -> None:
        self.name = name
        self.told = told
        self.fault = fault

    async def start(self) -> None:
        if self.fault is not None:
            raise self.fault
        self.told.append(f"start {self.name}")

    async def stop(self) -> None:
        self.told.append(f"stop {self.name}")


async def nothing() -> str:
    return "nothing to reload"


def test_parts_stop_in_the_reverse_order() -> None:
    told: list[str] = []
    supervisor = Supervisor([Part("store", told), Part("listener", told)], nothing)
    asyncio.run(supervisor.run(supervisor.stop))
    assert told == ["start store", "start listener", "stop listener", "stop store"]


def test_a_part_that_cannot_start_stops_those_before_it() -> None:
    told: list[str] = []
    parts = [Part("store", told), Part("listener", told, OSError("in use"))]
    with pytest.raises(OSError, match="in use"):
        asyncio.run(Supervisor(parts, nothing).run(lambda: told.append("ready")))
    assert told == ["start store", "stop store"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_cleanly(number: signal.Signals) -> None:
    told: list[str] = []
    supervisor = Supervisor([Part("store", told)], nothing)
    asyncio.run(supervisor.run(lambda: os.kill(os.getpid(), number)))
    assert told == ["start store", "stop store"]


def test_sighup_reloads_and_a_failing_reload_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    supervisor: Supervisor

    async def reload() -> str:
        asyncio.get_running_loop().call_soon(supervisor.stop)
        raise ValueError("mail.toml:3: smtp.lisen: unknown key")

    supervisor = Supervisor([], reload)
    asyncio.run(supervisor.run(lambda: os.kill(os.getpid(), signal.SIGHUP)))
    assert "the old configuration stays in effect: mail.toml:3: smtp.lisen: unknown key" in caplog.text


def test_a_loop_that_dies_takes_the_server_down_with_its_error() -> None:
    told: list[str] = []

    async def broken() -> None:
        raise RuntimeError("the queue runner is broken")

    async def stop() -> None:
        told.append("stop runner")

    parts = [Part("store", told), PeriodicLoop(lambda: asyncio.get_running_loop().create_task(broken()), stop)]
    with pytest.raises(RuntimeError, match="the queue runner is broken"):
        asyncio.run(Supervisor(parts, nothing).run(lambda: None))
    assert told == ["start store", "stop runner", "stop store"]
