"""DMARC records: what a domain asks to be done with mail that fails, and where it wants reports.

Promises: only the version of a record must be correct. Anything else that is invalid counts as absent, as the standard
demands; of several tags with one name the first counts.
Refuses: nothing; what does not start with `v=DMARC1` is not a DMARC record.
Standards: RFC 9989 §4.7 (tags), §4.8 (grammar), §4.10.1 (records without a valid policy).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from ironpost.mail_auth.tag_list import SHOWN

if TYPE_CHECKING:
    from collections.abc import Sequence

URI_LIMIT: Final = 10
"""Addresses that are read from one tag (SECURITY R23)."""
RECORD_LIMIT: Final = 8_192
"""Octets of a record that are read."""
PROBLEM_LIMIT: Final = 10
"""Tags of a record whose faults are described."""

_VERSION: Final = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG: Final = re.compile(r"([A-Za-z]+)[ \t]*=[ \t]*+([ -:<-~]+)")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:[^ !]+)(?:![0-9]+[kmgt]?)?", re.IGNORECASE)
_FAILURE_OPTIONS: Final = frozenset("01ds")
_REMOVED: Final = ("pct", "rf", "ri")
"""Tags of RFC 7489 §6.3 that RFC 9989 removed."""


class DmarcPolicy(StrEnum):
    """What the owner of a domain asks to be done with mail that fails (RFC 9989 §4.7)."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class Psd(StrEnum):
    """Whether a domain is one below which others register theirs, a public suffix domain (RFC 9989 §4.7)."""

    YES = "y"
    NO = "n"
    UNKNOWN = "u"


class _Flag(StrEnum):
    YES = "y"
    NO = "n"


class _Mode(StrEnum):
    RELAXED = "r"
    STRICT = "s"


_Choice = TypeVar("_Choice", DmarcPolicy, Psd, _Flag, _Mode)


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """A record (RFC 9989 §4.7); the comments give the tags."""

    policy: DmarcPolicy = DmarcPolicy.NONE
    """`p`: for the domain itself."""
    subdomains: DmarcPolicy = DmarcPolicy.NONE
    """`sp`: for subdomains that exist."""
    nonexistent: DmarcPolicy = DmarcPolicy.NONE
    """`np`: for subdomains that do not exist."""
    applies: bool = True
    """False if the record has no valid policy and wants no reports: DMARC is not applied."""
    testing: bool = False
    """`t`: the policy one level below is to be applied."""
    strict_dkim: bool = False
    """`adkim`: the signing domain must be the author's, not only of the same organization."""
    strict_spf: bool = False
    """`aspf`: the same for the domain of the reverse-path."""
    psd: Psd = Psd.UNKNOWN
    aggregate: tuple[str, ...] = ()
    """`rua`: URIs for aggregate reports."""
    failure: tuple[str, ...] = ()
    """`ruf`: URIs for failure reports."""
    failure_options: frozenset[str] = frozenset("0")
    """`fo`: when failure reports are wanted."""
    text: str = ""
    """As published, with octets that are not ASCII escaped."""
    problems: tuple[str, ...] = ()
    """What is wrong with it, in ASCII."""
    removed: tuple[str, ...] = ()
    """Tags that RFC 9989 does not have any more; they are ignored."""

    @property
    def monitors(self) -> bool:
        """Whether it asks for nothing to be done with mail that fails, whatever its domain (RFC 9989 §3.2)."""
        return {self.policy, self.subdomains, self.nonexistent} == {DmarcPolicy.NONE}


def is_record(record: bytes) -> bool:
    """Whether a TXT record starts with the version of DMARC."""
    return _VERSION.match(record) is not None


def select_record(records: Sequence[bytes]) -> DmarcRecord | None:
    """Parse the DMARC record among the TXT records of a name; None if there is none, or several (RFC 9989 §4.10)."""
    found = list(filter(is_record, records))
    return parse_record(found[0]) if len(found) == 1 else None


def parse_record(record: bytes) -> DmarcRecord:
    """Parse a record that starts with its version; of a longer one than `RECORD_LIMIT`, the tags within that."""
    if len(record) <= RECORD_LIMIT:
        return _parsed(record)
    found = _parsed(record[:RECORD_LIMIT].rpartition(b";")[0])
    problem = f"the record has {len(record)} octets; at most {RECORD_LIMIT} are read"
    return replace(found, problems=(problem, *found.problems))


@lru_cache(64)  # a record of the maximum length takes at most 60 KB
def _parsed(record: bytes) -> DmarcRecord:
    text = record.decode("ascii", "backslashreplace")
    tags = _Tags(text)
    aggregate = tags.uris("rua")
    main = tags.choice("p", DmarcPolicy)
    subdomains = tags.choice("sp", DmarcPolicy)
    nonexistent = tags.choice("np", DmarcPolicy)
    invalid = main is None or not tags.invalid.isdisjoint({"sp", "np"})
    if main is None and "p" not in tags.invalid:
        tags.problems.append("the tag p is missing")
    if main is None or invalid:
        main = subdomains = nonexistent = DmarcPolicy.NONE
    subdomains = subdomains or main
    return DmarcRecord(
        policy=main,
        subdomains=subdomains,
        nonexistent=nonexistent or subdomains,
        applies=bool(aggregate) or not invalid,
        testing=tags.choice("t", _Flag) is _Flag.YES,
        strict_dkim=tags.choice("adkim", _Mode) is _Mode.STRICT,
        strict_spf=tags.choice("aspf", _Mode) is _Mode.STRICT,
        psd=tags.choice("psd", Psd) or Psd.UNKNOWN,
        aggregate=aggregate,
        failure=tags.uris("ruf"),
        failure_options=tags.failure_options(),
        text=text,
        problems=tuple(tags.problems),
        removed=tags.removed(),
    )


class _Tags:
    """The tags of a record by name, and what is wrong with them."""

    def __init__(self, text: str) -> None:
        self.problems: list[str] = []
        self.invalid: set[str] = set()
        """Names of tags with an invalid value."""
        self._values: dict[str, str] = {}
        for part in text.split(";")[1:]:
            match = _TAG.fullmatch(part.strip(" \t"))
            if match is None:
                if part.strip(" \t"):
                    self.problems.append(f"invalid tag {part.strip()[:SHOWN]!a}")
            elif (name := match[1].lower()) in self._values:
                self.problems.append(f"the tag {name[:SHOWN]} occurs more than once; the first one counts")
            else:
                self._values[name] = match[2].strip(" ")
        del self.problems[PROBLEM_LIMIT:]

    def choice(self, name: str, values: type[_Choice]) -> _Choice | None:
        """The value of a tag; None if it is absent or invalid."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            return values(value.lower())
        except ValueError:
            self._refuse(name)
            return None

    def uris(self, name: str) -> tuple[str, ...]:
        """The URIs of a list, without the sizes that older records have after them."""
        found: list[str] = []
        for each in self._values.get(name, "").split(",", URI_LIMIT)[:URI_LIMIT]:
            match = _URI.fullmatch(each.strip(" \t"))
            if match is not None:
                found.append(match[1])
            elif name in self._values:
                self._refuse(name)
        return tuple(found)

    def failure_options(self) -> frozenset[str]:
        """When failure reports are wanted: `0` if the tag `fo` is absent or invalid."""
        if "fo" in self._values:
            options = [each.strip(" \t").lower() for each in self._values["fo"].split(":")]
            chosen = frozenset(options)
            if chosen <= _FAILURE_OPTIONS and len(chosen) == len(options) and not {"0", "1"} <= chosen:
                return chosen
            self._refuse("fo")
        return frozenset("0")

    def removed(self) -> tuple[str, ...]:
        """The tags that have no effect any more."""
        return tuple(name for name in _REMOVED if name in self._values)

    def _refuse(self, name: str) -> None:
        if name not in self.invalid:
            self.invalid.add(name)
            self.problems.append(f"invalid value of the tag {name}: {self._values[name][:SHOWN]!a}")
