"""Sends daily reports about TLS to the domains that ask for them (RFC 8460).

Promises: a day is reported once to each destination of a domain, also by servers with several workers and after
restarts. A stop waits `STOP_SECONDS` for the reports that are being sent; if one of them takes longer, or the server is
killed, it can be sent again, with the same Report-ID. The reports of a day are spread over `SPREAD` seconds. What fails
is tried again for a day, with increasing waits, and then dropped with an event; mail is retried by the queue. A domain
that publishes no valid record gets no report. Reports are delivered whatever TLS policy their recipient publishes, and
their own connections are not counted.
Standards: RFC 8460 §3 (destinations), §4.1 (delay), §5.3 (mail), §5.4 (HTTPS), §5.5 (retries).
"""

from __future__ import annotations

import asyncio
import json
import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ironpost.http import HttpError
from ironpost.model import Address, Envelope, Recipient
from ironpost.model.dns import ResolverError, txt
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.model.keyed_state import Namespace
from ironpost.model.parameters import Notify
from ironpost.model.text import error_text, escape
from ironpost.queue.store import NewMessage
from ironpost.reports.tlsrpt import mail
from ironpost.reports.tlsrpt.counts import DOMAINS, KEPT, digest_of
from ironpost.reports.tlsrpt.record import RecordError, name_of, select
from ironpost.reports.tlsrpt.report import DAY, Report, compressed
from ironpost.routing.directory import expand
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from ironpost.http import HttpResponse
    from ironpost.model import Value
    from ironpost.model.dns import Resolver
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.reports.tlsrpt.counts import DayOfDomain, TlsCounts
    from ironpost.reports.tlsrpt.record import Destination
    from ironpost.reports.tlsrpt.report import PolicyResult
    from ironpost.routing.directory import Directory

DELAY: Final = 15 * 60.0
"""Seconds from the end of a day to its first report: workers add what they counted every few minutes."""
SPREAD: Final = 4 * 3600.0
"""Seconds over which the reports of a day are spread (RFC 8460 §4.1)."""
RETRY_SECONDS: Final = 86_400.0
"""Seconds from the first attempt to the last one (RFC 8460 §5.5)."""
FIRST_WAIT: Final = 15 * 60.0
"""Seconds from the first attempt to the second; each further wait is twice as long, up to `LONGEST_WAIT`."""
LONGEST_WAIT: Final = 4 * 3600.0
CONCURRENCY: Final = 10
"""Reports that are sent at a time."""
STOP_SECONDS: Final = 5.0
"""Seconds that a stop waits for the reports that are being sent."""
MEDIA_TYPE: Final = "application/tlsrpt+gzip"
_PROGRESS_OCTETS: Final = 300
"""Maximum size of a stored progress, in octets."""

REPORTS: Final = Namespace("tls-reports", 2 * DOMAINS, _PROGRESS_OCTETS, 2 * DOMAINS * _PROGRESS_OCTETS, KEPT)
"""The progress of each report, by day and domain."""

log = logging.getLogger("ironpost.tlsrpt")


class Posts(Protocol):
    """The part of the HTTP client that sends reports."""

    async def post(self, url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> HttpResponse:
        """See `http.HttpClient.post`."""
        ...


class Reporter(NamedTuple):
    """The identity of the sender of reports."""

    organization: str
    contact: Address
    """The author of the reports, in ASCII."""


class SentReports(NamedTuple):
    """The result of one run."""

    sent: int
    """Reports that were sent; a domain with two destinations gets two."""
    waiting: int
    """Domains whose report is tried again later."""
    dropped: int
    """Domains whose report was dropped."""


class _Progress(NamedTuple):
    """The progress of the report on one day of a domain."""

    first: float
    """The time of the first attempt, in seconds since 1970."""
    attempts: int = 0
    next: float = 0.0
    """The time of the next attempt, in seconds since 1970."""
    sent: tuple[str, ...] = ()
    """Digests of the destinations that have it."""
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
            first, attempts, due, sent, finished = json.loads(value)
            return cls(float(first), int(attempts), float(due), tuple(map(str, sent)), bool(finished))
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from error


class _SendError(Exception):
    """A report could not be sent now. The text says why."""


class TlsReports:
    """Sends the reports of one server; one worker at a time runs it."""

    def __init__(
        self,
        reporter: Reporter,
        counts: TlsCounts,
        state: KeyedState,
        *,
        resolver: Resolver,
        http: Posts,
        store: Store,
        accept: Callable[[QueuedMessage], None],
        directory: Callable[[], Directory],
        clock: Clock,
        random: Random,
        metrics: Metrics,
    ) -> None:
        """Create the sender.

        Args:
            reporter: who reports.
            counts: what is reported.
            state: the namespace `REPORTS`.
            resolver: DNS.
            http: posts reports to HTTPS destinations.
            store: takes reports that are sent by mail.
            accept: queues a message after its commit.
            directory: returns the directory in which recipients are looked up: a report may be for an alias here.
            clock: time.
            random: ids of messages.
            metrics: counts reports.
        """
        self._reporter = reporter
        self._counts = counts
        self._state = state
        self._resolver = resolver
        self._http = http
        self._store = store
        self._accept = accept
        self._directory = directory
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._sending: set[asyncio.Task[None]] = set()
        """Reports that are being sent, each to one destination."""

    async def run(self) -> SentReports:
        """Send the reports that are due now."""
        now = self._clock.now()
        due = [each for each in self._counts.days() if self._due(each) <= now]
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
        if not self._sending:
            return
        _, late = await asyncio.wait(self._sending, timeout=STOP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _due(self, day: DayOfDomain) -> float:
        """The time of the first attempt. It is the same for all workers and after a restart, so it needs no state."""
        seed = f"{day.day} {day.digest} {self._reporter.contact}".encode()
        share = int.from_bytes(sha256(seed).digest()[:4], "big") / 2**32
        return day.end + DELAY + share * SPREAD

    async def _report(self, day: DayOfDomain) -> SentReports:
        """Make an attempt at the report of one day of a domain, if it is time for one."""
        now = self._clock.now()
        progress = self._progress(day) or _Progress(now)
        if not progress.finished and progress.next > now:
            return SentReports(0, 1, 0)
        domain, results = ("", ()) if progress.finished else self._counts.results(day)
        if not results:  # also if a worker added to the day after its report
            self._counts.remove(day)
            return SentReports(0, 0, 0)
        before = set(progress.sent)
        progress, why = await self._attempt(day, domain, results, progress)
        sent = len(set(progress.sent) - before)
        wait = min(FIRST_WAIT * 2.0**progress.attempts, LONGEST_WAIT)
        if why and now + wait <= progress.first + RETRY_SECONDS:
            later = progress._replace(attempts=progress.attempts + 1, next=now + wait)
            self._state.put(REPORTS, _key(day), later.encode(), KEPT)
            return SentReports(sent, 1, 0)
        if why:
            self._metrics.count("tls_reports", "dropped")
            record(log, "tls-report-dropped", logging.WARNING, domain=domain, detail=why)
        if why or progress.sent:
            self._state.put(REPORTS, _key(day), progress._replace(finished=True).encode(), KEPT)
        self._counts.remove(day)
        return SentReports(sent, 0, 1 if why else 0)

    def _progress(self, day: DayOfDomain) -> _Progress | None:
        """The progress of the report of one day of a domain; None if there is none, or it cannot be read."""
        entry = self._state.get(REPORTS, _key(day))
        if entry is None:
            return None
        try:
            return _Progress.decode(entry.value)
        except ValueError:
            return None

    async def _attempt(
        self, day: DayOfDomain, domain: str, results: tuple[PolicyResult, ...], progress: _Progress
    ) -> tuple[_Progress, str]:
        """Send a report to the destinations that do not have it yet.

        Returns:
            The progress, and why it must be tried again; empty if it need not.
        """
        try:
            destinations = await self._destinations(domain)
        except ResolverError as error:
            return progress, f"the lookup of {name_of(domain)} failed: {escape(str(error))}"
        contact, start = self._reporter.contact, day.day * DAY
        identifier = f"{day.day}.{domain}@{contact.key}"
        report = Report(self._reporter.organization, str(contact), identifier, start, start + DAY - 1, results)
        why = ""
        digests = [digest_of(destination.uri)[:16] for destination in destinations]
        # Those of destinations that the domain names no longer are forgotten, or they would not fit in the end.
        progress = progress._replace(sent=tuple(digest for digest in progress.sent if digest in digests))
        for destination, digest in zip(destinations, digests, strict=True):
            if digest in progress.sent:
                continue
            done = progress._replace(sent=(*progress.sent, digest))
            try:
                # Shielded: a report that was sent is recorded as sent, even if the server stops meanwhile.
                await asyncio.shield(self._begin(self._send(report, day, domain, destination, done)))
            except _SendError as error:
                why = f"{destination.uri}: {escape(str(error))}"
                self._metrics.count("tls_reports", "failed")
                record(log, "tls-report-failed", domain=domain, uri=destination.uri, detail=escape(str(error)))
            else:
                progress = done
        return progress, why

    def _begin(self, sending: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _destinations(self, domain: str) -> tuple[Destination, ...]:
        """Where a domain wants its reports; empty if it wants none.

        Raises:
            ResolverError: that is not known.
        """
        answer = await txt(self._resolver, name_of(domain))
        try:
            return select(answer.data).destinations
        except RecordError:
            return ()

    async def _send(
        self, report: Report, day: DayOfDomain, domain: str, destination: Destination, done: _Progress
    ) -> None:
        """Send a report to one destination, and store the progress `done`.

        Raises:
            _SendError: it was not sent.
        """
        identifier = None
        try:
            if destination.address is not None:
                identifier = await self._mail(report, domain, destination.address)
            else:
                await self._post(report, destination.uri)
        except (_SendError, HttpError) as error:
            raise _SendError(str(error)) from None
        except OSError as error:
            raise _SendError(error_text(error)) from None
        except Exception as error:  # one report that cannot be built never stops the others (R25)
            log.exception("the report about TLS of %s cannot be sent", domain)
            raise _SendError(f"{type(error).__name__}: {error}") from error
        self._state.put(REPORTS, _key(day), done.encode(), KEPT)
        self._metrics.count("tls_reports", "sent")
        successes = sum(each.successes for each in report.policies)
        failures = sum(each.failures for each in report.policies)
        record(
            log, "tls-report", domain=domain, uri=destination.uri, id=identifier, successes=successes, failures=failures
        )

    async def _post(self, report: Report, uri: str) -> None:
        response = await self._http.post(uri, compressed(report), headers={"Content-Type": MEDIA_TYPE})
        if not 200 <= response.status < 300:
            raise _SendError(f"HTTP status {response.status}")

    async def _mail(self, report: Report, domain: str, to: Address) -> str:
        """Queue the report; return the id of the message.

        RFC 5321 §4.5.5: only what a standard requires to have a null reverse-path should have one, so it has a sender,
        and asks for no bounce.
        """
        now, token = self._clock.now(), self._random.token()
        content = mail.message(report, domain, to, now=now, token=self._random.token())
        expanded = expand((Recipient(to, {"NOTIFY": Notify.NEVER}),), self._directory())
        recipients = expanded if isinstance(expanded, tuple) else await expanded
        parameters: dict[str, Value] = {TLS_REQUIRED: "No"}
        if to.needs_smtputf8:
            parameters["SMTPUTF8"] = None
        spool = self._store.spool()
        try:
            if (pending := spool.write(content)) is not None:
                await pending
            envelope = Envelope(self._reporter.contact, recipients, parameters)
            message = await self._store.commit(NewMessage(token, envelope, now, b"", spool))
        except BaseException:
            spool.discard()
            raise
        try:
            self._accept(message)
        except Exception:  # the message is durable: the queue runner finds it in the store
            log.exception("the queue runner did not accept message %s", message.id)
        return token


def _key(day: DayOfDomain) -> bytes:
    return f"{day.day}/{day.digest}".encode()
