"""`dmarc check`: show what a domain publishes for DMARC, or evaluate a message, without a running server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.call import PUBLISHED, call_local, report
from ironpost.cli.dkim import print_signatures
from ironpost.cli.input_file import names_file, read_message
from ironpost.mail_auth import DmarcResult
from ironpost.model.text import escape
from ironpost.operations.dmarc import (
    CHECK,
    EVALUATE,
    DmarcCheckRequest,
    DmarcEvaluateRequest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.operations.dmarc import DmarcCheck, DmarcMessageCheck
    from ironpost.operations.spf import SpfCheckRequest

_MESSAGE_EXITS = {
    DmarcResult.PASS: None,
    DmarcResult.NONE: exits.NO_INPUT,
    DmarcResult.TEMPERROR: exits.TEMPORARY,
}


def check_domain_or_message(file: Path | None, what: str, client: SpfCheckRequest, *, as_json: bool) -> None:
    """Check a message if `what` is a file, else a domain.

    Args:
        file: the configuration.
        what: the domain, or the file.
        client: the client that sent the message; if it has no address, SPF is not checked.

    Raises:
        CommandError: see `check` and `check_message`; or a client is described that SPF cannot check.
        typer.Exit: the result is not good.
    """
    if (client.sender or client.helo) and not client.ip:
        raise CommandError(exits.USAGE, "--from and --helo are for SPF, which also needs the client's address: --ip")
    if names_file(what):
        check_message(file, what, client if client.ip else None, as_json=as_json)
    elif client.ip:
        raise CommandError(exits.USAGE, f"{what} is not a file, and --ip is for a message")
    else:
        check(file, what, as_json=as_json)


def check(file: Path | None, domain: str, *, as_json: bool) -> None:
    """Print the record that applies, its policy, where reports are wanted, and problems.

    Raises:
        CommandError: the domain is invalid.
        typer.Exit: no record applies, the record is faulty, or DNS does not answer.
    """
    found = call_local(file, CHECK, DmarcCheckRequest(domain))
    report(found, _print, PUBLISHED[found.result.name], as_json=as_json)


def check_message(file: Path | None, message: str, client: SpfCheckRequest | None, *, as_json: bool) -> None:
    """Print the result for a message in a file, or on standard input (`-`), with those of SPF and DKIM.

    Raises:
        CommandError: the file cannot be read, or the description of the client is invalid.
        typer.Exit: the message does not pass.
    """
    found = call_local(file, EVALUATE, DmarcEvaluateRequest(read_message(message), client))
    report(found, _print_message, _MESSAGE_EXITS.get(found.result, exits.NOT_CONFORMING), as_json=as_json)


def _print_message(found: DmarcMessageCheck) -> None:
    typer.echo(f"spf        {escape(found.spf) or 'not checked; give --ip'}")
    print_signatures(found.signatures)
    if found.arc:
        typer.echo(f"arc        {escape(found.arc)}")
    typer.echo(f"reason     {escape(found.reason)}")
    if found.result is DmarcResult.FAIL:
        typer.echo(f"policy     {found.policy}")
    typer.echo(f"{escape(found.author) or 'message'}: {found.result.value}")


def _print(found: DmarcCheck) -> None:
    if found.organization:
        typer.echo(f"domain     {escape(found.organization)} is the organizational domain")
    if found.policy_domain:
        typer.echo(f"record     {escape(found.record)}")
        typer.echo(f"policy     {found.policy}, published by {escape(found.policy_domain)}")
    for uri in found.aggregate:
        typer.echo(f"aggregate  {escape(uri)}")
    for uri in found.failure:
        typer.echo(f"failure    {escape(uri)}")
    for note in found.notes:
        typer.echo(f"note       {escape(note)}")
    for problem in found.problems:
        typer.echo(f"problem    {escape(problem)}")
    typer.echo(f"{escape(found.domain)}: {found.result.value}")
