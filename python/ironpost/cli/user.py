"""`user`: manage the accounts of the users file. A running server notices a change at the next login."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from ironpost.cli.call import call_local, failures_explained, print_json
from ironpost.cli.settings import configuration
from ironpost.compose.data_directory import LocalData
from ironpost.operations.operation import EmptyRequest
from ironpost.operations.users import ADD, LIST, REMOVE, AddUser, RemoveUser, check_addable

if TYPE_CHECKING:
    from pathlib import Path


def add(file: Path | None, name: str, *, replace: bool, as_json: bool) -> None:
    """Add an account. The password is prompted for on a terminal, else it is the first line of standard input."""
    with failures_explained():  # before the prompt for the password
        name = check_addable(LocalData(configuration(file)), name, replace=replace)
    added = call_local(file, ADD, AddUser(name, _password(), replace))
    if as_json:
        print_json(added)
    else:
        typer.echo(f"{added.user}: {'password changed' if added.replaced else 'added'}")


def show(file: Path | None, *, as_json: bool) -> None:
    """List the accounts."""
    users = call_local(file, LIST, EmptyRequest()).users
    if as_json:
        print_json(users)
    elif users:
        typer.echo("\n".join(users))
    else:
        typer.echo(f"{configuration(file).users} has no users; add one: ironpost user add NAME")


def remove(file: Path | None, name: str, *, as_json: bool) -> None:
    """Remove an account."""
    removed = call_local(file, REMOVE, RemoveUser(name))
    if as_json:
        print_json(removed)
    else:
        typer.echo(f"{removed.user}: removed")


def _password() -> str:
    if sys.stdin.isatty():
        prompt = typer.prompt("Password", hide_input=True, confirmation_prompt="Repeat the password", err=True)
        return str(prompt)
    return sys.stdin.readline().rstrip("\r\n")
