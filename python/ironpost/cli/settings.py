"""Finds the configuration, for every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.config import DEFAULT_FILE, ConfigError, Configuration, default, load

if TYPE_CHECKING:
    from pathlib import Path


def source(named: Path | None) -> Path | None:
    """The configuration file: the one given, else `ironpost.toml` if it exists, else None."""
    if named is None and DEFAULT_FILE.exists():
        return DEFAULT_FILE
    return named


def configuration(named: Path | None) -> Configuration:
    """Read the configuration from the file given, `ironpost.toml` or the built-in default.

    Raises:
        CommandError: it cannot be used.
    """
    file = source(named)
    try:
        return default() if file is None else load(file)
    except ConfigError as error:
        raise CommandError(exits.CONFIGURATION, str(error)) from None
