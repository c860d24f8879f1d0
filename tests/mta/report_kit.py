"""What the senders of daily reports share in tests: the state, queue and DNS of a server, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.mta.runner_kit import Chance, VirtualClock
from tests.reports.dmarc_kit import MIDNIGHT

from ironpost.compose.keyed_state import NAMESPACES
from ironpost.model.keyed_state import MemoryState
from ironpost.mta.daily_reports import DELAY, SPREAD, SentReports
from ironpost.mta.report_mail import ReportMail
from ironpost.mta.signing import Signing
from ironpost.reports.daily import DAY
from ironpost.storage.memory import MemoryStore
from ironpost.telemetry.metrics import Counters
from ironpost.testing.directory import local
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ironpost.queue.store import QueuedMessage

NOTHING = SentReports(0, 0, 0)
ONE = SentReports(1, 0, 0)
WAITING = SentReports(0, 1, 0)
DROPPED = SentReports(0, 0, 1)


class ReportWorld:
    """The state, store and DNS of a server."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.clock.time = MIDNIGHT + 3600
        self.state = MemoryState(NAMESPACES, self.clock.now)
        self.store = MemoryStore(now=self.clock.now)
        self.metrics = Counters()
        self.random = Chance()
        self.txt: dict[str, list[bytes]] = {}
        self.failing: list[str] = []
        self.accepted: list[QueuedMessage] = []

    def ports(self) -> dict[str, Any]:
        """The arguments of every sender."""
        mail = ReportMail(
            store=self.store,
            accept=self.accepted.append,
            directory=lambda: local(["here.example"]),
            signing=Signing(),
            clock=self.clock,
            random=self.random,
        )
        resolver = StaticResolver(txt=self.txt, failing=self.failing)
        return {
            "resolver": resolver,
            "mail": mail,
            "clock": self.clock,
            "random": self.random,
            "metrics": self.metrics,
        }

    def next_day(self) -> None:
        """Wait until all reports of the day are due."""
        self.clock.time = (self.clock.time // DAY + 1) * DAY + DELAY + SPREAD


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())
