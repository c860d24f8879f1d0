"""Sends failure reports about DMARC to the domains that ask for them (RFC 9991).

Promises: no reply waits for a report. A destination in another organization gets reports only if it wants them. Of
similar messages `SIMILAR` are reported; `FROM_NETWORK` reports are about mail of one client network, `TO_DOMAIN` go to
one domain, and `IN_ALL` in all; at most `PENDING` are prepared at a time. Other messages are only counted (SECURITY
R23), even if nobody got the report, and the next one says how many similar messages there were. A report that cannot be
sent is dropped, with an event; once it is queued, it is retried like other mail.
Limitations: each worker counts similar messages by itself.
Standards: RFC 9991 §2 (rate limits), §5 (external destinations), §8.1 (Incidents).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from ironpost.model.dns import ResolverError
from ironpost.model.network import client_network
from ironpost.model.text import error_text, escape
from ironpost.mta.daily_reports import end
from ironpost.policy.buckets import Buckets
from ironpost.policy.options import Quota
from ironpost.reports.dmarc.destinations import failure_uris, usable, willing_recipients
from ironpost.reports.dmarc.failure import failure_of, is_automatic
from ironpost.reports.dmarc.failure_mail import message
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ironpost.mail_auth import DmarcEvaluation
    from ironpost.model import Address
    from ironpost.model.dns import Resolver
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.report_mail import ReportMail
    from ironpost.reports.destination import Destination
    from ironpost.reports.dmarc.failure import Failure

SIMILAR: Final = Quota(1, 3600.0)
"""Messages of one policy domain that are reported, of those that come from one client network and fail in the same way.
The author's domain does not matter: anybody can invent subdomains."""
FROM_NETWORK: Final = Quota(60, 3600.0)
"""Reports about mail of one client network, so that one client cannot use up `IN_ALL`."""
TO_DOMAIN: Final = Quota(60, 3600.0)
"""Reports to the addresses of one domain."""
IN_ALL: Final = Quota(600, 3600.0)
"""Reports to all destinations."""
PENDING: Final = 100
"""Messages whose reports are prepared at a time; each has a header section in memory."""
KEYS: Final = 10_000
"""Kinds of similar messages, and domains, that are remembered."""

log = logging.getLogger("ironpost.reports")


class FailureReports:
    """Implements `mail_auth.DmarcRecorder`: sends the failure reports of one worker."""

    def __init__(
        self,
        contact: Address,
        host: str,
        *,
        resolver: Resolver,
        mail: ReportMail,
        clock: Clock,
        random: Random,
        metrics: Metrics,
        share: Callable[[str, Buckets], None] | None = None,
    ) -> None:
        """Create the sender.

        Args:
            contact: the author of the reports, in ASCII.
            host: the name of this server.
            resolver: DNS.
            mail: takes the reports.
            clock: time.
            random: ids of messages.
            metrics: counts reports.
            share: shares limits with the other workers, by name.
        """
        self._contact = contact
        self._host = host
        self._resolver = resolver
        self._mail = mail
        self._clock = clock
        self._random = random
        self._metrics = metrics
        self._key = random.token().encode()
        """The key of the codes for recipients; a restart changes them."""
        self._similar = Buckets(SIMILAR, clock, KEYS)
        self._from_network = Buckets(FROM_NETWORK, clock, KEYS)
        self._to_domain = Buckets(TO_DOMAIN, clock, KEYS)
        self._in_all = Buckets(IN_ALL, clock, 1)
        if share is not None:
            share("failure reports about a network", self._from_network)
            share("failure reports to a domain", self._to_domain)
            share("failure reports", self._in_all)
        self._unreported: OrderedDict[str, int] = OrderedDict()
        """The number of messages since the last report about similar ones."""
        self._sending: set[asyncio.Task[Any]] = set()

    def __call__(self, evaluation: DmarcEvaluation) -> None:
        """Begin to report a message, if the owner of the domain wants that and no limit is reached."""
        failure = failure_of(evaluation)
        if failure is None:
            return
        assert evaluation.answer.record is not None  # it asks for the report
        destinations = usable(failure_uris(evaluation.answer.record))
        if not destinations:
            return
        similar = " ".join((failure.domain, client_network(evaluation.ip), failure.kind, *failure.methods))
        if len(self._sending) >= PENDING or self._similar.take(similar):
            self._metrics.count("dmarc_failure_reports", "limited")
            self._count(similar, 1)
            return
        if is_automatic(evaluation, self._contact):  # the last check, because it takes some milliseconds
            self._similar.give_back(similar)
            return
        incidents = self._unreported.pop(similar, 0) + 1
        task = asyncio.create_task(self._report(failure, destinations, similar, incidents, self._clock.now()))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def stop(self) -> None:
        """Wait a few seconds for the reports that are being prepared, and drop those that take longer."""
        await end(self._sending)

    async def _report(
        self, failure: Failure, destinations: Sequence[Destination], similar: str, incidents: int, now: float
    ) -> None:
        results = set()
        for each in destinations:
            try:
                result = await self._send(failure, each, incidents, now)
            except ResolverError as error:
                result = self._dropped(failure, each, f"DNS lookup failed: {escape(str(error))}")
            except OSError as error:
                result = self._dropped(failure, each, error_text(error))
            except Exception as error:  # one report that cannot be built never stops the others (R25)
                log.exception("the failure report about %s cannot be sent", failure.domain)
                result = self._dropped(failure, each, type(error).__name__)
            self._metrics.count("dmarc_failure_reports", result)
            results.add(result)
        if "sent" in results:
            return
        self._count(similar, incidents)
        if "limited" in results:
            self._similar.give_back(similar)

    def _count(self, similar: str, messages: int) -> None:
        """Remember messages that nobody got a report about."""
        self._unreported[similar] = self._unreported.get(similar, 0) + messages
        self._unreported.move_to_end(similar)
        if len(self._unreported) > KEYS:
            self._unreported.popitem(last=False)

    async def _send(self, failure: Failure, destination: Destination, incidents: int, now: float) -> str:
        """Send a report to one destination; return the label of the counter."""
        to = destination.address
        assert to is not None  # `usable` returns no others
        recipients = await willing_recipients(failure.domain, to, self._resolver, failure_uris)
        if not recipients:
            record(log, "dmarc-report-unwanted", domain=failure.domain, uri=destination.uri)
            return "unwanted"
        network = client_network(failure.evaluation.ip)
        if self._from_network.take(network) or self._to_domain.take(to.key) or self._in_all.take(""):
            return "limited"
        content = await asyncio.to_thread(
            message,
            failure,
            recipients,
            contact=self._contact,
            host=self._host,
            incidents=incidents,
            now=now,
            token=self._random.token(),
            key=self._key,
        )
        identifier = await self._mail.queue(self._contact, content, recipients)
        record(
            log,
            "dmarc-failure-report",
            domain=failure.domain,
            uri=destination.uri,
            id=identifier,
            ip=failure.evaluation.ip,
            incidents=incidents,
        )
        return "sent"

    def _dropped(self, failure: Failure, destination: Destination, detail: str) -> str:
        record(
            log,
            "dmarc-failure-report-dropped",
            logging.WARNING,
            domain=failure.domain,
            uri=destination.uri,
            detail=detail,
        )
        return "dropped"
