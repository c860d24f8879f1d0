"""Final delivery over LMTP: by Dovecot or another mail store, or through a content filter.

Promises: each recipient has the outcome of its own reply (RFC 2033 §4.2): 4yz defers that recipient, 5yz bounces it. If
the connection ends before all replies have arrived, the others are deferred: mail may be duplicated, but is never lost.
Everything else is as for a smart host, because `RemoteDelivery` does it: pipelining, kept connections, limits, TLS.
Refuses: port 25 (RFC 2033 §5), and TLS over a Unix socket.
Standards: RFC 2033; RFC 2852 and RFC 8689 §2 end here, if the mail store is on this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ironpost.model.network import is_loopback
from ironpost.protocol.extensions import without_relay_parameters
from ironpost.routing.profile import ConnectionProfile
from ironpost.routing.route import SMTP_PORT, Host, NextHop, Route, UnixSocket
from ironpost.routing.tls.levels import TlsUse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from ironpost.delivery import NextHops
    from ironpost.delivery.remote import RemoteDelivery
    from ironpost.model import Address, Outcome
    from ironpost.queue.store import QueuedMessage, QueuedRecipient


@dataclass(frozen=True, slots=True)
class LmtpOptions:
    """`[[local.delivery]] lmtp = { host = "unix:/run/dovecot/lmtp" }`: deliver by an LMTP server."""

    host: NextHop
    """The server: `unix:/path`, or `host:port`; it has no default port."""
    tls: Literal["none", "may", "encrypt", "verify"] | None = None
    """The least TLS, as in `[[route]]`; over a Unix socket it is never used."""

    def __post_init__(self) -> None:
        if isinstance(self.host, UnixSocket):
            if self.tls not in {None, "none"}:
                raise ValueError("tls: TLS is not used over a Unix socket, leave the key out")
        elif self.host.port == SMTP_PORT:
            raise ValueError(f"host: LMTP is never used on port {SMTP_PORT}, which is for SMTP (RFC 2033)")

    def route(self) -> Route:
        """The route of this mail."""
        tls = self.tls if isinstance(self.host, Host) else None
        return Route.lmtp(self.host, None if tls is None else ConnectionProfile(tls=TlsUse[tls.upper()]))


class Lmtp:
    """Implements `ironpost.delivery.RouteAgent`."""

    def __init__(self, remote: RemoteDelivery) -> None:
        """`remote` speaks LMTP, and is this agent's from now on."""
        self._remote = remote

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Attempt delivery: one transaction for all recipients."""
        if message.envelope.parameters and _on_this_machine(route):
            message = message._replace(envelope=without_relay_parameters(message.envelope))
        return await self._remote.deliver(message, recipients, route)

    async def preview(self, address: Address, route: Route) -> NextHops:
        """The addresses of the server, and the TLS that it needs."""
        return await self._remote.preview(address, route)

    def close(self) -> Awaitable[None]:
        """Send QUIT on every idle connection. Running deliveries finish, and then close theirs."""
        return self._remote.close()


def _on_this_machine(route: Route) -> bool:
    """Whether the mail does not leave this machine, so that what a sender demands of relays is fulfilled."""
    (host,) = route.hosts
    if isinstance(host, UnixSocket):
        return True
    return is_loopback(host.name)
