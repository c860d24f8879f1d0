"""DANE over sockets: hosts that match, do not match, were stripped of STARTTLS, or cannot be looked up (RFC 7672)."""

from __future__ import annotations

import hashlib
import itertools
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import DAY, Certificate, issue
from tests.delivery.test_remote import (
    FIRST,
    MX_A,
    D,
    P,
    deliver,
    delivery,
    message,
    one,
    peer,
    run,
    tagged,
)
from tests.delivery.test_remote_tls import PROMISES, STARTTLS, STRIPPED, tls

from ironpost.client.tls import provides_chain
from ironpost.model.dns import TLSA, Records, RecordType
from ironpost.model.envelope import TLS_REQUIRED
from ironpost.model.tls import TlsLevel
from ironpost.processes.clock import SystemClock
from ironpost.routing.route import Route
from ironpost.routing.tls import Dane, TlsRule, TlsUse, tls_policies
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.delivery.test_remote import Peer

    from ironpost.delivery.remote import RemoteDelivery
    from ironpost.queue.store import QueuedMessage

CA = issue(common_name="authority", authority=True)
GOOD = issue("mx1.a.example", by=CA)
EXPIRED = issue("mx1.a.example", by=CA, since=-9 * DAY, until=-DAY)
FOREIGN = issue("mx1.a.example", by=issue(common_name="authority", authority=True))


ONE_HOST = {"a.example": [(10, "mx1.a.example")]}


UNUSABLE = TLSA(1, 1, 1, bytes(32))
"""PKIX-EE: DANE for SMTP has no use for it (RFC 7672 §3.1.3), but TLS is mandatory."""


def ee(of: Certificate = GOOD) -> TLSA:
    return TLSA(3, 1, 1, hashlib.sha256(of.spki).digest())


def ta(of: Certificate = CA) -> TLSA:
    return TLSA(2, 0, 1, hashlib.sha256(of.der).digest())


def serving(served: Certificate, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain, key = folder / "chain.pem", folder / "key.pem"
    served.write(chain, key)
    context.load_cert_chain(chain, key)
    return context


@asynccontextmanager
async def sending(
    port: int, records: Sequence[TLSA], *, rules: Sequence[TlsRule] = (), resolver: dict[str, Any] | None = None
) -> AsyncIterator[RemoteDelivery]:
    """Delivery to `a.example`, whose first host publishes these records in a signed zone."""
    owner = f"_{port}._tcp.mx1.a.example"
    signed = ["a.example", *FIRST, owner]
    tables: dict[str, Any] = {"mx": ONE_HOST, "addresses": FIRST, "tlsa": {owner: records}, "authentic": signed}
    found = StaticResolver(**tables | (resolver or {}))
    async with delivery(port, resolver=found, policies=tls_policies(rules, dane=Dane(found, SystemClock()))) as made:
        yield made


async def attempt(here: Peer, records: Sequence[TLSA], sent: QueuedMessage | None = None, **more: Any) -> Any:
    async with sending(here.port, records, **more) as made:
        return one(await deliver(made, sent or message("x@a.example")))


@pytest.mark.parametrize(
    ("served", "records", "expected"),
    [
        (GOOD, [ee()], D),
        (GOOD, [ta()], D),
        (GOOD, [ee(FOREIGN)], P),  # a wrong digest
        (GOOD, [ta(GOOD)], P),
        (EXPIRED, [ee(EXPIRED)], D),  # RFC 7672 §3.1.1
        (EXPIRED, [ta()], P),
        (FOREIGN, [ta()], P),
        (GOOD, [ee(FOREIGN), ee()], D),  # while a key is replaced
        (FOREIGN, [ee(FOREIGN), ee()], D),
        (FOREIGN, [UNUSABLE], D),
    ],
)
def test_a_host_is_authenticated_by_its_records(
    served: Certificate, records: list[TLSA], expected: object, tmp_path: Path
) -> None:
    assert provides_chain()

    async def main() -> None:
        async with peer(STARTTLS, tls=serving(served, tmp_path)) as here:
            outcome = await attempt(here, records)
            assert outcome.disposition is expected
            if expected is D:
                unusable = records[0].usage == 1
                least = TlsLevel.ENCRYPTED if unusable else TlsLevel.AUTHENTICATED
                assert (tls(outcome).level, tls(outcome).required) == (least, least)
                assert tls(outcome).reason == "no TLSA record is usable" or "matches TLSA" in tls(outcome).reason
            else:
                assert (outcome.reply.code, outcome.reply.enhanced) == (451, "4.7.10")
                assert f"TLSA {records[0].usage} " in outcome.reply.detail
                assert not here.messages

    run(main)


@pytest.mark.parametrize("records", [[ee()], [ta()], [UNUSABLE]])
def test_a_host_that_does_not_offer_starttls_gets_nothing(records: list[TLSA]) -> None:
    async def main() -> None:
        async with peer(STRIPPED) as here:
            outcome = await attempt(here, records)
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.7.10")
            assert not any(command.startswith("MAIL") for command in here.commands)

    run(main)


@pytest.mark.parametrize("failing", ["_{}._tcp.mx1.a.example", "mx1.a.example", "a.example"])
def test_r27_a_lookup_that_fails_never_leads_to_unauthenticated_delivery(failing: str) -> None:
    async def main() -> None:
        async with peer(STRIPPED) as here:
            outcome = await attempt(here, [ee()], resolver={"failing": [failing.format(here.port)]})
            assert (outcome.disposition, outcome.reply.enhanced) == (P, "4.4.3")
            assert (here.connections, here.messages) == (0, [])

    run(main)


def test_r27_another_host_is_tried(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(GOOD, tmp_path)) as first,
            peer(STRIPPED, "127.0.0.2", first.port) as second,
        ):
            for records, failing in (([ee(FOREIGN)], []), ([ee()], [f"_{first.port}._tcp.mx1.a.example"])):
                outcome = await attempt(first, records, resolver={"mx": MX_A, "failing": failing})
                assert (outcome.disposition, tls(outcome).host) == (D, "mx2.a.example")
            assert (first.messages, len(second.messages)) == ([], 2)

    run(main)


def test_an_unsigned_domain_is_sent_to_as_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with peer(STARTTLS, tls=serving(FOREIGN, tmp_path)) as here:
            outcome = await attempt(here, [ee()], resolver={"authentic": [f"_{here.port}._tcp.mx1.a.example"]})
            assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.ENCRYPTED)
        async with peer(STRIPPED) as here:
            outcome = await attempt(here, [ee()], resolver={"authentic": ["a.example"]})
            assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.NONE)

    run(main)


def test_r30_the_base_domain_is_sent_in_sni(tmp_path: Path) -> None:
    names: list[str | None] = []
    context = serving(GOOD, tmp_path)
    context.sni_callback = lambda _connection, name, _context: names.append(name)

    async def main() -> None:
        async with peer(STARTTLS, tls=context) as here:
            for owner, records in itertools.product(("real.b.example", "mx1.a.example"), ([ee()], [UNUSABLE])):
                resolver = {
                    "addresses": {"real.b.example": ["127.0.0.1"]},
                    "aliases": {"mx1.a.example": "real.b.example"},
                    "tlsa": {f"_{here.port}._tcp.{owner}": records},
                    "authentic": ["a.example", "mx1.a.example", "real.b.example", f"_{here.port}._tcp.{owner}"],
                }
                assert (await attempt(here, [], resolver=resolver)).disposition is D

    run(main)
    assert names == ["real.b.example", "real.b.example", "mx1.a.example", "mx1.a.example"]


def test_a_smart_host_with_signed_records_is_authenticated(tmp_path: Path) -> None:
    async def main() -> None:
        async with peer(STARTTLS, tls=serving(GOOD, tmp_path)) as here:
            owner = f"_{here.port}._tcp.hub.example"
            for records, expected in (([ee()], D), ([ee(FOREIGN)], P)):
                tables = {
                    "addresses": {"hub.example": ["127.0.0.1"]},
                    "tlsa": {owner: records},
                    "authentic": ["hub.example", owner],
                }
                async with sending(here.port, [], resolver=tables) as made:
                    route = Route.smart([f"hub.example:{here.port}"])
                    assert one(await deliver(made, message("x@a.example"), route)).disposition is expected

    run(main)


class Changing(StaticResolver):
    """Answers queries for TLSA records with those that the test sets."""

    records: tuple[TLSA, ...] = ()

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        if kind is RecordType.TLSA:
            return Records(True, self.records, True)
        return await super().resolve(name, kind)


def test_r39_connections_are_shared_by_equal_records_only(tmp_path: Path) -> None:
    resolver = Changing(mx=ONE_HOST, addresses=FIRST, authentic=["a.example", *FIRST])
    policies = tls_policies(dane=Dane(resolver, SystemClock()))

    async def main() -> None:
        async with (
            peer(STARTTLS, tls=serving(GOOD, tmp_path)) as here,
            delivery(here.port, resolver=resolver, policies=policies) as made,
        ):
            sets = ((ee(), ee(FOREIGN)), (ee(FOREIGN), ee()), (ta(),), (ee(), ee(FOREIGN)))
            for records, connections in zip(sets, (1, 1, 2, 2), strict=True):
                resolver.records = records
                assert one(await deliver(made, message("x@a.example"))).disposition is D
                assert here.connections == connections

    run(main)


def test_r38_requiretls_is_fulfilled_by_dane(tmp_path: Path) -> None:
    """RFC 8689 §2: without an authority that this system knows."""

    async def main() -> None:
        async with peer(PROMISES, tls=serving(GOOD, tmp_path)) as here:
            outcome = await attempt(here, [ta()], tagged("x@a.example"))
            assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.AUTHENTICATED)
            (mail,) = [command for command in here.commands if command.startswith("MAIL")]
            assert mail.endswith(" REQUIRETLS")
            failed = await attempt(here, [ta(GOOD)], tagged("x@a.example"))
            assert (failed.reply.code, failed.reply.enhanced) == (550, "5.7.10")
            assert len(here.messages) == 1

    run(main)


def test_tls_required_no_delivers_although_the_records_do_not_match(tmp_path: Path) -> None:
    """RFC 8689 §4.2.2; the tag is not a parameter of MAIL."""
    sent = message("x@a.example")
    optional = sent._replace(envelope=sent.envelope._replace(parameters={TLS_REQUIRED: "No"}))

    async def main() -> None:
        async with peer(STARTTLS, tls=serving(FOREIGN, tmp_path)) as here:
            outcome = await attempt(here, [ee()], optional)
            assert (outcome.disposition, tls(outcome).level) == (D, TlsLevel.ENCRYPTED)
            assert "MAIL FROM:<s@us.example>" in here.commands
        async with peer(STRIPPED) as here:
            assert (await attempt(here, [ee()], optional)).disposition is D
            rule = TlsRule(("a.example",), TlsUse.ENCRYPT)
            assert (await attempt(here, [ee()], optional, rules=[rule])).disposition is P

    run(main)
