"""Composes keyed state: its namespaces, and the file in the data directory."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from ironpost.delivery import sts_cache
from ironpost.model.keyed_state import Change, MemoryState
from ironpost.mta import dmarc_reports, tls_reports
from ironpost.processes.shared_state import SharedState
from ironpost.protocol.sasl import backoff
from ironpost.queue.suspension import SUSPENDED
from ironpost.reports.dmarc import counts as dmarc_counts
from ironpost.reports.tlsrpt import counts as tls_counts
from ironpost.storage.ownership import acting_for
from ironpost.storage.sqlite.state import STATE_FILE, StateFile, prepare, read
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.model.keyed_state import Namespace
    from ironpost.model.ports import Clock, Metrics
    from ironpost.processes.bus import WorkerBus

NAMESPACES: Final[tuple[Namespace, ...]] = (
    *backoff.NAMESPACES,
    SUSPENDED,
    sts_cache.POLICIES,
    sts_cache.FAILURES,
    tls_counts.COUNTS,
    tls_reports.REPORTS,
    dmarc_counts.COUNTS,
    dmarc_reports.REPORTS,
)
"""Every namespace of the server. docs/architecture.md says how to add one."""

log = logging.getLogger("ironpost.state")


def prepare_state(data: Path) -> None:
    """Create the file in a data directory whose lock the caller holds, or replace one that cannot be used.

    Failures are logged: without the file the server works, and loses its keyed state when it stops.
    """
    try:
        damage = prepare(data)
    except OSError as error:
        record(log, "state-unavailable", logging.ERROR, detail=str(error))
        return
    if damage:
        record(log, "state-replaced", logging.ERROR, file=str(data / STATE_FILE), detail=damage)


def stored_state(data: Path, clock: Clock) -> MemoryState:
    """Return a copy of the state in the file, for commands that run without the server; empty if it cannot be read."""
    state = MemoryState(NAMESPACES, clock.now)
    known = {each.name for each in NAMESPACES}
    try:
        with acting_for(data):
            rows = read(data)
    except FileNotFoundError:  # no server has run on this directory yet
        return state
    except OSError as error:
        log.warning("the keyed state is not used: %s", error)
        return state
    for row in rows:
        if row.namespace in known:
            state.apply(Change(*row))
    return state


def shared_state(data: Path, clock: Clock, metrics: Metrics, bus: WorkerBus | None) -> SharedState:
    """Create the keyed state of one process."""
    return SharedState(NAMESPACES, clock, partial(StateFile, data), metrics=metrics, bus=bus)
