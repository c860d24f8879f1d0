"""The registry of scheduled jobs of the mail server. docs/architecture.md says how to add one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Protocol

from ironpost.delivery.maildir_files import remove_stale
from ironpost.model.text import counted
from ironpost.processes.jobs import Job, Runs
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.delivery.path_template import PathTemplate
    from ironpost.model.ports import Clock
    from ironpost.mta.daily_reports import SentReports
    from ironpost.mta.pickup import PickedUp
    from ironpost.processes.resources import Usage

log = logging.getLogger("ironpost.jobs")


class JobContext(Protocol):
    """The part of a mail-serving process that jobs use."""

    @property
    def clock(self) -> Clock: ...

    @property
    def maildirs(self) -> Sequence[PathTemplate]:
        """The Maildirs of local delivery."""
        ...

    def sample_resources(self) -> Usage:
        """Read the use of memory and descriptors by this process, and react to a shortage."""
        ...

    async def prune_history(self) -> int:
        """Remove overdue history from the shards of this process and return free pages; the number of shards."""
        ...

    async def remove_expired_state(self) -> int:
        """Remove expired entries of keyed state from this process and from the file; the number of entries."""
        ...

    async def refresh_sts_policies(self) -> tuple[int, int]:
        """Refresh the MTA-STS policies that are a day old; the numbers of those fetched and of failures."""
        ...

    @property
    def dane(self) -> bool:
        """Whether DANE is turned on."""
        ...

    async def dane_obstacle(self) -> str:
        """Why no host is authenticated by DANE now; empty if hosts with signed TLSA records are."""
        ...

    async def store_report_counts(self) -> None:
        """Add what this process counted for reports to the keyed state."""
        ...

    async def send_tls_reports(self) -> SentReports | None:
        """Send the reports about TLS that are due; None if the server sends none."""
        ...

    async def send_dmarc_reports(self) -> SentReports | None:
        """Send the reports about DMARC that are due; None if the server sends none."""
        ...

    async def pick_up(self) -> PickedUp:
        """Queue the messages in the drop directory."""
        ...


async def _sample_resources(context: JobContext) -> str:
    usage = context.sample_resources()
    return f"{usage.memory >> 20} MiB resident, {counted(usage.descriptors, 'descriptor')} open"


async def _prune_history(context: JobContext) -> str:
    return f"{counted(await context.prune_history(), 'shard')} pruned"


async def _remove_expired_state(context: JobContext) -> str:
    return f"{counted(await context.remove_expired_state(), 'expired key')} removed"


async def _clean_maildirs(context: JobContext) -> str:
    now = context.clock.now()
    removed = [await asyncio.to_thread(remove_stale, template, now) for template in context.maildirs]
    return f"{counted(sum(removed), 'stale file')} removed from tmp of {', '.join(map(str, context.maildirs))}"


async def _refresh_sts_policies(context: JobContext) -> str:
    fetched, failed = await context.refresh_sts_policies()
    return f"MTA-STS policies: {fetched} refreshed, {failed} could not be fetched"


async def _check_dane(context: JobContext) -> str:
    """Check that DNSSEC is validated; a change of the system's resolvers can end that silently."""
    obstacle = await context.dane_obstacle()
    if not obstacle:
        return "DANE is used where TLSA records are signed"
    if context.dane:
        record(log, "dane-off", logging.WARNING, reason=obstacle)
    return f"DANE is not used: {obstacle}"


async def _store_report_counts(context: JobContext) -> str:
    await context.store_report_counts()
    return "counts for reports stored"


async def _send_tls_reports(context: JobContext) -> str:
    return _described(await context.send_tls_reports(), "tlsrpt.contact")


async def _send_dmarc_reports(context: JobContext) -> str:
    return _described(await context.send_dmarc_reports(), "dmarc_reports.contact")


def _described(done: SentReports | None, key: str) -> str:
    if done is None:
        return f"off, because {key} is not set"
    return f"{counted(done.sent, 'report')} sent, {done.waiting} waiting, {done.dropped} dropped"


async def _pick_up(context: JobContext) -> str:
    done = await context.pick_up()
    return f"{counted(done.queued, 'message')} queued, {done.waiting} waiting, {done.refused} refused"


JOBS: Final[tuple[Job[Any], ...]] = (
    Job("resources", 1.0, Runs.EACH, _sample_resources),
    Job("history", 60.0, Runs.EACH, _prune_history),
    Job("keyed-state", 300.0, Runs.EACH, _remove_expired_state),
    Job("report-counts", 300.0, Runs.EACH, _store_report_counts),
    Job("tls-reports", 600.0, Runs.ONCE, _send_tls_reports),
    Job("dmarc-reports", 600.0, Runs.ONCE, _send_dmarc_reports),
    Job("mta-sts", 3600.0, Runs.ONCE, _refresh_sts_policies),
    Job("dane", 24 * 3600.0, Runs.ONCE, _check_dane),
    Job("maildir-tmp", 6 * 3600.0, Runs.ONCE, _clean_maildirs),
    Job("sendmail", 1.0, Runs.ONCE, _pick_up),
)
