"""`dkim new` and `dkim show`: the keys with which this server signs. Need no server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer

from ironpost.cli import exits
from ironpost.cli.call import call_local, print_json, report
from ironpost.model.text import escape
from ironpost.operations.dkim_keys import NEW, SHOW, KeyState, NewKeyRequest
from ironpost.operations.operation import EmptyRequest

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    from ironpost.operations.dkim_keys import ConfiguredKeys

_TEXT: Final = """\
The private key is in {file}. Publish this record:

{record}

When `ironpost dkim check {domain} {selector}` finds it, add the key to the configuration, and reload:

[[dkim]]
domain = "{domain}"
selector = "{selector}"
key = "file:{file}"
"""


def new(
    file: Path | None,
    domain: str,
    selector: str | None,
    algorithm: Literal["rsa", "ed25519"],
    directory: Path,
    *,
    as_json: bool,
) -> None:
    """Make a key; print the record to publish, and what to write into the configuration.

    Raises:
        CommandError: the domain or the selector is invalid, or the file exists or cannot be written.
    """
    selector = selector or f"{algorithm}-{datetime.now(UTC):%Y%m}"
    key = call_local(file, NEW, NewKeyRequest(domain, selector, algorithm, str(directory)))
    if as_json:
        print_json(key)
    else:
        typer.echo(_TEXT.format(file=key.file, record=key.record, domain=key.domain, selector=key.selector), nl=False)


def show(file: Path | None, *, as_json: bool) -> None:
    """Print each key of the configuration with its record, and whether DNS has it.

    Raises:
        CommandError: a key cannot be read.
        typer.Exit: no key is configured, one is not published, or DNS does not answer.
    """
    found = call_local(file, SHOW, EmptyRequest())
    states = {key.state for key in found.keys}
    failed = None
    if not states:
        failed = exits.NO_INPUT
    elif KeyState.UNKNOWN in states:
        failed = exits.TEMPORARY
    elif states != {KeyState.PUBLISHED}:
        failed = exits.NOT_CONFORMING
    report(found, _print, failed, as_json=as_json)


def _print(found: ConfiguredKeys) -> None:
    if not found.keys:
        typer.echo("the configuration has no key ([[dkim]]); make one: ironpost dkim new DOMAIN")
    for key in found.keys:
        typer.echo(f"{key.name} ({key.algorithm}): {key.state.value}")
        if key.problem:
            typer.echo(f"problem    {escape(key.problem)}")
        typer.echo(f"record     {key.record}")
