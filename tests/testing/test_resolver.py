"""The resolver from tables distinguishes data, NODATA, NXDOMAIN and failure."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.model import dns
from ironpost.model.dns import MX, TLSA, Records, ResolverError
from ironpost.testing.resolver import TTL, StaticResolver

if TYPE_CHECKING:
    from collections.abc import Awaitable

KEY = TLSA(3, 1, 1, b"digest")
RESOLVER = StaticResolver(
    mx={"A.example": [(10, "mx.a.example."), (20, "mx2.a.example")], "null.example": [(0, ".")]},
    addresses={"mx.a.example": ["192.0.2.1", "2001:db8::1", "192.0.2.2"], "empty.example": []},
    names={"192.0.2.1": ["mx.a.example."]},
    txt={"a.example": [b"v=spf1 -all"]},
    tlsa={"_25._tcp.mx.a.example": [KEY]},
    aliases={"www.a.example": "mx.a.example"},
    authentic=["a.example"],
    failing=["dead.example", "192.0.2.9"],
)


def data(query: Awaitable[Records[Any]]) -> tuple[bool, tuple[Any, ...]]:
    async def main() -> Records[Any]:
        return await query

    records = asyncio.run(main())
    return records.exists, records.data


def test_answers() -> None:
    assert data(dns.mx(RESOLVER, "a.EXAMPLE.")) == (True, (MX(10, "mx.a.example"), MX(20, "mx2.a.example")))
    assert data(dns.mx(RESOLVER, "null.example")) == (True, (MX(0, ""),))
    assert data(dns.mx(RESOLVER, "mx.a.example")) == (True, ())
    assert data(dns.mx(RESOLVER, "nowhere.example")) == (False, ())
    assert data(dns.addresses(RESOLVER, "MX.a.example")) == (True, ("2001:db8::1", "192.0.2.1", "192.0.2.2"))
    assert data(dns.addresses(RESOLVER, "empty.example")) == (True, ())
    assert data(dns.addresses(RESOLVER, "nowhere.example")) == (False, ())
    assert data(dns.names(RESOLVER, "192.0.2.1")) == (True, ("mx.a.example",))
    assert data(dns.names(RESOLVER, "192.0.2.2")) == (False, ())
    assert data(dns.txt(RESOLVER, "a.example")) == (True, (b"v=spf1 -all",))
    assert data(dns.tlsa(RESOLVER, "mx.a.example", 25)) == (True, (KEY,))


def test_what_comes_with_the_records() -> None:
    alias = asyncio.run(dns.addresses(RESOLVER, "www.a.example"))
    assert (alias.canonical, alias.authentic, alias.ttl) == ("mx.a.example", False, TTL)
    assert asyncio.run(dns.mx(RESOLVER, "a.example")).authentic


def test_r27_a_failing_name_raises() -> None:
    for query in (dns.mx(RESOLVER, "dead.example"), dns.addresses(RESOLVER, "Dead.example.")):
        with pytest.raises(ResolverError):
            data(query)
    with pytest.raises(ResolverError):
        data(dns.names(RESOLVER, "192.0.2.9"))
