"""The context of checks, beside their own options: facts about this system, ports, and shared options.

Promises: everything here is immutable, and the same for all checks of a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

from ironpost.model.network import LOOPBACK, within
from ironpost.model.options import Seconds, at_least_a_second
from ironpost.model.patterns import Domains
from ironpost.model.verdict import LONGEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.mail_auth import DmarcRecorder
    from ironpost.model.dns import Resolver
    from ironpost.model.network import Network
    from ironpost.model.ports import Clock
    from ironpost.policy.buckets import Buckets
    from ironpost.policy.facts import Facts
    from ironpost.routing.directory import Directory


@dataclass(frozen=True, slots=True)
class LocalSystem:
    """The facts about this system, which are not options of any check."""

    local_domains: Domains = field(default_factory=lambda: Domains(["localhost"]))
    """Address literals of this server are listed with their brackets."""
    customer_domains: frozenset[str] = frozenset()
    """Domains, in lower case, for which this server accepts mail from any client: their owners fetch it here."""
    trusted_networks: tuple[Network, ...] = LOOPBACK
    """Clients in these may relay."""
    name: str = "localhost"
    """The host name of this server."""
    own_names: frozenset[str] = frozenset()
    """The host names and address literals of this server, in lower case."""

    def may_relay(self, ip: str) -> bool:
        """Whether a client at that address is in a trusted network; False for text that is not an address."""
        return within(ip, self.trusted_networks) is not None

    def trusts(self, facts: Facts) -> bool:
        """Whether the client is trusted: it is in a trusted network, or a front server that speaks LMTP to this one."""
        return facts.listener == "lmtp" or self.may_relay(facts.ip)


class Ports(NamedTuple):
    """The ports that checks may use. A check that needs a port which is None does not run."""

    clock: Clock | None = None
    resolver: Resolver | None = None
    share: Callable[[str, Buckets], None] | None = None
    """Called with a name and its buckets, to share them with other processes."""
    directory: Directory | None = None
    """The local recipients; None: every address in the local domains exists."""
    dmarc_recorder: DmarcRecorder | None = None
    """Called with each evaluation of DMARC; None if no reports are sent."""


DELAY: Final = Seconds(10.0)


def valid_delay(value: Seconds) -> Seconds:
    """Refuse a delay below a second, or one for which no client waits (`model.verdict.LONGEST`)."""
    at_least_a_second(value)
    if value > LONGEST:
        raise ValueError(f"maximum: {LONGEST:g}s: clients wait five minutes for a reply (RFC 5321 §4.5.3.2)")
    return value


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """The options of `[policy]` that several checks use."""

    delay: Annotated[Seconds, valid_delay] = DELAY
    """Time by which a tarpit delays a reply, at most 4 minutes."""


@dataclass(frozen=True, slots=True)
class Context:
    """The context with which a check is created."""

    system: LocalSystem = field(default_factory=LocalSystem)
    ports: Ports = field(default_factory=Ports)
    common: CommonOptions = field(default_factory=CommonOptions)
