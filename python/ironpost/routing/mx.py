"""The order in which a domain's exchangers are tried (RFC 5321 §5.1, RFC 7505).

Promises: lowest preference first, equal preferences shuffled; exchangers that are this system, and all of the same or
a higher preference number, are omitted. Invalid records are reported as reasons.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ironpost.model.dns import MX
    from ironpost.model.ports import Random


@dataclass(frozen=True, slots=True)
class Exchangers:
    """The hosts to try, or why there are none."""

    levels: tuple[tuple[str, ...], ...]
    """Host names by preference, the best first."""
    reasons: tuple[str, ...] = ()
    null: bool = False
    """The domain accepts no mail (RFC 7505 §3)."""
    loop: bool = False
    """No host is left because this system is the best exchanger itself."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """All of them, in the order in which they are tried."""
        return tuple(host for level in self.levels for host in level)


def order(records: Sequence[MX], random: Random, own_names: Collection[str] = ()) -> Exchangers:
    """Sort exchangers in the order of RFC 5321 §5.1.

    Args:
        records: the MX records, in any order; at least one.
        random: shuffles equal preferences.
        own_names: names of this system, in lower case.
    """
    if len(records) == 1 and not records[0].host:
        return Exchangers((), ("null MX: the domain accepts no mail (RFC 7505)",), null=True)
    reasons: list[str] = []
    levels: defaultdict[int, list[str]] = defaultdict(list)
    for record in records:
        if record.host:
            levels[record.preference].append(record.host)
        else:
            # RFC 7505 §3: a null MX must be the only record.
            reasons.append("ignored a null MX next to other records")
    hosts: dict[str, None] = {}
    ordered: list[tuple[str, ...]] = []
    for preference in sorted(levels):
        level = levels[preference]
        own = [host for host in level if host.lower() in own_names]
        if own:
            # RFC 5321 §5.1: hosts from our own preference on would send the mail back to us.
            reasons.append(f"{own[0]} (preference {preference}) is this system: it and all after it are omitted")
            return Exchangers(tuple(ordered), tuple(reasons), loop=not ordered)
        random.shuffle(level)
        ordered.append(tuple(host for host in dict.fromkeys(level) if host not in hosts))
        hosts.update(dict.fromkeys(level))
    return Exchangers(tuple(ordered), tuple(reasons))
