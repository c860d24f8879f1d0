"""Back-off after failed logins, which slows down password guessing (SECURITY R53).

Promises: the delay doubles with each failure after the first few, for the account and for the client's network (an IPv4
address, an IPv6 /64), whichever is longer. Once the free failures are used up, an attempt that starts while another is
pending is delayed as if that one had failed. A network from which an account logged in recently has a separate count
for that account, so that guesses from elsewhere do not lock out its owner. Unknown names count like known ones. Counts
are kept as keyed state, so all workers share them and a restart does not clear them. The keys are digests, not names;
each namespace is bounded, and the oldest entry is evicted first.

The session refuses a delayed login with 454 4.7.0 without calling the authenticator, so a delay costs no resources, and
clients do not treat it as a wrong password.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ironpost.model.keyed_state import Namespace
from ironpost.model.network import client_network
from ironpost.model.ports import Uncounted

if TYPE_CHECKING:
    from ironpost.model.keyed_state import KeyedState
    from ironpost.model.ports import Metrics


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """The delays for one account or network, in seconds."""

    free: int
    """The number of consecutive failures without a delay."""
    first: float = 2.0
    """The first delay, in seconds; each further failure doubles it."""
    longest: float = 900.0
    """The longest delay, in seconds."""
    forget: float = 3600.0
    """Seconds without a failure after which the count starts over."""

    def wait(self, failures: int) -> float:
        """Return the seconds to wait after a number of consecutive failures."""
        beyond = failures - self.free
        return min(self.longest, self.first * 2.0 ** min(beyond - 1, 30)) if beyond > 0 else 0.0


ACCOUNT: Final = BackoffPolicy(free=5)
"""The default policy for an account."""
NETWORK: Final = BackoffPolicy(free=20)
"""The default policy for a network."""

REMEMBERED: Final = 50_000
"""Maximum number of entries in each namespace."""
OWNED: Final = 30 * 86_400.0
"""Seconds after a login for which its network counts as the account's own."""
_DIGEST: Final = 16
"""Octets of a key."""
_COUNT: Final = 16
"""Maximum octets of a count, which is enough for 10^16 failed logins an hour."""


def _namespace(name: str, ttl: float) -> Namespace:
    return Namespace(name, REMEMBERED, _COUNT, REMEMBERED * (_DIGEST + _COUNT), ttl)


ACCOUNT_FAILURES: Final = _namespace("login-accounts", ACCOUNT.forget)
"""Consecutive failures by account, or by account and its own network."""
NETWORK_FAILURES: Final = _namespace("login-networks", NETWORK.forget)
"""Consecutive failures by network."""
DELAYS: Final = _namespace("login-delays", max(ACCOUNT.longest, NETWORK.longest))
"""The delays in effect: an entry for each key of the two namespaces above, which expires with the delay."""
OWN_NETWORKS: Final = _namespace("login-owners", OWNED)
"""Accounts with the networks from which they logged in."""

NAMESPACES: Final = (ACCOUNT_FAILURES, NETWORK_FAILURES, DELAYS, OWN_NETWORKS)
"""The namespaces of `LoginBackoff`."""


class LoginLimit(Protocol):
    """The port through which a session delays logins."""

    def admit(self, account: str, ip: str, *, begins: bool = True) -> float:
        """Return the seconds to wait before a login to the account from this address; 0 to admit the attempt.

        Args:
            account: the key of the account; empty if the client has named none.
            ip: the client's address.
            begins: the attempt starts now, so it counts as pending if it is admitted; False to continue one.
        """
        ...

    def failed(self, account: str, ip: str) -> None:
        """Count a refused attempt."""
        ...

    def succeeded(self, account: str, ip: str) -> None:
        """Clear the counts after a successful attempt."""
        ...


class LoginBackoff:
    """Implements `LoginLimit` with keyed state."""

    def __init__(
        self,
        state: KeyedState,
        *,
        account: BackoffPolicy = ACCOUNT,
        network: BackoffPolicy = NETWORK,
        metrics: Metrics | None = None,
    ) -> None:
        """Start with the counts that the state contains.

        Args:
            state: stores the counts, in the `NAMESPACES` of this module.
            account: the policy for an account; delays and counts are limited by the time to live of the namespaces.
            network: the policy for a network; the same applies.
            metrics: counts logins.
        """
        self._state = state
        self._account = account
        self._network = network
        self._metrics = Uncounted() if metrics is None else metrics

    def admit(self, account: str, ip: str, *, begins: bool = True) -> float:
        """See `LoginLimit.admit`."""
        subjects = self._subjects(account, client_network(ip))
        wait = max((self._left(subject) for subject in subjects), default=0.0)
        if wait <= 0.0 and begins:
            for subject in subjects:
                failures = self._state.get(subject.namespace, subject.key)
                if failures is not None:  # until this attempt ends, others are delayed as if it had failed
                    self._delay(subject, int(failures.value) + 1)
        return wait

    def failed(self, account: str, ip: str) -> None:
        """See `LoginLimit.failed`."""
        network = client_network(ip)
        subjects = self._subjects(account, network)
        if network and (also := self._network_subject(network)) not in subjects:
            subjects.append(also)
        for subject in subjects:
            failures = self._state.increment(subject.namespace, subject.key, 1, subject.policy.forget)
            self._delay(subject, failures)
        self._metrics.count("logins", "refused")

    def succeeded(self, account: str, ip: str) -> None:
        """See `LoginLimit.succeeded`."""
        network = client_network(ip)
        for subject in self._subjects(account, network):
            self._state.remove(DELAYS, subject.key)
            if subject.namespace is ACCOUNT_FAILURES:  # the network keeps its count: others may share it
                self._state.remove(ACCOUNT_FAILURES, subject.key)
        if account:
            self._state.put(OWN_NETWORKS, _key("account", account, network), b"", OWNED)
        self._metrics.count("logins", "accepted")

    def _subjects(self, account: str, network: str) -> list[_Subject]:
        """Return the subjects whose failures an attempt counts for, and by which it is delayed."""
        if account:
            own = _key("account", account, network)
            if self._state.get(OWN_NETWORKS, own) is not None:
                return [_Subject(ACCOUNT_FAILURES, own, self._account)]
        subjects = [_Subject(ACCOUNT_FAILURES, _key("account", account), self._account)] if account else []
        return [*subjects, self._network_subject(network)] if network else subjects

    def _network_subject(self, network: str) -> _Subject:
        return _Subject(NETWORK_FAILURES, _key("network", network), self._network)

    def _left(self, subject: _Subject) -> float:
        """Return the remaining seconds of a delay."""
        delay = self._state.get(DELAYS, subject.key)
        return 0.0 if delay is None else delay.ttl

    def _delay(self, subject: _Subject, failures: int) -> None:
        wait = subject.policy.wait(failures)
        if wait > 0.0:
            self._state.put(DELAYS, subject.key, b"", wait)


class _Subject(NamedTuple):
    """A subject of the back-off: an account, an account in a network of its owner, or a network."""

    namespace: Namespace
    key: bytes
    policy: BackoffPolicy


def _key(*parts: str) -> bytes:
    """Return a digest of fixed length."""
    octets = "\0".join(parts).encode("utf-8", "surrogatepass")  # parts contain no NUL
    return blake2b(octets, digest_size=_DIGEST).digest()
