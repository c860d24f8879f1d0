"""Composes authentication: the accounts of `[auth]` as one authenticator.

Promises: unusable accounts (a hook that cannot be loaded, a missing database) are an error at start and at a reload,
not at the first login. If no accounts are configured, the first start creates one for trying the server; its password
is shown once, and only its hash is stored.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.accounts.authenticator import METHODS, Users, decoy_key
from ironpost.accounts.dovecot import DovecotAuth
from ironpost.accounts.file import UsersFile, UsersFileError
from ironpost.accounts.hook import HookError, load
from ironpost.accounts.records_logins import closed
from ironpost.config.auth import AuthSection
from ironpost.config.schema import LISTENERS
from ironpost.model.text import error_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ironpost.accounts.authenticator import UserSource
    from ironpost.accounts.passwords import PasswordPool
    from ironpost.config import Configuration
    from ironpost.routing.directory import Directory

FIRST_USER: Final = "you"
"""Local part of the account that the first start creates."""
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
"""Characters of its password: no ambiguous ones, and none with a meaning for shells."""


class InitialLogin(NamedTuple):
    """A login name and its password."""

    name: str
    password: str


class AuthError(Exception):
    """The accounts cannot be used; the text names them and gives the reason."""


def authenticator(
    configuration: Configuration, pool: PasswordPool | None = None, directory: Callable[[], Directory] | None = None
) -> Users | None:
    """Create the authenticator; None if no listener offers AUTH.

    Args:
        configuration: the configuration.
        pool: threads that check passwords; None to create them.
        directory: returns the directory, which says whose mailbox is disabled; None to let them log in.

    Raises:
        AuthError: a source cannot be read.
    """
    if all(listener.auth == "none" for listener in configuration.listener):
        return None
    found, hooks = sources(configuration)
    path = configuration.data / "login.key"
    try:
        key = decoy_key(path)
    except OSError as error:
        raise AuthError(f"{path}: {error_text(error)}") from error
    domains = configuration.local.domains
    return Users(
        found,
        hooks,
        mechanisms=configuration.auth.offered,
        decoy_key=key,
        pool=pool,
        closed=None if directory is None else lambda login: closed(login, domains, directory()),
    )


def sources(configuration: Configuration) -> tuple[list[UserSource], list[object]]:
    """Open the sources of accounts and load the hooks, in their order; files, databases and code are tried once.

    Raises:
        AuthError: a source cannot be used.
    """
    auth, file = configuration.auth, UsersFile(configuration.users)
    found: list[UserSource] = [file]
    try:
        file.names()
        if auth.database is not None and auth.query is not None:
            found.append(_database(auth.database, auth.query))
        hooks: list[object] = [] if auth.dovecot is None else [DovecotAuth(auth.dovecot)]
        if auth.hook is not None:
            hooks.append(load(auth.hook, configuration.folder, METHODS))
    except (UsersFileError, HookError) as fault:
        raise AuthError(str(fault)) from fault
    except OSError as error:
        raise AuthError(f"{error.filename}: {error_text(error)}") from error
    return found, hooks


def _database(path: Path, query: str) -> UserSource:
    from ironpost.accounts.sql import QueryError, UsersSql  # imports sqlite3, which few configurations need here

    users = UsersSql(path, query)
    try:
        users.check()
    except QueryError as fault:
        raise AuthError(str(fault)) from fault
    return users


def first_login(configuration: Configuration) -> InitialLogin | None:
    """Create an account if neither listeners nor accounts are configured and there is no users file; None otherwise.

    Raises:
        AuthError: the users file cannot be written.
    """
    if configuration.listener != LISTENERS or configuration.auth != AuthSection() or configuration.users.exists():
        return None
    password = "".join(secrets.choice(ALPHABET) for _ in range(16))
    made = InitialLogin(f"{FIRST_USER}@{configuration.local.sample_domain}", password)
    try:
        UsersFile(configuration.users).add(*made)
    except UsersFileError as fault:
        raise AuthError(str(fault)) from fault
    except OSError as error:
        raise AuthError(f"{configuration.users}: {error_text(error)}") from error
    return made
