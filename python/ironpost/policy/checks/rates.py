"""How much one login, or one network, may send: messages and recipients in a time (RFC 2505 §2.8).

Promises: who has authenticated is counted by login and by nothing else; others by IPv4 address or IPv6 /64, but for
the trusted networks and front servers that speak LMTP. What is refused is not counted, and may come later: 451 4.7.1.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

from ironpost.model.verdict import defer
from ironpost.policy.buckets import Buckets
from ironpost.policy.settings import address_of
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.ports import Clock
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Quota, Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class Rate:
    """Asked at MAIL about messages, at RCPT about recipients."""

    def __init__(
        self, what: str, stage: Stage, settings: Settings, clock: Clock, network: Quota | None, login: Quota | None
    ) -> None:
        self.name = f"{what}-rate"
        self.stage = stage
        self._what = what
        self._settings = settings
        self._quotas = network, login
        self._by_network = None if network is None else Buckets(network, clock)
        self._by_login = None if login is None else Buckets(login, clock)

    def share(self, share: Callable[[str, Buckets], None]) -> None:
        """Hands its buckets out, each with a name of its own."""
        for whose, buckets in (("network", self._by_network), ("login", self._by_login)):
            if buckets is not None:
                share(f"{self.name} by {whose}", buckets)

    def judge(self, facts: Facts) -> Finding:
        """Counts, and defers what is too much."""
        network, login = self._quotas
        if facts.identity is not None:
            key, buckets, quota = facts.identity.name.lower(), self._by_login, login
        elif self._settings.knows(facts):
            return _NOTHING
        else:
            key, buckets, quota = prefix(facts.ip), self._by_network, network
        if buckets is None or quota is None:
            return _NOTHING
        wait = buckets.take(key)
        if not wait:
            return _NOTHING
        told = f"{key} has had its {quota.many} {self._what}s in {quota.seconds:g} s, the next in {wait:.0f} s"
        return Finding(defer(f"Too many {self._what}s, try again later"), told)


def prefix(ip: str) -> str:
    """What counts as one network: an IPv4 address, an IPv6 /64; text that is no address as it is."""
    address = address_of(ip)
    if isinstance(address, IPv6Address):
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return ip if address is None else str(address)


def messages(settings: Settings, ports: Ports) -> Rate | None:
    """The check of messages, if there is a quota."""
    network, login = settings.network_messages, settings.login_messages
    if ports.clock is None or (network is None and login is None):
        return None
    return _shared(Rate("message", Stage.MAIL, settings, ports.clock, network, login), ports)


def recipients(settings: Settings, ports: Ports) -> Rate | None:
    """The check of recipients, if there is a quota."""
    network, login = settings.network_recipients, settings.login_recipients
    if ports.clock is None or (network is None and login is None):
        return None
    return _shared(Rate("recipient", Stage.RECIPIENT, settings, ports.clock, network, login), ports)


def _shared(rate: Rate, ports: Ports) -> Rate:
    if ports.share is not None:
        rate.share(ports.share)
    return rate
