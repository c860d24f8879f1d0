"""The next hops of a recipient in another domain: addresses to try, in order, or the outcome if there are none.

Promises: addresses come in groups, in the order of the groups: those of one preference, or of one smart host. DNS
answers and DNS failures are never confused: NXDOMAIN and null MX fail, a failed query defers (SECURITY R27); mail is
never sent to a host that is this system, nor to one that is not preferred to it (RFC 5321 §5.1).
Refuses: addresses that cannot be a mail exchanger (unspecified, multicast).
Standards: RFC 5321 §5.1, §4.1.3 (address literals), RFC 7505 (null MX), RFC 3463 §3 (status codes).
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from ironpost.delivery import NextHops
from ironpost.delivery.own_system import reached
from ironpost.model import Disposition, Outcome, Reply, dns
from ironpost.model.dns import ResolverError
from ironpost.routing.mx import order
from ironpost.routing.route import SMTP_PORT, UnixSocket
from ironpost.routing.tls import Dnssec, MxHost, MxLevel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from ironpost.delivery.own_system import OwnSystem
    from ironpost.model.dns import MX, Records, Resolver
    from ironpost.model.ports import Random
    from ironpost.routing.route import NextHop

T = TypeVar("T")

Endpoint: TypeAlias = tuple[str, int]
"""IP address and port."""

MAX_ADDRESSES: Final = 10
"""Addresses tried for one message in one attempt; RFC 5321 §5.1 allows a limit of two or more."""
MAX_HOSTS: Final = 20
"""Host names looked up for one message in one attempt. A domain can list thousands."""
RESOLVE_SECONDS: Final = 60.0
"""Seconds for all lookups of one attempt together. Hosts that are known by then are tried."""

NULL_MX: Final = Reply(556, "5.1.10", ("The recipient's domain accepts no mail (null MX)",))
"""RFC 7505 §4.1, RFC 7504 §4."""
NO_DOMAIN: Final = Reply(550, "5.1.2", ("The recipient's domain does not exist",))
NO_HOST: Final = Reply(550, "5.4.4", ("The recipient's domain has no mail exchanger with an address",))
BAD_LITERAL: Final = Reply(550, "5.1.2", ("The recipient's address literal is not a valid IP address",))
LOOP: Final = Reply(554, "5.4.6", ("Mail for the recipient's domain loops back to this system",))
NO_ANSWER: Final = Reply(451, "4.4.3", ("DNS lookup failed for the recipient's domain",))
NEXT_HOP_LOOP: Final = Reply(451, "4.4.6", ("The next hop is this system, mail would loop",))
"""Transient: an error in our configuration, not in the mail."""
NO_SOURCE: Final = Reply(451, "4.4.4", ("No host has an address of the family of the route's source address",))
"""Transient: an error in our configuration, not in the mail."""
NO_NEXT_HOP: Final = Reply(451, "4.4.3", ("No next hop has an address",))


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One address to connect to."""

    host: str
    """The exchanger's name, or the address itself."""
    ip: str
    """Empty for a Unix socket."""
    port: int
    level: MxLevel
    """How far `host` can be trusted to serve the recipient's domain."""
    dnssec: Dnssec = Dnssec()  # noqa: RUF009 - immutable
    """What was validated about `host`; nothing for an address literal."""
    path: Path | None = None
    """A Unix socket, instead of IP address and port."""

    def for_domain(self, domain: str) -> MxHost:
        """The host as TLS policies see it.

        Args:
            domain: the recipient's domain in lower case; empty for a smart host.
        """
        name = self.host.lower()
        return MxHost(domain or name, name, self.level, self.port, self.dnssec)

    @property
    def endpoint(self) -> Endpoint:
        """IP address and port: the same for all names of a host. For a Unix socket, its name."""
        return self.ip or self.host, self.port

    @property
    def version(self) -> int:
        """The version of IP, 4 or 6; 0 for a Unix socket."""
        if self.path is not None:
            return 0
        return 6 if ":" in self.ip else 4

    def __str__(self) -> str:
        if self.path is not None:
            return self.host
        ip = f"[{self.ip}]:{self.port}" if self.port != SMTP_PORT else f"[{self.ip}]"
        return ip if self.host == self.ip else f"{self.host} {ip}"


class NoHostError(Exception):
    """No host can be tried; `outcome` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.outcome = Outcome(
            Disposition.DEFERRED if reply.transient else Disposition.FAILED,
            reply,
            remote="",
            asked=False,
            ours=reply in (NEXT_HOP_LOOP, NO_SOURCE),
        )


async def exchangers(
    domain: str, resolver: Resolver, random: Random, own: OwnSystem, port: int = SMTP_PORT
) -> AsyncGenerator[Sequence[HostAddress], None]:
    """The addresses to try for `domain`, by preference, best first. Each preference is resolved when it is needed.

    Raises:
        NoHostError: there is no host to try; or, after the last one, the lookup of a host failed.
    """
    if domain.startswith("["):
        yield (_literal(domain, own, port),)
        return
    budget = _LookupBudget()
    preferences, level, alias = await _preferences(domain, resolver, random, own, budget)
    found = looped = failed = False
    hosts_left = MAX_HOSTS
    for names in preferences:
        hosts = names[:hosts_left]
        hosts_left -= len(hosts)
        failed |= len(hosts) < len(names)  # the others are not looked up
        targets: list[HostAddress] = []
        for host, answer in zip(hosts, await budget.addresses(resolver, hosts), strict=True):
            if isinstance(answer, ResolverError):
                failed = True  # SECURITY R27: this host is skipped; without any other, defer
                continue
            if not answer.exists and host == domain:
                raise NoHostError(NO_DOMAIN)
            for text in answer.data:
                address = reached(text)
                if own.owns(address, port):
                    looped = True
                elif not (address.is_unspecified or address.is_multicast):
                    dnssec = Dnssec(answer.authentic, answer.canonical.lower(), alias)
                    targets.append(HostAddress(host, str(address), port, level, dnssec))
        if looped:
            # RFC 5321 §5.1: this system is one of them; hosts not preferred to it would send the mail back here.
            break
        if targets:
            found = True
            yield targets
    if failed:
        # The host that could not be looked up may accept the mail, so the other results are not final.
        raise NoHostError(NO_ANSWER)
    if not found:
        raise NoHostError(LOOP if looped else NO_HOST)


async def configured_hosts(
    hosts: Iterable[NextHop], resolver: Resolver, own: OwnSystem
) -> AsyncGenerator[Sequence[HostAddress], None]:
    """The addresses of each configured host, in their order, without those at which this system itself listens.

    Loopback at another port is a valid smart host: the operator chose it.

    Raises:
        NoHostError: no host has an address now, or every address is one of this system's listeners.
    """
    found = looped = False
    budget = _LookupBudget()
    for host in hosts:
        if isinstance(host, UnixSocket):
            found = True
            yield [HostAddress(host.name, "", 0, MxLevel.GIVEN, path=host.path)]
            continue
        dnssec = Dnssec()
        try:
            addresses: Sequence[str] = (str(reached(host.name)),)
        except ValueError:
            (answer,) = await budget.addresses(resolver, (host.name,))
            if isinstance(answer, ResolverError):
                continue
            addresses, dnssec = answer.data, Dnssec(answer.authentic, answer.canonical.lower())
        others = [ip for ip in addresses if not own.listens(reached(ip), host.port)]
        looped |= len(others) < len(addresses)
        if others:
            found = True
            yield [HostAddress(host.name, ip, host.port, MxLevel.GIVEN, dnssec) for ip in others]
    if not found:
        raise NoHostError(NEXT_HOP_LOOP if looped else NO_NEXT_HOP)


async def reachable_from(
    sources: Iterable[str], targets: AsyncGenerator[Sequence[HostAddress], None]
) -> AsyncGenerator[Sequence[HostAddress], None]:
    """Those of the targets that can be reached from one of the source addresses, by family.

    Raises:
        NoHostError: none of the targets can; or as `targets`.
    """
    versions = {ip_address(source).version for source in sources}
    found = skipped = False
    async with contextlib.aclosing(targets):
        async for group in targets:
            usable = [target for target in group if target.version in versions]
            skipped |= len(usable) < len(group)
            if usable:
                found = True
                yield usable
    if skipped and not found:
        raise NoHostError(NO_SOURCE)


async def describe_hosts(
    targets: AsyncGenerator[Sequence[HostAddress], None],
    reasons: tuple[str, ...],
    note: Callable[[HostAddress], Awaitable[str | None]],
) -> NextHops:
    """Resolve up to `MAX_ADDRESSES` of the targets, and describe what delivery would try; `note` adds reasons."""
    hosts: list[str] = []
    notes: dict[str, None] = {}
    failure: Reply | None = None
    async with contextlib.aclosing(targets):
        try:
            async for group in targets:
                for target in group[: MAX_ADDRESSES - len(hosts)]:
                    hosts.append(str(target))
                    if (found := await note(target)) is not None:
                        notes[found] = None
                if len(hosts) == MAX_ADDRESSES:
                    break
        except NoHostError as error:
            failure = error.outcome.reply
    reasons += tuple(notes)
    if failure is None:
        return NextHops(", ".join(hosts), reasons)
    if not hosts:
        return NextHops(f"none: {failure}", reasons, failure)
    return NextHops(", ".join(hosts), (*reasons, f"after these: {failure}"))


async def describe_mx(domain: str, resolver: Resolver) -> tuple[str, ...]:
    """Describe the MX records of a domain for `ironpost route explain`."""
    if domain.startswith("["):
        return ("an address literal: no DNS lookup",)
    try:
        answer = await dns.mx(resolver, domain)
    except ResolverError as error:
        return (f"DNS lookup failed: {error}",)
    if not answer.exists:
        return (f"{domain} does not exist",)
    if not answer.data:
        return (f"{domain} has no MX record: it is its own exchanger",)
    records = sorted(answer.data, key=lambda record: record.preference)
    return tuple(f"MX {record.preference} {record.host or '. (null MX: accepts no mail)'}" for record in records)


class _LookupBudget:
    """The time left for DNS lookups; the time between lookups does not count."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = RESOLVE_SECONDS

    async def mx(self, resolver: Resolver, domain: str) -> Records[MX] | ResolverError:
        """The MX records of a domain."""
        (answer,) = await self._answers([dns.mx(resolver, domain)])
        return answer

    async def addresses(self, resolver: Resolver, hosts: Iterable[str]) -> list[Records[str] | ResolverError]:
        """The addresses of each host, queried concurrently."""
        return await self._answers([dns.addresses(resolver, host) for host in hosts])

    async def _answers(self, queries: Sequence[Awaitable[Records[T]]]) -> list[Records[T] | ResolverError]:
        """The answer to each query, or why there is none within the time left."""
        if not queries:
            return []
        loop = asyncio.get_running_loop()
        start = loop.time()
        tasks = [asyncio.ensure_future(_answer(query)) for query in queries]
        try:
            await asyncio.wait(tasks, timeout=self._left)
        finally:
            for task in tasks:
                task.cancel()
            self._left = max(self._left - (loop.time() - start), 0.0)
        await asyncio.wait(tasks)
        late = ResolverError(f"lookups took more than {RESOLVE_SECONDS:g} seconds")
        return [late if task.cancelled() else task.result() for task in tasks]


async def _answer(query: Awaitable[Records[T]]) -> Records[T] | ResolverError:
    try:
        return await query
    except ResolverError as error:
        return error


async def _preferences(
    domain: str, resolver: Resolver, random: Random, own: OwnSystem, budget: _LookupBudget
) -> tuple[Sequence[Sequence[str]], MxLevel, str]:
    """The host names of the exchangers, grouped by preference; how far they can be trusted; the name that the domain's
    CNAME chain leads to."""
    answer = await budget.mx(resolver, domain)
    if isinstance(answer, ResolverError):
        raise NoHostError(NO_ANSWER.because(str(answer)))
    if not answer.exists:
        raise NoHostError(NO_DOMAIN)
    if not answer.data:
        # RFC 5321 §5.1: without MX records the domain is its own exchanger.
        if domain in own.names:
            raise NoHostError(LOOP)
        return ((domain,),), MxLevel.GIVEN, answer.canonical.lower()
    exchangers = order(answer.data, random, own.names)
    if exchangers.null:
        raise NoHostError(NULL_MX)
    if exchangers.loop:
        raise NoHostError(LOOP)
    level = MxLevel.DNSSEC if answer.authentic else MxLevel.UNVERIFIED
    return exchangers.levels, level, answer.canonical.lower()


def _literal(domain: str, own: OwnSystem, port: int) -> HostAddress:
    text = domain[1:-1]
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        address = reached(text)
    except ValueError:
        raise NoHostError(BAD_LITERAL) from None  # a tag other than IPv6
    if own.owns(address, port):
        raise NoHostError(LOOP)
    if address.is_unspecified or address.is_multicast:
        raise NoHostError(NO_HOST)
    return HostAddress(str(address), str(address), port, MxLevel.GIVEN)
