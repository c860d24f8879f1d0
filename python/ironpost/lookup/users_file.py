"""The users file: one account a line, which holds no password.

    ada@mail.example $argon2id$v=19$m=19456,t=2,p=1$... SCRAM-SHA-256$65536:...

Promises: the file is 0600, is replaced as a whole or not at all, and two programs that change it do so one after the
other. Root changes it with the rights of the directory's owner, and follows no link that was put there. A server that
reads it notices a change at the next login. Names are compared without regard to case.
Refuses: a line of another form, with its number; a server that has read the file before goes on with what it read.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ironpost.lookup.users import User, new_user, scram_credential, scram_text
from ironpost.protocol.sasl.names import NAME, PASSWORD, PrepareError, prepare
from ironpost.storage.ownership import acting_for, open_private, replace_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOG = logging.getLogger("ironpost.lookup")
SHORTEST_PASSWORD: Final = 8
"""Characters in a password, at least. Accounts that are in the file already are not judged."""
_HASH: Final = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_HEADER: Final = "# Accounts of ironpost, written by: ironpost user add|remove NAME\n"
_Stamp = tuple[int, int, int]


class UsersFileError(ValueError):
    """The file is none, or the change cannot be made; the text says where and why."""


class WordError(UsersFileError):
    """A name cannot be used, or a password cannot or should not be."""


class UserExists(UsersFileError):
    """There is an account of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists already")
        self.name = name


class UserUnknown(UsersFileError):
    """There is no account of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no user {name}")
        self.name = name


class UsersFile:
    """Implements `lookup.users.UserSource`. Nothing is read before it is asked for."""

    secrets = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users: dict[str, User] | None = None
        self._stamp: _Stamp | None = None

    def find(self, login: str) -> User | None:
        """The account of that name; from the file as it is now.

        Raises:
            UsersFileError, OSError: it cannot be read, and never could.
        """
        try:
            stamp = self._stat()
        except OSError as error:
            if self._users is None:
                raise
            LOG.error("%s: %s; the accounts that were read before stay", self.path, error.strerror)
            stamp = self._stamp
        if self._users is None or stamp != self._stamp:
            self._refresh(stamp)
        assert self._users is not None
        return self._users.get(login.casefold())

    def __contains__(self, name: str) -> bool:
        """Whether there is an account of that name. Raises: as `find`."""
        return self.find(name) is not None

    def names(self, folder: int | None = None) -> list[str]:
        """The names of all accounts, in the order of the file; `folder`: read it there, as `acting_for` yielded it.

        Raises:
            UsersFileError, OSError: it cannot be read.
        """
        return [user.name for user in self._read(folder).values()]

    def add(self, name: str, password: str, *, replace: bool = False) -> bool:
        """Adds an account; with `replace`, changes its password if it exists. Whether it existed.

        Raises:
            UserExists: it exists, and is not to be replaced.
            WordError: the name or the password cannot be used, or the password is too short.
            UsersFileError: the file is none.
            OSError: the file cannot be written.
        """
        form = checked_name(name)
        try:
            if len(prepare(password, PASSWORD)) < SHORTEST_PASSWORD:
                raise WordError(f"the password is too short: it needs at least {SHORTEST_PASSWORD} characters")
            user = new_user(form, password)
        except PrepareError as fault:
            raise WordError(f"the password cannot be used: {fault}") from None
        with self._locked() as folder:
            users = self._read(folder)
            known = form.casefold() in users
            if known and not replace:
                raise UserExists(form)
            users[form.casefold()] = user
            self._write(users, folder)
        return known

    def remove(self, name: str) -> str:
        """Removes an account; its name as it was written.

        Raises:
            UserUnknown: there is none of that name.
            UsersFileError: the file is none.
            OSError: the file cannot be written.
        """
        with suppress(PrepareError):  # then nobody has it, and it is told as it was given
            name = prepare(name)
        with self._locked() as folder:
            users = self._read(folder)
            user = users.pop(name.casefold(), None)
            if user is None:
                raise UserUnknown(name)
            self._write(users, folder)
        return user.name

    def _refresh(self, stamp: _Stamp | None) -> None:
        try:
            self._users = self._read()
        except (UsersFileError, OSError) as error:
            if self._users is None:
                raise
            LOG.error("%s; the accounts that were read before stay", error)
        self._stamp = stamp

    def _stat(self) -> _Stamp | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self, folder: int | None = None) -> dict[str, User]:
        try:
            if folder is None:
                text = self.path.read_text(encoding="utf-8")
            else:
                with os.fdopen(open_private(self.path.name, os.O_RDONLY, folder), encoding="utf-8") as file:
                    text = file.read()
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError:
            raise UsersFileError(f"{self.path} is not UTF-8") from None
        users: dict[str, User] = {}
        for number, line in enumerate(text.split("\n"), 1):
            if line and not line.startswith("#"):
                try:
                    user = _user(line)
                    if user.name.casefold() in users:
                        raise ValueError(f"{user.name} stands here a second time")
                except ValueError as fault:
                    raise UsersFileError(f"{self.path}, line {number}: {fault}") from None
                users[user.name.casefold()] = user
        return users

    def _write(self, users: dict[str, User], folder: int) -> None:
        text = _HEADER + "".join(f"{_line(user)}\n" for user in users.values())
        replace_private(self.path.name, text.encode(), folder)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """One change at a time, with the rights of the directory's owner. Yields the directory's descriptor.

        The lock is a file of its own because the users file is replaced.
        """
        with acting_for(self.path.parent) as folder:
            lock = open_private(f"{self.path.name}.lock", os.O_RDWR | os.O_CREAT, folder)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
            finally:
                os.close(lock)


def checked_name(name: str) -> str:
    """The name in the form in which it is stored.

    Raises:
        WordError: it can be none.
    """
    try:
        form = prepare(name)
    except PrepareError as fault:
        raise WordError(f"{name!a} can be no name: {fault}") from None
    if not form or len(form.encode()) > NAME or any(character.isspace() for character in form) or form[0] == "#":
        raise WordError(f"{name!a} can be no name: 1 to {NAME} octets, without spaces, not starting with #")
    return form


def _line(user: User) -> str:
    words = [user.name, user.password or "-"]
    return " ".join(words if user.scram is None else [*words, scram_text(user.scram)])


def _user(line: str) -> User:
    words = line.split(" ")
    if len(words) not in {2, 3} or (words[1] != "-" and _HASH.fullmatch(words[1]) is None):
        raise ValueError("not a name, a hash of argon2, and a SCRAM credential, with one space between them")
    scram = scram_credential(words[2]) if len(words) == 3 else None
    return User(words[0], None if words[1] == "-" else words[1], scram)
