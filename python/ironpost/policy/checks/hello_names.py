"""What a client calls itself in EHLO or HELO.

RFC 5321 §4.1.4 lets a server verify that the name belongs to the client's address, and forbids to refuse mail because
it does not: a literal that is not the client's own is recorded, delayed or kept apart, and never refused. That a
stranger uses our own name, or a name that cannot be a public host's (RFC 5321 §2.3.5 wants it fully qualified), may be
refused if the operator says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.policy.settings import Measure, address_of
from ironpost.policy.verdict import NEUTRAL, Finding, Stage

if TYPE_CHECKING:
    from ironpost.policy.checks import Ports
    from ironpost.policy.settings import Settings
    from ironpost.policy.verdict import Facts

_NOTHING: Final = Finding(NEUTRAL)


class HelloNames:
    """Asked at EHLO and HELO."""

    name: Final = "hello"
    stage: Final = Stage.HELLO

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def judge(self, facts: Facts) -> Finding:
        """What speaks against the name, if anything does."""
        settings, name = self._settings, facts.helo.lower()
        delay = settings.delay
        if settings.knows(facts) or not facts.ip:
            return _NOTHING
        literal = _literal(name)
        if settings.helo_own_name is not Measure.OFF and self._ours(name, literal, facts):
            reason = f"{facts.ip} calls itself {name}, which is us"
            return settings.helo_own_name.finding(reason, text="That is our name", status="7.1", delay=delay)
        if literal:
            if settings.helo_literal is not Measure.OFF and address_of(literal) != address_of(facts.ip):
                reason = f"{facts.ip} calls itself {name}"
                return settings.helo_literal.finding(reason, text="", status="7.1", delay=delay)
        elif settings.helo_bare_name is not Measure.OFF and "." not in name.rstrip("."):
            reason = f"{name} is not fully qualified"
            return settings.helo_bare_name.finding(reason, text="Say your full name", status="7.1", delay=delay)
        return _NOTHING

    def _ours(self, name: str, literal: str, facts: Facts) -> bool:
        if literal:
            local = address_of(facts.local_ip)
            return (local is not None and address_of(literal) == local) or name in self._settings.own_names
        return name.rstrip(".") in self._settings.own_names


def _literal(name: str) -> str:
    """The address in an address literal, empty if the name is none."""
    return name[1:-1].removeprefix("ipv6:") if name.startswith("[") and name.endswith("]") else ""


def build(settings: Settings, ports: Ports) -> HelloNames | None:
    """The check, unless everything it could find is of no interest.

    Raises:
        ValueError: a client is to be refused for a literal that is not its own.
    """
    del ports
    if settings.helo_literal in {Measure.DEFER, Measure.REJECT}:
        raise ValueError("mail is not refused because an address literal is not the client's (RFC 5321 §4.1.4)")
    measures = {settings.helo_own_name, settings.helo_literal, settings.helo_bare_name}
    return None if measures == {Measure.OFF} else HelloNames(settings)
