"""Senders in a local domain, used by clients that are neither trusted nor authenticated.

RFC 2505 §2.6.2 forbids refusing them, because of forwarding and mailing lists; many sites do it nevertheless. Off by
default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import Enforcement

if TYPE_CHECKING:
    from ironpost.policy.facts import Facts


class OwnSender(Check):
    """Runs at MAIL."""

    name: Final = "own-sender"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do about such senders."""

        own_sender: Enforcement = Enforcement.OFF
        """An untrusted client uses a sender in a local domain. Values as for `helo_own_name`."""

    options: Options

    @property
    def enabled(self) -> bool:
        """Whether the check is not off."""
        return self.options.own_sender is not Enforcement.OFF

    def mail(self, facts: Facts) -> Finding:
        """Object to a local reverse-path from an untrusted client."""
        system, sender = self.context.system, facts.reverse_path
        if sender is None or sender.key not in system.local_domains:
            return NOTHING
        if facts.identity is not None or system.trusts(facts):
            return NOTHING
        return self.options.own_sender.finding(
            f"{facts.ip} sends as {sender} without authentication",
            text="Authenticate to send from this domain",
            status="7.1",
            delay=self.context.common.delay,
        )
