"""The DNS resolver against a scripted name server on loopback."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from ironpost.compose.delivery import dane_obstacle
from ironpost.dns.resolver import NEGATIVE_TTL_MAX, DnsResolver
from ironpost.dns.unconfigured import UnconfiguredResolver
from ironpost.model import dns as queries
from ironpost.model.dns import MX, TLSA, Records, RecordType, ResolverError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOA = "example. 60 IN SOA ns.example. root.example. 1 2 3 4 50"
ZONE = {
    "a.example. MX": ["a.example. 100 IN MX 20 MX2.a.example.", "a.example. 100 IN MX 10 mx.a.example."],
    "null.example. MX": ["null.example. 100 IN MX 0 ."],
    "alias.example. MX": ["alias.example. 100 IN CNAME a.example.", "a.example. 100 IN MX 10 mx.a.example."],
    "mx.a.example. A": ["mx.a.example. 100 IN A 192.0.2.1", "mx.a.example. 100 IN A 192.0.2.2"],
    "mx.a.example. AAAA": ["mx.a.example. 100 IN AAAA 2001:db8::1"],
    "four.example. A": ["four.example. 100 IN A 192.0.2.3"],
    "four.example. AAAA": [],
    "half.example. A": ["half.example. 100 IN A 192.0.2.4"],
    "half.example. AAAA": "SERVFAIL",
    "halfempty.example. A": [],
    "halfempty.example. AAAA": "SERVFAIL",
    "empty.example. MX": [],
    "dead.example. MX": "SERVFAIL",
    "refused.example. MX": "REFUSED",
    "7.100.51.198.in-addr.arpa. PTR": ["7.100.51.198.in-addr.arpa. 100 IN PTR mail.a.example."],
    f"{'7.' + '0.' * 23}8.b.d.0.1.0.0.2.ip6.arpa. PTR": [],
    "9.100.51.198.in-addr.arpa. PTR": "SERVFAIL",
    "silent.example. MX": "silence",
    "signed.example. MX": ["signed.example. 100 IN MX 10 mx.a.example."],
    "a.example. TXT": ['a.example. 100 IN TXT "v=spf1 " "-all"'],
    "_25._tcp.mx.a.example. TLSA": ["_25._tcp.mx.a.example. 100 IN TLSA 3 1 1 " + "0123456789abcdef" * 4],
    "_25._tcp.odd.example. TLSA": [
        "_25._tcp.odd.example. 100 IN TLSA 3 1 1 " + "0123456789abcdef" * 2,
        "_25._tcp.odd.example. 100 IN TLSA 3 1 1 " + "0123456789abcdef" * 4,
        "_25._tcp.odd.example. 100 IN TLSA 9 9 9 00",
    ],
    "xn--bcher-kva.example. MX": ["xn--bcher-kva.example. 100 IN MX 10 mx.a.example."],
}


SIGNED = {"signed.example. MX", "unsigned.example. MX", "half.example. A", "four.example. AAAA", ". TXT"}
"""Answers with AD."""


class NameServer(asyncio.DatagramProtocol):
    """Answers from `ZONE`, and with NXDOMAIN for other names."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.zone = ZONE

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        key = f"{question.name.to_text().lower()} {question.rdtype.name}"
        self.queries.append(key)
        records = self.zone.get(key)
        if records == "silence":
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if key in SIGNED and query.flags & dns.flags.AD:
            response.flags |= dns.flags.AD
        if isinstance(records, str):
            response.set_rcode(dns.rcode.from_text(records))
        elif records:
            for text in records:
                name, ttl, _, kind, *rest = text.split()
                response.find_rrset(
                    response.answer, dns.name.from_text(name), 1, dns.rdatatype.from_text(kind), create=True
                ).update(dns.rrset.from_text(name, int(ttl), "IN", kind, " ".join(rest)))
        else:
            if records is None:
                response.set_rcode(dns.rcode.NXDOMAIN)
            name, ttl, _, kind, *rest = SOA.split()
            response.authority.append(dns.rrset.from_text(name, int(ttl), "IN", kind, " ".join(rest)))
        self.transport.sendto(response.to_wire(), address)


class Time:
    """A clock that the test sets."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def outcome(records: Records[Any]) -> tuple[bool, tuple[Any, ...]]:
    return records.exists, records.data


@asynccontextmanager
async def name_server(
    lifetime: float = 5.0, cache_size: int = 100
) -> AsyncIterator[tuple[DnsResolver, NameServer, Time]]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    time = Time()
    port = transport.get_extra_info("sockname")[1]
    try:
        yield (
            DnsResolver(nameservers=[("127.0.0.1", port)], lifetime=lifetime, cache_size=cache_size, now=time),
            server,
            time,
        )
    finally:
        transport.close()


def test_r27_data_nodata_nxdomain_and_failure_are_distinct() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            found = await queries.mx(resolver, "A.example.")
            assert sorted((mx.preference, mx.host.lower()) for mx in found.data) == [
                (10, "mx.a.example"),
                (20, "mx2.a.example"),
            ]
            assert outcome(await queries.mx(resolver, "null.example")) == (True, (MX(0, ""),))
            assert (await queries.mx(resolver, "alias.example")).data == (MX(10, "mx.a.example"),)
            assert outcome(await queries.mx(resolver, "empty.example")) == (True, ())
            assert outcome(await queries.mx(resolver, "nowhere.example")) == (False, ())
            for name, reason in (("dead", "SERVFAIL"), ("refused", "REFUSED")):
                with pytest.raises(ResolverError, match=rf"^{name}\.example MX: {reason}$"):
                    await queries.mx(resolver, f"{name}.example")

    asyncio.run(main())


def test_r27_a_timeout_is_a_failure() -> None:
    async def main() -> None:
        async with name_server(lifetime=0.05) as (resolver, _, _):
            with pytest.raises(ResolverError, match=r"^silent\.example MX: timeout$"):
                await queries.mx(resolver, "silent.example")

    asyncio.run(main())


def test_r27_ptr_queries_distinguish_nodata_from_failure() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            assert outcome(await queries.names(resolver, "198.51.100.7")) == (True, ("mail.a.example",))
            assert outcome(await queries.names(resolver, "2001:db8::7")) == (True, ())
            assert outcome(await queries.names(resolver, "198.51.100.8")) == (False, ())
            with pytest.raises(ResolverError):
                await queries.names(resolver, "198.51.100.9")
            with pytest.raises(ValueError, match="not-an-ip"):
                await queries.names(resolver, "not-an-ip")

    asyncio.run(main())


def test_txt_and_tlsa_records_are_typed() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            assert (await queries.txt(resolver, "a.example")).data == (b"v=spf1 -all",)
            tlsa = await queries.tlsa(resolver, "mx.a.example", 25)
            assert tlsa.data == (TLSA(3, 1, 1, bytes.fromhex("0123456789abcdef" * 4)),)

    asyncio.run(main())


def test_every_record_type_can_be_queried() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            for kind in RecordType:
                await resolver.resolve("a.example", kind)
            assert server.queries == [f"a.example. {kind}" for kind in RecordType]

    asyncio.run(main())


def test_answers_carry_ttl_and_canonical_name() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, time):
            found = await queries.mx(resolver, "alias.example")
            assert (found.ttl, found.canonical) == (100, "a.example")
            time.seconds += 30
            assert (await queries.mx(resolver, "alias.example")).ttl == 70

    asyncio.run(main())


def test_r28_addresses_are_authentic_if_the_answer_for_one_family_is() -> None:
    """An attacker who suppresses the other answer must not be able to turn DANE off."""

    async def main() -> None:
        async with name_server() as (resolver, _, _):
            assert (await queries.addresses(resolver, "half.example")).authentic, "AAAA fails"
            assert (await queries.addresses(resolver, "four.example")).authentic, "A is unsigned"
            assert not (await queries.addresses(resolver, "mx.a.example")).authentic

    asyncio.run(main())


def test_a_tlsa_record_with_a_digest_of_the_wrong_length_does_not_spoil_the_others() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            found = (await queries.tlsa(resolver, "odd.example", 25)).data
            assert {(record.usage, len(record.association)) for record in found} == {(3, 16), (3, 32), (9, 1)}

    asyncio.run(main())


def test_an_alias_is_queried_by_itself() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            server.zone = {"www.example. CNAME": ["www.example. 100 IN CNAME Web.example."]}
            assert (await queries.alias(resolver, "www.example")).data == ("Web.example",)
            assert server.queries == ["www.example. CNAME"]

    asyncio.run(main())


def test_dane_is_off_without_a_trusted_resolver_that_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert await dane_obstacle(resolver) == ""
            server.zone = {". TXT": "SERVFAIL"}
        async with name_server() as (resolver, server, _):
            server.zone = {". TXT": "SERVFAIL"}
            assert (await dane_obstacle(resolver)).startswith("DNS does not answer: ")
        monkeypatch.setattr("tests.dns.test_resolver.SIGNED", set())
        async with name_server() as (resolver, _, _):
            assert await dane_obstacle(resolver) == "the name servers do not validate DNSSEC"
        far = DnsResolver(nameservers=[("127.0.0.1", 53), ("192.0.2.53", 53)])
        assert "name server 192.0.2.53 is not on this machine" in await dane_obstacle(far)
        assert DnsResolver(nameservers=[("192.0.2.53", 53)], trusted=True).distrust == ""
        assert "not configured" in await dane_obstacle(UnconfiguredResolver("not configured"))

    asyncio.run(main())


def test_answers_are_authentic_only_from_a_resolver_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            assert (await queries.mx(resolver, "signed.example")).authentic
            assert (await queries.mx(resolver, "unsigned.example")) == Records(False, authentic=True, ttl=50)
            assert not (await queries.mx(resolver, "a.example")).authentic
        monkeypatch.setattr("ironpost.dns.resolver.LOOPBACK", ())
        async with name_server() as (resolver, _, _):
            assert not (await queries.mx(resolver, "signed.example")).authentic

    asyncio.run(main())


def test_r27_without_a_name_server_every_query_fails() -> None:
    with pytest.raises(ResolverError, match="not configured"):
        asyncio.run(queries.addresses(UnconfiguredResolver("not configured"), "a.example"))


def test_both_address_families_are_queried_at_once() -> None:
    async def main() -> None:
        async with name_server(lifetime=0.2) as (resolver, server, _):
            server.zone = {**ZONE, "mx.a.example. AAAA": "silence"}
            lookup = asyncio.create_task(queries.addresses(resolver, "mx.a.example"))
            while len(server.queries) < 2:
                await asyncio.sleep(0)
            assert not lookup.done()
            assert set((await lookup).data) == {"192.0.2.1", "192.0.2.2"}

    asyncio.run(main())


def test_address_families_alternate_and_one_may_fail() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            both = (await queries.addresses(resolver, "mx.a.example")).data
            assert both[0] == "2001:db8::1"
            assert sorted(both[1:]) == ["192.0.2.1", "192.0.2.2"]
            assert (await queries.addresses(resolver, "four.example")).data == ("192.0.2.3",)
            assert (await queries.addresses(resolver, "half.example")).data == ("192.0.2.4",)
            assert outcome(await queries.addresses(resolver, "nowhere.example")) == (False, ())
            with pytest.raises(ResolverError):  # R27: one family has no records, the other one failed
                await queries.addresses(resolver, "halfempty.example")

    asyncio.run(main())


def test_answers_are_cached_for_their_ttl_and_negative_ones_for_less() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, time):
            for _ in range(3):
                await queries.mx(resolver, "a.example")
                await queries.mx(resolver, "nowhere.example")
            assert server.queries == ["a.example. MX", "nowhere.example. MX"]
            time.seconds += 51  # the SOA's minimum is 50, the records' TTL 100
            await queries.mx(resolver, "a.example")
            await queries.mx(resolver, "nowhere.example")
            assert server.queries[2:] == ["nowhere.example. MX"]
            time.seconds += 50
            await queries.mx(resolver, "a.example")
            assert server.queries[3:] == ["a.example. MX"]

    asyncio.run(main())
    assert NEGATIVE_TTL_MAX <= 3600


def test_failures_are_not_cached() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            for _ in range(2):
                with pytest.raises(ResolverError):
                    await queries.mx(resolver, "dead.example")
            assert server.queries.count("dead.example. MX") >= 2

    asyncio.run(main())


def test_the_cache_is_bounded() -> None:
    async def main() -> None:
        async with name_server(cache_size=2) as (resolver, server, _):
            for name in ("a.example", "null.example", "alias.example", "a.example"):
                await queries.mx(resolver, name)
            assert server.queries.count("a.example. MX") == 2

    asyncio.run(main())


def test_concurrent_equal_queries_are_sent_once_and_survive_a_cancelled_caller() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            first = asyncio.create_task(queries.mx(resolver, "a.example"))
            others = [asyncio.create_task(queries.mx(resolver, "a.example")) for _ in range(5)]
            await asyncio.sleep(0)
            first.cancel()
            for answer in await asyncio.gather(*others):
                assert len(answer.data) == 2
            assert server.queries == ["a.example. MX"]
            assert first.cancelled()

    asyncio.run(main())


def test_localhost_is_never_queried() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert (await queries.addresses(resolver, "localhost")).data == ("::1", "127.0.0.1")
            assert outcome(await queries.mx(resolver, "LOCALHOST.")) == (True, ())
            assert server.queries == []

    asyncio.run(main())


def test_u_labels_are_queried_as_a_labels() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert (await queries.mx(resolver, "bücher.example")).data == (MX(10, "mx.a.example"),)
            assert server.queries == ["xn--bcher-kva.example. MX"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("domain", "queried"),
    [
        ("straße.example", "xn--strae-oqa.example"),  # RFC 5891; IDNA2003 would query strasse.example
        ("faß.bücher.example", "xn--fa-hia.xn--bcher-kva.example"),
        ("under_score.a--b.example", "under_score.a--b.example"),
        ("under_score.bücher.example", "under_score.xn--bcher-kva.example"),
    ],
)
def test_u_labels_follow_idna2008_and_ascii_labels_are_unchanged(domain: str, queried: str) -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert outcome(await queries.mx(resolver, domain)) == (False, ())
            assert server.queries == [f"{queried}. MX"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "name",
    ["a..example", "x" * 64 + ".example", ("a" * 50 + ".") * 6 + "example", "a\u200db.example", "\u2177.example"],
)
def test_a_name_that_dns_cannot_hold_does_not_exist(name: str) -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert outcome(await queries.mx(resolver, name)) == (False, ())
            assert server.queries == []

    asyncio.run(main())
