"""Who may log in: the accounts of a file, of a database and of a hook, as one `protocol.sasl.Authenticator`.

Promises: the sources are asked in their order, and the first that knows the name decides. An unknown name costs as much
as a wrong password. Everything that blocks (hashes, databases) runs in a few threads. A mechanism can be offered only
where a source has what it needs: SCRAM where one holds credentials for it, CRAM-MD5 where one holds secrets in clear,
tokens where the hook verifies them.

EXTERNAL takes the e-mail and DNS names of a verified certificate, or the Unix user of a local connection, for the name
of an account, unless the hook decides.
"""

from __future__ import annotations

import os
import re
import secrets
from base64 import b64decode, b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from ironpost.lookup.passwords import PasswordChecker, Pool, hash_password
from ironpost.protocol.sasl import BY_DEFAULT, ScramCredential
from ironpost.protocol.sasl.backoff import network_of
from ironpost.protocol.sasl.scram import LEAST_ITERATIONS, credential
from ironpost.server.hooks import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from ironpost.protocol.server import ServerSession

METHODS: Final = ("verify_password", "scram", "shared_secret", "verify_token", "external", "may_act_as")
"""Those of `protocol.sasl.Authenticator`."""
SALT: Final = 16
"""Octets of salt in a SCRAM credential."""
_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{43}=)")


class User(NamedTuple):
    """One account."""

    name: str
    password: str | None = None
    """`$argon2id$...`; None if it has no password."""
    scram: ScramCredential | None = None
    secret: str | None = None
    """The password in clear, which only CRAM-MD5 needs."""


class UserSource(Protocol):
    """Where accounts are."""

    secrets: bool
    """It may hold secrets in clear."""

    def find(self, login: str) -> User | None:
        """The account that a client means. May block; called in any thread.

        Raises:
            Exception: the source cannot be read, so nobody can tell: 454.
        """
        ...


def new_user(name: str, password: str) -> User:
    """An account with all that PLAIN, LOGIN and SCRAM need of a password, and not the password; about 50 ms.

    Raises:
        PrepareError: the password holds what RFC 4013 prohibits.
    """
    return User(name, hash_password(password), credential(password, secrets.token_bytes(SALT)))


def scram_text(stored: ScramCredential) -> str:
    """A credential as text, in the form that PostgreSQL also uses."""
    salt, *keys = (b64encode(octets).decode() for octets in (stored.salt, stored.stored_key, stored.server_key))
    return f"SCRAM-SHA-256${stored.iterations}:{salt}${':'.join(keys)}"


def scram_credential(text: str) -> ScramCredential:
    """What `scram_text` gave.

    Raises:
        ValueError: it is none.
    """
    found = _SCRAM.fullmatch(text)
    if found is None:
        raise ValueError("not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
    iterations = int(found[1])
    if iterations < LEAST_ITERATIONS:
        raise ValueError(f"{iterations} iterations of SCRAM; the least is {LEAST_ITERATIONS}")
    return ScramCredential(b64decode(found[2], validate=True), iterations, b64decode(found[3]), b64decode(found[4]))


KEY: Final = 32
"""Octets of the key of decoy salts."""


def decoy_key(path: Path) -> bytes:
    """The secret that keys the salts which unknown users are shown; made, 0600, if the file does not exist.

    A file that is too short for one was left by a crash, and is made anew.

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
        with suppress(FileExistsError):  # several workers start at one time, and must have the same key
            path.hardlink_to(new)
    finally:
        new.unlink()
    return path.read_bytes()


class Users:
    """Implements `protocol.sasl.Authenticator`, with the methods that its sources allow."""

    def __init__(
        self,
        sources: Iterable[UserSource] = (),
        hook: object = None,
        *,
        mechanisms: Collection[str] = BY_DEFAULT,
        decoy_key: bytes | None = None,
        pool: Pool | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            sources: in the order in which they are asked.
            hook: an object with some of the methods of `protocol.sasl.Authenticator`, asked for names that no source
                knows. Methods that block are marked `server.hooks.blocking`.
            mechanisms: those that may be offered.
            decoy_key: see the function of that name; None for one that lasts as long as the server.
            pool: the threads for what blocks, which may be shared with the accounts of before a reload.
        """
        self.mechanisms = mechanisms
        if decoy_key is not None:
            self.decoy_key = decoy_key
        self.decoy_iterations: int | None = None
        """Of SCRAM that unknown users are shown: those of the account that was asked for last, as with passwords."""
        self._sources = tuple(sources)
        self._hook = hook
        self._pool = Pool() if pool is None else pool
        self._checker = PasswordChecker()
        hooked = {method for method in METHODS if callable(getattr(hook, method, None))}
        ours: set[str] = set()
        if self._sources:
            ours = {"verify_password", "scram"}
            if "shared_secret" in hooked or any(source.secrets for source in self._sources):
                ours.add("shared_secret")
            if "external" not in hooked:
                ours.add("external")
        self._ours, self._hooks = frozenset(ours), frozenset(hooked)

    def __getattr__(self, method: str) -> Any:
        """What cannot be answered does not exist: `hasattr` decides on the offer.

        Not attributes that hold bound methods: those are cycles, which keep the accounts of before each reload in
        memory until the collector comes to them.
        """
        if method in METHODS:
            if method in self._ours:
                return getattr(self, f"_{method}")
            if method in self._hooks:
                return self._hooked(method)
        raise AttributeError(f"{type(self).__name__} has no {method}", name=method, obj=self)

    async def _verify_password(self, session: ServerSession, login: str, password: str) -> str | None:
        user, right = await self._pool.run_for(network_of(session.peer.ip), self._check, login, password)
        if user is not None:
            return user.name if right else None
        return await self._ask("verify_password", session, login, password)  # type: ignore[no-any-return]

    async def _scram(self, session: ServerSession, login: str) -> ScramCredential | None:
        user = await self._pool.run_for(network_of(session.peer.ip), self._find, login)
        if user is None:
            return await self._ask("scram", session, login)  # type: ignore[no-any-return]
        if user.scram is None:
            return None
        self.decoy_iterations = user.scram.iterations
        return user.scram._replace(name=user.name)

    async def _shared_secret(self, session: ServerSession, login: str) -> str | None:
        user = await self._pool.run_for(network_of(session.peer.ip), self._find, login)
        return user.secret if user is not None else await self._ask("shared_secret", session, login)

    async def _external(self, session: ServerSession, authzid: str) -> str | None:
        tls = session.tls
        for known in (session.peer.user, *(() if tls is None else tls.names)):
            user = await self._pool.run_for(network_of(session.peer.ip), self._find, known) if known else None
            if user is not None and authzid in {"", user.name, known}:
                return user.name
        return None

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """The hook's answer, None if it has no such method."""
        call = self._hooked(method)
        answer: Any = None if call is None else call(*arguments)
        return (await answer) if hasattr(answer, "__await__") else answer

    def _hooked(self, method: str) -> Callable[..., Any] | None:
        """A method of the hook; what is marked `@blocking` runs in a thread."""
        call = getattr(self._hook, method, None)
        return partial(self._pool.run, call) if call is not None and blocks(call) else call

    def _check(self, login: str, password: str) -> tuple[User | None, bool]:
        user = self._find(login)
        return user, self._checker.check(None if user is None else user.password, password)

    def _find(self, login: str) -> User | None:
        for source in self._sources:
            user = source.find(login)
            if user is not None:
                return user
        return None
