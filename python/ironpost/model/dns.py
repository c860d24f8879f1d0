"""The resolver port, and typed DNS queries over it.

Promises: data, NODATA, NXDOMAIN and failure are four different results (SECURITY R27). `Records` represents the first
three. `ResolverError` is the fourth: a caller that gets one defers, and never concludes that a name does not exist.

A new record type needs a member of `RecordType`, a reader in `dns/resolver.py`, and a typed function here.
Standards: RFC 1035 (CNAME, MX, PTR, TXT), RFC 2308 (NXDOMAIN, NODATA), RFC 6698 §2.1 (TLSA), RFC 4035 (AD).
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

T = TypeVar("T")


class RecordType(StrEnum):
    """The record types that can be queried; the comments give the type of the values in `Records.data`."""

    A = "A"  # str, an IPv4 address
    AAAA = "AAAA"  # str, an IPv6 address
    MX = "MX"  # MX
    CNAME = "CNAME"  # str, a host name
    PTR = "PTR"  # str, a host name
    TXT = "TXT"  # bytes, the strings of one record concatenated
    TLSA = "TLSA"  # TLSA


class ResolverError(Exception):
    """The query failed (SERVFAIL, timeout, DNSSEC), so nothing is known about the name (SECURITY R27)."""


@dataclass(frozen=True, slots=True)
class MX:
    """One MX record. The null MX of RFC 7505 is the single record (0, "")."""

    preference: int
    host: str
    """The host name, without its trailing dot."""


@dataclass(frozen=True, slots=True)
class TLSA:
    """One TLSA record (RFC 6698 §2.1)."""

    usage: int
    selector: int
    matching: int
    association: bytes
    """A certificate or public key, or its digest."""


@dataclass(frozen=True, slots=True)
class Records(Generic[T]):
    """The answer to one query: data, NODATA (`exists`, no data) or NXDOMAIN (not `exists`)."""

    exists: bool
    data: tuple[T, ...] = ()
    """The records, in the order of the answer."""
    authentic: bool = False
    """A trusted resolver has validated the answer with DNSSEC (the AD bit, RFC 4035)."""
    ttl: float = 0.0
    """Seconds for which the answer stays valid."""
    canonical: str = ""
    """The name at the end of the CNAME chain, without its trailing dot; empty if unknown."""


class Resolver(Protocol):
    """The port to DNS."""

    def resolve(self, name: str, kind: RecordType, /) -> Awaitable[Records[Any]]:
        """Start a query; await the result for its answer.

        The query starts with the call, so two calls before the first `await` run concurrently. An implementation may
        also be a coroutine function; its queries then run one after the other.

        Args:
            name: a domain name, absolute, with or without a trailing dot; U-labels are converted (IDNA 2008).
            kind: the record type.

        Raises:
            ResolverError: the query failed; raised when the result is awaited.
        """
        ...


async def mx(resolver: Resolver, domain: str) -> Records[MX]:
    """Query the MX records of a domain, which are returned unsorted (RFC 5321 §5.1).

    Raises:
        ResolverError: the query failed.
    """
    return await resolver.resolve(domain, RecordType.MX)


async def addresses(resolver: Resolver, host: str) -> Records[str]:
    """Query the AAAA and A records of a host, which are returned alternating, IPv6 first (as RFC 8305 recommends).

    A failed query is ignored if the other one returns data. The result is authentic if either answer is: an attacker
    who suppresses one of them must not be able to turn DANE off (SECURITY R28).

    Raises:
        ResolverError: a query failed, and the other returned no data.
    """
    found = await settled([resolver.resolve(host, kind) for kind in (RecordType.AAAA, RecordType.A)])
    answers: list[Records[str]] = [each for each in found if isinstance(each, Records)]
    failure = next((each for each in found if isinstance(each, ResolverError)), None)
    data = tuple(ip for ip in chain.from_iterable(zip_longest(*(each.data for each in answers))) if ip is not None)
    if failure is not None and not data:
        # The failed query might have returned addresses (SECURITY R27).
        raise failure
    return Records(
        any(answer.exists for answer in answers),
        data,
        any(answer.authentic for answer in answers),
        min(answer.ttl for answer in answers),
        max(answers, key=lambda answer: (answer.authentic, bool(answer.canonical))).canonical,
    )


async def settled(queries: Sequence[Awaitable[Records[T]]]) -> list[Records[T] | ResolverError]:
    """Await queries that were started together; return their answers in the same order, or the errors."""
    answers: list[Records[T] | ResolverError] = []
    try:
        for query in queries:
            try:
                answers.append(await query)
            except ResolverError as error:
                answers.append(error)
    finally:
        for query in queries:  # after a cancellation, coroutines that were not awaited must be closed
            if isinstance(query, Coroutine):
                query.close()
    return answers


async def alias(resolver: Resolver, host: str) -> Records[str]:
    """Query the CNAME record of a host itself, without following it (RFC 7672 §2.1.3).

    Raises:
        ResolverError: the query failed.
    """
    return await resolver.resolve(host, RecordType.CNAME)


async def names(resolver: Resolver, ip: str) -> Records[str]:
    """Query the PTR records of an IP address for host names, without trailing dots and not confirmed (RFC 1035 §3.5).

    Raises:
        ResolverError: the query failed.
        ValueError: `ip` is not an IP address.
    """
    return await resolver.resolve(ip_address(ip).reverse_pointer, RecordType.PTR)


async def txt(resolver: Resolver, name: str) -> Records[bytes]:
    """Query the TXT records of a name; the strings of each record are concatenated (RFC 7208 §3.3).

    Raises:
        ResolverError: the query failed.
    """
    return await resolver.resolve(name, RecordType.TXT)


def without_version(name: str, records: Sequence[bytes], version: str) -> tuple[str, ...]:
    """Describe TXT records that do not count, because they do not start with their version but have it elsewhere.

    Args:
        name: where the records are.
        records: those that do not count.
        version: how they must start: `v=DMARC1;`.
    """
    word = version.strip("v=; ").lower().encode()
    if not any(word in each.lower() for each in records):
        return ()
    return (f'a TXT record at {name} does not start with "{version}", so it does not count',)


async def tlsa(resolver: Resolver, host: str, port: int) -> Records[TLSA]:
    """Query the TLSA records of a TCP service (RFC 6698 §3).

    Raises:
        ResolverError: the query failed.
    """
    return await resolver.resolve(f"_{port}._tcp.{host}", RecordType.TLSA)
