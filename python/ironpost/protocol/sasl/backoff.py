"""Who has to wait before the next login: guessing passwords gets slower and slower (SECURITY R53).

Promises: the wait doubles with each failure beyond the first ones, for the account and for the client's network (an
IPv4 address, an IPv6 /64), whichever is longer; attempts beside one another count as one after the other. A network
from which an account was used lately has a count of its own for it, so nobody is locked out there by somebody else's
guesses. Unknown names count like known ones. What is remembered is bounded, in octets as well, because names are kept
as digests: the oldest is forgotten first.
Refuses: nothing by itself. The session answers 454 4.7.0 and asks no authenticator, so a wait costs us nothing, and no
client takes it for a wrong password.

Several processes: each tells the others of what it sees (`tell`), which call `failed` and `succeeded` with `told`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.model.ports import Clock

REMEMBERED: Final = 50_000
"""Accounts, networks and owners (a count each) that are remembered."""


@dataclass(frozen=True, slots=True)
class Law:
    """How long to wait. Durations in seconds."""

    free: int
    """Failures in a row that cost nothing."""
    first: float = 2.0
    """The wait behind the next one; each further one doubles it."""
    longest: float = 900.0
    forget: float = 3600.0
    """Without a failure for so long, all is forgotten."""

    def wait(self, failures: int) -> float:
        """Seconds to wait behind that many failures in a row."""
        beyond = failures - self.free
        return min(self.longest, self.first * 2.0 ** min(beyond - 1, 30)) if beyond > 0 else 0.0


ACCOUNT: Final = Law(free=5)
NETWORK: Final = Law(free=20)


class LoginLimit(Protocol):
    """What a session asks about logins."""

    def admit(self, account: str, ip: str, *, begins: bool = True) -> float:
        """Seconds to wait before the account may be tried from there; 0: now, and the attempt is counted as begun,
        if it `begins`."""
        ...

    def failed(self, account: str, ip: str) -> None:
        """The attempt was refused."""
        ...

    def succeeded(self, account: str, ip: str) -> None:
        """The attempt was good."""
        ...


class LoginBackoff:
    """Implements `LoginLimit`, in memory."""

    def __init__(
        self,
        clock: Clock,
        *,
        account: Law = ACCOUNT,
        network: Law = NETWORK,
        remembered: int = REMEMBERED,
        tell: Callable[[str, str, bool], None] | None = None,
    ) -> None:
        """Starts with nothing remembered.

        Args:
            clock: only its `monotonic` is used.
            account: the law for one account.
            network: the law for one network.
            remembered: entries (a count) in each of the three tables.
            tell: called with account, IP address and success of each attempt here, for other processes.
        """
        self._clock = clock
        self._accounts = _Failures(account, remembered)
        self._networks = _Failures(network, remembered)
        self._owners: OrderedDict[bytes, None] = OrderedDict()
        self._remembered = remembered
        self._tell = tell

    def admit(self, account: str, ip: str, *, begins: bool = True) -> float:
        """See `LoginLimit.admit`."""
        now = self._clock.monotonic()
        waiting = self._waiting(account, network_of(ip))
        wait = max((table.left(key, now) for table, key in waiting), default=0.0)
        if wait <= 0.0 and begins:
            for table, key in waiting:
                table.begin(key, now)
        return max(wait, 0.0)

    def failed(self, account: str, ip: str, *, told: bool = False) -> None:
        """See `LoginLimit.failed`. `told`: another process saw it."""
        now = self._clock.monotonic()
        network = network_of(ip)
        for table, key in self._waiting(account, network):
            table.count(key, now)
        if _key(account, network) in self._owners:
            self._networks.count(_key(network), now)
        if self._tell is not None and not told:
            self._tell(account, ip, False)

    def succeeded(self, account: str, ip: str, *, told: bool = False) -> None:
        """See `LoginLimit.succeeded`. `told`: another process saw it."""
        network = network_of(ip)
        for table, key in self._waiting(account, network):
            if table is self._accounts:
                table.forget(key)
            else:
                table.relieve(key)
        if account:
            owner = _key(account, network)
            self._owners[owner] = None
            self._owners.move_to_end(owner)
            if len(self._owners) > self._remembered:
                self._owners.popitem(last=False)
        if self._tell is not None and not told:
            self._tell(account, ip, True)

    def _waiting(self, account: str, network: str) -> list[tuple[_Failures, bytes]]:
        """What an attempt is counted under, and has to wait for."""
        if account and (owner := _key(account, network)) in self._owners:
            return [(self._accounts, owner)]
        waiting = [(self._accounts, _key(account))] if account else []
        return [*waiting, (self._networks, _key(network))] if network else waiting


class _Failures:
    """Failures in a row by key, and until when each key has to wait."""

    def __init__(self, law: Law, remembered: int) -> None:
        self._law = law
        self._remembered = remembered
        self._entries: OrderedDict[bytes, tuple[int, float, float]] = OrderedDict()
        """Key to failures, until when, and when the last one was. The one that failed last stands last."""

    def left(self, key: bytes, now: float) -> float:
        """Seconds that the key still has to wait."""
        entry = self._entries.get(key)
        return 0.0 if entry is None else entry[1] - now

    def begin(self, key: bytes, now: float) -> None:
        """An attempt begins: until it is over, others wait as if it had failed."""
        entry = self._entries.get(key)
        if entry is not None:
            failures, _, last = entry
            self._entries[key] = failures, now + self._law.wait(failures), last

    def count(self, key: bytes, now: float) -> None:
        """One more failure."""
        failures, _, last = self._entries.pop(key, (0, 0.0, now))
        failures = 1 if now - last > self._law.forget else failures + 1
        self._entries[key] = failures, now + self._law.wait(failures), now
        if len(self._entries) > self._remembered:
            self._entries.popitem(last=False)

    def forget(self, key: bytes) -> None:
        """The key is good."""
        self._entries.pop(key, None)

    def relieve(self, key: bytes) -> None:
        """Nobody waits for what was there, but the failures stand: others may be in that network."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries[key] = entry[0], 0.0, entry[2]


def _key(*parts: str) -> bytes:
    """What an entry is remembered by, of one length whatever a client sent."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()  # parts hold no NUL


def network_of(ip: str) -> str:
    """What counts as one client: an IPv4 address, an IPv6 /64; empty if there is none (a Unix socket)."""
    try:
        address = ip_address(ip.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)
