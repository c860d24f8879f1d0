"""The part of the composition that knows who may log in: the accounts of `[auth]` as one authenticator.

Promises: what cannot be had (a hook that is not there, a database without a file) is an error at start and at a reload,
and not at the first login.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.lookup.users import Users, decoy_key
from ironpost.lookup.users_file import UsersFile, UsersFileError
from ironpost.lookup.users_hook import HookError, load
from ironpost.lookup.users_sql import QueryError, UsersSql
from ironpost.protocol.sasl.backoff import LoginBackoff

if TYPE_CHECKING:
    from ironpost.config import Configuration
    from ironpost.lookup.users import UserSource
    from ironpost.model.ports import Clock
    from ironpost.protocol.sasl.backoff import LoginLimit
    from ironpost.service.news import News

LOGINS: Final = "logins"
"""The topic of `news`."""


class AuthError(Exception):
    """The accounts cannot be used; the text says which and why."""


class Logins(NamedTuple):
    """What listeners where clients can log in have in common."""

    users: Users | None
    limit: LoginLimit
    """It outlives a reload."""


def authenticator(configuration: Configuration) -> Users | None:
    """Who knows the users; None if no listener lets anybody log in.

    Raises:
        AuthError: a source cannot be read.
    """
    if all(listener.auth == "none" for listener in configuration.listener):
        return None
    auth = configuration.auth
    file = UsersFile(configuration.users)
    sources: list[UserSource] = [file]
    try:
        file.names()
        if auth.database is not None and auth.query is not None:
            sql = UsersSql(auth.database, auth.query)
            sql.check()
            sources.append(sql)
        hook = None if auth.hook is None else load(auth.hook, Path())
        key = decoy_key(configuration.data / "login.key")
    except (UsersFileError, HookError, QueryError) as fault:
        raise AuthError(str(fault)) from fault
    except OSError as error:
        raise AuthError(f"{error.filename}: {error.strerror}") from error
    return Users(sources, hook, mechanisms=auth.mechanisms, decoy_key=key)


def login_limit(clock: Clock, news: News | None) -> LoginBackoff:
    """Who has to wait before the next login (SECURITY R53); with `news`, wherever the last one was tried."""
    if news is None:
        return LoginBackoff(clock)

    def tell(account: str, ip: str, good: bool) -> None:
        news.tell(LOGINS, [account, ip, good])

    def hear(told: tuple[str, str, bool]) -> None:
        account, ip, good = told
        (limit.succeeded if good else limit.failed)(account, ip, told=True)

    limit = LoginBackoff(clock, tell=tell)
    news.on(LOGINS, hear)
    return limit
