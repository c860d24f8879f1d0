"""Checks of the name in EHLO or HELO.

RFC 5321 §4.1.4 lets a server verify that the name belongs to the client's address, and forbids refusing mail because
it does not: an address literal of another address is logged, delayed or quarantined, never refused. The operator may
refuse untrusted clients that use this server's own name, or a name that is not fully qualified (RFC 5321 §2.3.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.model.network import parse_ip
from ironpost.policy.check import NOTHING, Check, Finding
from ironpost.policy.options import Enforcement, Harmless

if TYPE_CHECKING:
    from ironpost.policy.context import Context
    from ironpost.policy.facts import Facts


class HelloNames(Check):
    """Runs at EHLO and HELO."""

    name: Final = "hello"

    @dataclass(frozen=True, slots=True)
    class Options:
        """What to do about each kind of wrong name."""

        helo_own_name: Enforcement = Enforcement.RECORD
        """An untrusted client gives this server's name or address in EHLO: `off`, `record`, `tarpit`, `quarantine`,
        `defer` or `reject`."""
        helo_bare_name: Enforcement = Enforcement.OFF
        """An untrusted client gives a name without a dot. Values as above."""
        helo_literal: Harmless = Enforcement.OFF
        """A client gives an address literal other than its address: `off`, `record`, `tarpit` or `quarantine`; it may
        not be refused for that."""

    options: Options

    def __init__(self, options: Options, context: Context) -> None:
        """See `Check`.

        Raises:
            ValueError: the options refuse clients for an address literal of another address.
        """
        super().__init__(options, context)
        if options.helo_literal in {Enforcement.DEFER, Enforcement.REJECT}:
            raise ValueError("mail must not be refused because of the address literal in EHLO (RFC 5321 §4.1.4)")

    @property
    def enabled(self) -> bool:
        """Whether a rule is not off."""
        options = self.options
        return {options.helo_own_name, options.helo_literal, options.helo_bare_name} != {Enforcement.OFF}

    def hello(self, facts: Facts) -> Finding:
        """The first objection to the name, if any."""
        options, name = self.options, facts.helo.lower()
        delay = self.context.common.delay
        if self.context.system.trusts(facts) or not facts.ip:
            return NOTHING
        literal = _literal(name)
        if options.helo_own_name is not Enforcement.OFF and self._ours(name, literal, facts):
            reason = f"{facts.ip} uses our own name {name}"
            return options.helo_own_name.finding(
                reason, text="HELO name is this server's own", status="7.1", delay=delay
            )
        if literal:
            if options.helo_literal is not Enforcement.OFF and parse_ip(literal) != parse_ip(facts.ip):
                reason = f"{facts.ip} uses the address literal {name}"
                return options.helo_literal.finding(reason, text="", status="7.1", delay=delay)
        elif options.helo_bare_name is not Enforcement.OFF and "." not in name.rstrip("."):
            reason = f"{name} is not fully qualified"
            return options.helo_bare_name.finding(
                reason, text="HELO name is not fully qualified", status="7.1", delay=delay
            )
        return NOTHING

    def _ours(self, name: str, literal: str, facts: Facts) -> bool:
        own_names = self.context.system.own_names
        if literal:
            local = parse_ip(facts.local_ip)
            return (local is not None and parse_ip(literal) == local) or name in own_names
        return name.rstrip(".") in own_names


def _literal(name: str) -> str:
    """The address in an address literal; empty for a domain."""
    return name[1:-1].removeprefix("ipv6:") if name.startswith("[") and name.endswith("]") else ""
