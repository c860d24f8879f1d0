"""The commands about what domains publish in DNS: DANE, MTA-STS, TLS reports, SPF, DKIM and DMARC. See `app`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ironpost.cli.options import File, Json  # noqa: TC001 - Typer reads annotations

dane = typer.Typer(help="Check DANE for outgoing mail.", no_args_is_help=True)
mtasts = typer.Typer(help="Check MTA-STS policies, and show those of this server.", no_args_is_help=True)
tlsrpt = typer.Typer(help="Check where domains want TLS reports, and show reports.", no_args_is_help=True)
spf = typer.Typer(help="Check SPF.", no_args_is_help=True)
dkim = typer.Typer(help="Make, show and check DKIM keys, and check signatures.", no_args_is_help=True)
dmarc = typer.Typer(help="Check DMARC records and messages, and show reports.", no_args_is_help=True)

RecipientDomain = Annotated[str, typer.Argument(metavar="DOMAIN", help="Recipient domain.")]
ReportFile = Annotated[
    str, typer.Argument(metavar="FILE", help="A report, or a message that contains one; - for standard input.")
]


@mtasts.command("check")
def mtasts_check(
    domain: RecipientDomain,
    config: File = None,
    json: Json = False,
) -> None:
    """Show the MTA-STS record and policy of a domain, whether its hosts match, and what is wrong."""
    from ironpost.cli import mtasts as command

    command.check(config, domain, as_json=json)


@mtasts.command("show")
def mtasts_show(config: File = None, json: Json = False) -> None:
    """Show the configured MTA-STS policies of this server's domains, and the DNS records that announce them."""
    from ironpost.cli import mtasts as command

    command.show(config, as_json=json)


@dane.command("check")
def dane_check(
    domain: RecipientDomain,
    connect: Annotated[
        bool, typer.Option("--connect", help="Contact each address, and verify its certificate; sends nothing.")
    ] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Show the TLSA records of a domain's hosts and what follows for mail to it. Needs no running server."""
    from ironpost.cli import dane as command
    from ironpost.operations.dane import DaneRequest

    command.check(config, DaneRequest(domain, connect), as_json=json)


@tlsrpt.command("check")
def tlsrpt_check(
    domain: RecipientDomain,
    config: File = None,
    json: Json = False,
) -> None:
    """Show the record with which a domain asks for TLS reports, where they would go, and what is wrong."""
    from ironpost.cli import tlsrpt as command

    command.check(config, domain, as_json=json)


@tlsrpt.command("show")
def tlsrpt_show(
    file: ReportFile,
    json: Json = False,
) -> None:
    """Show a report about TLS that was received. Its signature is not verified."""
    from ironpost.cli import tlsrpt as command

    command.show(file, as_json=json)


@tlsrpt.command("report")
def tlsrpt_report(
    places: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Reports, messages that contain one, or directories such as a Maildir."),
    ],
    json: Json = False,
) -> None:
    """Sum up the TLS reports in files and directories, by organization, policy and failure."""
    from ironpost.cli import tlsrpt_reports as command

    command.summarise(places, as_json=json)


@spf.command("check")
def spf_check(
    ip: Annotated[str, typer.Argument(metavar="IP", help="IP address of the client.")],
    sender: Annotated[
        str, typer.Argument(metavar="SENDER", help='Sender or its domain; "" or <> for the null reverse-path.')
    ],
    hello: Annotated[str, typer.Argument(metavar="HELO", help="Name in the client's EHLO.")] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Show whether the domain of a sender allows a client to send its mail, and why."""
    from ironpost.cli import spf as command
    from ironpost.operations.spf import SpfCheckRequest

    command.check(config, SpfCheckRequest(ip, sender, hello), as_json=json)


@dkim.command("new")
def dkim_new(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="The signing domain.")],
    selector: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the key; default: the algorithm and the month, like rsa-202611."),
    ] = None,
    algorithm: Annotated[Literal["rsa", "ed25519"], typer.Option(help="rsa, with 2048 bits, or ed25519.")] = "rsa",
    folder: Annotated[
        Path, typer.Option("--directory", metavar="DIRECTORY", help="Where the private key is written.")
    ] = Path(),
    config: File = None,
    json: Json = False,
) -> None:
    """Make a key, and print its record for DNS and its lines for the configuration."""
    from ironpost.cli import dkim_keys as command

    command.new(config, domain, selector, algorithm, folder, as_json=json)


@dkim.command("show")
def dkim_show(config: File = None, json: Json = False) -> None:
    """Show the records of the keys in the configuration, and whether DNS has them."""
    from ironpost.cli import dkim_keys as command

    command.show(config, as_json=json)


@dkim.command("check")
def dkim_check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DOMAIN|FILE", help="Signing domain; without SELECTOR, a message (- for standard input)."
        ),
    ],
    selector: Annotated[str, typer.Argument(metavar="SELECTOR", help="Name of the key.", show_default=False)] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Show the key that a domain publishes and what is wrong with it, or verify the signatures of a message."""
    from ironpost.cli import dkim as command

    if selector:
        command.check_key(config, what, selector, as_json=json)
    else:
        command.check_message(config, what, as_json=json)


@dmarc.command("check")
def dmarc_check(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DOMAIN|FILE", help="Domain of an author; or a file with a message (- for standard input)."
        ),
    ],
    ip: Annotated[str, typer.Option("--ip", metavar="IP", help="IP address of the client, for SPF.")] = "",
    sender: Annotated[
        str, typer.Option("--from", metavar="SENDER", help="Sender of the message; default: the null reverse-path.")
    ] = "",
    hello: Annotated[str, typer.Option("--helo", metavar="NAME", help="Name in the client's EHLO.")] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Show the DMARC record that applies to mail of a domain and what is wrong with it, or evaluate a message.

    An argument is a file if it has a slash, or if a file of that name exists.
    """
    from ironpost.cli import dmarc as command
    from ironpost.operations.spf import SpfCheckRequest

    command.check_domain_or_message(config, what, SpfCheckRequest(ip, sender, hello), as_json=json)


@dmarc.command("report")
def dmarc_report(
    domain: Annotated[
        str, typer.Argument(metavar="DOMAIN", help="Show where mail of this domain came from.", show_default=False)
    ] = "",
    days: Annotated[
        int, typer.Option("--days", metavar="N", help="Only reports that arrived in the last N days, at most 90.")
    ] = 30,
    config: File = None,
    json: Json = False,
) -> None:
    """Sum up the reports of others about mail from our domains: how much passed and failed, and where it came from."""
    from ironpost.cli import dmarc_reports as command

    command.summarise(config, domain, days, as_json=json)


@dmarc.command("show")
def dmarc_show(
    file: ReportFile,
    json: Json = False,
) -> None:
    """Show a report about DMARC that was received, aggregate or failure. Who sent it is not verified."""
    from ironpost.cli import dmarc_reports as command

    command.show(file, as_json=json)
