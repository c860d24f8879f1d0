"""Where a remote recipient's mail can be handed over: the hosts to try, in order, or the outcome that there are none.

Promises: DNS answers and DNS silence are never confused: NXDOMAIN and null MX fail, a name server that does not answer
defers (SECURITY R27); a way that would lead back to this system is not taken (RFC 5321 §5.1).
Refuses: addresses at which no mail exchanger can be (unspecified, multicast).
Standards: RFC 5321 §5.1, §4.1.3 (address literals), RFC 7505 (null MX), RFC 3463 §3 (status codes).
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.ports import ResolverError
from ironpost.routing.mx import order
from ironpost.routing.route import SMTP_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence

    from ironpost.model.ports import Answer, Random, Resolver
    from ironpost.routing.route import Host

    Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
    Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_ADDRESSES: Final = 10
"""Addresses tried for one message in one attempt; RFC 5321 §5.1 allows a limit and asks for two at least."""
MAX_HOSTS: Final = 20
"""Names of hosts that are looked up for one message in one attempt. A domain can list thousands."""
RESOLVE_SECONDS: Final = 60.0
"""Seconds for all these look-ups together, by which each later one is bounded. What is known by then is tried."""
LOOPBACK: Final = ("127.0.0.0/8", "::1/128")
"""What leads back to this system everywhere."""

NULL_MX: Final = Reply(556, "5.1.10", ("The recipient's domain takes no mail (null MX)",))
"""RFC 7505 §4.1, RFC 7504 §4."""
NO_DOMAIN: Final = Reply(550, "5.1.2", ("The recipient's domain does not exist",))
NO_HOST: Final = Reply(550, "5.4.4", ("The recipient's domain has no mail exchanger with an address",))
BAD_LITERAL: Final = Reply(550, "5.1.2", ("The recipient's address literal is no IP address",))
LOOP: Final = Reply(554, "5.4.6", ("Mail for the recipient's domain leads back to this system",))
NO_ANSWER: Final = Reply(451, "4.4.3", ("DNS gives no answer for the recipient's domain",))
NO_SMART_HOST: Final = Reply(451, "4.4.3", ("No smart host has an address",))


@dataclass(frozen=True, slots=True)
class Target:
    """One address to connect to."""

    host: str
    """The exchanger's name, or the address itself."""
    ip: str
    port: int

    @property
    def place(self) -> tuple[str, int]:
        """Where a connection leads, whatever the host is called."""
        return self.ip, self.port

    def __str__(self) -> str:
        ip = f"[{self.ip}]:{self.port}" if self.port != SMTP_PORT else f"[{self.ip}]"
        return ip if self.host == self.ip else f"{self.host} {ip}"


class NowhereError(Exception):
    """There is no host to try; the outcome says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.outcome = Outcome(
            Disposition.DEFERRED if reply.transient else Disposition.FAILED, reply, remote="", asked=False
        )


@dataclass(frozen=True, slots=True)
class OwnSystem:
    """What this system is called and where it listens for mail from outside."""

    names: frozenset[str] = frozenset()
    """In lower case."""
    networks: Sequence[Network] = field(default_factory=lambda: networks(LOOPBACK))

    def owns(self, address: Address) -> bool:
        """A connection to `address` would reach this system."""
        return any(address in network for network in self.networks)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks, parsed.

    Raises:
        ValueError: one is neither.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


async def exchangers(
    domain: str, resolver: Resolver, random: Random, own: OwnSystem, port: int = SMTP_PORT
) -> AsyncGenerator[Target, None]:
    """The addresses to try for `domain`, best first, resolved one host at a time as they are needed.

    Raises:
        NowhereError: nothing can be tried, or, at the end, a host could not be asked about.
    """
    if domain.startswith("["):
        yield _literal(domain, own, port)
        return
    patience = _Patience()
    hosts = await _hosts(domain, resolver, random, own, patience)
    found = looped = False
    silent = len(hosts) > MAX_HOSTS  # nobody knows about the others
    for host in hosts[:MAX_HOSTS]:
        try:
            answer = await patience.wait(resolver.addresses(host))
        except ResolverError:
            silent = True  # SECURITY R27: this host is skipped; if all are, defer
            continue
        if not answer.exists and host == domain and not found:
            raise NowhereError(NO_DOMAIN)
        for text in answer.addresses:
            address = _unmapped(text)
            if own.owns(address):
                looped = True
            elif not (address.is_unspecified or address.is_multicast):
                found = True
                yield Target(host, str(address), port)
        if looped:
            # RFC 5321 §5.1: this system is the exchanger; those behind it would send the mail here.
            break
    if silent:
        # A host that could not be asked about may be a way: what the others said does not fail the mail.
        raise NowhereError(NO_ANSWER)
    if not found:
        raise NowhereError(LOOP if looped else NO_HOST)


async def smart_hosts(hosts: Iterable[Host], resolver: Resolver) -> AsyncGenerator[Target, None]:
    """The addresses of configured hosts, in their order. The operator's word is taken: no loop check.

    Raises:
        NowhereError: before anything was yielded: none has an address now.
    """
    found = False
    patience = _Patience()
    for host in hosts:
        try:
            ipaddress.ip_address(host.name)
        except ValueError:
            try:
                addresses = (await patience.wait(resolver.addresses(host.name))).addresses
            except ResolverError:
                continue
        else:
            addresses = (host.name,)
        for ip in addresses:
            found = True
            yield Target(host.name, ip, host.port)
    if not found:
        raise NowhereError(NO_SMART_HOST)


class _Patience:
    """The time that look-ups have together. What is done with a host between two of them does not count."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = RESOLVE_SECONDS

    async def wait(self, answer: Awaitable[Answer]) -> Answer:
        """The answer.

        Raises:
            ResolverError: there is none, or not in time.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(self._left):
                return await answer
        except TimeoutError:
            raise ResolverError(f"no answer within {RESOLVE_SECONDS:g} seconds") from None
        finally:
            self._left = max(self._left - (loop.time() - start), 0.0)


async def _hosts(domain: str, resolver: Resolver, random: Random, own: OwnSystem, patience: _Patience) -> Sequence[str]:
    try:
        answer = await patience.wait(resolver.mx(domain))
    except ResolverError as error:
        raise NowhereError(NO_ANSWER.because(str(error))) from error
    if not answer.exists:
        raise NowhereError(NO_DOMAIN)
    if not answer.exchangers:
        # RFC 5321 §5.1: no MX at all: the domain is its own exchanger.
        if domain in own.names:
            raise NowhereError(LOOP)
        return (domain,)
    exchangers = order(answer.exchangers, random, own.names)
    if exchangers.null:
        raise NowhereError(NULL_MX)
    if exchangers.loop:
        raise NowhereError(LOOP)
    return exchangers.hosts


def _literal(domain: str, own: OwnSystem, port: int) -> Target:
    text = domain[1:-1]
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        address = _unmapped(text)
    except ValueError:
        raise NowhereError(BAD_LITERAL) from None  # a tagged literal that nobody can connect to
    if own.owns(address):
        raise NowhereError(LOOP)
    if address.is_unspecified or address.is_multicast:
        raise NowhereError(NO_HOST)
    return Target(str(address), str(address), port)


def _unmapped(text: str) -> Address:
    """An IPv4-mapped IPv6 address reaches the IPv4 one; they are the same place."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address
