"""Which way out an address takes: a local Maildir, a smart host, or the MX records of its domain.

Promises: the same address gets the same decision for as long as a `Routes` lives, and every decision carries its
reasons, in the order in which they were found, for `route explain`.
Refuses: the null reverse-path (it is nobody's recipient), malformed smart hosts and malformed domain patterns, with
ValueError and a sentence that names the value.
Standards: RFC 5321 §3.6.1 (domains resolve or are local), §4.5.1 (postmaster is always local), §5.1.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from ironpost.model.patterns import Domains

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    from ironpost.model import Address

SMTP_PORT = 25
"""RFC 5321 §4.5.4.2: where servers listen."""
POSTMASTER = "postmaster"


class Kind(Enum):
    """The ways out."""

    LOCAL = "local"
    """Final delivery on this system."""
    SMART_HOST = "smart host"
    """The next hop is configured."""
    MX = "mx"
    """The next hop is found in DNS (RFC 5321 §5.1)."""
    ON_DEMAND = "on demand"
    """It waits until a customer fetches it (RFC 2645)."""


@dataclass(frozen=True, slots=True)
class Host:
    """A configured next hop."""

    name: str
    """A host name, or an IP address without brackets."""
    port: int = SMTP_PORT

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"smart host {self.name}: port {self.port} is not between 1 and 65535")
        if ":" in self.name:
            ipaddress.IPv6Address(self.name)
        elif not self.name or not self.name.isprintable() or any(c in " []<>@/" for c in self.name):
            raise ValueError(f"smart host {self.name!r} is neither a host name nor an IP address")

    @classmethod
    def parse(cls, text: str) -> Self:
        """`host`, `host:port`, `192.0.2.1:port`, `[2001:db8::1]` or `[2001:db8::1]:port`.

        Raises:
            ValueError: it is none of these.
        """
        name, port = text.strip(), ""
        if name.startswith("["):
            name, bracket, rest = name[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"smart host {text!r}: write an IPv6 address as [address] or [address]:port")
            name, port = name.removeprefix("IPv6:"), rest[1:] if rest else str(SMTP_PORT)
        elif name.count(":") == 1:
            name, _, port = name.partition(":")
        elif ":" in name:
            raise ValueError(f"smart host {text!r}: write an IPv6 address as [address] or [address]:port")
        else:
            port = str(SMTP_PORT)
        if not (port.isascii() and port.isdigit()):
            raise ValueError(f"smart host {text!r}: the port is not a number")
        return cls(name, int(port))

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Route:
    """A way out. Equal routes may share connections and agents."""

    kind: Kind
    hosts: tuple[Host, ...] = ()
    """SMART_HOST: tried in this order."""
    transport: str = ""
    """LOCAL: the name of the transport, empty for the only one there is."""

    @classmethod
    def local(cls, transport: str = "") -> Self:
        """Final delivery here."""
        return cls(Kind.LOCAL, transport=transport)

    @classmethod
    def smart(cls, hosts: Iterable[str | Host]) -> Self:
        """By these hosts, the first that answers.

        Raises:
            ValueError: no host, or one that is malformed.
        """
        parsed = tuple(host if isinstance(host, Host) else Host.parse(host) for host in hosts)
        if not parsed:
            raise ValueError("a smart host route needs at least one host")
        return cls(Kind.SMART_HOST, parsed)

    @classmethod
    def on_demand(cls) -> Self:
        """None: the mail waits until it is fetched."""
        return cls(Kind.ON_DEMAND)

    @classmethod
    def mx(cls) -> Self:
        """By the MX records of the recipient's domain."""
        return cls(Kind.MX)

    def __str__(self) -> str:
        if self.kind is Kind.SMART_HOST:
            return "smart host " + ", ".join(map(str, self.hosts))
        if self.kind is Kind.LOCAL:
            return f"local {self.transport}".rstrip()
        return str(self.kind.value)


@dataclass(frozen=True, slots=True)
class Decision:
    """A route and why it was chosen."""

    route: Route
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Domains and the route they take."""

    domains: tuple[str, ...]
    """`example.org` (that domain only), `*.example.org` (every domain below it, not itself), `*` (every domain)."""
    route: Route
    name: str = ""
    """How a reason calls the rule; empty for its position."""
    _domains: Domains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))

    def matches(self, domain: str) -> str | None:
        """The pattern that matches `domain` (in lower case), or None."""
        return self._domains.match(domain)


class Routes:
    """The routing table: local domains first, then the rules in order, then the default."""

    __slots__ = ("_default", "_local", "_local_route", "_rules")

    def __init__(
        self,
        local_domains: Iterable[str],
        rules: Sequence[Rule] = (),
        *,
        local: Route | None = None,
        default: Route | None = None,
    ) -> None:
        """Builds the table.

        Args:
            local_domains: patterns of the domains whose mail stays here, as in `Rule.domains`; with `*` nothing leaves.
            rules: tried in order, first match wins.
            local: the route of local domains; `Route.local()` if None.
            default: for everything else; `Route.mx()` if None.
        """
        self._local = Domains(local_domains)
        self._rules = tuple(rules)
        self._local_route = local or Route.local()
        self._default = default or Route.mx()

    def decide(self, address: Address) -> Decision:
        """The route of one recipient and the reasons.

        Raises:
            ValueError: `address` is the null reverse-path.
        """
        domain = address.key
        if not domain:
            if address.local_part.lower() != POSTMASTER:
                raise ValueError("the null reverse-path has no route")
            # RFC 5321 §4.5.1: <postmaster> without a domain is this system's own.
            return Decision(self._local_route, ("<postmaster> without a domain is local",))
        pattern = self._local.match(domain)
        if pattern is not None:
            by = "" if pattern == domain else f" by {pattern}"
            return Decision(self._local_route, (f"{domain} is a local domain{by}",))
        reasons = [f"{domain} is not a local domain"]
        for position, rule in enumerate(self._rules, 1):
            pattern = rule.matches(domain)
            if pattern is not None:
                reasons.append(f"rule {rule.name or position} matches by {pattern}: {rule.route}")
                return Decision(rule.route, tuple(reasons))
        if self._rules:
            reasons.append(f"none of {len(self._rules)} rules matches")
        reasons.append(f"default: {self._default}")
        return Decision(self._default, tuple(reasons))
