"""IPv6 and IPv4: a family without a route, or whose packets vanish, delays a destination at most once."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import pytest
from tests.delivery.test_remote import D, P, Straight, deliver, delivery, message, one, peer, run

from ironpost.client import connection
from ironpost.delivery import families, remote
from ironpost.delivery.dialer import Dialer
from ironpost.delivery.families import BrokenFamilies
from ironpost.delivery.own_system import OwnSystem
from ironpost.delivery.remote import RemoteDelivery
from ironpost.routing.route import Host, Route
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

SIX = [f"2001:db8::{number}" for number in range(1, 13)]
TO = "x@a.example"


def resolver(*addresses: str) -> StaticResolver:
    return StaticResolver(mx={"a.example": [(10, "mx1.a.example")]}, addresses={"mx1.a.example": list(addresses)})


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | None], list[str]]:
    """Break IPv6 with an error, or let its packets vanish (None); returns the addresses that are tried."""

    def fail(error: BaseException | None) -> list[str]:
        tried: list[str] = []
        really = connection.reach

        async def reach(host: str, port: int, source: str | None = None) -> socket.socket:
            tried.append(host)
            if ":" not in host:
                return await really(host, port, source)
            if error is None:
                await asyncio.get_running_loop().create_future()
            raise error  # type: ignore[misc]

        monkeypatch.setattr(connection, "reach", reach)
        return tried

    return fail


NO_ROUTE = OSError(errno.ENETUNREACH, "Network is unreachable")


def test_many_addresses_without_a_route_do_not_keep_mail_from_the_others(
    broken: Callable[[BaseException | None], list[str]],
) -> None:
    """More than are tried in one attempt."""
    tried = broken(NO_ROUTE)

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=resolver(*SIX, "127.0.0.1")) as made:
            assert one(await deliver(made, message(TO))).disposition is D
        assert tried == [SIX[0], "127.0.0.1"]

    run(main)


def test_packets_that_vanish_cost_one_timeout_and_are_remembered(
    broken: Callable[[BaseException | None], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, now = broken(None), 1000.0
    monkeypatch.setattr(remote, "monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        async with peer() as here:
            made = RemoteDelivery(
                resolver(*SIX[:3], "127.0.0.1"), Straight(), Dialer(local_hostname="us.example", connect_timeout=0.5),
                own=OwnSystem(networks=()), port=here.port, connection_messages=1,
            )  # fmt: skip
            for _ in range(3):
                assert one(await deliver(made, message(TO))).disposition is D
            assert tried == [SIX[0], "127.0.0.1", "127.0.0.1", "127.0.0.1"]
            now += families.REMEMBERED_SECONDS
            assert one(await deliver(made, message(TO))).disposition is D
            assert tried[4:] == [SIX[0], "127.0.0.1"]
            await made.close()

    run(main)


def test_addresses_that_are_tried_last_are_still_tried(broken: Callable[[BaseException | None], list[str]]) -> None:
    tried = broken(NO_ROUTE)

    async def main() -> None:
        async with delivery(1, resolver=resolver(*SIX[:3], "127.0.0.1")) as made:
            outcome = one(await deliver(made, message(TO)))
        assert outcome.disposition is P
        assert tried == [SIX[0], "127.0.0.1", SIX[1], SIX[2]]

    run(main)


@pytest.mark.parametrize("smart", [False, True], ids=["exchangers", "smart hosts"])
def test_a_broken_family_does_not_change_the_order_of_hosts(
    broken: Callable[[BaseException | None], list[str]], smart: bool
) -> None:
    """RFC 5321 §5.1: the backup is tried after all addresses of the preferred host, now and for the next message."""
    tried = broken(NO_ROUTE)
    known = StaticResolver(
        mx={"a.example": [(10, "mx1.a.example"), (20, "mx2.a.example"), (30, "mx3.a.example")]},
        addresses={"mx1.a.example": SIX[:2], "mx2.a.example": ["127.0.0.1", SIX[2]], "mx3.a.example": ["127.0.0.2"]},
    )

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=known, connection_messages=1) as made:
            hosts = [Host(f"mx{number}.a.example", here.port) for number in (1, 2, 3)]
            route = Route.smart(hosts) if smart else Route.mx()
            for _ in range(2):
                assert one(await deliver(made, message(TO), route)).disposition is D
            assert tried == [*SIX[:2], "127.0.0.1"] * 2
        tried.clear()
        async with delivery(1, resolver=known) as made:
            hosts = [Host(f"mx{number}.a.example", 1) for number in (1, 2, 3)]
            assert one(await deliver(made, message(TO), Route.smart(hosts) if smart else Route.mx())).disposition is P
            assert tried == [*SIX[:2], "127.0.0.1", SIX[2], "127.0.0.2"]

    run(main)


def test_what_is_remembered_is_bounded_and_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "REMEMBERED", 3)
    known = BrokenFamilies(lambda: 0.0)
    for number in range(5):
        known.connected(number, 4, {6})
    assert [number for number in range(5) if known.of(number)] == [2, 3, 4]
    assert known.of(4) == {6}
    known.connected(4, 6, ())
    assert known.of(4) == frozenset()
    known.connected(4, 4, {4})
    assert known.of(4) == frozenset()
