"""Routing: delivery on this system, a smart host, the MX records of the recipient's domain, or mail on demand.

Promises: every decision carries its reasons in order, for `route explain`.
Refuses: the null reverse-path (never a recipient), invalid next hops and invalid domain patterns, with a ValueError
that names the value.
Standards: RFC 5321 §3.6.1 (domains resolve or are local), §4.5.1 (postmaster is always local), §5.1.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path  # noqa: TC003 - the types of options are read at run time
from typing import TYPE_CHECKING, TypeAlias

from ironpost.model import Address
from ironpost.model.patterns import Domains
from ironpost.routing.directory import POSTMASTER, NotLocal, Relayed, Unknown, close_awaitable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Hashable, Iterable, Sequence
    from typing import Any, Self

    from ironpost.model.patterns import AddressPattern
    from ironpost.routing.directory import Directory, Entry
    from ironpost.routing.profile import ConnectionProfile

SMTP_PORT = 25
"""The port of SMTP servers (RFC 5321 §4.5.4.2)."""


class Kind(Enum):
    """Kinds of routes; `delivery.agents.AGENTS` has the agent of each."""

    LOCAL = "local"
    """Into a Maildir on this system."""
    MBOX = "mbox"
    """Into an mbox file on this system."""
    DISCARD = "discard"
    """Nowhere: the mail counts as delivered."""
    DMARC_REPORTS = "dmarc reports"
    """Into the store of received reports about DMARC."""
    PIPE = "pipe"
    """To a program on this system."""
    POST = "post"
    """To a web server, by HTTP."""
    LMTP = "lmtp"
    """To a configured mail store (RFC 2033)."""
    SMART_HOST = "smart host"
    """The next hop is configured."""
    MX = "mx"
    """The next hop is found in DNS (RFC 5321 §5.1)."""
    ON_DEMAND = "on demand"
    """The message waits until the customer fetches it (RFC 2645)."""


@dataclass(frozen=True, slots=True)
class Host:
    """A configured next hop."""

    name: str
    """A host name, or an IP address without brackets."""
    port: int = SMTP_PORT

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"invalid next hop {self.name}: port {self.port} is not between 1 and 65535")
        try:
            if ":" in self.name:
                ipaddress.IPv6Address(self.name)
            elif self.name.startswith("["):
                raise ValueError
            else:
                Address("x", self.name.removesuffix("."))
        except ValueError:
            raise ValueError(
                f'invalid next hop "{self.name}": expected a host name or an IP address, '
                'like "smtp.provider.example" or "192.0.2.25"'
            ) from None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `host`, `host:port`, `192.0.2.1:port`, `[2001:db8::1]` or `[2001:db8::1]:port`.

        Raises:
            ValueError: the text has another form.
        """
        name, port = text.strip(), ""
        if name.startswith("["):
            name, bracket, rest = name[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"invalid next hop {text!r}: write an IPv6 address as [address] or [address]:port")
            name, port = name.removeprefix("IPv6:"), rest[1:] if rest else str(SMTP_PORT)
        elif name.count(":") == 1:
            name, _, port = name.partition(":")
        elif ":" in name:
            raise ValueError(f"invalid next hop {text!r}: write an IPv6 address as [address] or [address]:port")
        else:
            port = str(SMTP_PORT)
        if not (port.isascii() and port.isdigit()):
            raise ValueError(f"invalid next hop {text!r}: the port is not a number")
        return cls(name, int(port))

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A configured next hop on this machine."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_absolute():
            raise ValueError(f'invalid next hop "{self}": the path of a socket starts with "/"')

    @property
    def name(self) -> str:
        """How the configuration and the log name it."""
        return f"unix:{self.path}"

    def __str__(self) -> str:
        return self.name


NextHop: TypeAlias = Host | UnixSocket
"""A configured next hop."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a recipient's mail leaves the queue. Equal routes share connections."""

    kind: Kind
    hosts: tuple[NextHop, ...] = ()
    """SMART_HOST and LMTP: the hosts in the order in which they are tried."""
    profile: ConnectionProfile | None = None
    """SMART_HOST, LMTP and MX: how connections are opened, if not in the default way."""
    options: Hashable | None = None
    """Routes on this system: the options of the delivery agent (`delivery.local`), a frozen dataclass. Its `str` is for
    people; empty if the kind says everything."""
    _hash: int = field(init=False, repr=False, compare=False)
    """Computed once: routes are in the keys of queues, destinations and connections, looked up for every message."""
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.kind, self.hosts, self.profile, self.options)))
        where = ", ".join(map(str, self.hosts)) if self.hosts else "" if self.options is None else str(self.options)
        text = f"{self.kind.value} {where}" if where else str(self.kind.value)
        object.__setattr__(self, "_text", text if self.profile is None else f"{text} ({self.profile})")

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def local(cls, kind: Kind = Kind.LOCAL, options: Hashable | None = None) -> Self:
        """Final delivery on this system, by the agent of `kind` with these options."""
        return cls(kind, options=options)

    @classmethod
    def smart(cls, hosts: Iterable[str | Host], profile: ConnectionProfile | None = None) -> Self:
        """Relay to the first of these hosts that accepts.

        Raises:
            ValueError: there is no host, or one is invalid.
        """
        parsed = tuple(host if isinstance(host, Host) else Host.parse(host) for host in hosts)
        if not parsed:
            raise ValueError("a smart host route needs at least one host")
        return cls(Kind.SMART_HOST, parsed, profile)

    @classmethod
    def lmtp(cls, host: NextHop, profile: ConnectionProfile | None = None) -> Self:
        """Final delivery by the mail store at a host."""
        return cls(Kind.LMTP, (host,), profile)

    @classmethod
    def on_demand(cls) -> Self:
        """Keep the mail until the customer fetches it."""
        return cls(Kind.ON_DEMAND)

    @classmethod
    def mx(cls, profile: ConnectionProfile | None = None) -> Self:
        """Relay to the exchangers of the recipient's domain."""
        return cls(Kind.MX, (), profile)

    def __str__(self) -> str:
        return self._text


def destination_label(route: Route, domain: str) -> str:
    """The name of a destination for people: the recipients' domain if DNS names the hosts, else the route."""
    if route.kind is not Kind.MX:
        return str(route)
    return domain if route.profile is None else f"{domain} ({route.profile})"


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """A route and the reasons for it."""

    route: Route
    reasons: tuple[str, ...]
    """The first is that of the directory's entry."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A route, and the mail that takes it: all conditions must hold."""

    domains: tuple[str, ...]
    """`example.org` (that domain only), `*.example.org` (every domain below it, not itself), `*` (every domain)."""
    route: Route
    name: str = ""
    """The rule's name in reasons; `rule` and its position if empty."""
    senders: tuple[AddressPattern | None, ...] = ()
    """Patterns of reverse-paths, None for the null reverse-path; empty for any."""
    logins: frozenset[str] = frozenset()
    """Who submitted the mail, as in `Origin.tenant`; empty for anyone."""
    _domains: Domains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))

    def matches(self, domain: str) -> str | None:
        """The pattern that matches `domain` (in lower case), or None."""
        return self._domains.match(domain)

    def sender(self, reverse_path: Address) -> str | None:
        """The pattern that matches the reverse-path, or None; only for rules with `senders`."""
        for pattern in self.senders:
            if pattern is None:
                if reverse_path.is_null:
                    return "<>"
            elif pattern.matches(reverse_path):
                return pattern.text
        return None


@dataclass(frozen=True, slots=True)
class LocalRule:
    """A route on this system, and the local recipients whose mail takes it."""

    recipients: tuple[AddressPattern, ...]
    route: Route
    name: str
    """The rule's name in reasons."""

    def match(self, address: Address) -> str | None:
        """The pattern that matches a local recipient, or None."""
        return next((pattern.text for pattern in self.recipients if pattern.matches(address)), None)


def _elsewhere(entry: Entry) -> bool:
    """Whether the recipient is another system's; also one that a relay domain has no more."""
    return isinstance(entry, NotLocal | Relayed) or (isinstance(entry, Unknown) and entry.relayed)


class SenderNeeded(Exception):
    """The route of mail for this domain depends on its reverse-path."""


class PendingDecision:
    """A decision for which the directory needs I/O: await it, or close it."""

    __slots__ = ("_decide", "_entry")

    def __init__(self, entry: Awaitable[Entry], decide: Callable[[Entry], RouteDecision]) -> None:
        self._entry = entry
        self._decide = decide

    def __await__(self) -> Generator[Any, None, RouteDecision]:
        """Return the decision."""
        return self._decide((yield from self._entry.__await__()))

    def close(self) -> None:
        """Give it up, before it was awaited."""
        close_awaitable(self._entry)


class Routes:
    """The routing table: what the directory says first, then the rules in order, then the default."""

    __slots__ = ("_default", "_local_route", "_local_rules", "_rules", "directory")

    def __init__(
        self,
        directory: Directory,
        rules: Sequence[Rule] = (),
        *,
        local: Route | None = None,
        local_rules: Sequence[LocalRule] = (),
        default: Route | None = None,
    ) -> None:
        """Build the table.

        Args:
            directory: knows which recipients are local; their mail stays here.
            rules: for all others, tried in order, first match wins.
            local: the route of local recipients that none of `local_rules` matches; `Route.local()` if None.
            local_rules: for local recipients, tried in order, first match wins.
            default: for recipients that no rule matches; `Route.mx()` if None.
        """
        self.directory = directory
        self._rules = tuple(rules)
        self._local_route = local or Route.local()
        self._local_rules = tuple(local_rules)
        self._default = default or Route.mx()

    def names_host(self, name: str) -> bool:
        """Whether this is a configured next hop of a rule, with or without its port; in lower case."""
        routes = (*(rule.route for rule in self._rules), *(rule.route for rule in self._local_rules), self._default)
        return any(name in {host.name.lower(), str(host).lower()} for route in routes for host in route.hosts)

    def decide(
        self, address: Address, sender: Address | None = None, tenant: str = ""
    ) -> RouteDecision | PendingDecision:
        """The route of one recipient and the reasons; pending only if the directory needs I/O.

        Local addresses that the directory does not know any more, or calls an alias since, still go to the local
        agent: they were accepted and expanded when the message arrived.

        Args:
            address: the recipient.
            sender: the reverse-path; None if it is not known.
            tenant: who submitted the message (`Origin.tenant`): a login, or a listener.

        Raises:
            ValueError: `address` is the null reverse-path.
            DirectoryError: the directory cannot answer now.
            SenderNeeded: the route depends on the reverse-path, which is not known.
        """
        if not address.domain and address.local_part.lower() != POSTMASTER:
            raise ValueError("the null reverse-path has no route")
        entry = self.directory.find(address)
        if isinstance(entry, tuple):
            return self._route(address, entry, sender, tenant)
        return PendingDecision(entry, partial(self._route, address, sender=sender, tenant=tenant))

    def _route(self, address: Address, entry: Entry, sender: Address | None, tenant: str) -> RouteDecision:
        if not _elsewhere(entry):
            for local in self._local_rules:
                if (pattern := local.match(address)) is not None:
                    reason = f"{local.name} matches by {pattern}: {local.route}"
                    return RouteDecision(local.route, (entry.reason, reason))
            return RouteDecision(self._local_route, (entry.reason,))
        reasons = [entry.reason]
        for position, rule in enumerate(self._rules, 1):
            pattern = rule.matches(address.key)
            if pattern is None or (rule.logins and tenant not in rule.logins):
                continue
            also = f", login {tenant}" if rule.logins else ""
            if rule.senders:
                if sender is None:
                    raise SenderNeeded(address.key)
                match = rule.sender(sender)
                if match is None:
                    continue
                also += f", sender {match}"
            reasons.append(f"{rule.name or f'rule {position}'} matches by {pattern}{also}: {rule.route}")
            return RouteDecision(rule.route, tuple(reasons))
        if self._rules:
            reasons.append(f"none of {len(self._rules)} rules matches")
        reasons.append(f"default: {self._default}")
        return RouteDecision(self._default, tuple(reasons))
