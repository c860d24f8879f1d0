"""The DNS resolver: dnspython with a cache that honours TTLs.

Promises: data, NODATA and NXDOMAIN are results, everything else (SERVFAIL, timeout, REFUSED, malformed) is
`ResolverError` (SECURITY R27), with a short reason; the cache is bounded; concurrent equal queries are sent once. An
answer is `authentic` only if all name servers are trusted, because anyone on the network could set the AD bit: those at
loopback addresses are trusted, others only if the operator declares it. dnspython is imported when the first
`DnsResolver` is created, not before.
Limitations: no search lists; every name is absolute (RFC 5321 §5.1).
Standards: RFC 5321 §5.1 (CNAME, names as given), RFC 6531 §3.2 (U-labels), RFC 7505 §3; RFC 2308 (negative answers),
RFC 6761 (localhost), RFC 6840 (AD in queries).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ironpost.model.dns import MX, TLSA, Records, RecordType, ResolverError
from ironpost.model.network import LOOPBACK, within
from ironpost.model.text import error_text, escape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    import dns.message

LIFETIME: Final = 10.0
"""Seconds after which a query without an answer fails."""
CACHE_SIZE: Final = 10_000
"""Maximum number of cached answers."""
TTL_MAX: Final = 86_400.0
"""Maximum time in seconds for which an answer is cached."""
NEGATIVE_TTL_MAX: Final = 300.0
"""The same for NODATA and NXDOMAIN; RFC 2308 allows hours, but mail waits for a repaired zone."""

_LOCALHOST: Final[dict[RecordType, Records[Any]]] = {
    RecordType.A: Records(True, ("127.0.0.1",)),
    RecordType.AAAA: Records(True, ("::1",)),
}


class DnsResolver:
    """Implements `ironpost.model.dns.Resolver`."""

    def __init__(
        self,
        *,
        nameservers: Iterable[tuple[str, int]] | None = None,
        trusted: bool = False,
        lifetime: float = LIFETIME,
        cache_size: int = CACHE_SIZE,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the system's resolver configuration unless `nameservers` are given.

        Args:
            nameservers: IP addresses and ports of recursive resolvers.
            trusted: believe their AD bit even if they are not at loopback addresses, because the network to them is
                secure.
            lifetime: seconds after which a query fails.
            cache_size: answers in the cache.
            now: a monotonic clock, in seconds.

        Raises:
            ImportError: dnspython is not installed.
            ResolverError: the system configures no name server.
        """
        import dns.asyncresolver
        import dns.exception
        import dns.flags
        import dns.nameserver
        import dns.rdtypes.ANY.TLSA

        # dnspython refuses a whole answer if the digest of one TLSA record has the wrong length. Such a record is only
        # unusable (RFC 7671 §9), and `routing.tls.tlsa` ignores it.
        dns.rdtypes.ANY.TLSA.TLSA._cert_length_by_mtype = {}
        try:
            self._resolver = dns.asyncresolver.Resolver(configure=nameservers is None)
        except dns.exception.DNSException as error:
            raise ResolverError(f"no DNS resolver is configured on this system: {error}") from error
        if nameservers is None:
            addresses = [str(server) for server in self._resolver.nameservers]
        else:
            servers = list(nameservers)
            addresses = [ip for ip, _ in servers]
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(ip, port) for ip, port in servers]
        self._resolver.lifetime = lifetime
        # RFC 6840: AD in a query asks for AD in the answer.
        self._resolver.flags = dns.flags.RD | dns.flags.AD
        self._untrusted = [] if trusted else [ip for ip in addresses if within(ip, LOOPBACK) is None]
        self._now = now
        self._cache_size = cache_size
        self._cache: OrderedDict[tuple[str, RecordType], tuple[float, Records[Any]]] = OrderedDict()
        self._running: dict[tuple[str, RecordType], asyncio.Task[Records[Any]]] = {}

    def resolve(self, name: str, kind: RecordType, /) -> Awaitable[Records[Any]]:
        """Answer from the cache, join a running query, or start one. See `ironpost.model.dns.Resolver.resolve`."""
        key = (name.lower().removesuffix("."), kind)
        task = self._running.get(key)
        if task is None:
            known = self._known(key)
            if known is not None:
                future: asyncio.Future[Records[Any]] = asyncio.get_running_loop().create_future()
                future.set_result(known)
                return future
            task = self._running[key] = asyncio.create_task(self._query(key))
            task.add_done_callback(lambda done: self._ended(key, done))
        return _Shared(task)

    @property
    def distrust(self) -> str:
        """Why no answer is `authentic`, whatever the name servers say; empty if they are trusted."""
        if not self._untrusted:
            return ""
        return f"the name server {self._untrusted[0]} is not on this machine, and not declared as trusted (dns.trusted)"

    def _known(self, key: tuple[str, RecordType]) -> Records[Any] | None:
        name, kind = key
        if name == "localhost" or name.endswith(".localhost"):
            return _LOCALHOST.get(kind, Records(True))
        cached = self._cache.get(key)
        if cached is None:
            return None
        left = cached[0] - self._now()
        if left <= 0:
            del self._cache[key]
            return None
        self._cache.move_to_end(key)
        return replace(cached[1], ttl=left)

    def _ended(self, key: tuple[str, RecordType], task: asyncio.Task[Records[Any]]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: its callers may all have been cancelled

    async def _query(self, key: tuple[str, RecordType]) -> Records[Any]:
        import dns.exception
        import dns.name
        import dns.resolver

        name, kind = key
        # RFC 6531 §3.2: U-labels are converted by IDNA2008. IDNA2003, dnspython's default, maps the German sharp s to
        # "ss", which is another domain. ASCII labels are left alone.
        codec = dns.name.IDNA2008Codec(uts_46=False, transitional=False, allow_pure_ascii=True)
        try:
            question = dns.name.from_text(name, idna_codec=codec)
        except dns.name.NoIDNA2008 as error:
            raise ResolverError(f"{name} {kind}: the package idna is not installed") from error
        except (dns.exception.DNSException, UnicodeError):
            return Records(False)  # not a name that DNS can hold
        try:
            answer = await self._resolver.resolve(question, kind, raise_on_no_answer=False, search=False)
        except dns.resolver.NXDOMAIN as error:
            responses = list(error.responses().values())  # type: ignore[no-untyped-call]
            seconds = min((each.resolve_chaining().minimum_ttl for each in responses), default=0)
            authentic = bool(responses) and all(map(self._authentic, responses))
            return self._store(key, Records(False, (), authentic), min(seconds, NEGATIVE_TTL_MAX))
        except (dns.exception.DNSException, OSError) as error:
            raise ResolverError(f"{name} {kind}: {_reason(error)}") from error
        seconds = answer.chaining_result.minimum_ttl
        authentic = self._authentic(answer.response)
        canonical = answer.canonical_name.to_text(omit_final_dot=True)
        if answer.rrset is None:
            records: Records[Any] = Records(True, (), authentic, canonical=canonical)
            return self._store(key, records, min(seconds, NEGATIVE_TTL_MAX))
        data = tuple(map(_READERS[kind], answer.rrset))
        return self._store(key, Records(True, data, authentic, canonical=canonical), min(seconds, TTL_MAX))

    def _authentic(self, response: dns.message.Message) -> bool:
        import dns.flags

        return not self._untrusted and bool(response.flags & dns.flags.AD)

    def _store(self, key: tuple[str, RecordType], records: Records[Any], seconds: float) -> Records[Any]:
        if seconds > 0:
            self._cache[key] = (self._now() + seconds, records)
            if len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        return replace(records, ttl=seconds)


class _Shared:
    """A query that several callers await: cancelling one of them does not cancel the query."""

    __slots__ = ("_task",)

    def __init__(self, task: asyncio.Task[Records[Any]]) -> None:
        self._task = task

    def __await__(self) -> Generator[Any, None, Records[Any]]:
        return asyncio.shield(self._task).__await__()


def _reason(error: Exception | str) -> str:
    """Why a query failed, in a few words; dnspython names each attempt at each name server."""
    import dns.exception

    if isinstance(error, str):  # a response code
        return error
    if isinstance(error, OSError):
        return error_text(error)
    attempts = error.kwargs.get("errors") if isinstance(error, dns.exception.DNSException) else None
    if attempts:
        return ", ".join(dict.fromkeys(_reason(why) for *_, why, _ in attempts))
    return "timeout" if isinstance(error, dns.exception.Timeout) else escape(str(error).removesuffix("."))


def _exchanger(record: Any) -> MX:
    host: str = record.exchange.to_text(omit_final_dot=True)
    # The root, by which RFC 7505 §3 says that a domain accepts no mail, stays "." in dnspython's text.
    return MX(record.preference, "" if host == "." else host)


_READERS: Final[dict[RecordType, Callable[[Any], object]]] = {
    RecordType.A: lambda record: record.address,
    RecordType.AAAA: lambda record: record.address,
    RecordType.CNAME: lambda record: record.target.to_text(omit_final_dot=True),
    RecordType.MX: _exchanger,
    RecordType.PTR: lambda record: record.target.to_text(omit_final_dot=True),
    RecordType.TXT: lambda record: b"".join(record.strings),
    RecordType.TLSA: lambda record: TLSA(record.usage, record.selector, record.mtype, record.cert),
}
"""From dnspython's record to the value in `Records.data`."""
