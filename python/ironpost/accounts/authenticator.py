"""Authenticates users against a file, a database and hooks; implements `protocol.sasl.Authenticator`.

Promises: sources are consulted in their order, and the first that knows the name decides. An unknown name takes as long
as a wrong password. Everything that blocks (hashes, databases) runs in a few threads. A mechanism is offered only if a
source has what it needs: SCRAM credentials for SCRAM, plain-text passwords for CRAM-MD5, a hook that verifies tokens
for OAuth.

For EXTERNAL, the e-mail and DNS names of a verified certificate, or the Unix user of a local connection, are account
names, unless the hook decides.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from base64 import b64decode, b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ironpost.accounts.passwords import PasswordChecker, PasswordPool, hash_password
from ironpost.model.blocking import blocks
from ironpost.model.network import client_network
from ironpost.protocol.sasl import BY_DEFAULT, ScramCredential
from ironpost.protocol.sasl.scram import MIN_ITERATIONS, credential

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from ironpost.protocol.server.session import ServerSession

LOG = logging.getLogger("ironpost.accounts")
METHODS: Final = ("verify_password", "scram", "shared_secret", "verify_token", "external", "may_act_as")
"""The methods of `protocol.sasl.Authenticator`."""
SALT: Final = 16
"""Length of the salt in a SCRAM credential, in octets."""
_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)")


class User(NamedTuple):
    """One account."""

    name: str
    password: str | None = None
    """argon2 hash, `$argon2id$...`; None if the account has no password."""
    scram: ScramCredential | None = None
    secret: str | None = None
    """The password in plain text, needed for CRAM-MD5 only."""


class UserSource(Protocol):
    """A source of accounts."""

    secrets: bool
    """Whether accounts may have plain-text passwords."""

    def find(self, login: str) -> User | None:
        """Return the account with a login name, or None. May block; called from any thread.

        Raises:
            Exception: the source cannot be read; the client gets 454.
        """
        ...


def new_user(name: str, password: str) -> User:
    """Create an account with what PLAIN, LOGIN and SCRAM need, without the password itself; takes about 50 ms.

    Raises:
        PrepareError: the password contains a character that RFC 4013 prohibits.
    """
    return User(name, hash_password(password), credential(password, secrets.token_bytes(SALT)))


def scram_text(stored: ScramCredential) -> str:
    """Format a credential as text, in the form that PostgreSQL also uses."""
    salt, *keys = (b64encode(octets).decode() for octets in (stored.salt, stored.stored_key, stored.server_key))
    return f"SCRAM-SHA-256${stored.iterations}:{salt}${':'.join(keys)}"


def scram_credential(text: str) -> ScramCredential:
    """Parse a credential that `scram_text` wrote.

    Raises:
        ValueError: not a valid SCRAM credential.
    """
    found = _SCRAM.fullmatch(text)
    if found is None:
        raise ValueError("not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
    iterations = int(found[1])
    if iterations < MIN_ITERATIONS:
        raise ValueError(f"{iterations} iterations of SCRAM; minimum: {MIN_ITERATIONS}")
    return ScramCredential(b64decode(found[2], validate=True), iterations, b64decode(found[3]), b64decode(found[4]))


KEY: Final = 32
"""Length of the key for decoy salts, in octets."""


def decoy_key(path: Path) -> bytes:
    """Read the key from which salts for unknown users are derived; create it, mode 0600, if it does not exist.

    A file that is too short was left by a crash, and is replaced.

    Raises:
        OSError: it cannot be read or written.
    """
    with suppress(FileNotFoundError):
        if len(key := path.read_bytes()) >= KEY:
            return key
        path.unlink()
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(secrets.token_bytes(KEY))
        out.flush()
        os.fsync(out.fileno())
    try:
        with suppress(FileExistsError):  # several workers start at once and must use the same key
            path.hardlink_to(new)
    finally:
        new.unlink()
    return path.read_bytes()


class Users:
    """Implements `protocol.sasl.Authenticator`, with the methods that its sources support."""

    def __init__(
        self,
        sources: Iterable[UserSource] = (),
        hooks: Iterable[object] = (),
        *,
        mechanisms: Collection[str] = BY_DEFAULT,
        decoy_key: bytes | None = None,
        pool: PasswordPool | None = None,
        closed: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        """Create an authenticator; nothing is read yet.

        Args:
            sources: consulted in this order.
            hooks: objects with some of the methods of `protocol.sasl.Authenticator`, called in this order for names
                that no source knows, until one returns a result. Methods that block are marked
                `server.hooks.blocking`.
            mechanisms: SASL mechanisms that may be offered.
            decoy_key: from the function of that name; None for a random key that lasts until the server stops.
            pool: threads for blocking work; a reload passes on the pool of the previous authenticator.
            closed: returns why an account must not be used although its credentials are right; empty if it may be.
        """
        self.mechanisms = mechanisms
        if decoy_key is not None:
            self.decoy_key = decoy_key
        self.decoy_iterations: int | None = None
        """SCRAM iteration count shown to unknown users: that of the account looked up last, as with password hashes."""
        self._sources = tuple(sources)
        self._hooks = tuple(hooks)
        self._pool = PasswordPool() if pool is None else pool
        self._checker = PasswordChecker()
        self._closed = closed
        hooked = {method for method in METHODS if any(self._hooked(method))}
        ours: set[str] = set()
        if self._sources:
            ours = {"verify_password", "scram"}
            if "shared_secret" in hooked or any(source.secrets for source in self._sources):
                ours.add("shared_secret")
            if "external" not in hooked:
                ours.add("external")
        self._ours, self._hook_methods = frozenset(ours), frozenset(hooked)

    def __getattr__(self, method: str) -> Any:
        """Look up a method; one that no source supports does not exist, since `hasattr` decides what is offered.

        Bound methods are not stored as attributes: they would form reference cycles, which keep the accounts from
        before each reload in memory until the garbage collector runs.
        """
        if method in METHODS and method in self._ours | self._hook_methods:
            call = getattr(self, f"_{method}") if method in self._ours else partial(self._ask, method)
            return (
                call if self._closed is None or method == "may_act_as" else partial(self._unless_closed, method, call)
            )
        raise AttributeError(f"{type(self).__name__} has no {method}", name=method, obj=self)

    async def _unless_closed(
        self, method: str, call: Callable[..., Awaitable[Any]], session: ServerSession, *given: str
    ) -> Any:
        """Call a method; return None, as for wrong credentials, if the account that it found must not be used."""
        found = await call(session, *given)
        if found is None or self._closed is None:
            return found
        name = found
        if method in {"scram", "shared_secret"}:  # what these return is not a name
            name = getattr(found, "name", "") or given[0]
        if why := await self._closed(name):
            LOG.info("%s cannot log in: %s", name, why)
            return None
        return found

    async def _verify_password(self, session: ServerSession, login: str, password: str) -> str | None:
        user, right = await self._pool.run_for(client_network(session.peer.ip), self._check, login, password)
        if user is not None:
            return user.name if right else None
        return await self._ask("verify_password", session, login, password)  # type: ignore[no-any-return]

    async def _scram(self, session: ServerSession, login: str) -> ScramCredential | None:
        user = await self._pool.run_for(client_network(session.peer.ip), self._find, login)
        if user is None:
            return await self._ask("scram", session, login)  # type: ignore[no-any-return]
        if user.scram is None:
            return None
        self.decoy_iterations = user.scram.iterations
        return user.scram._replace(name=user.name)

    async def _shared_secret(self, session: ServerSession, login: str) -> str | None:
        user = await self._pool.run_for(client_network(session.peer.ip), self._find, login)
        return user.secret if user is not None else await self._ask("shared_secret", session, login)

    async def _external(self, session: ServerSession, authzid: str) -> str | None:
        tls = session.tls
        for known in (session.peer.user, *(() if tls is None else tls.names)):
            user = await self._pool.run_for(client_network(session.peer.ip), self._find, known) if known else None
            if user is not None and authzid in {"", user.name, known}:
                return user.name
        return None

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the hooks; return the first answer, or None if there is none."""
        for call in self._hooked(method):
            answer: Any = call(*arguments)
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer is not None:
                return answer
        return None

    def _hooked(self, method: str) -> Iterator[Callable[..., Any]]:
        """The method of each hook that has it; one that is marked `@blocking` runs in a thread."""
        for hook in self._hooks:
            call = getattr(hook, method, None)
            if callable(call):
                yield partial(self._pool.run, call) if blocks(call) else call

    def _check(self, login: str, password: str) -> tuple[User | None, bool]:
        user = self._find(login)
        return user, self._checker.check(None if user is None else user.password, password)

    def _find(self, login: str) -> User | None:
        for source in self._sources:
            user = source.find(login)
            if user is not None:
                return user
        return None
