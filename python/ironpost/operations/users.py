"""Operations on the users file: list, add, remove. A running server notices a change at the next login."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.accounts.file import InvalidCredential, UserExists, UsersFileError, UserUnknown, checked_name
from ironpost.model.text import error_text
from ironpost.operations.operation import EmptyRequest, Operation, OperationError, Reason, Scope
from ironpost.storage.ownership import acting_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironpost.accounts.file import UsersFile
    from ironpost.operations.context import DataDirectory


@dataclass(frozen=True, slots=True)
class UserList:
    """The names of the accounts."""

    users: list[str]


@dataclass(frozen=True, slots=True)
class AddUser:
    """An account to add."""

    name: str
    password: str = field(repr=False)
    replace: bool = False
    """Change the password if the account exists."""


@dataclass(frozen=True, slots=True)
class UserAdded:
    """An account that was added or changed."""

    user: str
    """Its normalised name."""
    replaced: bool


@dataclass(frozen=True, slots=True)
class RemoveUser:
    """An account to remove."""

    name: str


@dataclass(frozen=True, slots=True)
class UserRemoved:
    """An account that was removed."""

    user: str


async def _list(data: DataDirectory, _request: EmptyRequest) -> UserList:
    with _translated(data.users):
        return UserList(_names(data.users))


async def _add(data: DataDirectory, request: AddUser) -> UserAdded:
    name = check_addable(data, request.name, replace=request.replace)
    with _translated(data.users):
        return UserAdded(name, data.users.add(name, request.password, replace=request.replace))


async def _remove(data: DataDirectory, request: RemoveUser) -> UserRemoved:
    with _translated(data.users):
        return UserRemoved(data.users.remove(request.name))


def check_addable(data: DataDirectory, name: str, *, replace: bool) -> str:
    """Return the normalised name of an account that can be added; create the directory of the users file if needed.

    Raises:
        OperationError: the name is invalid or taken, or the file cannot be used.
    """
    file = data.users
    with _translated(file):
        form = checked_name(name)
        file.path.parent.mkdir(mode=0o700, exist_ok=True)  # the data directory of a server that has not run yet
        if not replace and form.casefold() in (each.casefold() for each in _names(file)):
            raise UserExists(form)
    return form


def _names(file: UsersFile) -> list[str]:
    """Return the names of the accounts, read with the rights of the directory's owner."""
    if not file.path.parent.exists():
        return []
    with acting_for(file.path.parent) as folder:
        return file.names(folder)


@contextmanager
def _translated(file: UsersFile) -> Iterator[None]:
    """Convert errors of the users file into those of operations."""
    try:
        yield
    except UserExists as known:
        sentence = f"{known}; to change its password: ironpost user add --replace {known.name}"
        raise OperationError(Reason.INVALID, sentence) from None
    except UserUnknown as unknown:
        raise OperationError(Reason.NOT_FOUND, str(unknown)) from None
    except InvalidCredential as fault:
        raise OperationError(Reason.INVALID, str(fault)) from None
    except UsersFileError as fault:
        raise OperationError(Reason.CONFIGURATION, str(fault)) from None
    except OSError as error:
        reason = Reason.FORBIDDEN if isinstance(error, PermissionError) else Reason.NOT_WRITABLE
        raise OperationError(reason, f"{file.path}: {error_text(error)}") from None


LIST: Final = Operation("user.list", EmptyRequest, UserList, Scope.LOCAL, _list)
ADD: Final = Operation("user.add", AddUser, UserAdded, Scope.LOCAL, _add)
REMOVE: Final = Operation("user.remove", RemoveUser, UserRemoved, Scope.LOCAL, _remove)
