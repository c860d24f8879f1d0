"""A whole mail system in one process: real sockets on loopback, a memory store, a scripted resolver, virtual time.

Virtual time stands still until a scenario calls `Clock.pass_time`; the sockets and the Maildir are real. The client is
the standard library's smtplib and the next hop is aiosmtpd: programs that this project did not write.
"""

from __future__ import annotations

import asyncio
import heapq
import smtplib
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.policy.policy_kit import checks

from ironpost.delivery.dialer import Dialer
from ironpost.delivery.dmarc_reports import DmarcReports
from ironpost.delivery.maildir import Maildir, MaildirOptions
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.path_template import PathTemplate
from ironpost.delivery.pipe import Pipe
from ironpost.delivery.remote import RemoteDelivery
from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.model.patterns import Domains
from ironpost.mta.inbound import Inbound
from ironpost.mta.queue_runner import QueueRunner
from ironpost.mta.report_mail import ReportMail
from ironpost.mta.signing import Signing
from ironpost.policy import Policy, Ports
from ironpost.processes.clock import SystemRandom
from ironpost.protocol.server.settings import ServerSettings as SessionSettings
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.server import Server
from ironpost.storage.memory import MemoryStore
from ironpost.testing.directory import local
from ironpost.testing.resolver import StaticResolver

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from aiosmtpd.smtp import SMTP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from ironpost.delivery import Agent
    from ironpost.mail_auth import DmarcRecorder
    from ironpost.model.tls import TlsRecorder
    from ironpost.routing.directory import Directory
    from ironpost.routing.rewriting import Rewriting
    from ironpost.routing.route import LocalRule

START = 1_700_000_000.0
PATIENCE = 30.0
"""Real seconds after which a scenario fails instead of hanging."""
OUR_DOMAIN = "here.example"


class Clock:
    """A `model.ports.Clock` that moves only when the scenario calls `pass_time`."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> float:
        return START + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> asyncio.Future[None]:
        # Counted from the call: time may pass before a task that awaits it has its first turn.
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self.passed + seconds, self._count, future))
        return future

    def pass_time(self, seconds: float) -> None:
        """Advance the clock and wake all sleeps that end within that time (seconds)."""
        self.passed += seconds
        while self._sleepers and self._sleepers[0][0] <= self.passed:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


class NextHop:
    """An aiosmtpd server that refuses recipients as the scenario requests, and records accepted messages."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        """Replies to RCPT, the first one first; when none is left recipients are accepted."""
        self.asked = 0
        self.taken: list[tuple[str, list[str], bytes]] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="next.example", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        self.asked += 1
        if self.refusals:
            return self.refusals.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 fine"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.taken.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 taken"


def into(path: Path) -> Route:
    """The route into one Maildir."""
    return Route.local(options=MaildirOptions(PathTemplate.fixed(path)))


class System:
    """The mail system of `here.example`; use it as an asynchronous context manager."""

    def __init__(
        self, folder: Path, *, trusted: tuple[str, ...] = ("127.0.0.1/32",), capacity: int = 1 << 24,
        session: SessionSettings | None = None, claims: frozenset[str] = frozenset(),
        directory: Directory | None = None, local_rules: Sequence[LocalRule] = (),
        tls_recorder: TlsRecorder | None = None, dmarc_recorder: DmarcRecorder | None = None,
        reception: Rewriting | None = None, delivery: Rewriting | None = None, **policy: Any
    ) -> None:  # fmt: skip
        """`policy`: see `policy_kit.checks`."""
        self._session = session or SessionSettings()
        self._claims = claims
        self._tls_recorder = tls_recorder
        self._dmarc_recorder = dmarc_recorder
        self._reception = reception
        self._delivery = delivery
        self._directory = directory or local([OUR_DOMAIN])
        self._local_rules = local_rules
        self.data = folder
        self.mail = folder / "mail"
        self.clock = Clock()
        self.next_hop = NextHop()
        self.policy = {"local_domains": [OUR_DOMAIN], "trusted_networks": trusted, **policy}
        self.store = MemoryStore(now=self.clock.now, capacity=capacity)
        self._random = SystemRandom()

    async def __aenter__(self) -> System:
        await self.next_hop.start()
        rules = [Rule(("next.example",), Route.smart([f"127.0.0.1:{self.next_hop.port}"]))]
        self.resolver = StaticResolver(
            mx={
                "by-mx.example": [(10, "mx.by-mx.example")],
                "null.example": [(0, "")],
                "circle.example": [(10, f"mx.{OUR_DOMAIN}")],
            },
            addresses={"mx.by-mx.example": ["127.0.0.1"], f"mx.{OUR_DOMAIN}": ["192.0.2.1"]},
            txt={
                "from-here.example": [b"v=spf1 ip4:127.0.0.2 -all"],
                "from-elsewhere.example": [b"v=spf1 ip4:192.0.2.9 -all"],
                "_dmarc.from-here.example": [
                    b"v=DMARC1; p=reject; rua=mailto:dmarc@here.example; ruf=mailto:failures@here.example"
                ],
                "from-here.example._report._dmarc.here.example": [b"v=DMARC1"],
            },
        )
        self._maildir = Maildir(clock=self.clock, random=self._random, host=f"mx.{OUR_DOMAIN}")
        self._remote = RemoteDelivery(
            self.resolver, self._random, Dialer(local_hostname=f"mx.{OUR_DOMAIN}"), port=self.next_hop.port,
            own=OwnSystem(frozenset({f"mx.{OUR_DOMAIN}"}), networks=()), recorder=self._tls_recorder,
            rewriting=DeliveryRewriting(self._delivery),
        )  # fmt: skip
        self._pipe = Pipe(f"mx.{OUR_DOMAIN}")
        self._reports = DmarcReports(self.data, self.clock, lambda: Domains((OUR_DOMAIN,)))
        self.runner = QueueRunner(
            store=self.store, agents=self._agent,
            routes=Routes(self._directory, rules, local=into(self.mail), local_rules=self._local_rules),
            clock=self.clock, random=self._random, reporting_mta=f"mx.{OUR_DOMAIN}",
        )  # fmt: skip
        inbound = Inbound(
            store=self.store, policy=Policy(
                checks(
                    Ports(self.clock, self.resolver, None, self._directory, self._dmarc_recorder), **self.policy
                )
            ),
            clock=self.clock, random=self._random, hostname=f"mx.{OUR_DOMAIN}", accept=self.runner.accept,
            claims=self._claims, directory=self._directory, rewriting=self._reception,
        )  # fmt: skip
        self.server = Server(
            inbound, "127.0.0.1", 0, settings=replace(self._session, hostname=f"mx.{OUR_DOMAIN}", now=self.clock.now)
        )
        self.runner.start()
        await self.server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.server.stop(1.0)
        await self.runner.stop()
        await self._remote.close()
        await self._maildir.close()
        await self.store.close()
        await self.next_hop.stop()

    def _agent(self, route: Route) -> Agent:
        agents: dict[Kind, Agent] = {
            Kind.LOCAL: self._maildir,
            Kind.PIPE: self._pipe,
            Kind.DMARC_REPORTS: self._reports,
        }
        return agents.get(route.kind, self._remote)

    async def submit(
        self, sender: str, recipients: list[str] | str, content: bytes, *, source: str = "127.0.0.1",
        options: tuple[str, ...] = (),
    ) -> dict[str, tuple[int, bytes]]:  # fmt: skip
        """Send with smtplib from the IP address `source`; return what it returns or raises."""

        def send() -> dict[str, tuple[int, bytes]]:
            with smtplib.SMTP("127.0.0.1", self.server.port, "client.example", PATIENCE, (source, 0)) as client:
                return client.sendmail(sender, recipients, content, options)

        return await asyncio.to_thread(send)

    def report_mail(self) -> ReportMail:
        """What queues the reports of this system."""
        return ReportMail(
            store=self.store, accept=self.runner.accept, directory=lambda: self.runner.routes.directory,
            signing=Signing(), clock=self.clock, random=self._random,
        )  # fmt: skip

    def delivered(self) -> list[bytes]:
        """Return the files in the Maildir's `new`, in order of delivery."""
        folder = self.mail / "new"
        return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.is_dir() else []

    async def queue_empty(self) -> None:
        """Wait until the queue is empty."""

        async def empty() -> bool:
            return not await self.store.list()

        await until(empty)

    async def deferred_or_empty(self) -> None:
        """Wait until no message in the queue is due."""

        async def waits() -> bool:
            return all(row.due > self.clock.now() for m in await self.store.list() for row in m.recipients)

        await until(waits)

    async def deferred(self) -> None:
        """Wait until all queued messages are due later, and there is at least one."""

        async def waits() -> bool:
            messages = await self.store.list()
            return bool(messages) and all(
                row.due > self.clock.now() for message in messages for row in message.recipients
            )

        await until(waits)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return as soon as `condition` holds; sockets and threads continue meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0)


@pytest.fixture
def system(tmp_path: Path) -> Callable[..., System]:
    """Create systems whose Maildir is in the test's folder."""
    return lambda **options: System(tmp_path, **options)
