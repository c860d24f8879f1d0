"""`[[listener]]`, `[tls]` and `[limits]`: addresses, their protection, and limits of clients.

Promises: the default of a key depends on the listener's role only (`DEFAULTS`). A listener may override limits; the
others are those of `[limits]`.
Refuses: an LMTP listener on port 25 (RFC 2033 §5), a listener that requires authentication but does not allow it, and
keys of mail for a listener that takes none.
Standards: RFC 5321 §4.5.3.2 (timeouts), RFC 6409 §4.3 (submission is authenticated), RFC 8314 §3.3 (implicit TLS), RFC
2033 (LMTP).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, model_validator

from ironpost.config.declared import section
from ironpost.config.quantities import Endpoint, size
from ironpost.config.values import (
    Duration,
    Listen,
    MailAddress,
    Mode,
    Network,
    SecretFile,
    Section,
    Size,
    Switch,
    least,
)
from ironpost.model.options import not_empty
from ironpost.processes.resources import ResourceLimits
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server.limits import ConnectionLimits
from ironpost.server.timeouts import Timeouts

MailRole: TypeAlias = Literal["mx", "submission", "lmtp"]
"""The role of a listener that takes mail."""
Role: TypeAlias = Literal["mx", "submission", "lmtp", "http"]

SMTP_PORT: Final = 25

DEFAULTS: Final[dict[str, dict[str, str]]] = {
    "mx": {"tls": "starttls", "newlines": "reject", "hello": "strict", "auth": "none"},
    "submission": {"tls": "starttls", "newlines": "normalise", "hello": "lenient", "auth": "required"},
    "lmtp": {"tls": "none", "newlines": "reject", "hello": "strict", "auth": "none"},
}
"""Defaults of a listener's keys by its role. Port 25 is strict; submission is lenient where users cannot fix their
clients; an LMTP client is a trusted front end, which has already checked the content."""
HTTP_DEFAULTS: Final = DEFAULTS["mx"] | {"tls": "implicit"}
"""The same for the role `http`, for which only `tls` has an effect."""
HTTP_KEYS: Final = frozenset({"role", "listen", "mode", "tls", "proxy", "limits", "tls_reports_to"})
"""Keys of a listener with the role `http`."""
HTTP_LIMITS: Final = frozenset(
    {"connections", "connections_per_prefix", "connection_rate", "ipv4_prefix", "ipv6_prefix", "handshake_timeout"}
)
"""Keys of its limits; the others are about sessions of SMTP."""


class _Limits(Section):
    """The limits of clients, in `[limits]` for all listeners, in `[listener.limits]` for one."""

    if TYPE_CHECKING:  # a type checker cannot know the keys
        connections: int = 0


if TYPE_CHECKING:
    LimitsSection = _Limits
    ServerLimitsSection = _Limits
else:
    LimitsSection = section("LimitsSection", (ConnectionLimits, ServerSettings, Timeouts), _Limits)
    ServerLimitsSection = section("ServerLimitsSection", (ResourceLimits,), LimitsSection)
    """`[limits]`: the limits of clients and of the server itself."""


class CertificateSection(Section):
    """One certificate of `tls.certificates`."""

    chain: Path
    """PEM file: the certificate, then those that lead to the root."""
    key: SecretFile
    """PEM file, without a passphrase."""


class TlsSection(Section):
    """`[tls]`: certificates and versions of TLS."""

    certificates: tuple[CertificateSection, ...] = ()
    """Certificates, selected by the name that the client sends; the first is the default. Without any, a self-signed
    one is created."""
    minimum: Literal["1.2", "1.3"] = "1.2"
    """The oldest version that is accepted (RFC 8314 §4.1, RFC 8996)."""
    client_ca: Path | None = None
    """PEM file of the authorities that may issue client certificates. Clients are asked for one only if it is set."""


class ListenerSection(Section):
    """`[[listener]]`: addresses to listen on, and how their sessions behave."""

    role: Role
    """Purpose: `mx` accepts mail from other systems, `submission` from users, `lmtp` from a front end; `http` takes no
    mail."""
    listen: Annotated[tuple[Listen, ...], AfterValidator(not_empty)]
    """Addresses: `host:port` (port 0 chooses a free one); `unix:/path`; or `fd:name`, sockets that a service manager
    passes (LISTEN_FDS)."""
    mode: Mode = 0o660
    """Permissions of a Unix socket's file."""
    tls: Literal["none", "starttls", "implicit"]
    """`none`; `starttls`: clients may upgrade to TLS (RFC 3207); `implicit`: connections start with TLS (RFC 8314
    §3.3)."""
    newlines: Literal["reject", "normalise", "accept"]
    """What to do with a bare CR or LF in content."""
    lenient: tuple[Network, ...] = ()
    """Networks whose clients get `normalise` where `newlines` is `reject`."""
    eight_bit: Literal["accept", "reject"] = "accept"
    """What to do with undeclared 8-bit content (RFC 6152 §3)."""
    hello: Literal["strict", "lenient"]
    """Whether the EHLO name must be a domain or an address literal."""
    addresses: Literal["strict", "lenient"] = "lenient"
    """Whether MAIL and RCPT allow underscores in the domain and stray dots in the local part."""
    long_lines: Literal["accept", "reject"] = "reject"
    """What to do with content that has a line longer than `max_line`."""
    max_line: Annotated[Size, least(size, "998B")] = 1 << 20
    """Maximum length of a line of content in octets (RFC 5321 §4.5.3.1.6 requires at least 998)."""
    auth: Literal["none", "offered", "required"]
    """Whether authentication is offered or required (RFC 4954)."""
    auth_without_tls: Switch = False
    """Allow passwords over a connection without TLS."""
    proxy: tuple[Network, ...] = ()
    """Networks whose connections start with a PROXY header."""
    xclient: tuple[Network, ...] = ()
    """Networks of front ends that may act for other clients: XCLIENT and XFORWARD."""
    pause: Duration = 0.0
    """Delay of the greeting. A client that sends data before it is refused."""
    tls_reports_to: MailAddress | None = None
    """The address that gets the reports about TLS that others post to this listener, which has the role `http`."""
    limits: LimitsSection = LimitsSection()
    """Limits for this listener alone."""

    @model_validator(mode="before")
    @classmethod
    def _by_role(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        role = values.get("role")
        if role == "http":
            if without_effect := sorted(values.keys() & cls.model_fields.keys() - HTTP_KEYS):
                raise ValueError(f'{", ".join(without_effect)}: no effect with role = "http", which takes no mail')
            return {**HTTP_DEFAULTS, **values}
        return {**DEFAULTS.get(role if isinstance(role, str) else "", DEFAULTS["mx"]), **values}

    @property
    def takes_mail(self) -> bool:
        """Whether it receives messages, by SMTP or LMTP."""
        return self.role != "http"

    @model_validator(mode="after")
    def _consistent(self) -> ListenerSection:
        ports = {place.port for place in self.listen if isinstance(place, Endpoint)}
        if self.role == "lmtp" and SMTP_PORT in ports:
            raise ValueError("LMTP must not use port 25 (RFC 2033 §5)")
        if self.lenient and self.newlines != "reject":
            raise ValueError(f'lenient is for newlines = "reject"; with "{self.newlines}" it has no effect')
        if not self.takes_mail:
            if self.tls == "starttls":
                raise ValueError('HTTP has no STARTTLS: set tls = "implicit", or "none" behind a proxy with TLS')
            if without_effect := sorted(self.limits.model_fields_set - HTTP_LIMITS):
                raise ValueError(f'limits.{without_effect[0]} has no effect with role = "http", which takes no mail')
        elif self.tls_reports_to is not None:
            raise ValueError('tls_reports_to is for a listener with role = "http"')
        if self.auth == "required" and self.tls == "none" and not self.auth_without_tls:
            raise ValueError(
                'no client could log in: with tls = "none" passwords would be sent unencrypted; '
                'set tls = "starttls", or allow it with auth_without_tls = true'
            )
        return self
