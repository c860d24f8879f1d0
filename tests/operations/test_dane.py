"""`ironpost dane check` over sockets, with a scripted resolver."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.delivery.test_remote import Straight, peer
from tests.delivery.test_remote_dane import CA, FOREIGN, GOOD, ee, serving, ta
from tests.delivery.test_remote_tls import STARTTLS, STRIPPED

from ironpost.delivery.dialer import Dialer
from ironpost.delivery.own_system import OwnSystem
from ironpost.model.dns import TLSA
from ironpost.operations.dane import CHECK, DaneChecker, DaneOutcome, DaneReport, DaneRequest, HostState
from ironpost.operations.operation import OperationError
from ironpost.processes.clock import SystemClock
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Data:
    """The context of the operation, over scripted DNS."""

    def __init__(self, resolver: StaticResolver, port: int = 25) -> None:
        self.resolver = resolver
        self.port = port

    @asynccontextmanager
    async def dane(self) -> AsyncIterator[DaneChecker]:
        async def obstacle() -> str:
            return ""

        yield DaneChecker(
            self.resolver,
            Straight(),
            SystemClock(),
            OwnSystem(networks=()),
            Dialer(local_hostname="us.example"),
            obstacle,
            self.port,
        )


def check(domain: str = "a.example", *, connect: bool = False, port: int = 25, **tables: Any) -> DaneReport:
    resolver = StaticResolver(
        **{
            "mx": {"a.example": [(10, "mx1.a.example")]},
            "addresses": {"mx1.a.example": ["127.0.0.1"], "mx2.a.example": ["127.0.0.2"]},
            "tlsa": {"_25._tcp.mx1.a.example": [ee(), ta(), TLSA(3, 1, 2, bytes(64)), TLSA(0, 0, 1, bytes(32))]},
            "authentic": ["a.example", "mx1.a.example", "_25._tcp.mx1.a.example"],
        }
        | tables
    )
    return asyncio.run(CHECK.run(Data(resolver, port), DaneRequest(domain, connect)))  # type: ignore[arg-type]


def test_it_shows_each_record_and_why_it_does_not_count() -> None:
    found = check()
    assert (found.outcome, found.signed, found.mx, found.failure) == (
        DaneOutcome.AUTHENTICATED,
        True,
        ("MX 10 mx1.a.example",),
        "",
    )
    (host,) = found.hosts
    assert (host.state, host.addresses, host.signed, host.base) == (
        HostState.AUTHENTICATED,
        ("127.0.0.1",),
        True,
        "mx1.a.example",
    )
    assert [(line.record[:5], line.fault) for line in host.records] == [
        ("0 0 1", "only the usages DANE-TA(2) and DANE-EE(3) apply to SMTP (RFC 7672 §3.1.3)"),
        ("2 0 1", ""),
        ("3 1 1", "a stronger digest is published"),
        ("3 1 2", ""),
    ]


@pytest.mark.parametrize(
    ("tables", "state", "outcome"),
    [
        ({"tlsa": {}}, HostState.ABSENT, DaneOutcome.NONE),
        ({"authentic": []}, HostState.UNSIGNED, DaneOutcome.NONE),
        ({"authentic": ["a.example"]}, HostState.UNSIGNED, DaneOutcome.NONE),
        (
            {"tlsa": {"_25._tcp.mx1.a.example": [TLSA(1, 1, 1, bytes(32))]}},
            HostState.ENCRYPTED,
            DaneOutcome.INCOMPLETE,
        ),
        ({"failing": ["_25._tcp.mx1.a.example"]}, HostState.FAILED, DaneOutcome.DEFERRED),
    ],
)
def test_the_state_of_a_host_decides_the_outcome(
    tables: dict[str, Any], state: HostState, outcome: DaneOutcome
) -> None:
    found = check(**tables)
    assert [host.state for host in found.hosts] == [state]
    assert found.outcome is outcome


def test_a_host_without_dane_makes_it_incomplete() -> None:
    found = check(mx={"a.example": [(10, "mx1.a.example"), (20, "mx2.a.example")]})
    assert [host.state for host in found.hosts] == [HostState.AUTHENTICATED, HostState.UNSIGNED]
    assert found.outcome is DaneOutcome.INCOMPLETE


@pytest.mark.parametrize(
    ("domain", "tables", "outcome"),
    [
        ("nowhere.example", {}, DaneOutcome.REFUSED),
        ("a.example", {"mx": {"a.example": [(0, "")]}}, DaneOutcome.REFUSED),
        ("a.example", {"failing": ["a.example"]}, DaneOutcome.DEFERRED),
        ("a.example", {"failing": ["mx1.a.example"]}, DaneOutcome.DEFERRED),
    ],
)
def test_a_domain_without_a_host(domain: str, tables: dict[str, Any], outcome: DaneOutcome) -> None:
    found = check(domain, **tables)
    assert (found.outcome, found.hosts) == (outcome, ())
    assert found.failure


@pytest.mark.parametrize("domain", ["", "a b.example", "[192.0.2.1]", "x@a.example"])
def test_text_that_does_not_name_a_domain_is_refused(domain: str) -> None:
    with pytest.raises(OperationError):
        check(domain)


@pytest.mark.parametrize(
    ("answers", "served", "records", "state", "reached"),
    [
        (STARTTLS, GOOD, [ee()], HostState.AUTHENTICATED, "authenticated"),
        (STARTTLS, GOOD, [ta()], HostState.AUTHENTICATED, "authenticated"),
        (STARTTLS, FOREIGN, [ee()], HostState.FAILED, "encrypted"),
        (STARTTLS, FOREIGN, [ta(CA)], HostState.FAILED, "encrypted"),
        (STRIPPED, GOOD, [ee()], HostState.FAILED, "none"),
        (STARTTLS, FOREIGN, [TLSA(1, 1, 1, bytes(32))], HostState.ENCRYPTED, "encrypted"),
    ],
)
def test_with_connect_it_verifies_the_certificate(
    answers: dict[str, bytes],
    served: Any,
    records: list[TLSA],
    state: HostState,
    reached: str,
    tmp_path: Path,
) -> None:
    async def main() -> DaneReport:
        async with peer(answers, tls=serving(served, tmp_path)) as here:
            owner = f"_{here.port}._tcp.mx1.a.example"
            resolver = StaticResolver(
                mx={"a.example": [(10, "mx1.a.example")]},
                addresses={"mx1.a.example": ["127.0.0.1"]},
                tlsa={owner: records},
                authentic=["a.example", "mx1.a.example", owner],
            )
            report = await CHECK.run(Data(resolver, here.port), DaneRequest("a.example", connect=True))  # type: ignore[arg-type]
            assert not any(command.startswith("MAIL") for command in here.commands)
            return report

    (host,) = asyncio.run(main()).hosts
    (handshake,) = host.handshakes
    assert (host.state, handshake.reached) == (state, reached)


def test_a_host_that_cannot_be_reached_is_reported() -> None:
    async def main() -> int:
        async with peer() as here:
            return here.port

    port = asyncio.run(main())
    owner = f"_{port}._tcp.mx1.a.example"
    found = check(connect=True, port=port, tlsa={owner: [ee()]}, authentic=["a.example", "mx1.a.example", owner])
    (host,) = found.hosts
    assert (host.state, host.handshakes[0].reached) == (HostState.FAILED, "")
    assert host.handshakes[0].reason.startswith("cannot connect: ")
