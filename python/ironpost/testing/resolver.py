"""A resolver that answers from tables, for tests and the test kit.

Promises: data, NODATA, NXDOMAIN and failure are distinct (SECURITY R27); a name that appears in no table does not
exist.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from ironpost.model.dns import MX, Records, RecordType, ResolverError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ironpost.model.dns import TLSA

TTL: Final = 300.0
"""Seconds; the TTL of every answer."""


class StaticResolver:
    """Implements `ironpost.model.dns.Resolver`. Names are compared without regard to case or a trailing dot."""

    def __init__(
        self,
        *,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        txt: Mapping[str, Sequence[bytes]] | None = None,
        tlsa: Mapping[str, Sequence[TLSA]] | None = None,
        aliases: Mapping[str, str] | None = None,
        authentic: Iterable[str] = (),
        failing: Iterable[str] = (),
    ) -> None:
        """Fill the tables.

        Args:
            mx: domain to (preference, host) pairs; `[(0, "")]` is the null MX (RFC 7505 §3).
            addresses: host to IP addresses; a host with an empty list exists without addresses.
            names: IP address to host names.
            txt: name to TXT records.
            tlsa: name, such as `_25._tcp.mx.example`, to TLSA records.
            aliases: CNAME records.
            authentic: names in signed zones; an answer is validated if all names of its CNAME chain are.
            failing: names and IP addresses for which every query raises `ResolverError`.
        """
        self._data: dict[tuple[str, RecordType], tuple[Any, ...]] = {}
        self._add(RecordType.MX, {d: [MX(p, _bare(h)) for p, h in pairs] for d, pairs in (mx or {}).items()})
        self._add(RecordType.A, {h: [ip for ip in ips if ":" not in ip] for h, ips in (addresses or {}).items()})
        self._add(RecordType.AAAA, {h: [ip for ip in ips if ":" in ip] for h, ips in (addresses or {}).items()})
        self._add(RecordType.PTR, {ip: list(map(_bare, hosts)) for ip, hosts in (names or {}).items()})
        self._add(RecordType.TXT, txt or {})
        self._add(RecordType.TLSA, tlsa or {})
        self._aliases = {_name(alias): _name(target) for alias, target in (aliases or {}).items()}
        self._authentic = frozenset(map(_name, authentic))
        self._failing = frozenset(map(_name, failing))
        self._existing = {name for name, _ in self._data}

    def _add(self, kind: RecordType, table: Mapping[str, Sequence[Any]]) -> None:
        self._data.update({(_name(name), kind): tuple(values) for name, values in table.items()})

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        """Look the name up in the tables."""
        chain = [_name(name)]
        if kind is RecordType.CNAME:
            data: tuple[Any, ...] = tuple(self._aliases[key] for key in chain if key in self._aliases)
        else:
            while chain[-1] in self._aliases:
                chain.append(self._aliases[chain[-1]])
            data = self._data.get((chain[-1], kind), ())
        if not self._failing.isdisjoint((chain[0], chain[-1])):
            raise ResolverError(f"{name} {kind}: no name server answers")
        exists = chain[-1] in self._existing or bool(data)
        return Records(exists, data, self._authentic.issuperset(chain), TTL, chain[-1])


def _bare(text: str) -> str:
    return text.removesuffix(".")


def _name(text: str) -> str:
    """The key of a name; that of an IP address is its reverse name (RFC 1035 §3.5)."""
    try:
        return ip_address(text).reverse_pointer
    except ValueError:
        return _bare(text).lower()
