"""TLS sessions of earlier connections, with which later ones shorten their handshake.

Promises: a session is offered only to the address, port and server name that it was established with, under the same
TLS context and verifier (SECURITY R39), and only until the peer's certificate expires or `LIFETIME` has passed since a
full handshake, however often the session was resumed. A resumed handshake has no certificates, so those of the full one
are kept with the session: the verifier of each connection examines them again. A session that a peer no longer knows
costs nothing: the handshake becomes a full one. A session is forgotten after a connection that could not be used.
Limitations: `ENTRIES` sessions of one process, in memory. A session may be resumed by several connections; RFC 8446
§C.4 advises against it for the sake of clients that move between networks, which this server does not.
Standards: RFC 8446 §2.2 and §4.6.1, RFC 5077 (TLS 1.2).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.client.tls import peer_chain
from ironpost.model.certificate import read

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from ironpost.model.tls import Verifier

LIFETIME: Final = 3600.0
"""Seconds after a full handshake in which its session may be resumed; RFC 8446 §4.6.1 allows 7 days."""
ENTRIES: Final = 1000
"""Maximum number of sessions; the oldest ones are forgotten first."""


class TlsPeer(NamedTuple):
    """The peer of a TLS session, as this end saw it: connections that differ in any of this do not share one."""

    address: str
    """An IP address."""
    port: int
    server_name: str
    context: ssl.SSLContext
    """With its authorities and client certificate."""
    verifier: Verifier


class Established(NamedTuple):
    """A TLS session, and what is known of its peer."""

    session: ssl.SSLSession
    chain: tuple[bytes, ...]
    """The certificates that the peer sent in the full handshake, in DER, leaf first."""
    expires: float
    """When it may no longer be resumed, in seconds since 1970-01-01 UTC."""


class TlsSessions:
    """The TLS sessions of one process."""

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        """`now` returns the seconds since 1970-01-01 UTC."""
        self.now = now
        self._established: dict[TlsPeer, Established] = {}

    def __len__(self) -> int:
        return len(self._established)

    def find(self, peer: TlsPeer) -> Established | None:
        """The session that a connection may resume; None if there is none."""
        found = self._established.get(peer)
        return found if found is not None and self.now() < found.expires else None

    def keep(self, peer: TlsPeer, established: Established) -> None:
        """Keep a session, in place of the peer's earlier one."""
        self.forget(peer)
        if len(self._established) >= ENTRIES:
            del self._established[next(iter(self._established))]
        self._established[peer] = established

    def forget(self, peer: TlsPeer) -> None:
        """Do not offer the session of a peer again."""
        self._established.pop(peer, None)


class Resumption:
    """One connection: the session that it offers, and the one that it leaves."""

    def __init__(self, sessions: TlsSessions, peer: TlsPeer) -> None:
        """Offer the session of `peer`, if there is one."""
        self._sessions = sessions
        self._peer = peer
        self._earlier = sessions.find(peer)
        self._chain: tuple[bytes, ...] = ()

    @property
    def session(self) -> ssl.SSLSession | None:
        """The session to offer in the handshake."""
        return None if self._earlier is None else self._earlier.session

    def chain(self, connection: ssl.SSLObject) -> tuple[bytes, ...]:
        """The certificates of the peer, after the handshake."""
        if self._earlier is not None and not connection.session_reused:
            self._earlier = None
        self._chain = peer_chain(connection) if self._earlier is None else self._earlier.chain
        return self._chain

    @property
    def resumed(self) -> bool:
        """After the handshake: it was not a full one."""
        return self._earlier is not None

    def keep(self, connection: ssl.SSLObject) -> None:
        """Keep the session of a connection that can be used, after its first reply: tickets of TLS 1.3 arrive late.

        A session that was resumed stays as it is: `ssl` copies each session that it returns, which would cost most of
        what resuming saves.
        """
        if self.resumed:
            return
        session = connection.session
        if session is None or not (session.has_ticket or (session.id and connection.version() == "TLSv1.2")):
            return
        try:
            valid_until = read(self._chain[0]).not_after
        except (IndexError, ValueError):  # no certificate, or one that only OpenSSL can read
            return
        expires = min(self._sessions.now() + LIFETIME, valid_until)
        self._sessions.keep(self._peer, Established(session, self._chain, expires))

    def forget(self) -> None:
        """Do not offer the session again: the connection could not be used."""
        self._sessions.forget(self._peer)
