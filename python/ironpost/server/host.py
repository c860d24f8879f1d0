"""The host port: everything that a connection needs from the server that accepted it.

`AcceptingHost` is what a connection of any protocol needs, `Host` what one of SMTP needs. `Server` implements both. So
can a program that has its own listening sockets, timers and limits:

    await loop.create_server(lambda: ServerConnection(host), ...)

Promises of a connection to its host: after an `admit` that accepted, `release` is called exactly once, when the
connection has ended; `sweep`, `shutdown`, `retire` and `abort` may be called in between, in any order. A connection
calls its host from the thread of the event loop only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from ironpost.model.ports import Metrics
    from ironpost.protocol.server.handler import Handler
    from ironpost.protocol.server.session import Override
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.server.fairness import CallQueue
    from ironpost.server.timeouts import Timeouts
    from ironpost.server.tls import TlsContext


class HostedConnection(Protocol):
    """What a host may do with a connection that it admitted."""

    @property
    def transport(self) -> asyncio.Transport:
        """The TCP or Unix transport, or TLS on top of it; set before the host is called."""
        ...

    def sweep(self, now: float) -> None:
        """Enforce the timeouts; `now` is `loop.time()`. To be called every `Timeouts.sweep` seconds; a host that never
        calls it has no timeouts."""
        ...

    def shutdown(self) -> None:
        """End the connection: SMTP as soon as no message is being received, with 421 (RFC 5321 §3.8), HTTP after the
        response to a request that has begun."""
        ...

    def retire(self) -> None:
        """Free the memory of the connection soon: SMTP ends it when no transaction is open, with 421 (RFC 5321 §3.8),
        HTTP aborts a request whose body is incomplete."""
        ...

    def abort(self) -> None:
        """Close the connection at once; replies that the client has not read are lost."""
        ...


class Refusal(Protocol):
    """What a connection that is refused is sent before it is closed; for SMTP a `Reply`."""

    @property
    def octets(self) -> bytes: ...


class AcceptingHost(Protocol):
    """What a connection of any protocol needs from its server. Members may change at any time; each says when it is
    read."""

    # -----------------------------------------------------------------------------------------------------------------
    # For every connection

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running event loop. It never changes."""
        ...

    @property
    def timeouts(self) -> Timeouts:
        """The limits that `HostedConnection.sweep` enforces. Read at each sweep."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Counts connections, refusals, timeouts and handshakes."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the host shuts down: a session that starts now is shut down at once."""
        ...

    # -----------------------------------------------------------------------------------------------------------------
    # Before the session

    @property
    def implicit_tls(self) -> bool:
        """Whether clients begin with a TLS handshake (RFC 8314 §3); then `tls` is not None. Read by
        `PendingConnection` only."""
        ...

    def is_proxy(self, ip: str) -> bool:
        """Whether connections from this address must begin with a PROXY header (SECURITY R14). Called by
        `PendingConnection` only."""
        ...

    # -----------------------------------------------------------------------------------------------------------------
    # Limits

    def admit(self, connection: HostedConnection) -> Refusal | None:
        """Count a new connection. A Refusal is sent instead of the greeting, and there is no `release`."""
        ...

    def admit_client(self, ip: str) -> tuple[str, Refusal | None]:
        """Count an admitted connection for the client's network, once its address is known.

        Args:
            ip: the client's address; empty for a Unix socket.

        Returns:
            The network, as text that only the host interprets, empty if it is not counted; and the refusal, or None.
        """
        ...

    def replace(self, old: HostedConnection, new: HostedConnection) -> None:
        """Treat `new` as the connection that was admitted as `old`, from now on; nothing is counted."""
        ...

    def release(self, connection: HostedConnection, network: str = "") -> None:
        """Handle the end of an admitted connection.

        Args:
            connection: the object passed to `admit`, or as `new` to `replace`.
            network: the network that `admit_client` returned, whose count decreases; empty for none.
        """
        ...

    # -----------------------------------------------------------------------------------------------------------------
    # Resources that connections share

    @property
    def tls(self) -> TlsContext | None:
        """Certificates. Read when a handshake starts; None refuses STARTTLS by closing the connection."""
        ...

    @property
    def read_buffer(self) -> memoryview:
        """`tls_transport.BUFFER` writable octets, to which sockets are read and into which records are decrypted. One
        buffer serves all connections, because no octets stay in it between two callbacks of the event loop."""
        ...

    @property
    def read_queue(self) -> CallQueue:
        """Large reads that have not been handled yet (`fairness.READS` in one iteration)."""
        ...

    @property
    def close_queue(self) -> CallQueue:
        """Connections to be closed, and closed ones whose `disconnect` hook has not been called yet (`fairness.CLOSES`
        in one iteration)."""
        ...


class Host(AcceptingHost, Protocol):
    """What a connection of SMTP, submission or LMTP needs from its server."""

    @property
    def handler(self) -> Handler:
        """The hooks, complete (see `server.handler.complete`). Read when a session starts."""
        ...

    @property
    def settings(self) -> ServerSettings:
        """The settings of sessions, for this handler (`ServerSettings.serving`). Read when a session starts."""
        ...

    @property
    def overrides(self) -> Mapping[str, Override] | None:
        """Verbs whose handling is replaced or added. Read when a session starts."""
        ...

    @property
    def greeting_delay(self) -> float | None:
        """Seconds before the greeting, 0 for none: a client that sends anything before it gets 554 (RFC 5321 §3.1).
        None disables that check, and early input is interpreted as commands."""
        ...

    def release(self, connection: HostedConnection, network: str = "", failures: int = 0) -> None:
        """See `AcceptingHost.release`; `failures` is the number of hooks that raised during the session."""
        ...

    def greet_later(self, greet: Callable[[], None]) -> None:
        """Call `greet` after `greeting_delay`. It may be called after the connection has ended."""
        ...
