"""Sends daily reports to other domains: when, to whom, and what follows if that fails.

Promises: a day is reported once to each destination of a domain, also by servers with several workers and after
restarts. A stop waits `STOP_SECONDS` for the reports that are being sent; if one of them takes longer, or the server is
killed, it can be sent again, with the same Report-ID. The reports of a day are spread over `SPREAD` seconds. What fails
is tried again for a day, with increasing waits, and then dropped with an event; mail is retried by the queue.
Standards: RFC 8460 §4.1 (delay), §5.5 (retries).
"""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from ironpost.http import HttpError
from ironpost.model.dns import ResolverError
from ironpost.model.keyed_state import Namespace
from ironpost.model.text import error_text, escape
from ironpost.reports.daily import DAY, DOMAINS, KEPT, digest_of
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine, Sequence

    from ironpost.model import Address
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics
    from ironpost.reports.daily import DailyEntries, DayOfDomain
    from ironpost.reports.destination import Destination

DELAY: Final = 15 * 60.0
"""Seconds from the end of a day to its first report: workers add what they counted every few minutes."""
SPREAD: Final = 4 * 3600.0
"""Seconds over which the reports of a day are spread (RFC 8460 §4.1)."""
RETRY_SECONDS: Final = float(DAY)
"""Seconds from the first attempt to the last one (RFC 8460 §5.5)."""
FIRST_WAIT: Final = 15 * 60.0
"""Seconds from the first attempt to the second; each further wait is twice as long, up to `LONGEST_WAIT`."""
LONGEST_WAIT: Final = 4 * 3600.0
CONCURRENCY: Final = 10
"""Reports that are sent at a time."""
STOP_SECONDS: Final = 5.0
"""Seconds that a stop waits for the reports that are being sent."""
_PROGRESS_OCTETS: Final = 300
"""Maximum size of a stored progress, in octets."""

log = logging.getLogger("ironpost.reports")


def progress_namespace(name: str) -> Namespace:
    """Return a namespace for the progress of each report of one kind, by day and domain."""
    return Namespace(name, 2 * DOMAINS, _PROGRESS_OCTETS, 2 * DOMAINS * _PROGRESS_OCTETS, KEPT)


async def end(sending: Collection[asyncio.Task[Any]]) -> None:
    """Wait until reports have been sent, or cancel them after `STOP_SECONDS`."""
    if not sending:
        return
    _, late = await asyncio.wait(sending, timeout=STOP_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


class Reporter(NamedTuple):
    """The identity of the sender of reports."""

    organization: str
    contact: Address
    """The author of the reports, in ASCII."""

    def report_id(self, day: DayOfDomain, domain: str) -> str:
        """Return the Report-ID of a day of a domain: the same for all workers and attempts."""
        return f"{day.day}.{domain}@{self.contact.key}"


class SentReports(NamedTuple):
    """The result of one run."""

    sent: int
    """Reports that were sent; a domain with two destinations gets two."""
    waiting: int
    """Domains whose report is tried again later."""
    dropped: int
    """Domains whose report was dropped."""


class SendError(Exception):
    """A report could not be sent now. The text says why."""


class DailyReport(ABC):
    """The report of one day of a domain."""

    domain: str
    """In A-labels."""

    @abstractmethod
    async def destinations(self) -> Sequence[Destination]:
        """Return where the domain wants its reports, at most five; empty if it wants none.

        Raises:
            ResolverError: that is not known.
        """

    @abstractmethod
    async def send(self, destination: Destination) -> bool:
        """Send the report and log that; return False, and do nothing, if the destination does not want it.

        Raises:
            SendError: it was not sent.
            HttpError: the same.
            OSError: the same.
            ResolverError: it is not known whether the destination wants it.
        """


class _Progress(NamedTuple):
    """The progress of the report on one day of a domain."""

    first: float
    """The time of the first attempt, in seconds since 1970."""
    attempts: int = 0
    next: float = 0.0
    """The time of the next attempt, in seconds since 1970."""
    done: tuple[str, ...] = ()
    """Digests of the destinations that have it, or do not want it."""
    finished: bool = False
    """Nothing more is sent for this day."""

    def encode(self) -> bytes:
        return json.dumps(self).encode()

    @classmethod
    def decode(cls, value: bytes) -> _Progress:
        """Reverse `encode`.

        Raises:
            ValueError: another version wrote it.
        """
        try:
            first, attempts, due, done, finished = json.loads(value)
            return cls(float(first), int(attempts), float(due), tuple(map(str, done)), bool(finished))
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error


class DailyReports(ABC):
    """Sends the reports of one kind, which a subclass makes; one worker at a time runs it."""

    progress: ClassVar[Namespace]
    """From `progress_namespace`."""
    kind: ClassVar[str]
    """What the reports are about, for the log."""
    metric: ClassVar[str]
    """The counter of reports by result."""

    def __init__(
        self, reporter: Reporter, entries: DailyEntries, state: KeyedState, clock: Clock, metrics: Metrics
    ) -> None:
        """Create the sender.

        Args:
            reporter: who reports.
            entries: what is reported.
            state: keyed state with the namespace `progress`.
            clock: time.
            metrics: counts reports.
        """
        self.reporter = reporter
        self._entries = entries
        self._state = state
        self._clock = clock
        self._metrics = metrics
        self._sending: set[asyncio.Task[Any]] = set()
        """Reports that are being sent, each to one destination."""

    @abstractmethod
    async def report(self, day: DayOfDomain) -> DailyReport | None:
        """Make the report of a day; None if nothing was counted, or nothing of that can be read.

        What workers counted is added up in a thread, because that may take long.
        """

    async def run(self) -> SentReports:
        """Send the reports that are due now."""
        now = self._clock.now()
        due = [each for each in self._entries.days() if self._due(each) <= now]
        turns = asyncio.Semaphore(CONCURRENCY)

        async def one(day: DayOfDomain) -> SentReports:
            async with turns:
                try:
                    return await self._report(day)
                except Exception:  # the reports of other domains are sent (R25)
                    log.exception(
                        "the report of day %d about the domain with the digest %s failed", day.day, day.digest
                    )
                    return SentReports(0, 1, 0)

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one(day)) for day in due]
        done = [each.result() for each in running]
        return SentReports(
            sum(each.sent for each in done), sum(each.waiting for each in done), sum(each.dropped for each in done)
        )

    async def stop(self) -> None:
        """Wait until the reports that are being sent have been recorded; call this when `run` is cancelled.

        Those that take longer than `STOP_SECONDS` are cancelled.
        """
        await end(self._sending)

    def _due(self, day: DayOfDomain) -> float:
        """The time of the first attempt. It is the same for all workers and after a restart, so it needs no state."""
        seed = f"{day.day} {day.digest} {self.reporter.contact}".encode()
        share = int.from_bytes(sha256(seed).digest()[:4], "big") / 2**32
        return day.end + DELAY + share * SPREAD

    async def _report(self, day: DayOfDomain) -> SentReports:
        """Make an attempt at the report of one day of a domain, if it is time for one."""
        now = self._clock.now()
        progress = self._progress(day) or _Progress(now)
        if not progress.finished and progress.next > now:
            return SentReports(0, 1, 0)
        report = None if progress.finished else await self.report(day)
        if report is None:  # also if a worker added to the day after its report
            self._entries.remove(day)
            return SentReports(0, 0, 0)
        sent, progress, why = await self._attempt(day, report, progress)
        wait = min(FIRST_WAIT * 2.0**progress.attempts, LONGEST_WAIT)
        if why and now + wait <= progress.first + RETRY_SECONDS:
            self._record(day, progress._replace(attempts=progress.attempts + 1, next=now + wait))
            return SentReports(sent, 1, 0)
        if why:
            self._metrics.count(self.metric, "dropped")
            record(log, "report-dropped", logging.WARNING, kind=self.kind, domain=report.domain, detail=why)
        if why or progress.done:
            self._record(day, progress._replace(finished=True))
        self._entries.remove(day)
        return SentReports(sent, 0, 1 if why else 0)

    def _progress(self, day: DayOfDomain) -> _Progress | None:
        """The progress of the report of one day of a domain; None if there is none, or it cannot be read."""
        entry = self._state.get(self.progress, _key(day))
        if entry is None:
            return None
        try:
            return _Progress.decode(entry.value)
        except ValueError:
            return None

    def _record(self, day: DayOfDomain, progress: _Progress) -> None:
        self._state.put(self.progress, _key(day), progress.encode(), KEPT)

    async def _attempt(self, day: DayOfDomain, report: DailyReport, progress: _Progress) -> tuple[int, _Progress, str]:
        """Send a report to the destinations that do not have it yet.

        Returns:
            To how many it was sent, the progress, and why it must be tried again; empty if it need not.
        """
        try:
            destinations = await report.destinations()
        except ResolverError as error:
            return 0, progress, f"DNS lookup failed: {escape(str(error))}"
        sent, why = 0, ""
        digests = [digest_of(destination.uri)[:16] for destination in destinations]
        # Those of destinations that the domain names no longer are forgotten, or they would not fit in the end.
        progress = progress._replace(done=tuple(digest for digest in progress.done if digest in digests))
        for destination, digest in zip(destinations, digests, strict=True):
            if digest in progress.done:
                continue
            done = progress._replace(done=(*progress.done, digest))
            try:
                # Shielded: a report that was sent is recorded as sent, even if the server stops meanwhile.
                sent += await asyncio.shield(self._begin(self._send(report, day, destination, done)))
            except SendError as error:
                detail = escape(str(error))
                why = f"{destination.uri}: {detail}"
                self._metrics.count(self.metric, "failed")
                record(log, "report-failed", kind=self.kind, domain=report.domain, uri=destination.uri, detail=detail)
            else:
                progress = done
        return sent, progress, why

    def _begin(self, sending: Coroutine[None, None, bool]) -> asyncio.Task[bool]:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _send(self, report: DailyReport, day: DayOfDomain, destination: Destination, done: _Progress) -> bool:
        """Send a report to one destination, unless it does not want it, and store the progress `done`.

        Raises:
            SendError: it was not sent.
        """
        try:
            sent = await report.send(destination)
        except SendError:
            raise
        except HttpError as error:
            raise SendError(str(error)) from None
        except ResolverError as error:
            raise SendError(f"DNS lookup failed: {error}") from None
        except OSError as error:
            raise SendError(error_text(error)) from None
        except Exception as error:  # one report that cannot be built never stops the others (R25)
            log.exception("the report to %s about %s cannot be sent", report.domain, self.kind)
            raise SendError(f"{type(error).__name__}: {error}") from error
        self._record(day, done)
        if sent:
            self._metrics.count(self.metric, "sent")
        return sent


def _key(day: DayOfDomain) -> bytes:
    return f"{day.day}/{day.digest}".encode()
