"""The users file: one account per line, without plain-text passwords.

    ada@mail.example $argon2id$v=19$m=19456,t=2,p=1$... SCRAM-SHA-256$65536:...

Promises: the file has mode 0600 and is replaced atomically; programs that change it do so one after the other. Root
changes it with the rights of the directory's owner, and follows no symbolic link there. A server notices a change at
the next login. Names are compared case-insensitively.
Refuses: a malformed line, with its number; a server that has read the file before keeps the accounts from then.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ironpost.accounts.authenticator import User, new_user, scram_credential, scram_text
from ironpost.accounts.watched_file import WatchedFile
from ironpost.protocol.sasl.names import NAME, PASSWORD, PrepareError, prepare
from ironpost.storage.ownership import acting_for, open_private, replace_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIN_PASSWORD: Final = 8
"""Minimum length of a new password in characters. Existing accounts are not checked."""
_HASH: Final = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_HEADER: Final = "# Accounts of ironpost, written by: ironpost user add|remove NAME\n"


class UsersFileError(ValueError):
    """Not a valid users file, or the change cannot be made; the text says where and why."""


class InvalidCredential(UsersFileError):
    """The name or password is not acceptable (RFC 4013, length, spaces)."""


class UserExists(UsersFileError):
    """An account with that name exists."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} already exists")
        self.name = name


class UserUnknown(UsersFileError):
    """No account has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no such user: {name}")
        self.name = name


class UsersFile:
    """Implements `accounts.authenticator.UserSource`. The file is read when first needed."""

    secrets = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users = WatchedFile(path, _read, "accounts")

    def find(self, login: str) -> User | None:
        """Return the account with that name, or None, from the current file.

        Raises:
            UsersFileError, OSError: the file cannot be read, and never was.
        """
        return self._users.current().get(login.casefold())

    def __contains__(self, name: str) -> bool:
        """Whether an account has that name. Raises: as `find`."""
        return self.find(name) is not None

    def names(self, folder: int | None = None) -> list[str]:
        """Return the names of all accounts, in the order of the file.

        Args:
            folder: the directory's descriptor, as `acting_for` yields it; None to open the file by its path.

        Raises:
            UsersFileError, OSError: the file cannot be read.
        """
        return [user.name for user in _read(self.path, folder).values()]

    def add(self, name: str, password: str, *, replace: bool = False) -> bool:
        """Add an account; with `replace`, change its password if it exists. Return whether it existed.

        Raises:
            UserExists: the account exists, and `replace` is False.
            InvalidCredential: the name or the password cannot be used, or the password is too short.
            UsersFileError: not a valid users file.
            OSError: the file cannot be written.
        """
        form = checked_name(name)
        try:
            if len(prepare(password, PASSWORD)) < MIN_PASSWORD:
                raise InvalidCredential(f"the password is too short: it needs at least {MIN_PASSWORD} characters")
            user = new_user(form, password)
        except PrepareError as fault:
            raise InvalidCredential(f"the password cannot be used: {fault}") from None
        with self._locked() as folder:
            users = _read(self.path, folder)
            known = form.casefold() in users
            if known and not replace:
                raise UserExists(form)
            users[form.casefold()] = user
            self._write(users, folder)
        return known

    def remove(self, name: str) -> str:
        """Remove an account; return its name as it was stored.

        Raises:
            UserUnknown: no account has that name.
            UsersFileError: not a valid users file.
            OSError: the file cannot be written.
        """
        with suppress(PrepareError):  # no account can have it; the error shows it as given
            name = prepare(name)
        with self._locked() as folder:
            users = _read(self.path, folder)
            user = users.pop(name.casefold(), None)
            if user is None:
                raise UserUnknown(name)
            self._write(users, folder)
        return user.name

    def _write(self, users: dict[str, User], folder: int) -> None:
        text = _HEADER + "".join(f"{_line(user)}\n" for user in users.values())
        replace_private(self.path.name, text.encode(), folder)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Serialise changes, with the rights of the directory's owner; yield the directory's descriptor.

        The lock is a separate file because the users file is replaced.
        """
        with acting_for(self.path.parent) as folder:
            lock = open_private(f"{self.path.name}.lock", os.O_RDWR | os.O_CREAT, folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
            finally:
                os.close(lock)


def _read(path: Path, folder: int | None = None) -> dict[str, User]:
    try:
        if folder is None:
            text = path.read_text(encoding="utf-8")
        else:
            with os.fdopen(open_private(path.name, os.O_RDONLY, folder), encoding="utf-8") as file:
                text = file.read()
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise UsersFileError(f"{path} is not UTF-8") from None
    users: dict[str, User] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line and not line.startswith("#"):
            try:
                user = _user(line)
                if user.name.casefold() in users:
                    raise ValueError(f"duplicate account {user.name}")
            except ValueError as fault:
                raise UsersFileError(f"{path}, line {number}: {fault}") from None
            users[user.name.casefold()] = user
    return users


def checked_name(name: str) -> str:
    """Return a name in the form in which it is stored.

    Raises:
        InvalidCredential: not a valid account name.
    """
    try:
        form = prepare(name)
    except PrepareError as fault:
        raise InvalidCredential(f"{name!a} is not a valid name: {fault}") from None
    if not form or len(form.encode()) > NAME or any(character.isspace() for character in form) or form[0] == "#":
        raise InvalidCredential(
            f"{name!a} is not a valid name: expected 1 to {NAME} octets, without spaces, not starting with #"
        )
    return form


def _line(user: User) -> str:
    words = [user.name, user.password or "-"]
    return " ".join(words if user.scram is None else [*words, scram_text(user.scram)])


def _user(line: str) -> User:
    words = line.split(" ")
    if len(words) not in {2, 3} or (words[1] != "-" and _HASH.fullmatch(words[1]) is None):
        raise ValueError("expected a name, an argon2 hash and a SCRAM credential, with one space between them")
    scram = scram_credential(words[2]) if len(words) == 3 else None
    return User(words[0], None if words[1] == "-" else words[1], scram)
