"""A resolver that answers from a table: for tests, for the test kit, and for systems without DNS.

Promises: the three answers of DNS (data, NODATA, NXDOMAIN) and its silence are kept apart (SECURITY R27).
Refuses: nothing; a name that no table mentions does not exist.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from ironpost.model.ports import MX, Answer, ResolverError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class StaticResolver:
    """Implements `ironpost.model.ports.Resolver`. Names are compared without regard to case or a trailing dot."""

    def __init__(
        self,
        *,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        names: Mapping[str, Sequence[str]] | None = None,
        failing: Iterable[str] = (),
    ) -> None:
        """Fills the table.

        Args:
            mx: domain to (preference, host) pairs; `[(0, "")]` is the null MX (RFC 7505 §3).
            addresses: host to IP addresses; an empty list exists without addresses.
            names: IP address to host names.
            failing: names and addresses for which every question ends in `ResolverError`.
        """
        self._mx = {_name(domain): tuple(MX(p, _bare(h)) for p, h in pairs) for domain, pairs in (mx or {}).items()}
        self._addresses = {_name(host): tuple(found) for host, found in (addresses or {}).items()}
        self._names = {ip: tuple(map(_bare, found)) for ip, found in (names or {}).items()}
        self._failing = frozenset(map(_name, failing))

    async def mx(self, domain: str) -> Answer:
        """See `ironpost.model.ports.Resolver.mx`."""
        name = self._asked(domain)
        return Answer(name in self._mx or name in self._addresses, exchangers=self._mx.get(name, ()))

    async def addresses(self, host: str) -> Answer:
        """See `ironpost.model.ports.Resolver.addresses`."""
        name = self._asked(host)
        return Answer(name in self._mx or name in self._addresses, addresses=self._addresses.get(name, ()))

    async def names(self, ip: str) -> Answer:
        """See `ironpost.model.ports.Resolver.names`."""
        ip_address(ip)
        name = self._asked(ip)
        return Answer(name in self._names, names=self._names.get(name, ()))

    def _asked(self, text: str) -> str:
        name = _name(text)
        if name in self._failing:
            raise ResolverError(f"{text}: no name server answers")
        return name


def _bare(text: str) -> str:
    return text.removesuffix(".")


def _name(text: str) -> str:
    return _bare(text).lower()
