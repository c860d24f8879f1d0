"""One server process: what a refused reload leaves, and the order in which its parts stop."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from ironpost.compose import system
from ironpost.compose.system import System
from ironpost.config import parse
from ironpost.delivery.access import AccessError
from ironpost.mta.queue_runner import QueueRunner
from ironpost.mta.tls_reports import TlsReports
from ironpost.processes.jobs import JobScheduler
from ironpost.processes.requests import RequestRefused
from ironpost.storage.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.accounts.record_sources import SourceContext
    from ironpost.config import Configuration
    from ironpost.routing.records import RecordSource


def configuration(data: Path) -> Configuration:
    return parse(
        f'hostname = "mx.here.example"\ndata = "{data}"\n[queue]\nbackend = "memory"\n'
        '[tlsrpt]\ncontact = "tls@here.example"\n'
        '[[listener]]\nrole = "mx"\ntls = "none"\nlisten = ["127.0.0.1:0"]\n'
    )


def test_reports_about_tls_are_finished_between_the_jobs_and_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[type] = []

    def recorded(part: type, method: str) -> None:
        original = getattr(part, method)

        async def stop(self: object) -> None:
            stopped.append(part)
            await original(self)

        monkeypatch.setattr(part, method, stop)

    for part, method in (
        (MemoryStore, "close"), (QueueRunner, "stop"), (TlsReports, "stop"), (JobScheduler, "stop"),
    ):  # fmt: skip
        recorded(part, method)

    async def main() -> None:
        process = System(configuration(tmp_path), lambda: pytest.fail("nothing is reloaded"))
        await process.run(lambda: process._supervisor.stop())

    asyncio.run(main())
    assert stopped == [JobScheduler, TlsReports, QueueRunner, MemoryStore]


def test_no_account_is_created_by_a_start_that_fails_for_a_secret(tmp_path: Path) -> None:
    text = f'data = "{tmp_path}"\n[[route]]\nsmart_host = ["smtp.example:587"]\n[route.auth]\nuser = "u"\n'
    found = parse(text + f'password = "file:{tmp_path}/missing"\n')

    async def main() -> None:
        with pytest.raises(AccessError, match=r"route\[1\].auth.password"):
            await System(found, lambda: pytest.fail("nothing is reloaded")).run(lambda: None)

    asyncio.run(main())
    assert not found.users.exists()


def test_a_reload_opens_sources_of_the_directory_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two reloads at a time: the second begins when the first is done, or an old configuration could come last."""
    first, second = configuration(tmp_path), configuration(tmp_path)
    opening, go = threading.Event(), threading.Event()
    opened: list[Configuration] = []
    original = system.record_sources

    def open_slowly(found: Configuration, context: SourceContext) -> list[RecordSource]:
        opened.append(found)
        if len(opened) == 2:
            opening.set()
            assert go.wait(10)
        return original(found, context)

    monkeypatch.setattr(system, "record_sources", open_slowly)

    async def main() -> None:
        loading = iter((first, second))
        process = System(configuration(tmp_path), lambda: next(loading))
        ready = asyncio.Event()
        running = asyncio.create_task(process.run(ready.set))
        await ready.wait()
        reloads = [asyncio.create_task(process.reload()) for _ in range(2)]
        assert await asyncio.to_thread(opening.wait, 10)  # the loop runs meanwhile
        assert opened[1:] == [first]
        go.set()
        await asyncio.gather(*reloads)
        assert process.configuration is second
        process._supervisor.stop()
        await running

    asyncio.run(main())


def test_a_reload_without_a_descriptor_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = configuration(tmp_path), configuration(tmp_path)

    def refuse() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def main() -> None:
        process = System(old, lambda: new)
        ready = asyncio.Event()
        running = asyncio.create_task(process.run(ready.set))
        await ready.wait()
        with monkeypatch.context() as patched:
            patched.setattr(system, "available_memory", refuse)
            with pytest.raises(RequestRefused, match=os.strerror(errno.EMFILE)):
                await process.reload()
        assert process.configuration is old
        await process.reload()
        assert process.configuration is new
        process._supervisor.stop()
        await running

    asyncio.run(main())
