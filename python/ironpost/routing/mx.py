"""The order in which a domain's exchangers are tried (RFC 5321 §5.1, RFC 7505).

Promises: lower preferences first, equal ones shuffled; this system's own names, and everything that is not better than
they are, left out.
Refuses: nothing; what is wrong with the records comes back as a reason.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ironpost.model.ports import MX, Random


@dataclass(frozen=True, slots=True)
class Exchangers:
    """Which hosts to try, or why there are none."""

    hosts: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    null: bool = False
    """The domain says that it takes no mail (RFC 7505 §3)."""
    loop: bool = False
    """Nothing is left because this system is itself the best exchanger."""


def order(records: Sequence[MX], random: Random, own_names: Collection[str] = ()) -> Exchangers:
    """Sorts exchangers as RFC 5321 §5.1 wants them tried.

    Args:
        records: the MX records, in any order; at least one.
        random: shuffles equal preferences.
        own_names: names of this system, in lower case.
    """
    if len(records) == 1 and not records[0].host:
        return Exchangers((), ("null MX: the domain takes no mail (RFC 7505)",), null=True)
    reasons: list[str] = []
    levels: defaultdict[int, list[str]] = defaultdict(list)
    for record in records:
        if record.host:
            levels[record.preference].append(record.host)
        else:
            # RFC 7505 §3: a null MX beside others means nothing.
            reasons.append("a null MX beside other records is ignored")
    hosts: list[str] = []
    for preference in sorted(levels):
        level = levels[preference]
        own = [host for host in level if host.lower() in own_names]
        if own:
            # RFC 5321 §5.1: from our own preference on, the way would lead back to us.
            reasons.append(f"{own[0]} (preference {preference}) is this system: it and all after it are left out")
            return Exchangers(tuple(hosts), tuple(reasons), loop=not hosts)
        random.shuffle(level)
        hosts += level
    return Exchangers(tuple(dict.fromkeys(hosts)), tuple(reasons))
