"""How the connections of one route are opened: source address, name in EHLO, TLS, client certificate, login.

Promises: a profile is a value that names its secrets and never contains one, so that it can be shown, logged and
compared; routes with different profiles never share a connection (SECURITY R39). `delivery.access` reads what it names.
Refuses: a login without required TLS, because a password must not be sent unencrypted (SECURITY R13).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from ironpost.routing.tls.levels import TlsUse

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self


class SecretSource(NamedTuple):
    """Where a secret is kept: a file, or an environment variable."""

    kind: Literal["file", "env"]
    name: str
    """The path of the file, or the name of the variable."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `file:PATH` or `env:NAME`.

        Raises:
            ValueError: the text has another form.
        """
        kind, _, name = text.partition(":")
        if not name or "\0" in name or (kind == "env" and "=" in name):
            raise ValueError(_EXPECTED)
        if kind == "file":
            return cls("file", name)
        if kind == "env":
            return cls("env", name)
        raise ValueError(_EXPECTED)

    @property
    def path(self) -> Path | None:
        """The file; None for a variable."""
        return Path(self.name) if self.kind == "file" else None

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


_EXPECTED: Final = 'a secret is named by its file or its environment variable, like "file:secrets/relay" or "env:RELAY"'


@dataclass(frozen=True, slots=True)
class TokenCommand:
    """A program that prints an OAuth 2.0 access token, run without a shell (SECURITY R40)."""

    argv: tuple[str, ...]
    """The program's absolute path, and its arguments."""
    environment: tuple[str, ...] = ()
    """Names of the environment variables that it gets besides PATH."""
    timeout: float = 30.0
    """Seconds after which it is killed."""

    def __post_init__(self) -> None:
        if not self.argv or not Path(self.argv[0]).is_absolute():
            raise ValueError('expected the absolute path of a program and its arguments, like ["/usr/local/bin/token"]')
        if any("\0" in argument for argument in self.argv):
            raise ValueError("an argument contains NUL")

    def __str__(self) -> str:
        return f"command {self.argv[0]}"


@dataclass(frozen=True, slots=True)
class LoginProfile:
    """A login to smart hosts (RFC 4954), with exactly one kind of secret, or with a client certificate (EXTERNAL)."""

    user: str = ""
    """The name of the account; may be empty with a client certificate, or with a token that names it."""
    password: SecretSource | None = None
    token: SecretSource | TokenCommand | None = None
    """Provides an OAuth 2.0 access token."""
    mechanisms: Collection[str] | None = None
    """The names of the SASL mechanisms that may be used; None for the default."""

    def __str__(self) -> str:
        return f"login {self.user}" if self.user else "login by certificate or token"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """The certificate with which we authenticate in TLS."""

    chain: Path
    """PEM file: the certificate, then those that lead to the root."""
    key: Path
    """PEM file, without a passphrase."""


@dataclass(frozen=True, slots=True)
class ConnectionProfile:
    """See the module. Everything has a default, for which the value is empty or None."""

    hello: str = ""
    """Our name in EHLO: a domain."""
    sources: tuple[str, ...] = ()
    """The addresses from which connections are made, at most one for each family. A family without one is not used."""
    tls: TlsUse | None = None
    """The least TLS; a stronger requirement of a policy takes precedence."""
    implicit_tls: bool = False
    """Connections start with TLS (RFC 8314 §3)."""
    authorities: Path | None = None
    """PEM file of the authorities that verify the hosts."""
    certificate: ClientCertificate | None = None
    login: LoginProfile | None = None

    def __post_init__(self) -> None:
        families = [ip_address(source).version for source in self.sources]
        if len(set(families)) < len(families):
            raise ValueError("at most one source address for each of IPv4 and IPv6")
        if self.implicit_tls and (self.tls is None or self.tls < TlsUse.ENCRYPT):
            raise ValueError("connections that start with TLS require it")
        if self.login is not None and (self.tls is None or self.tls < TlsUse.ENCRYPT):
            raise ValueError("a login requires TLS")

    @property
    def by_certificate(self) -> bool:
        """Whether the login may use the client certificate (EXTERNAL): it has no secret, or names the mechanism."""
        login = self.login
        if self.certificate is None or login is None:
            return False
        return (login.password is None and login.token is None) or "EXTERNAL" in (login.mechanisms or ())

    def source(self, ip: str) -> str | None:
        """The address from which to connect to `ip`; None if the system chooses it.

        Raises:
            ValueError: there are source addresses, but none of the family of `ip`.
        """
        if not self.sources:
            return None
        version = ip_address(ip).version
        for source in self.sources:
            if ip_address(source).version == version:
                return source
        raise ValueError(f"no source address for IPv{version}")

    def __str__(self) -> str:
        parts = [
            f"as {self.hello}" if self.hello else "",
            f"from {' or '.join(self.sources)}" if self.sources else "",
            f"TLS {'implicit, ' if self.implicit_tls else ''}{self.tls}" if self.tls is not None else "",
            f"certificate {self.certificate.chain}" if self.certificate is not None else "",
            str(self.login) if self.login is not None else "",
        ]
        return ", ".join(part for part in parts if part)
