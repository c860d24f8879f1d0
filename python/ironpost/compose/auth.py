"""The part of the composition that knows who may log in: the accounts of `[auth]` as one authenticator.

Promises: what cannot be had (a hook that is not there, a database without a file) is an error at start and at a reload,
and not at the first login. Where nothing was configured a first account is made, once, so that there is one to try; its
password is shown to whoever starts the server, and kept only as a hash.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.config.auth import Auth
from ironpost.config.schema import LISTENERS
from ironpost.lookup.users import Users, decoy_key
from ironpost.lookup.users_file import UsersFile, UsersFileError
from ironpost.lookup.users_hook import HookError, load
from ironpost.lookup.users_sql import QueryError, UsersSql
from ironpost.protocol.sasl.backoff import LoginBackoff

if TYPE_CHECKING:
    from ironpost.config import Configuration
    from ironpost.lookup.passwords import Pool
    from ironpost.lookup.users import UserSource
    from ironpost.model.ports import Clock, Metrics
    from ironpost.service.news import News

LOGINS: Final = "logins"
"""The topic of `news`."""
FIRST_USER: Final = "you"
"""The local part of the account that is made where nothing was configured."""
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""What its password is made of: nothing that is read as something else, or that a shell minds."""


class Login(NamedTuple):
    """A name and its password."""

    name: str
    password: str


class AuthError(Exception):
    """The accounts cannot be used; the text says which and why."""


def authenticator(configuration: Configuration, pool: Pool | None = None) -> Users | None:
    """Who knows the users; None if no listener lets anybody log in. `pool`: the threads to check passwords in.

    Raises:
        AuthError: a source cannot be read.
    """
    if all(listener.auth == "none" for listener in configuration.listener):
        return None
    found, hook = sources(configuration)
    path = configuration.data / "login.key"
    try:
        key = decoy_key(path)
    except OSError as error:
        raise AuthError(f"{path}: {error.strerror}") from error
    return Users(found, hook, mechanisms=configuration.auth.mechanisms, decoy_key=key, pool=pool)


def sources(configuration: Configuration) -> tuple[list[UserSource], object]:
    """Where accounts are, in their order, and the hook, if there is one. Each was asked once.

    Raises:
        AuthError: one cannot be had.
    """
    auth, file = configuration.auth, UsersFile(configuration.users)
    found: list[UserSource] = [file]
    try:
        file.names()
        if auth.database is not None and auth.query is not None:
            sql = UsersSql(auth.database, auth.query)
            sql.check()
            found.append(sql)
        return found, None if auth.hook is None else load(auth.hook, Path())
    except (UsersFileError, HookError, QueryError) as fault:
        raise AuthError(str(fault)) from fault
    except OSError as error:
        raise AuthError(f"{error.filename}: {error.strerror}") from error


def login_limit(clock: Clock, metrics: Metrics, news: News | None) -> LoginBackoff:
    """Who has to wait before the next login (SECURITY R53); with `news`, wherever the last one was tried."""

    def tell(account: str, ip: str, good: bool) -> None:
        metrics.count("logins", "accepted" if good else "refused")
        if news is not None:
            news.tell(LOGINS, [account, ip, good])

    def hear(told: tuple[str, str, bool]) -> None:
        account, ip, good = told
        (limit.succeeded if good else limit.failed)(account, ip, told=True)

    limit = LoginBackoff(clock, tell=tell)
    if news is not None:
        news.on(LOGINS, hear)
    return limit


def first_login(configuration: Configuration) -> Login | None:
    """Makes an account if neither listeners nor accounts are configured and there is no users file; None otherwise.

    Raises:
        AuthError: the users file cannot be written.
    """
    if configuration.listener != LISTENERS or configuration.auth != Auth() or configuration.users.exists():
        return None
    password = "".join(secrets.choice(ALPHABET) for _ in range(16))
    made = Login(f"{FIRST_USER}@{configuration.local.sample_domain}", password)
    try:
        UsersFile(configuration.users).add(*made)
    except UsersFileError as fault:
        raise AuthError(str(fault)) from fault
    except OSError as error:
        raise AuthError(f"{configuration.users}: {error.strerror}") from error
    return made
