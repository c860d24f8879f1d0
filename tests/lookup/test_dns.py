"""The DNS resolver against a name server on loopback that says what the test wants."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from ironpost.lookup.dns import NEGATIVE_TTL_MAX, DnsResolver
from ironpost.model.ports import MX, Answer, ResolverError

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
    "xn--bcher-kva.example. MX": ["xn--bcher-kva.example. 100 IN MX 10 mx.a.example."],
}


class NameServer(asyncio.DatagramProtocol):
    """Answers from `ZONE`; what is not there does not exist."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        key = f"{question.name.to_text().lower()} {question.rdtype.name}"
        self.asked.append(key)
        records = ZONE.get(key)
        if records == "silence":
            return
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
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
    """A clock that the test moves."""

    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


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
            DnsResolver(nameservers=["127.0.0.1"], port=port, lifetime=lifetime, cache_size=cache_size, now=time),
            server,
            time,
        )
    finally:
        transport.close()


def test_r27_data_nodata_nxdomain_and_failure_are_kept_apart() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            found = await resolver.mx("A.example.")
            assert sorted((mx.preference, mx.host.lower()) for mx in found.exchangers) == [
                (10, "mx.a.example"),
                (20, "mx2.a.example"),
            ]
            assert await resolver.mx("null.example") == Answer(True, exchangers=(MX(0, ""),))
            assert (await resolver.mx("alias.example")).exchangers == (MX(10, "mx.a.example"),)
            assert await resolver.mx("empty.example") == Answer(True)
            assert await resolver.mx("nowhere.example") == Answer(False)
            for name in ("dead.example", "refused.example"):
                with pytest.raises(ResolverError, match=name):
                    await resolver.mx(name)

    asyncio.run(main())


def test_r27_a_server_that_does_not_answer_is_no_answer() -> None:
    async def main() -> None:
        async with name_server(lifetime=0.05) as (resolver, _, _):
            with pytest.raises(ResolverError):
                await resolver.mx("silent.example")

    asyncio.run(main())


def test_r27_names_of_an_address_are_asked_and_silence_is_no_answer() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            assert await resolver.names("198.51.100.7") == Answer(True, names=("mail.a.example",))
            assert await resolver.names("2001:db8::7") == Answer(True)
            assert await resolver.names("198.51.100.8") == Answer(False)
            with pytest.raises(ResolverError):
                await resolver.names("198.51.100.9")
            with pytest.raises(ValueError, match="no address"):
                await resolver.names("no address")

    asyncio.run(main())


def test_both_families_take_turns_and_one_may_be_silent() -> None:
    async def main() -> None:
        async with name_server() as (resolver, _, _):
            both = (await resolver.addresses("mx.a.example")).addresses
            assert both[0] == "2001:db8::1"
            assert sorted(both[1:]) == ["192.0.2.1", "192.0.2.2"]
            assert (await resolver.addresses("four.example")).addresses == ("192.0.2.3",)
            assert (await resolver.addresses("half.example")).addresses == ("192.0.2.4",)
            assert await resolver.addresses("nowhere.example") == Answer(False)
            with pytest.raises(ResolverError):  # R27: one family has none, the other did not answer
                await resolver.addresses("halfempty.example")

    asyncio.run(main())


def test_answers_are_kept_for_their_ttl_and_negative_ones_for_less() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, time):
            for _ in range(3):
                await resolver.mx("a.example")
                await resolver.mx("nowhere.example")
            assert server.asked == ["a.example. MX", "nowhere.example. MX"]
            time.seconds += 51  # the SOA's minimum is 50, the records' TTL 100
            await resolver.mx("a.example")
            await resolver.mx("nowhere.example")
            assert server.asked[2:] == ["nowhere.example. MX"]
            time.seconds += 50
            await resolver.mx("a.example")
            assert server.asked[3:] == ["a.example. MX"]

    asyncio.run(main())
    assert NEGATIVE_TTL_MAX <= 3600


def test_failures_are_not_kept() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            for _ in range(2):
                with pytest.raises(ResolverError):
                    await resolver.mx("dead.example")
            assert server.asked.count("dead.example. MX") >= 2

    asyncio.run(main())


def test_the_cache_is_bounded() -> None:
    async def main() -> None:
        async with name_server(cache_size=2) as (resolver, server, _):
            for name in ("a.example", "null.example", "alias.example", "a.example"):
                await resolver.mx(name)
            assert server.asked.count("a.example. MX") == 2

    asyncio.run(main())


def test_equal_questions_at_the_same_time_are_asked_once_and_survive_a_cancelled_caller() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            first = asyncio.create_task(resolver.mx("a.example"))
            others = [asyncio.create_task(resolver.mx("a.example")) for _ in range(5)]
            await asyncio.sleep(0)
            first.cancel()
            for answer in await asyncio.gather(*others):
                assert len(answer.exchangers) == 2
            assert server.asked == ["a.example. MX"]
            assert first.cancelled()

    asyncio.run(main())


def test_localhost_is_never_asked_about() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert (await resolver.addresses("localhost")).addresses == ("::1", "127.0.0.1")
            assert await resolver.mx("LOCALHOST.") == Answer(True)
            assert server.asked == []

    asyncio.run(main())


def test_a_domain_in_unicode_is_asked_about_in_its_a_label() -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert (await resolver.mx("bücher.example")).exchangers == (MX(10, "mx.a.example"),)
            assert server.asked == ["xn--bcher-kva.example. MX"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("domain", "asked"),
    [
        ("straße.example", "xn--strae-oqa.example"),  # RFC 5891; IDNA2003 would ask about strasse.example
        ("faß.bücher.example", "xn--fa-hia.xn--bcher-kva.example"),
        ("under_score.a--b.example", "under_score.a--b.example"),
    ],
)
def test_u_labels_are_those_of_idna2008_and_ascii_labels_go_as_they_are(domain: str, asked: str) -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert await resolver.mx(domain) == Answer(False)
            assert server.asked == [f"{asked}. MX"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "name",
    ["a..example", "x" * 64 + ".example", ("a" * 50 + ".") * 6 + "example", "a\u200db.example", "\u2177.example"],
)
def test_a_name_that_dns_cannot_carry_does_not_exist(name: str) -> None:
    async def main() -> None:
        async with name_server() as (resolver, server, _):
            assert await resolver.mx(name) == Answer(False)
            assert server.asked == []

    asyncio.run(main())
