"""The commands and their options. Each command is implemented in its module, which is imported when it runs.

Those about the queue are in `queue_commands`, those about what domains publish in `domain_commands`.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - Typer reads annotations
from typing import Annotated, Literal

import typer

from ironpost.cli import exits
from ironpost.cli.domain_commands import dane, dkim, dmarc, mtasts, spf, tlsrpt
from ironpost.cli.options import File, Json  # noqa: TC001 - as above
from ironpost.cli.queue_commands import queue

app = typer.Typer(
    name="ironpost",
    help="The ironpost mail server.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(queue, name="queue")
route = typer.Typer(help="Explain how mail is routed.", no_args_is_help=True)
app.add_typer(route, name="route")
directory = typer.Typer(help="Look up addresses in the directory.", no_args_is_help=True)
app.add_typer(directory, name="directory")
app.add_typer(dane, name="dane")
app.add_typer(mtasts, name="mtasts")
app.add_typer(tlsrpt, name="tlsrpt")
app.add_typer(spf, name="spf")
app.add_typer(dkim, name="dkim")
app.add_typer(dmarc, name="dmarc")
user = typer.Typer(help="Manage the accounts that may log in.", no_args_is_help=True)
app.add_typer(user, name="user")


class CommandError(Exception):
    """Ends the program with a message on standard error and an exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def run() -> int:
    """Run the command line of this process; return the exit code."""
    try:
        app()
    except CommandError as stop:
        from ironpost.telemetry.formatters import print_error

        print_error("".join(f"ironpost: {line}\n" for line in str(stop).splitlines()))
        return stop.code
    except BrokenPipeError:
        # The reader of the pipe has closed it. Python would report that again when it flushes at exit.
        sys.stdout = None
        return exits.OK
    except SystemExit as end:
        if end.code == 2:
            return exits.USAGE
        return end.code if isinstance(end.code, int) else exits.OK
    return exits.OK


@app.command()
def serve(
    config: File = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
) -> None:
    """Run the server until SIGTERM. SIGHUP reloads the configuration."""
    from ironpost.cli import serve as command

    command.serve(config, workers)


@app.command()
def send(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File with the message; - for standard input.")],
    to: Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="Recipient; may be repeated.")],
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender; empty for none.")] = "",
    host: Annotated[str, typer.Option(help="Server to connect to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the server.", min=1, max=65535)] = 2525,
    tls: Annotated[
        Literal["never", "may", "must", "implicit"] | None,
        typer.Option(help="STARTTLS: never, may (if offered) or must; or implicit TLS. Default: must with --user, "
                     "never to this machine, else may.", show_default=False),
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="User name to log in with.", show_default=False)] = "",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the password in its first line; default: prompt.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CA bundle (PEM); default: the system's.")
    ] = None,
) -> None:  # fmt: skip
    """Send a message to a server."""
    from ironpost.cli import send as command

    command.send(file, to, sender, command.SendOptions(host, port, tls, user, password_file, ca))


@app.command(add_help_option=False)
def sendmail(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTION]... [ADDRESS]...", show_default=False)
    ] = None,
) -> None:
    """Send a message from standard input, like sendmail(1)."""
    from ironpost.cli import sendmail as command

    command.sendmail(arguments or [])


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Configuration file; default: ironpost.toml if it exists.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also verify the whole queue and list damaged messages.")
    ] = False,
    config: File = None,
) -> None:
    """Check a configuration without starting the server."""
    from ironpost.cli import check as command

    if file is not None and config is not None:
        raise CommandError(exits.USAGE, "give the configuration file once, as FILE or with -c")
    named = file or config
    command.check(named)
    if data:
        from ironpost.cli import check_data

        check_data.show(named)


@app.command()
def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the backup; new, or empty.")],
    mail: Annotated[bool, typer.Option("--mail", help="Include the Maildirs in the data directory.")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Copy the data directory, whether or not a server is running."""
    from ironpost.cli import backup as command
    from ironpost.operations.backup import BackupRequest

    command.back_up(config, BackupRequest(str(directory), mail), as_json=json)


@app.command()
def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of the backup.")],
    release: Annotated[
        bool, typer.Option("--release", help="Do not hold the mail in the queue; some may be delivered twice.")
    ] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Make an empty data directory from a backup, and hold the mail in its queue."""
    from ironpost.cli import backup as command
    from ironpost.operations.backup import RestoreRequest

    command.restore(config, RestoreRequest(str(directory), release), as_json=json)


@app.command()
def reload(config: File = None) -> None:
    """Make the running server reload its configuration."""
    from ironpost.cli import reload as command

    command.reload(config)


@app.command()
def status(config: File = None, json: Json = False) -> None:
    """Show the listeners, connections and workers of the running server."""
    from ironpost.cli import status as command

    command.show(config, as_json=json)


@app.command()
def metrics(config: File = None, json: Json = False) -> None:
    """Print the metrics of the running server in Prometheus text format."""
    from ironpost.cli import metrics as command

    command.show(config, as_json=json)


@app.command()
def conform(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Server to test.")],
    profile: Annotated[str, typer.Option(help="Type of server: mx, submission or lmtp.")] = "mx",
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender of test messages.")
    ] = "conform@client.example",
    to: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Recipient that the server accepts; default: probe for one.")
    ] = "",
    to2: Annotated[str, typer.Option(metavar="ADDRESS", help="Second accepted recipient; default: probe.")] = "",
    rejected: Annotated[str, typer.Option(metavar="ADDRESS", help="Recipient that the server rejects.")] = "",
    user: Annotated[str, typer.Option(help="User name to log in with.")] = "",
    password: Annotated[
        str, typer.Option(help="Password of the user.", envvar="IRONPOST_CONFORM_PASSWORD", show_envvar=True)
    ] = "",
    starttls: Annotated[bool, typer.Option("--starttls", help="Issue STARTTLS before each case.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Use implicit TLS, as on port 465.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not verify the server's certificate.")] = False,
    maildir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Maildir in which accepted messages appear; their content is compared."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Run only cases with this name or topic; may be repeated."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the cases without running them.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show every case with its dialogue.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Seconds to wait for a reply.", min=0.1)] = 5.0,
    parallel: Annotated[int, typer.Option(help="Number of cases to run in parallel.", min=1, max=16)] = 1,
    json: Json = False,
) -> None:
    """Test an SMTP or LMTP server against the standards; each case cites its section.

    WARNING: this sends mail, much of it malformed, and invalid bytes. Run it only against servers that you operate.
    """
    from ironpost.cli import conform as command
    from ironpost.conform import Target

    host, port = command.place(server)
    target = Target(
        host, port, command.profile(profile), sender, to, to2, rejected, user, password, starttls, tls, insecure,
        maildir, timeout,
    )  # fmt: skip
    command.conform(server, target, only or [], parallel, command.View(json, verbose, list_only))


@route.command("explain")
def route_explain(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Recipient.")],
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender; empty for none.")] = "",
    client: Annotated[
        str, typer.Option(metavar="IP", help="IP address of the client; default: not in a trusted network.")
    ] = "",
    hello: Annotated[
        str, typer.Option("--helo", metavar="NAME", help="Name in the client's EHLO; default: skip that stage.")
    ] = "",
    login: Annotated[
        str, typer.Option("--as", metavar="LOGIN", help="User name with which the client has authenticated.")
    ] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Show how mail to a recipient would be handled, and why. Sends nothing and needs no running server."""
    from ironpost.cli import route as command
    from ironpost.operations.explain import ExplainRequest

    command.explain(config, ExplainRequest(address, sender, client, hello, login), as_json=json)


@directory.command("find")
def directory_find(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The address to look up.")],
    config: File = None,
    json: Json = False,
) -> None:
    """Show what the directory says about an address, and where its mail goes. Needs no running server."""
    from ironpost.cli import directory as command

    command.find(config, address, as_json=json)


@app.command()
def trace(
    what: Annotated[str, typer.Argument(metavar="ID|ADDRESS|MESSAGE-ID", help="What to look for.")],
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages to show; the newest ones.")] = 20,
    config: File = None,
    json: Json = False,
) -> None:
    """Show what happened to messages, delivered, returned and dropped ones included."""
    from ironpost.cli import queue as command

    command.trace(config, what, limit=limit, as_json=json)


Destination = Annotated[str, typer.Argument(metavar="DEST", help="A domain, or a smart host.")]


@app.command()
def suspend(
    destination: Destination,
    time: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long, like 1h; default: until resumed.")
    ] = None,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for other operators.")] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Suspend delivery to a destination. Its mail stays in the queue."""
    from ironpost.cli import queue as command
    from ironpost.operations.destinations import SuspendRequest

    command.suspend(config, SuspendRequest(destination, time, why), as_json=json)


@app.command()
def resume(destination: Destination, config: File = None, json: Json = False) -> None:
    """Resume delivery to a suspended destination."""
    from ironpost.cli import queue as command

    command.resume(config, destination, as_json=json)


@user.command("add")
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    replace: Annotated[bool, typer.Option("--replace", help="Change the password if the account exists.")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Add an account. Prompts for the password, or reads it from standard input."""
    from ironpost.cli import user as command

    command.add(config, name, replace=replace, as_json=json)


@user.command("list")
def user_list(config: File = None, json: Json = False) -> None:
    """List the accounts of the users file."""
    from ironpost.cli import user as command

    command.show(config, as_json=json)


@user.command("remove")
def user_remove(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    config: File = None,
    json: Json = False,
) -> None:
    """Remove an account. Sessions that have authenticated continue."""
    from ironpost.cli import user as command

    command.remove(config, name, as_json=json)
