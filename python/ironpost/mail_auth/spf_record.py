"""SPF records: selecting the one of a domain, and parsing it.

Promises: a record is checked as a whole before any term of it is used; the same text is parsed once.
Refuses: several records, and a record with a syntax error anywhere or of more than 8,192 octets, with `SpfError`.
Standards: RFC 7208 §4.5 (selection), §4.6 (terms), §5 (mechanisms), §6 (modifiers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth.spf_macros import SHOWN, MacroString, SpfError, parse_domain_spec, parse_macros, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model.network import Network

RECORD_LIMIT: Final = 8_192
"""Octets of a record; RFC 7208 §3.4 recommends 450."""

_TERM: Final = re.compile(
    r"(?P<modifier>[a-z][a-z0-9_.-]*)=(?P<value>.*)"
    r"|(?P<qualifier>[-+?~]?)(?P<mechanism>all|include|a|mx|ptr|ip4|ip6|exists)(?P<argument>[:/].*)?",
    re.IGNORECASE,
)
_NUMBER: Final = r"(?:0|[1-9][0-9]{0,2})"
_TARGET: Final = re.compile(rf"(?::(?P<spec>.+?))?(?:/(?P<v4>{_NUMBER}))?(?://(?P<v6>{_NUMBER}))?")
_NETWORK: Final = re.compile(rf":[0-9a-fA-F:.]+(?:/{_NUMBER})?")


class SpfResult(StrEnum):
    """The results of SPF (RFC 7208 §2.6)."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


_QUALIFIERS: Final = {
    "": SpfResult.PASS,
    "+": SpfResult.PASS,
    "-": SpfResult.FAIL,
    "~": SpfResult.SOFTFAIL,
    "?": SpfResult.NEUTRAL,
}


class Mechanism(StrEnum):
    """The mechanisms (RFC 7208 §5)."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Directive:
    """A mechanism with the result that it gives if it matches."""

    text: str
    """As published, but not longer than a reason should be."""
    result: SpfResult
    mechanism: Mechanism
    target: MacroString | None = None
    """None stands for the domain of the record."""
    prefix_v4: int = 32
    prefix_v6: int = 128
    network: Network | None = None
    """The network of `ip4` and `ip6`."""


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """A record that is valid."""

    directives: tuple[Directive, ...]
    redirect: MacroString | None = None
    """None also if the record contains `all` (RFC 7208 §6.1)."""
    explanation: MacroString | None = None


def is_record(record: bytes) -> bool:
    """Whether a TXT record starts with the version of SPF."""
    return record[:7].lower() in {b"v=spf1", b"v=spf1 "}


def select_record(records: Sequence[bytes]) -> SpfRecord | None:
    """Parse the SPF record among the TXT records of a domain; None if there is none.

    Raises:
        SpfError: there are several, or it is invalid.
    """
    found = list(filter(is_record, records))
    if not found:
        return None
    if len(found) > 1:
        raise SpfError(f"{len(found)} SPF records; only one is allowed")
    return parse_record(found[0])


@lru_cache(64)  # a record of the maximum length takes 700 KB
def parse_record(record: bytes) -> SpfRecord:
    """Parse one record, which starts with its version.

    Raises:
        SpfError: it is invalid.
    """
    if len(record) > RECORD_LIMIT:
        raise SpfError(f"the record has {len(record)} octets; at most {RECORD_LIMIT} are read")
    try:
        terms = record.decode("ascii").split(" ")[1:]
    except UnicodeDecodeError:
        raise SpfError("the record is not ASCII") from None
    directives: list[Directive] = []
    modifiers: dict[str, MacroString] = {}
    for term in filter(None, terms):
        match = _TERM.fullmatch(term)
        if match is None:
            raise SpfError(f"invalid term {shown(term)}")
        if match["modifier"] is None:
            argument = match["argument"] or ""
            directives.append(_directive(term, match["qualifier"], Mechanism(match["mechanism"].lower()), argument))
            continue
        name = match["modifier"].lower()
        if name not in {"redirect", "exp"}:
            parse_macros(match["value"])
        elif name in modifiers:
            raise SpfError(f"{name} occurs twice")
        else:
            modifiers[name] = parse_domain_spec(match["value"])
    if any(each.mechanism is Mechanism.ALL for each in directives):
        modifiers.pop("redirect", None)
    return SpfRecord(tuple(directives), modifiers.get("redirect"), modifiers.get("exp"))


def _directive(term: str, qualifier: str, mechanism: Mechanism, argument: str) -> Directive:
    result = _QUALIFIERS[qualifier]
    if mechanism is Mechanism.ALL:
        if argument:
            raise SpfError(f"{shown(term)} has an argument")
        return Directive(term[:SHOWN], result, mechanism)
    if mechanism in {Mechanism.IP4, Mechanism.IP6}:
        return Directive(term[:SHOWN], result, mechanism, network=_network(term, mechanism, argument))
    if mechanism in {Mechanism.A, Mechanism.MX}:
        match = _TARGET.fullmatch(argument)
        if match is None:
            raise SpfError(f"invalid term {shown(term)}")
        spec, prefix_v4, prefix_v6 = match["spec"], int(match["v4"] or 32), int(match["v6"] or 128)
        if prefix_v4 > 32 or prefix_v6 > 128:
            raise SpfError(f"the prefix length in {shown(term)} is too large")
        target = None if spec is None else parse_domain_spec(spec)
        return Directive(term[:SHOWN], result, mechanism, target, prefix_v4, prefix_v6)
    if not argument and mechanism is Mechanism.PTR:
        return Directive(term[:SHOWN], result, mechanism)
    if not argument.startswith(":"):
        raise SpfError(f"{shown(term)} needs a domain")
    return Directive(term[:SHOWN], result, mechanism, parse_domain_spec(argument[1:]))


def _network(term: str, mechanism: Mechanism, argument: str) -> Network:
    if _NETWORK.fullmatch(argument):
        try:
            network = ip_network(argument[1:], strict=False)
        except ValueError:
            pass
        else:
            if network.version == (4 if mechanism is Mechanism.IP4 else 6):
                return network
    raise SpfError(f"invalid network in {shown(term)}")
