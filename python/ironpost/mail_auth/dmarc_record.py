"""DMARC records: what a domain asks to be done with mail that fails, and where it wants reports.

Promises: only the version of a record must be correct. Anything else that is invalid counts as absent, as the standard
demands; of several tags with one name the first counts.
Refuses: nothing; what does not start with `v=DMARC1` is not a DMARC record.
Standards: RFC 9989 §4.7 (tags), §4.8 (grammar), §4.10.1 (records without a valid policy).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

URI_LIMIT: Final = 10
"""Addresses that are read from one tag (SECURITY R23)."""

_VERSION: Final = re.compile(rb"[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG: Final = re.compile(r"([A-Za-z]+)[ \t]*=[ \t]*([ -:<-~]+)")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:[^ !]+)(?:![0-9]+[kmgt]?)?", re.IGNORECASE)
_FAILURE_OPTIONS: Final = frozenset("01ds")


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
    """As published, with other octets than printable ASCII escaped."""


def select_record(records: Sequence[bytes]) -> DmarcRecord | None:
    """Parse the DMARC record among the TXT records of a name; None if there is none, or several (RFC 9989 §4.10)."""
    found = [record for record in records if _VERSION.match(record)]
    return parse_record(found[0]) if len(found) == 1 else None


def parse_record(record: bytes) -> DmarcRecord:
    """Parse a record that starts with its version."""
    text = record.decode("ascii", "backslashreplace")
    tags: dict[str, str] = {}
    for part in text.split(";")[1:]:
        match = _TAG.fullmatch(part.strip(" \t"))
        if match is not None:
            tags.setdefault(match[1].lower(), match[2].strip(" "))
    aggregate = _uris(tags.get("rua", ""))
    policies = {name: _policy(tags, name) for name in ("p", "sp", "np")}
    main, subdomains = policies["p"], policies["sp"]
    invalid = main is None or any(policies[name] is None and name in tags for name in ("sp", "np"))
    if main is None or invalid:
        main = subdomains = policies["np"] = DmarcPolicy.NONE
    subdomains = subdomains or main
    return DmarcRecord(
        policy=main,
        subdomains=subdomains,
        nonexistent=policies["np"] or subdomains,
        applies=bool(aggregate) or not invalid,
        testing=tags.get("t", "").lower() == "y",
        strict_dkim=tags.get("adkim", "").lower() == "s",
        strict_spf=tags.get("aspf", "").lower() == "s",
        psd=_psd(tags.get("psd", "")),
        aggregate=aggregate,
        failure=_uris(tags.get("ruf", "")),
        failure_options=_failure_options(tags.get("fo", "")),
        text=text,
    )


def _policy(tags: Mapping[str, str], name: str) -> DmarcPolicy | None:
    try:
        return DmarcPolicy(tags.get(name, "").lower())
    except ValueError:
        return None


def _psd(value: str) -> Psd:
    try:
        return Psd(value.lower())
    except ValueError:
        return Psd.UNKNOWN


def _uris(value: str) -> tuple[str, ...]:
    """The URIs of a list, without the sizes that older records have after them."""
    found = (_URI.fullmatch(each.strip(" \t")) for each in value.split(",", URI_LIMIT)[:URI_LIMIT])
    return tuple(match[1] for match in found if match is not None)


def _failure_options(value: str) -> frozenset[str]:
    options = [each.strip(" \t").lower() for each in value.split(":")]
    valid = _FAILURE_OPTIONS.issuperset(options) and len(set(options)) == len(options)
    return frozenset(options) if valid and not {"0", "1"} <= set(options) else frozenset("0")
