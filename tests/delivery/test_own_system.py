"""Ways that would lead back to this system (RFC 5321 §5.1), with listeners on every address of the machine."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from tests.delivery.test_remote import D, F, P, deliver, delivery, message, one, peer, run

from ironpost.compose.delivery import own_system
from ironpost.config import parse
from ironpost.delivery import own_system as module
from ironpost.delivery.own_system import ANY, OwnSystem, is_local
from ironpost.routing.route import Host, Route
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from ironpost.model.dns import Records, RecordType

IPV4, IPV6 = ANY[4], ANY[6]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

# 127.0.0.2 stands for a secondary address: this machine has it, and does not use it as a source.
PLACES = [
    pytest.param("0.0.0.0", "127.0.0.1", id="ipv4"),
    pytest.param("0.0.0.0", "127.0.0.2", id="secondary"),
    pytest.param("0.0.0.0", "::ffff:127.0.0.1", id="mapped"),
    pytest.param("::", "::1", id="ipv6", marks=needs_ipv6),
]


def listening(where: str, port: int) -> OwnSystem:
    """A system that listens there, and takes not even loopback for its own beside that."""
    return OwnSystem(networks=(), listening=frozenset({(ip_address(where), port)}))


def resolver(address: str) -> StaticResolver:
    return StaticResolver(
        mx={"loop.example": [(10, "us.loop.example"), (20, "second.example")], "a.example": [(10, "hub.example")]},
        addresses={"us.loop.example": [address], "second.example": ["127.0.0.3"], "hub.example": [address]},
    )


@pytest.mark.parametrize(("where", "address"), PLACES)
def test_f29_an_exchanger_on_a_wildcard_listener_is_this_system(where: str, address: str) -> None:
    async def main() -> None:
        async with peer(ip=where) as here:
            own = listening(where, here.port)
            async with delivery(here.port, resolver=resolver(address), own=own) as made:
                outcome = one(await deliver(made, message("x@loop.example")))
                literal = address if address[0] == "1" else f"IPv6:{address}"
                by_literal = one(await deliver(made, message(f"x@[{literal}]")))
            assert (outcome.disposition, outcome.reply.enhanced) == (F, "5.4.6")
            assert (by_literal.disposition, by_literal.reply.enhanced) == (F, "5.4.6")
            assert here.connections == 0  # nor the exchanger that is not preferred to it

    run(main)


@pytest.mark.parametrize(("where", "address"), PLACES)
def test_f29_a_smart_host_on_a_wildcard_listener_defers_and_the_next_is_asked(where: str, address: str) -> None:
    async def main() -> None:
        async with peer(ip=where) as here, peer(ip="127.0.0.1") as other:
            own = listening(where, here.port)
            ourselves = [Host(address, here.port), Host("hub.example", here.port)]
            async with delivery(resolver=resolver(address), own=own) as made:
                outcome = one(await deliver(made, message("x@a.example"), Route.smart(ourselves)))
                assert (outcome.disposition, outcome.reply.enhanced, outcome.ours) == (P, "4.4.6", True)
                route = Route.smart([*ourselves, Host("127.0.0.1", other.port)])
                assert one(await deliver(made, message("x@a.example"), route)).disposition is D
            assert (here.connections, other.connections) == (0, 1)

    run(main)


def test_f29_another_port_of_this_machine_is_another_system() -> None:
    async def main() -> None:
        async with peer() as here:
            own = listening("0.0.0.0", here.port + 1 if here.port < 65535 else 1)
            async with delivery(here.port, resolver=resolver("127.0.0.1"), own=own) as made:
                assert one(await deliver(made, message("x@a.example"))).disposition is D

    run(main)


def test_f29_a_wildcard_listener_covers_its_own_family_only() -> None:
    assert not listening("::", 25).listens(ip_address("127.0.0.1"), 25)
    assert not listening("0.0.0.0", 25).listens(ip_address("::1"), 25)


def test_f29_an_exchanger_not_preferred_to_this_system_is_omitted() -> None:  # RFC 5321 §5.1
    domain = StaticResolver(
        mx={"a.example": [(10, "best.example"), (20, "equal.example"), (20, "us.example"), (30, "worse.example")]},
        addresses={
            "best.example": ["127.0.0.4"],
            "equal.example": ["127.0.0.1"],
            "us.example": ["127.0.0.2"],
            "worse.example": ["127.0.0.1"],
        },
    )

    async def main() -> None:
        async with peer() as here:
            own = OwnSystem(networks=(), listening=frozenset({(ip_address("127.0.0.2"), here.port)}))
            async with delivery(here.port, resolver=domain, own=own) as made:
                outcome = one(await deliver(made, message("x@a.example")))
                assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.4.1")  # of the best, which is away
            assert here.connections == 0

    run(main)


class HalfSilent(StaticResolver):
    """Two equal exchangers: `silent.example` never answers, `here.example` is this machine."""

    def __init__(self) -> None:
        equal = [(10, "silent.example"), (10, "here.example")]
        super().__init__(mx={"a.example": equal}, addresses={"here.example": ["127.0.0.1"]})

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        if name == "silent.example":
            await asyncio.Event().wait()
        return await super().resolve(name, kind)


def test_f29_an_equal_exchanger_whose_lookup_hangs_does_not_block_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ironpost.delivery.next_hop.RESOLVE_SECONDS", 0.05)

    async def main() -> None:
        async with peer() as here, delivery(here.port, resolver=HalfSilent()) as made:
            assert one(await deliver(made, message("x@a.example"))).disposition is D

    run(main)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", pytest.param("::1", marks=needs_ipv6)])
def test_f29_local_addresses_are_recognised(address: str) -> None:
    assert is_local(ip_address(address))


@pytest.mark.parametrize("address", ["240.0.0.1", "255.255.255.255", "100::1", "fe80::1"])
def test_f29_foreign_addresses_are_not_recognised(address: str) -> None:
    assert not is_local(ip_address(address))


def test_f29_with_ip_nonlocal_bind_a_bindable_address_is_not_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_can_bind", lambda *_: True)  # as with ip_nonlocal_bind
    assert not is_local(ip_address("127.0.0.2"))
    assert is_local(ip_address("127.0.0.1"))


LISTENERS = """
[[listener]]
role = "mx"
listen = ["0.0.0.0:25", "[::]:25", "[::ffff:192.0.2.7]:25", "MX.name.example:25", "unix:/run/mx.sock", "fd:smtp"]

[[listener]]
role = "submission"
listen = ["192.0.2.7:587", "submit.example:587"]
"""


def test_f29_the_addresses_of_this_system_are_those_of_its_listeners() -> None:
    own = own_system(parse(LISTENERS, "test"), "mx.example")
    assert own.names == {"mx.example", "mx.name.example"}
    assert own.listening == {(IPV4, 25), (IPV6, 25), (ip_address("192.0.2.7"), 25), (ip_address("192.0.2.7"), 587)}
    assert own.owns(ip_address("127.9.9.9"), 2525)


def test_f29_the_addresses_of_this_system_include_inherited_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as here:
        own = own_system(parse("", "test"), "mx.example", {"fd:smtp": [here]})
        assert (ip_address("127.0.0.1"), here.getsockname()[1]) in own.listening


@needs_ipv6
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no sockets for both families")
@pytest.mark.parametrize("both", [True, False])
def test_f29_an_inherited_socket_may_be_for_both_families(both: bool) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=both) as here:
        port = here.getsockname()[1]
        own = own_system(parse("", "test"), "mx.example", {"fd:smtp": [here]})
        assert (IPV6, port) in own.listening
        assert ((IPV4, port) in own.listening) is both
