"""`[[route]]`: which mail goes where, and how the connections for it are opened.

Promises: the first route that matches recipient, sender and login decides; without one, the MX records of the
recipient's domain do. A password or token is never a value of the configuration: it is named, as `file:PATH` or
`env:NAME`.
Refuses: a login without required TLS; anything but one kind of secret for it, and mechanisms that cannot use it.
Standards: RFC 4954 (AUTH), RFC 8314 §3.3 (implicit TLS), RFC 6749 (what a token command prints).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from ironpost.config.auth import Mechanism  # noqa: TC001 - as above
from ironpost.config.listeners import MailRole
from ironpost.config.values import (
    Hop,
    Hostname,
    IPAddressText,
    NullableSenderPattern,
    Pattern,
    Secret,
    SecretFile,
    Section,
    Timeout,
)
from ironpost.model.options import not_empty
from ironpost.model.patterns import EVERY
from ironpost.protocol.sasl import BY_DEFAULT, BY_NAME, Credentials
from ironpost.routing.profile import ClientCertificate, ConnectionProfile, LoginProfile, TokenCommand
from ironpost.routing.tls.levels import TlsUse

LISTENERS: Final = frozenset(get_args(MailRole))
"""Names of tenants that are listeners (`Origin.tenant`)."""


class RouteAuthSection(Section):
    """`[route.auth]`: a login to the smart hosts of the route."""

    user: str = ""
    """The name of the account."""
    password: Secret | None = None
    """Its password, `file:PATH` or `env:NAME`."""
    token: Secret | None = None
    """An OAuth 2.0 access token, `file:PATH` (read for each login) or `env:NAME`."""
    token_command: Annotated[tuple[str, ...], AfterValidator(not_empty)] | None = None
    """A program that prints an access token: its absolute path, and its arguments."""
    token_environment: tuple[str, ...] = ()
    """Environment variables that the program gets besides PATH."""
    token_timeout: Timeout = 30.0
    """Time limit of the program."""
    mechanisms: Annotated[tuple[Mechanism, ...], AfterValidator(not_empty)] | None = None
    """SASL mechanisms that may be used."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        given = [key for key in ("password", "token", "token_command") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{given[0]} and {given[1]} exclude each other")
        if self.password is not None and not self.user:
            raise ValueError("user: a password needs the name of its account")
        self.profile()
        return self

    def profile(self) -> LoginProfile:
        """The login as a value of routing."""
        token = self.token
        command = self.token_command
        return LoginProfile(
            self.user,
            self.password,
            TokenCommand(command, self.token_environment, self.token_timeout) if command is not None else token,
            self.mechanisms,
        )


def _usable(profile: ConnectionProfile, login: LoginProfile) -> bool:
    """Whether one of the login's mechanisms can be used with its kind of secret."""
    credentials = Credentials(
        "user" if login.user else "",
        None if login.password is None else "password",
        None if login.token is None else "token",
        certificate=profile.by_certificate,
    )
    return any(BY_NAME[name].usable(credentials) for name in login.mechanisms or BY_DEFAULT)


class RouteSection(Section):
    """`[[route]]`: the route of some mail. The first that matches decides; without one, the MX records do."""

    domains: Annotated[tuple[Pattern, ...], AfterValidator(not_empty)] = (EVERY,)
    """Domains of recipients: `mail.example` itself, `*.mail.example` for all below it, `*` for every domain."""
    senders: Annotated[tuple[NullableSenderPattern, ...], AfterValidator(not_empty)] | None = None
    """Reverse-paths: `jo@mail.example`, `mail.example`, `*.mail.example`, `*`, or `<>` for the null reverse-path."""
    logins: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], AfterValidator(not_empty)] | None = None
    """Logins of the clients that submitted the mail."""
    smart_host: Annotated[tuple[Hop, ...], AfterValidator(not_empty)] | None = None
    """Next hops in order of preference; default: the exchangers from MX."""
    tls: Literal["none", "may", "encrypt", "verify", "implicit"] | None = None
    """The minimum level of TLS; `implicit` is verified TLS from the first octet."""
    ca: Path | None = None
    """PEM file of the authorities that verify the hosts of this route."""
    source: Annotated[tuple[IPAddressText, ...], AfterValidator(not_empty)] | None = None
    """Local addresses from which connections are made, one for each family."""
    hello: Hostname | None = None
    """Our name in EHLO."""
    certificate: Path | None = None
    """PEM file: our client certificate, then those that lead to the root."""
    key: SecretFile | None = None
    """PEM file with its private key, without a passphrase."""
    auth: RouteAuthSection | None = None
    """A login to the smart hosts."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if clash := LISTENERS.intersection(self.logins or ()):
            raise ValueError(f'logins: "{min(clash)}" is also the name of a listener, so it cannot be told apart')
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ValueError(f"certificate and key are needed together: {missing} is missing")
        if self.auth is not None:
            if self.smart_host is None:
                raise ValueError("auth: a login needs smart_host, because it must not be sent to hosts from DNS")
            if self.tls in {"none", "may"}:
                raise ValueError(
                    f'auth: a login requires TLS, but tls is "{self.tls}": set "encrypt", "verify" or "implicit"'
                )
            secrets = (self.auth.password, self.auth.token, self.auth.token_command, self.certificate)
            if all(each is None for each in secrets):
                raise ValueError("auth: expected password, token or token_command, or a certificate for the route")
        if self.tls == "implicit" and self.smart_host is None:
            raise ValueError('tls: "implicit" needs smart_host, because the hosts from DNS use STARTTLS')
        profile = self.profile()
        if profile is not None and profile.login is not None and not _usable(profile, profile.login):
            raise ValueError("auth.mechanisms: none of them can be used with this secret and user")
        return self

    def profile(self) -> ConnectionProfile | None:
        """How connections are opened, as a value of routing; None if nothing is set.

        Raises:
            ValueError: the keys contradict each other.
        """
        auth = self.auth
        tls = self.tls or ("verify" if auth is not None else None)
        made = ConnectionProfile(
            hello=self.hello or "",
            sources=self.source or (),
            tls=None if tls is None else TlsUse.VERIFY if tls == "implicit" else TlsUse[tls.upper()],
            implicit_tls=tls == "implicit",
            authorities=self.ca,
            certificate=(
                ClientCertificate(self.certificate, self.key)
                if self.certificate is not None and self.key is not None
                else None
            ),
            login=None if auth is None else auth.profile(),
        )
        return None if made == ConnectionProfile() else made
