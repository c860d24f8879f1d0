"""What a listener with the role `http` serves: the MTA-STS policies of our domains, and the receipt of TLS reports.

Promises: a policy is generated from the configuration, at the policy host of its domain. A report that was answered
with 201 is in the drop directory, durably, as a message to `tls_reports_to`; `mta.pickup` queues it as it does other
mail. A worker holds the bodies of at most `BODIES` reports, `BODIES_OF_NETWORK` of them from one network, and reads one
report at a time, and a client has a quota; reports neither take the disk's reserve nor fill the drop directory
(SECURITY R23).
Refuses: every other path with 404, and other methods with 405.
Limitations: RFC 8460 defines no way to authenticate who posts a report.
Standards: RFC 8461 §3.2, §3.3 (policies), RFC 8460 §5.4 (reports), RFC 6585 §4 (429), RFC 9110 §15.6.4 (503).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import contextmanager
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, Final

from ironpost.http.exchange import HttpRefusal, Response
from ironpost.model import Envelope, Recipient
from ironpost.model.network import client_network
from ironpost.model.parameters import Notify
from ironpost.model.text import error_text
from ironpost.policy.buckets import Buckets
from ironpost.policy.options import Quota
from ironpost.reports.received import ReportError
from ironpost.reports.tlsrpt import posted
from ironpost.reports.tlsrpt.mail import TYPES
from ironpost.routing.tls.mta_sts import POLICY_PATH, policy_host
from ironpost.storage import drop
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ironpost.http.exchange import Request
    from ironpost.model import Address
    from ironpost.model.ports import Clock, Metrics
    from ironpost.protocol.extensions import Parameters
    from ironpost.routing.tls.mta_sts import StsPolicy

REPORTS_PATH: Final = "/tlsrpt"
"""The path to which reports are posted; part of the URI in the record at `_smtp._tls.DOMAIN`."""
REPORT_OCTETS: Final = 1 << 20
"""Maximum octets of a report as it is posted."""
POSTED_REPORTS: Final = Quota(1000, 3600.0)
"""Reports from one client (`model.network.client_network`)."""
BODIES: Final = 16
"""Bodies of reports that a worker receives or holds at a time."""
BODIES_OF_NETWORK: Final = 4
"""Those from one network, so that slow clients there leave places to others."""
NETWORK_PREFIXES: Final = (24, 48)
"""Prefix lengths, in bits, of such a network for IPv4 and IPv6: what one site often has."""
_UNAVAILABLE: Final = Response.of(HTTPStatus.SERVICE_UNAVAILABLE, "", ("Retry-After", "60"))

log = logging.getLogger("ironpost.reports")


class HttpResources:
    """An `http.exchange.HttpHandler`."""

    def __init__(self, policies: Mapping[str, StsPolicy], reports: ReportReceipt | None) -> None:
        """Serve the policies of these domains, and receive reports unless that is None."""
        self._policies = {policy_host(domain): policy.text for domain, policy in policies.items()}
        self._reports = reports

    async def __call__(self, request: Request) -> Response:
        """See `HttpHandler`."""
        if request.path == POLICY_PATH and (text := self._policies.get(request.host)) is not None:
            _require(request, "GET", "HEAD")
            return Response(HTTPStatus.OK, text)
        if request.path == REPORTS_PATH and self._reports is not None:
            _require(request, "POST")
            return await self._reports.receive(request)
        return Response.of(HTTPStatus.NOT_FOUND)


def _require(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise HttpRefusal(Response.of(HTTPStatus.METHOD_NOT_ALLOWED, "", ("Allow", ", ".join(methods))))


def _too_many(seconds: int) -> HttpRefusal:
    return HttpRefusal(Response.of(HTTPStatus.TOO_MANY_REQUESTS, "", ("Retry-After", str(seconds))))


class ReceiptLimits:
    """What limits the receipt of reports; all listeners of a worker share it, also across reloads."""

    def __init__(self, clock: Clock, quota: Quota = POSTED_REPORTS) -> None:
        """Create it; `quota` is that of a client."""
        self.rates = Buckets(quota, clock)
        self._bodies: Counter[str] = Counter()
        """Bodies that are received or held, by network."""
        self.reading = asyncio.Lock()
        """Held while a report is decompressed, read and stored."""

    @contextmanager
    def body(self, ip: str) -> Iterator[None]:
        """Receive and hold the body of a client's report until the block ends.

        Raises:
            HttpRefusal: there are too many, in total or from the client's network.
        """
        network = client_network(ip, *NETWORK_PREFIXES)
        if self._bodies.total() >= BODIES:
            raise HttpRefusal(_UNAVAILABLE)
        if self._bodies[network] >= BODIES_OF_NETWORK:
            raise _too_many(60)
        self._bodies[network] += 1
        try:
            yield
        finally:
            self._bodies[network] -= 1
            if not self._bodies[network]:
                del self._bodies[network]


class ReportReceipt:
    """Receives reports."""

    def __init__(self, to: Address, directory: Path, reserve: int, limits: ReceiptLimits, metrics: Metrics) -> None:
        """Create it.

        Args:
            to: who gets the reports.
            directory: the drop directory.
            reserve: octets of the disk that reports never take.
            limits: those of the worker.
            metrics: counts reports.
        """
        parameters: Parameters = {"SMTPUTF8": None} if to.needs_smtputf8 else {}
        self._envelope = Envelope(to, (Recipient(to, {"NOTIFY": Notify.NEVER}),), parameters)
        self._directory = directory
        self._reserve = reserve
        self._metrics = metrics
        self._limits = limits

    async def receive(self, request: Request) -> Response:
        """Queue the report in a request.

        Raises:
            HttpRefusal: it was not queued.
        """
        if request.media_type not in TYPES:
            detail = f"expected {' or '.join(TYPES)}"
            raise HttpRefusal(Response.of(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail))
        with self._limits.body(request.ip):
            if wait := self._limits.rates.take(client_network(request.ip)):
                raise _too_many(ceil(wait))
            await self._store(await request.read(REPORT_OCTETS), request)
        self._metrics.count("tls_reports", "received")
        return Response(HTTPStatus.CREATED)

    async def _store(self, octets: bytes, request: Request) -> None:
        """Queue a report.

        Raises:
            HttpRefusal: it was not queued.
        """
        try:
            async with self._limits.reading:
                await asyncio.to_thread(self._leave, octets, request)
        except ReportError as error:
            raise HttpRefusal(Response.of(HTTPStatus.BAD_REQUEST, str(error))) from None
        except OSError as error:
            record(log, "tls-report-not-stored", logging.ERROR, ip=request.ip, detail=error_text(error))
            raise HttpRefusal(_UNAVAILABLE) from None

    def _leave(self, octets: bytes, request: Request) -> None:
        """Write the message with a report. Blocks."""
        drop.check_room(self._directory, self._reserve)
        to = self._envelope.reverse_path
        drop.leave(self._directory, self._envelope, [posted.message(octets, request.media_type, to, ip=request.ip)])
