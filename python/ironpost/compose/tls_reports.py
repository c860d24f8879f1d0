"""Composes reports about TLS: the counting of outgoing connections, and the sender of reports."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ironpost.model import Address
from ironpost.mta.daily_reports import Reporter
from ironpost.mta.tls_reports import TlsReports
from ironpost.reports.tlsrpt.counts import TlsCounts

if TYPE_CHECKING:
    from ironpost.compose.delivery import DeliveryAgents
    from ironpost.config import Configuration
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.queue_runner import QueueRunner
    from ironpost.mta.signing import Signing
    from ironpost.queue.store import Store

DOMAINS_AT_ONCE: Final = 100
"""Domains whose counts are stored in one iteration of the event loop."""


class TlsCounting:
    """Component: counts the TLS of one worker's outgoing connections, if the server sends reports."""

    def __init__(
        self, configuration: Configuration, state: KeyedState, clock: Clock, metrics: Metrics, worker: int
    ) -> None:
        enabled = configuration.tlsrpt.contact is not None
        self.counts = TlsCounts(state, clock.now, worker=worker, metrics=metrics) if enabled else None
        """Records outcomes; None if no reports are sent."""

    async def store(self) -> None:
        """Add what was counted to the state, a few domains in each iteration of the event loop."""
        if self.counts is None:
            return
        left = True
        while left:
            left = self.counts.flush(DOMAINS_AT_ONCE)
            await asyncio.sleep(0)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        """Keep what was counted for the next start."""
        if self.counts is not None:
            self.counts.flush()


def tls_reports(
    configuration: Configuration,
    counting: TlsCounting,
    state: KeyedState,
    *,
    agents: DeliveryAgents,
    store: Store,
    runner: QueueRunner,
    signing: Signing,
    clock: Clock,
    random: Random,
    metrics: Metrics,
) -> TlsReports | None:
    """Create the sender of reports of one worker; None if no reports are sent."""
    section = configuration.tlsrpt
    if section.contact is None or counting.counts is None:
        return None
    contact = Address.parse(section.contact)
    return TlsReports(
        Reporter(section.organization or contact.key, contact),
        counting.counts,
        state,
        resolver=agents.resolver,
        http=agents.http,
        store=store,
        accept=runner.accept,
        directory=lambda: runner.routes.directory,
        signing=signing,
        clock=clock,
        random=random,
        metrics=metrics,
    )
