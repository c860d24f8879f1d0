"""Resumption of TLS sessions: when it happens, when it must not, and what is still noticed (RFC 8446 §2.2)."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from tests.authority import DAY, issue
from tests.delivery.test_remote import D, P, deliver, delivery, message, one, peer, run, tagged
from tests.delivery.test_remote_dane import CA, GOOD, ee, serving, ta
from tests.delivery.test_remote_tls import AUTHENTIC, ONE_HOST, PROMISES, STARTTLS, rules, tls

from ironpost import BaseHandler, Server
from ironpost.client.connection import connect
from ironpost.client.tls import encrypting, verifying
from ironpost.client.tls_sessions import ENTRIES, LIFETIME, Established, TlsPeer, TlsSessions
from ironpost.model.tls import BY_AUTHORITIES, UNAUTHENTICATED, TlsLevel, Verification
from ironpost.processes.clock import SystemClock
from ironpost.protocol.client.session import Security
from ironpost.protocol.sasl import Credentials
from ironpost.routing.tls import Dane, TlsUse, tls_policies
from ironpost.server.tls import TlsContext
from ironpost.telemetry.metrics import Counters
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ironpost.model.dns import TLSA, Records, RecordType
    from ironpost.model.tls import TlsOutcome

SINGLE_USE = {"connection_messages": 1}
"""A connection for each message."""
MUST = Security("must")


class Watch:
    """The test double of a clock for TLS sessions: the true time, and what was added."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Late(SystemClock):
    """The clock of DANE, which is ahead by `seconds`."""

    seconds = 0.0

    def now(self) -> float:
        return super().now() + self.seconds


@pytest.fixture
def trusted(tmp_path: Path) -> Path:
    """The file of the authority that issued `GOOD`."""
    file = tmp_path / "ca.pem"
    file.write_bytes(CA.pem)
    return file


def signed(port: int, record: TLSA) -> StaticResolver:
    """A signed zone with `a.example`, whose host publishes this record."""
    owner = f"_{port}._tcp.mx1.a.example"
    return StaticResolver(
        mx={"a.example": [(10, "mx1.a.example")]}, addresses={"mx1.a.example": ["127.0.0.1"]}, tlsa={owner: [record]},
        authentic=["a.example", "mx1.a.example", owner],
    )  # fmt: skip


class Zone:
    """The test double of a resolver, whose zone can be replaced."""

    def __init__(self, published: StaticResolver) -> None:
        self.published = published

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        return await self.published.resolve(name, kind)


def resumed(context: ssl.SSLContext) -> int:
    """How many handshakes of a server were resumed."""
    return context.session_stats()["hits"]


# -- resumed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("use", [TlsUse.MAY, TlsUse.VERIFY])
def test_later_connections_resume_the_session_with_the_same_result(
    loop: Callable[[], asyncio.AbstractEventLoop], version: ssl.TLSVersion, use: TlsUse, tmp_path: Path, trusted: Path
) -> None:
    records: list[TlsOutcome] = []
    context = serving(GOOD, tmp_path)
    context.maximum_version = version
    metrics = Counters()

    async def main() -> None:
        options: dict[str, Any] = {"resolver": ONE_HOST, "policies": rules(use), "authorities": trusted}
        options["metrics"] = metrics
        async with (
            peer(STARTTLS, tls=context) as here,
            delivery(here.port, recorder=records.append, **options, **SINGLE_USE) as made,
        ):
            results = [tls(one(await deliver(made, message("x@a.example")))) for _ in range(3)]
            assert (here.connections, here.levels) == (3, ["tls"] * 3)
        assert resumed(context) == 2
        assert metrics.snapshot()["outgoing_handshakes"] == {"full": 1, "resumed": 2}
        assert results[0].level is (TlsLevel.AUTHENTICATED if use is TlsUse.VERIFY else TlsLevel.ENCRYPTED)
        assert len(set(results)) == 1
        assert [record.failure for record in records] == [None] * 3, "each connection is recorded for reports"

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("implicit", [False, True])
def test_sessions_of_our_own_server_are_resumed(implicit: bool, tmp_path: Path) -> None:
    async def main() -> None:
        GOOD.write(tmp_path / "c", tmp_path / "k")
        sessions, context = TlsSessions(), encrypting()
        certificates = TlsContext.load([(tmp_path / "c", tmp_path / "k")])
        async with Server(BaseHandler(), "127.0.0.1", 0, tls=certificates, implicit_tls=implicit) as server:
            found = []
            for _ in range(3):
                made = await connect(
                    *server.addresses[0][:2], "us.example",
                    security=Security("never") if implicit else MUST, implicit_tls=implicit,
                    tls=context, verifier=UNAUTHENTICATED, tls_sessions=sessions,
                )  # fmt: skip
                assert made.resumption is not None
                found.append((made.ready, made.resumption.resumed))
                await made.quit()
            assert found == [(True, False), (True, True), (True, True)]

    run(main)


def test_a_server_that_has_forgotten_a_session_costs_a_full_handshake(tmp_path: Path, trusted: Path) -> None:
    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(GOOD, tmp_path)) as here,
            delivery(here.port, resolver=ONE_HOST, policies=rules(TlsUse.VERIFY), authorities=trusted, **SINGLE_USE)
            as made,
        ):  # fmt: skip
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            here.tls = restarted = serving(GOOD, tmp_path)
            for _ in range(2):
                assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert (here.connections, resumed(restarted)) == (3, 1)

    run(main)


def test_a_handshake_that_fails_with_a_session_is_followed_by_a_full_one(tmp_path: Path) -> None:
    """Otherwise opportunistic TLS would continue unencrypted."""
    records: list[TlsOutcome] = []
    context = serving(GOOD, tmp_path)
    answers = iter([None, ssl.ALERT_DESCRIPTION_INTERNAL_ERROR, None])
    context.sni_callback = lambda *_: next(answers)  # type: ignore[assignment]

    async def main() -> None:
        async with (
            peer(STARTTLS, tls=context) as here,
            delivery(here.port, resolver=ONE_HOST, recorder=records.append, **SINGLE_USE) as made,
        ):
            for _ in range(2):
                assert one(await deliver(made, message("x@a.example"))).disposition is D
            assert (here.connections, here.levels) == (3, ["tls", "tls"])

    run(main)
    assert [record.failure for record in records] == [None, None]


# -- not resumed ------------------------------------------------------------------------------------------------------


def test_r39_a_session_of_another_level_is_not_resumed(tmp_path: Path, trusted: Path) -> None:
    context = serving(GOOD, tmp_path)

    async def main() -> None:
        async with (
            peer(PROMISES, tls=context) as here,
            delivery(here.port, resolver=AUTHENTIC, authorities=trusted, **SINGLE_USE) as made,
        ):
            for sent in (message, tagged):
                assert one(await deliver(made, sent("x@a.example"))).disposition is D
            assert resumed(context) == 0
            for sent, level in ((message, TlsLevel.ENCRYPTED), (tagged, TlsLevel.AUTHENTICATED)):
                assert tls(one(await deliver(made, sent("x@a.example")))).level is level
            assert resumed(context) == 2

    run(main)


class Other:
    """A verifier like `UNAUTHENTICATED`, and not equal to it."""

    uses_authorities = False

    def verify(self, chain: Sequence[bytes]) -> Verification:
        return UNAUTHENTICATED.verify(chain)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 1),
        ({"server_name": "other.example"}, 0),
        ({"verifier": Other()}, 0),
        ({"tls": encrypting()}, 0),  # another client certificate, or other authorities
        ({"port": True}, 0),
    ],
    ids=["same", "server name", "verifier", "context", "port"],
)
def test_r39_a_session_is_resumed_for_the_same_peer_only(
    changed: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    """The server would resume all of them."""
    context = serving(GOOD, tmp_path)

    async def main() -> None:
        sessions = TlsSessions()
        options: dict[str, Any] = {
            "security": MUST, "tls": encrypting(), "verifier": UNAUTHENTICATED, "server_name": "mx1.a.example",
            "tls_sessions": sessions,
        }  # fmt: skip
        async with peer(STARTTLS, tls=context) as here, peer(STARTTLS, tls=context) as there:
            more = dict(changed)
            port = there.port if more.pop("port", False) else here.port
            for each, choices in ((here.port, options), (port, options | more)):
                made = await connect("127.0.0.1", each, "us.example", **choices)
                assert made.ready
                await made.quit()
        assert (resumed(context), len(sessions)) == (expected, 2 - expected)

    run(main)


def test_a_connection_with_a_login_does_not_resume(tmp_path: Path) -> None:
    context = serving(GOOD, tmp_path)
    answers = {**STARTTLS, "EHLO under TLS": b"250-peer.example\r\n250 AUTH PLAIN\r\n", "AUTH": b"235 2.7.0 ok\r\n"}

    async def main() -> None:
        sessions, client = TlsSessions(), encrypting()
        async with peer(answers, tls=context) as here:
            for credentials in (None, Credentials("ada", "pencil"), None):
                made = await connect(
                    "127.0.0.1", here.port, "us.example", security=Security("must", credentials),
                    tls=client, verifier=UNAUTHENTICATED, tls_sessions=sessions,
                )  # fmt: skip
                assert (made.ready, resumed(context)) == (True, here.connections == 3)
                await made.quit()

    run(main)


def test_the_oldest_session_gives_way() -> None:
    sessions, context = TlsSessions(), encrypting()
    peers = [TlsPeer("192.0.2.1", port, "mx.example", context, UNAUTHENTICATED) for port in range(ENTRIES + 1)]
    kept: Any = Established(object(), (), time.time() + 60)  # type: ignore[arg-type]
    for each in (*peers[:ENTRIES], peers[0], peers[ENTRIES]):
        sessions.keep(each, kept)
    assert len(sessions) == ENTRIES
    assert [index for index, each in enumerate(peers) if sessions.find(each) is None] == [1]


# -- what is still noticed --------------------------------------------------------------------------------------------


def test_an_expired_certificate_is_noticed_at_the_end_of_the_lifetime(tmp_path: Path, trusted: Path) -> None:
    watch, context = Watch(), serving(GOOD, tmp_path)

    async def main() -> None:
        sessions = TlsSessions(now=watch)
        async with (
            peer(STARTTLS, tls=context) as here,
            delivery(here.port, resolver=ONE_HOST, policies=rules(TlsUse.VERIFY), authorities=trusted,
                     tls_sessions=sessions, **SINGLE_USE) as made,
        ):  # fmt: skip
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            expired = issue("mx1.a.example", by=CA, since=-9 * DAY, until=-DAY)
            expired.write(tmp_path / "e", tmp_path / "k")
            context.load_cert_chain(tmp_path / "e", tmp_path / "k")  # its tickets stay valid
            watch.ahead = LIFETIME - 60
            assert one(await deliver(made, message("x@a.example"))).disposition is D
            watch.ahead = LIFETIME + 60  # since the full handshake, not since the last connection
            outcome = one(await deliver(made, message("x@a.example")))
            assert (outcome.disposition, outcome.reply.enhanced, resumed(context)) == (P, "4.7.5", 1)
            assert "expired" in outcome.reply.detail

    run(main)


def test_a_session_ends_with_the_certificate(tmp_path: Path, trusted: Path) -> None:
    watch, context = Watch(), serving(issue("mx1.a.example", by=CA, until=600), tmp_path)

    async def main() -> None:
        client = verifying(str(trusted))
        async with peer(STARTTLS, tls=context) as here:
            sessions = TlsSessions(now=watch)
            for watch.ahead, expected in ((0, 0), (500, 1), (601, 1)):
                made = await connect(
                    "127.0.0.1", here.port, "us.example", security=MUST, tls=client, verifier=BY_AUTHORITIES,
                    server_name="mx1.a.example", tls_sessions=sessions,
                )  # fmt: skip
                assert (made.ready, resumed(context)) == (True, expected)
                await made.quit()

    run(main)


def test_the_certificates_of_a_resumed_session_are_verified_again(tmp_path: Path) -> None:
    """DANE-TA(2) needs the whole chain, which a resumed handshake does not have, and its dates."""
    context, clock = serving(GOOD, tmp_path), Late()

    async def main() -> None:
        async with peer(STARTTLS, tls=context) as here:
            found = signed(here.port, ta())
            policies = tls_policies(dane=Dane(found, clock))
            async with delivery(here.port, resolver=found, policies=policies, **SINGLE_USE) as made:
                for _ in range(2):
                    assert tls(one(await deliver(made, message("x@a.example")))).level is TlsLevel.AUTHENTICATED
                assert resumed(context) == 1
                clock.seconds = 31 * DAY
                outcome = one(await deliver(made, message("x@a.example")))
                assert (outcome.disposition, resumed(context)) == (P, 2)
                assert one(await deliver(made, message("x@a.example"))).disposition is P
                assert resumed(context) == 2, "the session was forgotten"

    run(main)


def test_r39_a_session_verified_by_other_records_is_not_resumed(tmp_path: Path) -> None:
    context = serving(GOOD, tmp_path)

    async def main() -> None:
        async with peer(STARTTLS, tls=context) as here:
            zone = Zone(signed(here.port, ee()))
            policies = tls_policies(dane=Dane(zone, SystemClock()))
            async with delivery(here.port, resolver=zone, policies=policies, **SINGLE_USE) as made:
                for expected in (0, 1):
                    assert one(await deliver(made, message("x@a.example"))).disposition is D
                    assert resumed(context) == expected
                zone.published = signed(here.port, ee(CA))
                assert one(await deliver(made, message("x@a.example"))).disposition is P
                assert resumed(context) == 1

    run(main)
