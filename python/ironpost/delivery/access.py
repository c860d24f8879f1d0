"""What the connection profiles of routes name, as it was read: client certificates, authorities, and logins.

Promises: everything a configuration names is read before it is used, at start and at a reload; a change that cannot be
read changes nothing. Connections that were opened with other secrets or certificates are not reused. After a host
rejects a login, it is not tried again for `REJECTED_SECONDS`, so that the account is not locked; until a host has
accepted it, connections are opened one at a time. A rejected token is renewed once before that. Secrets are never
logged.
Standards: RFC 4954 §6 (535), RFC 7628 §3.2.2 and §3.2.3 (a rejected token).
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.client.tls import encrypting, verifying
from ironpost.delivery.secrets import SecretError, Tokens, read_secret, read_token
from ironpost.model import Reply
from ironpost.model.text import error_text
from ironpost.protocol.sasl import BY_DEFAULT, Credentials, PrepareError
from ironpost.routing.profile import SecretSource
from ironpost.server.tls import TlsError, present, trust

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path
    from typing import Self

    from ironpost.model.tls import Verifier
    from ironpost.routing.profile import ConnectionProfile

REJECTED_SECONDS: Final = 30.0
"""Seconds after a rejected login in which it is not tried again."""


class AccessError(Exception):
    """A file or variable that a profile names cannot be used; the text is the key in `[[route]]`, and the reason."""


class NoLoginError(Exception):
    """There is no login now; `reply` says why."""

    def __init__(self, reply: Reply, *, ours: bool) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.ours = ours
        """The cause is this server's configuration, and has not been reported yet."""


class Login(NamedTuple):
    """A login for one connection."""

    credentials: Credentials
    mechanisms: Collection[str]
    new_token: bool = False
    """The token was obtained for this connection, so that it need not be renewed if it is rejected."""


class Access:
    """What one profile names."""

    def __init__(
        self,
        profile: ConnectionProfile,
        *,
        password: str | None,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None,
        fingerprint: bytes,
    ) -> None:
        """Use `read`.

        Args:
            profile: the profile.
            password: of the login; None if it has none.
            contexts: the TLS contexts that accept any certificate, and that verify it; None for the default ones.
            fingerprint: differs if the password or a file that the profile names has changed.
        """
        self.profile = profile
        self.fingerprint = fingerprint
        self._password = password
        self._contexts = contexts
        login = profile.login
        self._tokens = None if login is None or login.token is None else Tokens(login.token)
        self._external = profile.by_certificate
        self._rejected_until = 0.0
        """Time of the event loop's clock until which the login is not tried."""
        self._rejection: Reply | None = None
        self._accepted = login is None
        """A host has accepted the login, and none has rejected it since."""
        self._first = asyncio.Lock()

    @classmethod
    def read(cls, profile: ConnectionProfile, authorities: Path | None) -> Self:
        """Read the files and variables that a profile names. Tokens are not kept, because they change.

        Args:
            profile: the profile.
            authorities: those that verify hosts if the profile names none; the system's if None.

        Raises:
            AccessError: one of them cannot be used.
        """
        digest = hashlib.sha256()
        password = contexts = None
        login, mine = profile.login, profile.certificate
        key = "auth"
        try:
            if login is not None and login.password is not None:
                key = "auth.password"
                password = read_secret(login.password)
                digest.update(hashlib.sha256(password.encode()).digest())
            elif login is not None and isinstance(login.token, SecretSource):
                key = "auth.token"
                read_token(login.token)
            if login is not None:
                key = "auth"
                Credentials(login.user, password)
            files = {"ca": profile.authorities}
            if mine is not None:
                files |= {"certificate": mine.chain, "key": mine.key}
            # Before they are loaded: what changes meanwhile is loaded again by the next reload.
            for name, file in files.items():
                key = name
                digest.update(hashlib.sha256(b"" if file is None else file.read_bytes()).digest())
            if any(files.values()):
                key = "ca"
                contexts = encrypting(), _verifying(profile.authorities or authorities)
            if mine is not None and contexts is not None:
                for context in contexts:
                    present(context, mine.chain, mine.key)
        except PrepareError as error:
            raise AccessError(f"{key}: the user name or the password cannot be used: {error}") from None
        except OSError as error:
            raise AccessError(f"{key}: {error.filename}: {error_text(error)}") from None
        except TlsError as error:
            key = next((key for key, file in files.items() if file == error.path), key)
            raise AccessError(f"{key}: {error}") from None
        except SecretError as error:
            raise AccessError(f"{key}: {error}") from None
        return cls(profile, password=password, contexts=contexts, fingerprint=digest.digest())

    def context(self, verifier: Verifier) -> ssl.SSLContext | None:
        """The TLS context with which a verifier can be used; None for the default one."""
        return None if self._contexts is None else self._contexts[verifier.uses_authorities]

    @asynccontextmanager
    async def one_at_a_time(self) -> AsyncIterator[None]:
        """Open connections one after the other until a host has accepted the login: a wrong one is tried once."""
        if not self._accepted:
            async with self._first:
                if not self._accepted:
                    yield
                    return
        yield

    async def login(self, host: str, port: int) -> Login | None:
        """The login for a connection to a smart host; None if the profile has none.

        Raises:
            NoLoginError: there is none now.
        """
        login = self.profile.login
        if login is None:
            return None
        if self._rejection is not None and asyncio.get_running_loop().time() < self._rejected_until:
            text = f"Login not tried for {REJECTED_SECONDS:g} seconds after it was rejected: {self._rejection}"
            raise NoLoginError(Reply(454, "4.7.0", (text,)), ours=False)
        token, new = None, False
        try:
            if self._tokens is not None:
                token, new = await self._tokens.get()
            credentials = Credentials(
                login.user, self._password, token,
                certificate=self._external, host=host, port=port,
            )  # fmt: skip
        except (SecretError, PrepareError) as error:
            raise NoLoginError(Reply(451, "4.7.0", ("No access token",)).because(str(error)), ours=True) from None
        return Login(credentials, login.mechanisms or BY_DEFAULT, new)

    def accepted(self) -> None:
        """Record that a host accepted the login."""
        self._accepted = True

    def rejected(self, login: Login, reply: Reply) -> bool:
        """Record that a host rejected a login; return whether a renewed token should be tried at once."""
        if self._tokens is not None and login.credentials.token is not None:
            self._tokens.rejected(login.credentials.token)
            if not login.new_token:
                return True
        self._accepted = False
        self._rejection = reply
        self._rejected_until = asyncio.get_running_loop().time() + REJECTED_SECONDS
        return False

    @property
    def runs_programs(self) -> bool:
        """Whether a token program may be running."""
        return self._tokens is not None

    async def close(self) -> None:
        """End a token program that is running."""
        if self._tokens is not None:
            await self._tokens.close()


class Accesses:
    """The access of each profile."""

    def __init__(self, authorities: Path | None = None) -> None:
        """`authorities` verify hosts if a profile names none; the system's if None."""
        self._authorities = authorities
        self._by_profile: dict[ConnectionProfile, Access] = {}
        self._replaced: list[Access] = []

    def of(self, profile: ConnectionProfile | None) -> Access | None:
        """The access of a profile; None for None. One that was not prepared is read now.

        After a reload there may be mail whose route was decided before it.

        Raises:
            AccessError: it cannot be read.
        """
        if profile is None:
            return None
        found = self._by_profile.get(profile)
        if found is None:
            found = self._by_profile[profile] = Access.read(profile, self._authorities)
        return found

    def prepare(self, profile: ConnectionProfile) -> Access:
        """Read what a profile names; if its secrets and files did not change, return the access in use.

        Raises:
            AccessError: it cannot be read.
        """
        made, known = Access.read(profile, self._authorities), self._by_profile.get(profile)
        return made if known is None or known.fingerprint != made.fingerprint else known

    def use(self, prepared: dict[ConnectionProfile, Access]) -> None:
        """Use these results of `prepare` from now on."""
        current = set(prepared.values())
        self._replaced += [each for each in self._by_profile.values() if each not in current and each.runs_programs]
        self._by_profile = prepared

    async def close(self) -> None:
        """End token programs that are running."""
        for each in (*self._by_profile.values(), *self._replaced):
            await each.close()


def _verifying(authorities: Path | None) -> ssl.SSLContext:
    if authorities is None:
        return verifying(common_name=False)
    context = encrypting()
    trust(context, authorities)  # before `verifying`, for an error that names the file
    return verifying(str(authorities), common_name=False)
