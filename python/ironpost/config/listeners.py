"""`[[listener]]`, `[tls]` and `[limits]`: where the server listens, how it is protected, what one client may cost.

Promises: what a key is when it is not written depends on the listener's role, and on nothing else: `DEFAULTS`. A
listener may set a limit for itself; the others are those of `[limits]`.
Refuses: an LMTP listener on port 25 (RFC 2033 §5), a listener that demands authentication and gives no way to it.

Standards: RFC 5321 §4.5.3.2 (time-outs), RFC 6409 §4.3 (submission is authenticated), RFC 8314 §3.3 (implicit TLS),
RFC 2033 (LMTP).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from ironpost.config.quantities import Endpoint, duration, size
from ironpost.config.values import (
    Count,
    Duration,
    Listen,
    Mode,
    Network,
    Rate,
    SecretFile,
    Section,
    Size,
    SizeRate,
    Switch,
    Timeout,
    least,
    some,
)

Role: TypeAlias = Literal["mx", "submission", "lmtp"]

SMTP_PORT: Final = 25

DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "mx": {"tls": "starttls", "newlines": "reject", "hello": "strict", "auth": "none"},
    "submission": {"tls": "starttls", "newlines": "normalise", "hello": "lenient", "auth": "required"},
    "lmtp": {"tls": "none", "newlines": "reject", "hello": "strict", "auth": "none"},
}
"""What a role's keys are unless they are written. Port 25 is strict; submission clients are forgiven what their users
cannot mend; an LMTP client is our own front, which has judged the content already."""


class Limits(Section):
    """`[limits]`: what clients may cost. In a `[listener.limits]`: for that listener alone."""

    connections: Count = 10000
    """Connections at one time, on each listener."""
    connections_per_prefix: Count = 100
    """Connections at one time from one prefix, outside the trusted networks."""
    connection_rate: Rate = 10.0
    """New connections from one prefix, outside the trusted networks; a minute's worth may come at once."""
    ipv4_prefix: Annotated[int, Field(strict=True, ge=1, le=32)] = 32
    """Bits of an IPv4 address that make one prefix."""
    ipv6_prefix: Annotated[int, Field(strict=True, ge=1, le=128)] = 64
    """Bits of an IPv6 address that make one prefix."""
    errors: Count = 20
    """Permanent refusals in a session since its last accepted message."""
    commands: Count = 100_000
    """Commands in a session."""
    handshake_timeout: Timeout = 60.0
    """How long a TLS handshake, or a PROXY header, may take."""
    hello_timeout: Timeout = 300.0
    """How long until EHLO or HELO is accepted, whatever else is said."""
    command_timeout: Timeout = 300.0
    """How long to wait for a command (RFC 5321 §4.5.3.2.7)."""
    data_timeout: Timeout = 180.0
    """How long to wait for the next piece of content (RFC 5321 §4.5.3.2.5)."""
    data_rate: SizeRate = 100.0
    """What content must come with, on average over `data_timeout`; 0B/s for any."""
    hook_timeout: Timeout = 300.0
    """How long policy and the users' database may take for an answer (SECURITY R26)."""
    write_timeout: Timeout = 300.0
    """How long a client may leave our replies unread."""
    session_time: Annotated[Duration, least(duration, "60s")] = 86400.0
    """How long a session may last."""


class Certificate(Section):
    """One certificate of `tls.certificates`."""

    chain: Path
    """PEM: the certificate, then those that lead to the root."""
    key: SecretFile
    """PEM, without a passphrase."""


class Tls(Section):
    """`[tls]`: how connections are protected."""

    certificates: tuple[Certificate, ...] = ()
    """The first is for clients that name no server, or one that no other is for; a self-signed one without any."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """The oldest version that is spoken (RFC 8314 §4.1, RFC 8996)."""
    client_ca: Path | None = None
    """PEM: who may have signed a client's certificate. Clients are asked for one only if it is set."""


class Listener(Section):
    """`[[listener]]`: some addresses, and what is said and demanded there."""

    role: Role
    """What it is for: `mx` takes mail from other systems, `submission` from users, `lmtp` from a front server."""
    listen: Annotated[tuple[Listen, ...], AfterValidator(some)]
    """Where to listen: `host:port`, port 0 takes a free one; `unix:/path`; or `fd:name`, sockets that a service manager
    hands over (LISTEN_FDS)."""
    mode: Mode = 0o660
    """Who may connect to a Unix socket: the permissions of its file."""
    tls: Literal["none", "starttls", "implicit"]
    """`starttls`: clients may change to TLS (RFC 3207); `implicit`: they start with it (RFC 8314 §3.3)."""
    newlines: Literal["reject", "normalise", "accept"]
    """What a bare CR or LF in content meets."""
    lenient: tuple[Network, ...] = ()
    """Networks whose clients get `normalise` where `newlines` is `reject`."""
    eight_bit: Literal["accept", "reject"] = "accept"
    """What 8-bit content meets that was not declared (RFC 6152 §3)."""
    hello: Literal["strict", "lenient"]
    """What EHLO meets whose name is neither a domain nor an address literal."""
    long_lines: Literal["accept", "reject"] = "reject"
    """What a longer line of content meets than `max_line`."""
    max_line: Annotated[Size, least(size, "998B")] = 1 << 20
    """Octets in a line of content (RFC 5321 §4.5.3.1.6 asks for 998)."""
    auth: Literal["none", "offered", "required"]
    """Whether clients can, or must, say who they are (RFC 4954)."""
    auth_in_clear: Switch = False
    """Passwords may come over a connection without TLS."""
    proxy: tuple[Network, ...] = ()
    """Networks whose connections start with a PROXY header."""
    xclient: tuple[Network, ...] = ()
    """Networks whose clients may speak for others: XCLIENT and XFORWARD."""
    pause: Duration = 0.0
    """How long the greeting waits. A client that speaks meanwhile is no mail server, and is refused."""
    limits: Limits = Limits()
    """Limits for this listener alone."""

    @model_validator(mode="before")
    @classmethod
    def _by_role(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        role = values.get("role")
        return {**DEFAULTS.get(role if isinstance(role, str) else "", DEFAULTS["mx"]), **values}

    @model_validator(mode="after")
    def _consistent(self) -> Listener:
        ports = {place.port for place in self.listen if isinstance(place, Endpoint)}
        if self.role == "lmtp" and SMTP_PORT in ports:
            raise ValueError("LMTP is not spoken on port 25 (RFC 2033 §5)")
        if self.lenient and self.newlines != "reject":
            raise ValueError(f'lenient is for newlines = "reject"; with "{self.newlines}" nobody needs it')
        if self.auth == "required" and self.tls == "none" and not self.auth_in_clear:
            raise ValueError(
                'nobody could log in: with tls = "none" passwords would come in clear; '
                'set tls = "starttls", or allow it with auth_in_clear = true'
            )
        return self
