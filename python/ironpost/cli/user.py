"""`user`: the accounts of the users file. A running server notices at the next login; nothing has to be told to it."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.settings import configuration
from ironpost.lookup.users_file import UserExists, UsersFile, UsersFileError, UserUnknown, WordError, checked_name
from ironpost.storage.ownership import acting_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def add(named: Path | None, name: str, *, replace: bool, as_json: bool) -> None:
    """Adds an account; its password is asked for twice on a terminal, and is the first line of standard input else."""
    file = _file(named)
    with _explained(file):
        form = checked_name(name)
        file.path.parent.mkdir(mode=0o700, exist_ok=True)  # the data directory of a server that has not run yet
        if not replace and form.casefold() in (name.casefold() for name in _names(file)):
            raise UserExists(form)
        existed = file.add(form, _password(), replace=replace)
    _say(as_json, {"user": form, "replaced": existed}, f"{form}: {'password changed' if existed else 'added'}")


def show(named: Path | None, *, as_json: bool) -> None:
    """Lists the accounts."""
    file = _file(named)
    with _explained(file):
        names = _names(file)
    _say(as_json, names, "\n".join(names) or f"{file.path} holds no users; add one: ironpost user add NAME")


def remove(named: Path | None, name: str, *, as_json: bool) -> None:
    """Removes an account."""
    file = _file(named)
    with _explained(file):
        removed = file.remove(name)
    _say(as_json, {"user": removed}, f"{removed}: removed")


def _file(named: Path | None) -> UsersFile:
    return UsersFile(configuration(named).users)


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt="Again", err=True))
    line = sys.stdin.readline()
    return line.rstrip("\r\n")


def _names(file: UsersFile) -> list[str]:
    """The accounts, read with the rights of the directory's owner."""
    if not file.path.parent.exists():
        return []
    with acting_for(file.path.parent) as folder:
        return file.names(folder)


@contextmanager
def _explained(file: UsersFile) -> Iterator[None]:
    """What goes wrong, with an exit code."""
    try:
        yield
    except UserExists as known:
        raise Stop(exits.USAGE, f"{known}; to change its password: ironpost user add --replace {known.name}") from None
    except UserUnknown as unknown:
        raise Stop(exits.NO_INPUT, str(unknown)) from None
    except WordError as fault:
        raise Stop(exits.USAGE, str(fault)) from None
    except UsersFileError as fault:
        raise Stop(exits.CONFIGURATION, str(fault)) from None
    except OSError as error:
        code = exits.NO_PERMISSION if isinstance(error, PermissionError) else exits.CANNOT_CREATE
        raise Stop(code, f"{file.path}: {error.strerror}") from None


def _say(as_json: bool, value: object, text: str) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False) if as_json else text)
