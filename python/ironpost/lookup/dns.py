"""DNS by dnspython, behind the resolver port, with a cache that keeps what the records' TTL allows.

Promises: data, NODATA and NXDOMAIN are answers, everything else (SERVFAIL, time-out, REFUSED, malformed) is
`ResolverError` (SECURITY R27); the cache is bounded; equal questions that run at the same time are asked once.
dnspython is imported when the first `DnsResolver` is made, not before.
Refuses: search lists: every name is taken as it stands (RFC 5321 §5.1).
Standards: RFC 5321 §5.1 (CNAME, names as they stand), RFC 6531 §3.2 (U-labels), RFC 7505 §3; RFC 2308 (negative
answers), RFC 6761 (localhost).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from ipaddress import ip_address
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

from ironpost.model.ports import MX, Answer, ResolverError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import dns.asyncresolver
    import dns.rdataset

LIFETIME: Final = 10.0
"""Seconds until a question without an answer is given up."""
CACHE_SIZE: Final = 10_000
"""Answers kept (a count)."""
TTL_MAX: Final = 86_400.0
"""Seconds that an answer is kept at most."""
NEGATIVE_TTL_MAX: Final = 300.0
"""Seconds that NODATA and NXDOMAIN are kept at most; RFC 2308 allows hours, but mail waits for a repaired zone."""

_LOCALHOST: Final = Answer(True, addresses=("::1", "127.0.0.1"))


class DnsResolver:
    """Implements `ironpost.model.ports.Resolver`."""

    def __init__(
        self,
        *,
        nameservers: Iterable[str] | None = None,
        port: int = 53,
        lifetime: float = LIFETIME,
        cache_size: int = CACHE_SIZE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the system's resolver configuration unless `nameservers` are given.

        Args:
            nameservers: IP addresses of recursive resolvers.
            port: where they listen.
            lifetime: seconds until a question is given up.
            cache_size: answers kept.
            now: seconds that never run backwards.

        Raises:
            ImportError: dnspython is not installed.
            ResolverError: the system names no resolver.
        """
        import dns.asyncresolver
        import dns.exception

        try:
            self._resolver = dns.asyncresolver.Resolver(configure=nameservers is None)
        except dns.exception.DNSException as error:
            raise ResolverError(f"no DNS resolver is configured on this system: {error}") from error
        if nameservers is not None:
            self._resolver.nameservers = list(nameservers)
        self._resolver.port = port
        self._resolver.lifetime = lifetime
        self._now = now
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, str], tuple[float, Answer]] = OrderedDict()
        self._flying: dict[tuple[str, str], asyncio.Task[Answer]] = {}

    async def mx(self, domain: str) -> Answer:
        """See `ironpost.model.ports.Resolver.mx`."""
        if _is_localhost(domain):
            return Answer(True)
        return await self._cached(domain, "MX")

    async def addresses(self, host: str) -> Answer:
        """See `ironpost.model.ports.Resolver.addresses`. IPv6 and IPv4 take turns, IPv6 first (as RFC 8305 wants)."""
        if _is_localhost(host):
            return _LOCALHOST
        six, four = await asyncio.gather(self._cached(host, "AAAA"), self._cached(host, "A"), return_exceptions=True)
        for other in (six, four):
            if isinstance(other, BaseException) and not isinstance(other, ResolverError):
                raise other
        found = [answer.addresses if isinstance(answer, Answer) else () for answer in (six, four)]
        mixed = tuple(ip for ip in chain.from_iterable(zip_longest(*found)) if ip is not None)
        if not mixed:
            # One family has none; the other's silence is no answer (SECURITY R27).
            for answer in (six, four):
                if isinstance(answer, BaseException):
                    raise answer
        return Answer(any(isinstance(answer, Answer) and answer.exists for answer in (six, four)), addresses=mixed)

    async def names(self, ip: str) -> Answer:
        """See `ironpost.model.ports.Resolver.names`."""
        return await self._cached(ip_address(ip).reverse_pointer, "PTR")

    async def _cached(self, name: str, kind: str) -> Answer:
        key = (name.lower().removesuffix("."), kind)
        kept = self._cache.get(key)
        if kept is not None:
            if kept[0] > self._now():
                self._cache.move_to_end(key)
                return kept[1]
            del self._cache[key]
        task = self._flying.get(key)
        if task is None:
            task = self._flying[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._flying.pop(key, None))
        # One caller's cancellation must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: tuple[str, str]) -> Answer:
        import dns.exception
        import dns.name
        import dns.resolver

        name, kind = key
        # RFC 6531 §3.2: U-labels as IDNA2008 has them. IDNA2003, which dnspython takes by itself, makes "ss" of the
        # German sharp s, and so another domain. ASCII labels go as they are.
        codec = dns.name.IDNA2008Codec(uts_46=False, transitional=False, allow_pure_ascii=True)
        try:
            question = dns.name.from_text(name, idna_codec=codec)
        except dns.name.NoIDNA2008 as error:
            raise ResolverError(f"{name} {kind}: the package idna is not installed") from error
        except (dns.exception.DNSException, UnicodeError):
            return Answer(False)  # no name that DNS can hold
        try:
            found = await self._resolver.resolve(question, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            responses = error.responses().values()  # type: ignore[no-untyped-call]
            seconds = min((each.resolve_chaining().minimum_ttl for each in responses), default=0)
            return self._keep(key, Answer(False), min(seconds, NEGATIVE_TTL_MAX))
        except (dns.exception.DNSException, OSError) as error:
            raise ResolverError(f"{name} {kind}: {type(error).__name__}: {error}") from error
        seconds = found.chaining_result.minimum_ttl
        if found.rrset is None:
            return self._keep(key, Answer(True), min(seconds, NEGATIVE_TTL_MAX))
        return self._keep(key, _answer(kind, found.rrset), min(seconds, TTL_MAX))

    def _keep(self, key: tuple[str, str], answer: Answer, seconds: float) -> Answer:
        if seconds > 0:
            self._cache[key] = (self._now() + seconds, answer)
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return answer


def _answer(kind: str, records: dns.rdataset.Rdataset) -> Answer:
    if kind == "MX":
        exchangers = (MX(record.preference, record.exchange.to_text(omit_final_dot=True)) for record in records)
        # The root, as RFC 7505 §3 writes "no mail", stays "." in dnspython's text.
        return Answer(True, exchangers=tuple(MX(mx.preference, "" if mx.host == "." else mx.host) for mx in exchangers))
    if kind == "PTR":
        return Answer(True, names=tuple(record.target.to_text(omit_final_dot=True) for record in records))
    return Answer(True, addresses=tuple(record.address for record in records))


def _is_localhost(name: str) -> bool:
    bare = name.lower().removesuffix(".")
    return bare == "localhost" or bare.endswith(".localhost")
