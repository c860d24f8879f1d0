"""A reload while a worker is restarting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ironpost.compose.workers import ConfigurationSource, Supervised
from ironpost.config import parse
from ironpost.processes.worker_pool import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _Link:
    """A link to a worker that accepts every configuration."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.meanwhile = lambda: None

    async def ask(self, request: Mapping[str, Any], _seconds: float) -> dict[str, Any]:
        self.told.append(request["text"])
        self.meanwhile()
        return {}

    def notify(self, note: Mapping[str, Any]) -> None:
        pass


def test_a_worker_that_becomes_ready_during_a_reload_gets_it(tmp_path: Path) -> None:
    def source(recipients: int) -> ConfigurationSource:
        text = f'data = "{tmp_path}"\n[smtp]\nmax_recipients = {recipients}\n'
        return ConfigurationSource(parse(text, "test"), text, "test")

    async def run() -> None:
        old, new = source(100), source(200)
        supervised = Supervised(old, lambda: new, 2)
        supervised.listeners = []
        supervised._name = "mx.example"
        supervised._workers = crew = WorkerPool(2, (), supervised._first_message, on_ready=supervised._on_ready)
        links = [_Link(), _Link()]
        for worker, link in zip(crew.all, links, strict=True):
            supervised._first_message(worker.number)
            worker.channel = link  # type: ignore[assignment]
        crew._notified(crew.all[0], {"ready": True})
        links[0].meanwhile = lambda: crew._notified(crew.all[1], {"ready": True})
        await supervised.reload()
        await asyncio.sleep(0)
        assert [link.told for link in links] == [[new.text], [new.text]]

    asyncio.run(run())
