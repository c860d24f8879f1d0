"""A reload while a worker is being started again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ironpost.compose.workers import Source, Supervised
from ironpost.config import parse
from ironpost.service.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _Link:
    """To a worker that takes over whatever it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.meanwhile = lambda: None

    async def ask(self, request: Mapping[str, Any], _seconds: float) -> dict[str, Any]:
        self.told.append(request["text"])
        self.meanwhile()
        return {}

    def tell(self, note: Mapping[str, Any]) -> None:
        pass


def test_a_worker_that_becomes_ready_during_a_reload_is_told_of_it(tmp_path: Path) -> None:
    def source(recipients: int) -> Source:
        text = f'data = "{tmp_path}"\n[smtp]\nmax_recipients = {recipients}\n'
        return Source(parse(text, "test"), text, "test")

    async def run() -> None:
        old, new = source(100), source(200)
        supervised = Supervised(old, lambda: new, 2)
        supervised.places = []
        supervised._name = "mx.example"
        supervised._workers = crew = Workers(2, (), supervised._orders, began=supervised._began)
        links = [_Link(), _Link()]
        for worker, link in zip(crew.all, links, strict=True):
            supervised._orders(worker.number)
            worker.link = link  # type: ignore[assignment]
        crew._note(crew.all[0], {"ready": True})
        links[0].meanwhile = lambda: crew._note(crew.all[1], {"ready": True})
        await supervised.reload()
        await asyncio.sleep(0)
        assert [link.told for link in links] == [[new.text], [new.text]]

    asyncio.run(run())
