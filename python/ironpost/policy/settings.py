"""What an operator can say about policy, as typed values.

Promises: a setting that was not written changes nothing: of the checks that are a matter of taste every one is off but
for the record of strangers who call themselves by our name.
Refuses: a network that is none, or that has host bits, a pattern of addresses that is none, with ValueError that names
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from ironpost.model import Address
from ironpost.model.patterns import Addresses, Domains
from ironpost.model.verdict import Verdict, accept, defer, drop, quarantine, reject, tarpit
from ironpost.policy.verdict import NEUTRAL, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ironpost.policy.verdict import Facts

Network: TypeAlias = IPv4Network | IPv6Network

RuleAction: TypeAlias = Literal["accept", "defer", "reject", "quarantine", "drop", "tarpit"]

LOOPBACK: Final[tuple[Network, ...]] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""Who may relay unless the operator says otherwise."""
DELAY: Final = 10.0
"""Seconds that a tarpit holds a reply back, unless the operator says otherwise."""


class Measure(Enum):
    """What is done about a finding that is a matter of taste."""

    OFF = "off"
    """It is not looked for."""
    RECORD = "record"
    """The log tells of it."""
    TARPIT = "tarpit"
    QUARANTINE = "quarantine"
    DEFER = "defer"
    REJECT = "reject"

    def finding(self, reason: str, *, text: str, status: str, delay: float, code: int = 550) -> Finding:
        """The finding for a reason; `text`, `status` and `code` are those of a refusal for good."""
        return Finding(self._verdict(reason, text, status, delay, code), reason, noted=True)

    def _verdict(self, reason: str, text: str, status: str, delay: float, code: int) -> Verdict | None:
        if self is Measure.TARPIT:
            return tarpit(delay)
        if self is Measure.QUARANTINE:
            return quarantine(reason)
        if self is Measure.DEFER:
            return defer(text, code=450, status=status)
        if self is Measure.REJECT:
            return reject(text, code=code, status=status)
        return NEUTRAL


class Quota(NamedTuple):
    """So many in so much time."""

    many: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What clients of some networks meet."""

    networks: tuple[Network, ...]
    verdict: Verdict


class Pattern:
    """Addresses: `jo@mail.example`, `mail.example` (all of the domain), `*.mail.example` (all of the domains below it),
    `*`. Compared without regard to case (RFC 2505 §2)."""

    __slots__ = ("_address", "_below", "_domain", "_every", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._every = text == "*"
        self._address = self._below = self._domain = ""
        if self._every:
            return
        if "@" in text:
            address = Address.parse(text)
            if address.local_part == "*":
                raise ValueError(f'for every address of a domain write "{address.domain}"')
            self._address = f"{address.local_part.lower()}@{address.key}"
        else:
            below = text.startswith("*.")
            domain = Address("x", text[2:] if below else text).key
            self._below, self._domain = ("." + domain, "") if below else ("", domain)

    def matches(self, address: Address) -> bool:
        """Whether the address is one of those. The null reverse-path is none."""
        if not address.domain:
            return False
        key = address.key
        return (
            self._every
            or key == self._domain
            or (bool(self._below) and key.endswith(self._below))
            or (bool(self._address) and f"{address.local_part.lower()}@{key}" == self._address)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


@dataclass(frozen=True, slots=True)
class SenderRule:
    """What mail from some senders meets."""

    senders: tuple[Pattern, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Settings:
    """Policy's configuration."""

    local_domains: Domains = Domains(["localhost"])  # noqa: RUF009 - immutable
    """An address literal of ours stands there with its brackets."""
    local_recipients: Addresses | None = None
    """Those that exist in the local domains; None accepts every local part."""
    trusted_networks: tuple[Network, ...] = LOOPBACK
    """Clients in these may relay."""
    customer_domains: frozenset[str] = frozenset()
    """Domains that are not ours, whose mail anybody may send here: their owners fetch it. Lower case."""
    own_names: frozenset[str] = frozenset()
    """What this system calls itself, in lower case."""
    access: tuple[AccessRule, ...] = ()
    """By the client's address; the first that matches decides."""
    senders: tuple[SenderRule, ...] = ()
    """By the reverse-path; the first that matches decides."""
    sender_login: Mapping[str, tuple[Pattern, ...]] = field(default_factory=dict)
    """Login, in lower case, to the senders that it may use beside its own; `*` is for every login."""
    helo_own_name: Measure = Measure.RECORD
    """A stranger calls itself by our name or our address."""
    helo_bare_name: Measure = Measure.OFF
    """A stranger calls itself by a name without a dot."""
    helo_literal: Measure = Measure.OFF
    """A client calls itself by another address than it has. It is never refused for that (RFC 5321 §4.1.4)."""
    reverse_dns: Measure = Measure.OFF
    """No name of the client's address leads back to it."""
    own_sender: Measure = Measure.OFF
    """A stranger sends in the name of a local domain."""
    sender_domain: Measure = Measure.OFF
    """The sender's domain does not exist, or takes no mail."""
    null_sender: Measure = Measure.OFF
    """A report goes to more than one recipient. It is never refused for that (RFC 2505 §2.6.1)."""
    delay: float = DELAY
    """Seconds of a tarpit."""
    network_messages: Quota | None = None
    """Messages from one network outside the trusted ones."""
    network_recipients: Quota | None = None
    login_messages: Quota | None = None
    """Messages of one login."""
    login_recipients: Quota | None = None

    @classmethod
    def of(
        cls,
        *,
        local_domains: Iterable[str] = ("localhost",),
        local_recipients: Iterable[str] | None = None,
        trusted_networks: Iterable[str] = tuple(map(str, LOOPBACK)),
    ) -> Settings:
        """From text, as configuration holds it.

        Raises:
            ValueError: a network is not an address or prefix, or a pattern is malformed; the sentence names it.
        """
        return cls(
            Domains(local_domains),
            None if local_recipients is None else Addresses(local_recipients),
            tuple(ip_network(network) for network in trusted_networks),
        )

    def trusts(self, ip: str) -> bool:
        """Whether a client at that address is in a trusted network; text that is no address is not."""
        return within(ip, self.trusted_networks) is not None

    def knows(self, facts: Facts) -> bool:
        """Whether the client is no stranger: in a trusted network, or a front server that speaks LMTP to us."""
        return facts.listener == "lmtp" or self.trusts(facts.ip)


def address_of(ip: str) -> IPv4Address | IPv6Address | None:
    """The address in text; None if it is none. 192.0.2.1 is the same as a dual-stack socket's ::ffff:192.0.2.1."""
    try:
        address: IPv4Address | IPv6Address = ip_address(ip.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(maxsize=4096)  # asked for each recipient of each message of each client
def within(ip: str, networks: tuple[Network, ...]) -> Network | None:
    """The first network that holds the address."""
    address = address_of(ip)
    if address is None:
        return None
    return next((network for network in networks if address in network), None)


def rule_verdict(action: RuleAction, text: str, delay: float) -> Verdict:
    """The verdict of an access or sender rule; `text` is what the client reads, or the reason for the log."""
    words = text or "Access denied"
    if action == "accept":
        return accept()
    if action == "defer":
        return defer(words, code=450)
    if action == "reject":
        return reject(words)
    if action == "tarpit":
        return tarpit(delay)
    return quarantine(text or "by rule") if action == "quarantine" else drop(text or "by rule")
