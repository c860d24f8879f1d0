"""Rate limits: messages and recipients per period, for each login or network (RFC 2505 §2.8).

Promises: an authenticated client is counted by login only; others by IPv4 address or IPv6 /64, except for trusted
networks and front servers that speak LMTP. Excess mail is deferred with 451 4.7.1 and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.model.network import client_network
from ironpost.model.verdict import defer
from ironpost.policy.buckets import Buckets
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import Quota  # noqa: TC001 - the types of options are read at run time

if TYPE_CHECKING:
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts


class _Rates:
    """The quotas of one kind of item, `message` or `recipient`."""

    def __init__(self, item: str, network: Quota | None, login: Quota | None, context: Context) -> None:
        self._item = item
        self._system = context.system
        self._by_network = self._buckets("network", network, context)
        self._by_login = self._buckets("login", login, context)

    def _buckets(self, whose: str, quota: Quota | None, context: Context) -> tuple[Quota, Buckets] | None:
        clock, share = context.ports.clock, context.ports.share
        if quota is None or clock is None:
            return None
        buckets = Buckets(quota, clock)
        if share is not None:
            share(f"{self._item}-rate by {whose}", buckets)
        return quota, buckets

    @property
    def limited(self) -> bool:
        """Whether there is a quota, and a clock to measure it with."""
        return self._by_network is not None or self._by_login is not None

    def take(self, facts: Facts) -> Finding:
        """Count one item; defer it if the quota is used up."""
        if facts.identity is not None:
            key, limit = facts.identity.name.lower(), self._by_login
        elif self._system.trusts(facts):
            return NOTHING
        else:
            key, limit = client_network(facts.ip), self._by_network
        if limit is None:
            return NOTHING
        quota, buckets = limit
        wait = buckets.take(key)
        if not wait:
            return NOTHING
        who = key or "a client without an IP address"
        reason = f"{who} has used up {quota.many} {self._item}s per {quota.seconds:g} s, the next in {wait:.0f} s"
        return Finding(defer(f"Too many {self._item}s, try again later"), reason)


class MessageRate(Check):
    """Counts messages at MAIL."""

    name: Final = "message-rate"

    @dataclass(frozen=True, slots=True)
    class Options:
        """The quotas; None for no limit."""

        network_messages: Quota | None = None
        """Rate of messages for each IPv4 address or IPv6 /64 outside the trusted networks, such as `"100/h"`; more are
        deferred with 451 4.7.1. Counted over all workers; a reload resets the counts."""
        login_messages: Quota | None = None
        """Rate of messages for each login, from any address."""

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self._rates = _Rates("message", options.network_messages, options.login_messages, context)

    @property
    def enabled(self) -> bool:
        """Whether there is a quota."""
        return self._rates.limited

    def mail(self, facts: Facts) -> Finding:
        """Count the message."""
        return self._rates.take(facts)


class RecipientRate(Check):
    """Counts recipients at RCPT."""

    name: Final = "recipient-rate"

    @dataclass(frozen=True, slots=True)
    class Options:
        """The quotas; None for no limit."""

        network_recipients: Quota | None = None
        """Rate of recipients, as `network_messages`."""
        login_recipients: Quota | None = None
        """Rate of recipients, as `login_messages`."""

    def __init__(self, options: Options, context: Context) -> None:
        super().__init__(options, context)
        self._rates = _Rates("recipient", options.network_recipients, options.login_recipients, context)

    @property
    def enabled(self) -> bool:
        """Whether there is a quota."""
        return self._rates.limited

    def recipient(self, facts: Facts) -> Finding:
        """Count the recipient."""
        return self._rates.take(facts)
