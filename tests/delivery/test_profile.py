"""Connection profiles of routes: source address, name in EHLO, TLS, and connections that are not shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.delivery.route_kit import certificate, smart_host
from tests.delivery.test_remote import FIRST, D, P, deliver, delivery, message, one, peer, run
from tests.delivery.test_remote_tls import STARTTLS, STRIPPED

from ironpost.model import Address
from ironpost.model.tls import TlsLevel
from ironpost.routing.profile import ConnectionProfile
from ironpost.routing.route import Host, Route
from ironpost.routing.tls import TlsRule, TlsUse, tls_policies
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from pathlib import Path

TO = "grace@elsewhere.example"
ONE = ConnectionProfile(sources=("127.0.0.2",), hello="one.us.example")
TWO = ConnectionProfile(sources=("127.0.0.3",), hello="two.us.example")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificate(tmp_path_factory.mktemp("certificates"), "hub.example", "127.0.0.1")


# -- source and name --------------------------------------------------------------------------------------------------


def test_r39_each_profile_has_its_connections_source_and_name(hub: Path) -> None:
    async def main() -> None:
        async with smart_host(hub) as host, delivery() as made:
            for profile in (ONE, TWO, None, ONE, TWO, None):
                assert one(await deliver(made, message(TO), host.route(profile))).disposition is D
        seen = [(each.hello, each.ip) for each in host.handler.arrived]
        assert (
            seen == [("one.us.example", "127.0.0.2"), ("two.us.example", "127.0.0.3"), ("us.example", "127.0.0.1")] * 2
        )
        ports = [each.port for each in host.handler.arrived]
        assert (ports[:3], len(set(ports))) == (ports[3:], 3)

    run(main)


def test_a_profile_applies_to_exchangers_too() -> None:
    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            for profile in (ONE, TWO, ONE):
                assert one(await deliver(made, message("x@a.example"), Route.mx(profile))).disposition is D
        greetings = [command for command in here.commands if command.startswith("EHLO")]
        assert greetings == ["EHLO one.us.example", "EHLO two.us.example"]

    run(main)


def test_a_host_without_an_address_of_the_sources_family_is_not_contacted() -> None:
    both = StaticResolver(mx={"a.example": [(10, "mx1.a.example")]}, addresses={"mx1.a.example": ["::1", "127.0.0.1"]})
    six = StaticResolver(mx={"a.example": [(10, "mx1.a.example")]}, addresses={"mx1.a.example": ["::1"]})

    async def main() -> None:
        async with peer() as here:
            async with delivery(here.port, resolver=both) as made:
                outcome = one(await deliver(made, message("x@a.example"), Route.mx(ONE)))
                assert (outcome.disposition, outcome.remote) == (D, f"mx1.a.example [127.0.0.1]:{here.port}")
                hops = await made.preview(Address.parse("x@a.example"), Route.mx(ONE))
                assert hops.text == f"mx1.a.example [127.0.0.1]:{here.port}"
            async with delivery(here.port, resolver=six) as made:
                outcome = one(await deliver(made, message("x@a.example"), Route.mx(ONE)))
                assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.4.4", True)
        assert here.connections == 1

    run(main)


def test_a_source_address_that_this_machine_does_not_have_defers_and_is_reported() -> None:
    profile = ConnectionProfile(sources=("192.0.2.77",))

    async def main() -> None:
        async with peer() as here, delivery(here.port) as made:
            for route in (Route.mx(profile), Route.smart([Host("127.0.0.1", here.port)], profile)):
                outcome = one(await deliver(made, message("x@a.example"), route))
                assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.3.5", True)
                assert "the source address 192.0.2.77 cannot be used" in str(outcome.reply)
        assert here.connections == 0

    run(main)


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "level"),
    [
        (TlsUse.NONE, TlsLevel.NONE),
        (TlsUse.MAY, TlsLevel.ENCRYPTED),
        (TlsUse.ENCRYPT, TlsLevel.ENCRYPTED),
        (TlsUse.VERIFY, TlsLevel.AUTHENTICATED),
    ],
)
def test_a_route_has_its_tls(hub: Path, use: TlsUse, level: TlsLevel) -> None:
    async def main() -> None:
        async with smart_host(hub) as host, delivery() as made:
            route = host.route(ConnectionProfile(tls=use, authorities=hub))
            outcome = one(await deliver(made, message(TO), route))
            assert (outcome.disposition, outcome.tls and outcome.tls.level) == (D, level)

    run(main)


@pytest.mark.parametrize("use", [TlsUse.ENCRYPT, TlsUse.VERIFY])
def test_a_route_that_requires_tls_sends_nothing_without_it(use: TlsUse) -> None:
    async def main() -> None:
        async with peer(STRIPPED) as here, delivery() as made:
            route = Route.smart([Host("127.0.0.1", here.port)], ConnectionProfile(tls=use))
            outcome = one(await deliver(made, message(TO), route))
            assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.7.10", True)
        assert here.messages == []

    run(main)


def test_the_stronger_of_route_and_rule_applies() -> None:
    async def main() -> None:
        policies = tls_policies([TlsRule(("127.0.0.1",), TlsUse.ENCRYPT)])
        async with peer(STRIPPED) as here, delivery(policies=policies) as made:
            weak = Route.smart([Host("127.0.0.1", here.port)], ConnectionProfile(tls=TlsUse.NONE))
            assert one(await deliver(made, message(TO), weak)).reply.enhanced == "4.7.10"
            hops = await made.preview(Address.parse(TO), weak)
            assert any("encrypt" in reason and "the route" in reason for reason in hops.reasons)

    run(main)


def test_implicit_tls_starts_with_the_handshake(hub: Path) -> None:
    profile = ConnectionProfile(tls=TlsUse.VERIFY, implicit_tls=True, authorities=hub)

    async def main() -> None:
        async with smart_host(hub, implicit=True) as host, delivery() as made:
            outcome = one(await deliver(made, message(TO), host.route(profile)))
            assert (outcome.disposition, outcome.tls and outcome.tls.level) == (D, TlsLevel.AUTHENTICATED)
        async with peer(STARTTLS) as here, delivery() as made:  # it speaks first, and unencrypted
            outcome = one(await deliver(made, message(TO), Route.smart([Host("127.0.0.1", here.port)], profile)))
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.7.5")
        assert here.commands == []

    run(main)


def test_a_route_has_its_authorities(hub: Path, tmp_path: Path) -> None:
    other = certificate(tmp_path, "other.example")

    async def main() -> None:
        async with smart_host(hub) as host, delivery(authorities=hub) as made:
            assert (
                one(await deliver(made, message(TO), host.route(ConnectionProfile(tls=TlsUse.VERIFY)))).disposition is D
            )
            outcome = one(
                await deliver(made, message(TO), host.route(ConnectionProfile(tls=TlsUse.VERIFY, authorities=other)))
            )
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.7.5")

    run(main)


def test_equal_addresses_of_two_hosts_share_nothing_across_profiles() -> None:
    resolver = StaticResolver(addresses=FIRST)

    async def main() -> None:
        async with peer() as here, delivery(resolver=resolver) as made:
            for profile in (None, ConnectionProfile(tls=TlsUse.NONE), None):
                route = Route.smart([Host("mx1.a.example", here.port)], profile)
                assert one(await deliver(made, message(TO), route)).disposition is D
        assert here.connections == 2

    run(main)
