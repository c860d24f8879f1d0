"""`check`, `reload`, and what every command needs: the configuration."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import typer

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.config import DEFAULT_FILE, ConfigError, Configuration, default, load
from ironpost.service.control import ControlError, Unanswered, ask

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def source(named: Path | None) -> Path | None:
    """The configuration file that is meant: the one named, else `ironpost.toml` if there is one, else none."""
    if named is None and DEFAULT_FILE.exists():
        return DEFAULT_FILE
    return named


def configuration(named: Path | None) -> Configuration:
    """The configuration that is meant.

    Raises:
        Stop: it cannot be used.
    """
    file = source(named)
    try:
        return default() if file is None else load(file)
    except ConfigError as error:
        raise Stop(exits.CONFIGURATION, str(error)) from None


def command(found: Configuration, request: Mapping[str, Any]) -> dict[str, Any]:
    """Asks the server that runs on this configuration's data directory.

    Raises:
        Stop: none runs, it may not be asked, it refuses, or it has no answer in time.
    """
    try:
        return ask(found.control, request)
    except Unanswered as error:
        raise Stop(exits.TEMPORARY, str(error)) from None
    except ControlError as error:
        raise Stop(exits.CONFIGURATION if request["do"] == "reload" else exits.NO_INPUT, str(error)) from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise Stop(
            exits.UNAVAILABLE,
            f"no server runs on the data directory {found.data} (start it with: ironpost serve)",
        ) from None
    except PermissionError:
        raise Stop(exits.NO_PERMISSION, f"{found.control}: only the user who runs the server may command it") from None
    except TimeoutError:
        raise Stop(exits.TEMPORARY, f"{found.control}: the server does not answer") from None
    except OSError as error:
        raise Stop(exits.UNAVAILABLE, f"{found.control}: {error}") from None


def silent(answer: Mapping[str, Any]) -> list[str]:
    """Which workers an answer comes without, and why: a sentence for each."""
    return [each["why"] for each in answer.get("silent", ())]


def complete(answer: Mapping[str, Any]) -> None:
    """For a change, when its answer has been printed.

    Raises:
        Stop: a worker that was concerned did not answer.
    """
    if lines := silent(answer):
        if not_done := answer.get("not_done"):
            lines.append(f"this may not have been done: {' '.join(not_done)}")
        raise Stop(exits.TEMPORARY, "\n".join(lines))


def check(named: Path | None) -> None:
    """Reads a configuration, its certificates and where it says that accounts are, and says what it found.

    What is allowed but most likely not meant is a warning on standard error, and changes no exit code.
    """
    found = configuration(named)
    from ironpost.cli.advice import remarks
    from ironpost.server.tls import TlsError

    logging.getLogger("ironpost").setLevel(logging.ERROR)  # what is worth a warning is among the remarks
    try:
        warnings = remarks(found, time.time())
    except TlsError as error:
        raise Stop(exits.CONFIGURATION, str(error)) from None
    if found.auth.model_fields_set:
        from ironpost.compose.auth import AuthError, sources

        try:
            sources(found)
        except AuthError as error:
            raise Stop(exits.CONFIGURATION, str(error)) from None
    file = source(named) or "built-in default"
    for warning in warnings:
        typer.echo(f"{file}: warning: {warning}", err=True)
    typer.echo(f"{file}: good (configuration {found.hash})")


def reload(named: Path | None) -> None:
    """Has the running server re-read its configuration; prints what it says."""
    answer = command(configuration(named), {"do": "reload"})
    typer.echo(answer["said"])
    complete(answer)
