"""`dkim check`: show the key of a domain, or verify the signatures of a message, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.call import PUBLISHED, call_local, report
from ironpost.cli.input_file import names_file, read_message
from ironpost.mail_auth import DkimResult
from ironpost.model.text import escape
from ironpost.operations.dkim import CHECK, VERIFY, DkimKeyRequest, DkimVerifyRequest

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.dkim import DkimKeyCheck, DkimVerification, SignatureCheck

_EXITS = {DkimResult.PASS: None, DkimResult.NONE: exits.NO_INPUT, DkimResult.TEMPERROR: exits.TEMPORARY}


def check_key(file: Path | None, domain: str, selector: str, *, as_json: bool) -> None:
    """Print the key of a domain, and problems.

    Raises:
        CommandError: the domain or the selector is invalid.
        typer.Exit: the key is missing or faulty, or DNS does not answer.
    """
    found = call_local(file, CHECK, DkimKeyRequest(domain, selector))
    report(found, _print_key, PUBLISHED[found.result.name], as_json=as_json)


def check_message(file: Path | None, message: str, *, as_json: bool) -> None:
    """Print the result for each signature of a message in a file, or on standard input (`-`).

    Raises:
        CommandError: there is no such file, or it cannot be read.
        typer.Exit: no signature is valid.
    """
    if not names_file(message):
        sentence = "is not a file; for the key of a domain give its selector"
        raise CommandError(exits.USAGE, f"{message} {sentence}: ironpost dkim check {message} SELECTOR")
    found = call_local(file, VERIFY, DkimVerifyRequest(read_message(message)))
    report(found, _print, _EXITS.get(found.result, exits.NOT_CONFORMING), as_json=as_json)


def print_signatures(signatures: tuple[SignatureCheck, ...]) -> None:
    """Print a line for each signature."""
    for each in signatures:
        of = f" of {each.domain} ({each.selector}, {each.algorithm})" if each.domain else ""
        typer.echo(f"signature  {each.result}{escape(of)}: {escape(each.reason)}")
        if each.unmatched:
            typer.echo(f"signed     {escape(', '.join(each.unmatched))}")
            typer.echo("           one of these fields was changed, for instance by a list or a forwarder")


def _print(found: DkimVerification) -> None:
    print_signatures(found.signatures)
    if found.fault:
        typer.echo(f"problem    {escape(found.fault)}")
    elif not found.signatures:
        typer.echo("problem    the message has no signature")
    typer.echo(f"message: {found.result.value}")


def _print_key(found: DkimKeyCheck) -> None:
    for record in found.records:
        typer.echo(f"record     {escape(record)}")
    if found.algorithm:
        typer.echo(f"key        {found.algorithm}, {found.bits} bits")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"{escape(found.name)}: {found.result.value}")
