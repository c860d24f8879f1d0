"""Logins and their mailboxes: a person who may log in gets mail, too, and a disabled mailbox cannot log in.

Promises: a login that is an address of a local domain is a mailbox; one without a domain is a mailbox in each local
domain that is listed by its name, not by a pattern. A change of the file counts as in `accounts.records_files`.
Limitations: accounts in a database, in Dovecot or of a hook cannot be listed, so they are not mailboxes by themselves.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ironpost.accounts.file import UsersFile
from ironpost.accounts.records_files import RecordFile
from ironpost.accounts.watched_file import WatchedFile
from ironpost.model import Address
from ironpost.model.patterns import Domains
from ironpost.routing.directory import DISABLED, Alias, Closed
from ironpost.routing.mail_directory import key_of
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ironpost.model.ports import Clock
    from ironpost.routing.directory import Directory


def login_file(path: Path, domains: Sequence[str], clock: Clock) -> RecordFile:
    """Return the source of a users file. Blocks.

    Args:
        path: the file; it may not exist yet.
        domains: the local domains, as patterns.
        clock: the clock.

    Raises:
        ValueError, OSError: the file cannot be used.
    """
    return RecordFile(WatchedFile(path, partial(_read, domains), "mailboxes of logins"), clock)


def addresses_of(login: str, domains: Sequence[str]) -> list[Address]:
    """The addresses of a login, which are all in local domains.

    Args:
        login: the name of the account.
        domains: the local domains, as patterns.
    """
    local = Domains(domains)
    names = [login] if "@" in login else [f"{login}@{domain}" for domain in domains if "*" not in domain]
    found = []
    for name in names:
        try:
            address = Address.parse(name)
        except ValueError:  # not every name of an account can be an address
            continue
        if address.key in local:
            found.append(address)
    return found


async def closed(login: str, domains: Sequence[str], directory: Directory) -> str:
    """Return why an account must not be used: the mailbox at one of its addresses is disabled; empty if it may be.

    Raises:
        DirectoryError: the directory cannot answer now.
    """
    for address in addresses_of(login, domains):
        found = directory.find(address)
        entry = found if isinstance(found, tuple) else await found
        if isinstance(entry, Alias) and entry.disabled:
            return f"{entry.reason}, disabled"
        if isinstance(entry, Closed) and entry.reply == DISABLED:
            return entry.reason
    return ""


def _read(domains: Sequence[str], path: Path) -> Mapping[str, Record]:
    return {
        key_of(address): Record(f"the login {login}")
        for login in UsersFile(path).names()
        for address in addresses_of(login, domains)
    }
