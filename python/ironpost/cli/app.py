"""The commands and their options. What a command does stands in a module of its own, imported when it is run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ironpost.cli import exits

app = typer.Typer(
    name="ironpost",
    help="A mail transfer agent.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
queue = typer.Typer(help="The mail that waits.", no_args_is_help=True)
app.add_typer(queue, name="queue")
route = typer.Typer(help="Which way mail takes.", no_args_is_help=True)
app.add_typer(route, name="route")
user = typer.Typer(help="The accounts that may log in.", no_args_is_help=True)
app.add_typer(user, name="user")

File = Annotated[
    Path | None,
    typer.Option(
        "-c", "--config", metavar="FILE", help="Configuration; ironpost.toml if it exists, else the built-in default."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable: one JSON value on standard output.")]


class Stop(Exception):
    """Ends the program with a sentence on standard error and an exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def run() -> int:
    """Runs the command line of this process; returns the exit code."""
    try:
        app()
    except Stop as stop:
        from ironpost.service.records import complain

        complain("".join(f"ironpost: {line}\n" for line in str(stop).splitlines()))
        return stop.code
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python would complain once more when it flushes at exit.
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
    workers: Annotated[int, typer.Option(min=1, help="Processes that take and deliver mail.")] = 1,
) -> None:
    """Run the server until SIGTERM; SIGHUP re-reads the configuration."""
    from ironpost.cli import serve as command

    command.serve(config, workers)


@app.command()
def send(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The message, header first; - reads standard input.")],
    to: Annotated[list[str], typer.Option("--to", metavar="ADDRESS", help="A recipient; may be given more than once.")],
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Where reports go; empty for nowhere.")] = "",
    host: Annotated[str, typer.Option(help="The server.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Its port.", min=1, max=65535)] = 2525,
    tls: Annotated[
        Literal["never", "may", "must", "implicit"] | None,
        typer.Option(help="STARTTLS never, if offered, or always; or TLS from the start. By itself: must with --user, "
                     "never on this machine, else may.", show_default=False),
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="Log in as this user.", show_default=False)] = "",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is the password, which is asked for otherwise.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may vouch for the server (PEM); the system's if left out.")
    ] = None,
) -> None:  # fmt: skip
    """Hand a message to a server."""
    from ironpost.cli import send as command

    command.send(file, to, sender, command.Access(host, port, tls, user, password_file, ca))


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="Configuration; as for serve if left out.")
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Also read the whole queue, and name every message that is damaged.")
    ] = False,
) -> None:
    """Check a configuration without starting anything."""
    from ironpost.cli import settings as command

    command.check(file)
    if data:
        from ironpost.cli import check_data

        check_data.show(file)


@app.command()
def reload(config: File = None) -> None:
    """Have the running server re-read its configuration."""
    from ironpost.cli import settings as command

    command.reload(config)


@app.command()
def status(config: File = None, json: Json = False) -> None:
    """Show where the running server listens, how many connections it has, and its workers."""
    from ironpost.cli import status as command

    command.show(config, as_json=json)


@app.command()
def metrics(config: File = None, json: Json = False) -> None:
    """Print the counters of the running server and the sizes of its queue, as Prometheus reads them."""
    from ironpost.cli import metrics as command

    command.show(config, as_json=json)


@app.command()
def conform(
    server: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server to test.")],
    profile: Annotated[str, typer.Option(help="What kind of server it is: mx, submission or lmtp.")] = "mx",
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="The sender of its messages.")
    ] = "conform@client.example",
    to: Annotated[
        str, typer.Option(metavar="ADDRESS", help="A recipient that the server takes; if left out, one is looked for.")
    ] = "",
    to2: Annotated[str, typer.Option(metavar="ADDRESS", help="Another one; looked for as well.")] = "",
    rejected: Annotated[str, typer.Option(metavar="ADDRESS", help="A recipient that the server refuses.")] = "",
    user: Annotated[str, typer.Option(help="The account to authenticate with.")] = "",
    password: Annotated[
        str, typer.Option(help="Its password.", envvar="IRONPOST_CONFORM_PASSWORD", show_envvar=True)
    ] = "",
    starttls: Annotated[bool, typer.Option("--starttls", help="Begin each case behind STARTTLS.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="TLS from the first octet, as on port 465.")] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not verify the server's certificate.")] = False,
    maildir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where accepted messages appear as files: then their content is compared."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Only the cases of this name or topic; may be given more than once."),
    ] = None,
    list_only: Annotated[bool, typer.Option("--list", help="List the cases and run none.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Every case with its dialogue.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for a reply.", min=0.1)] = 5.0,
    parallel: Annotated[int, typer.Option(help="Cases at a time.", min=1, max=16)] = 1,
    json: Json = False,
) -> None:
    """Test how a server speaks SMTP or LMTP: hundreds of cases, each named for its section.

    WARNING: it sends mail, much of it malformed, and octets that no client sends. Run it only against servers of your
    own. It refuses nothing.
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
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The recipient.")],
    sender: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="The sender; empty for a report.")] = "",
    client: Annotated[
        str, typer.Option(metavar="IP", help="The client's address; without it, one that nobody trusts.")
    ] = "",
    hello: Annotated[str, typer.Option("--helo", metavar="NAME", help="What the client calls itself.")] = "",
    login: Annotated[str, typer.Option("--as", metavar="LOGIN", help="As whom the client has authenticated.")] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Show what is decided about a recipient, by which rule and why; sends nothing and needs no server."""
    from ironpost.cli import route as command

    command.explain(config, address, sender, client, hello, login, as_json=json)


@queue.command("list")
def queue_list(config: File = None, json: Json = False, limit: Annotated[int, typer.Option(min=1)] = 1000) -> None:
    """Show the messages in the queue, oldest first."""
    from ironpost.cli import queue as command

    command.show_all(config, as_json=json, limit=limit)


@queue.command("show")
def queue_show(
    id: Annotated[str, typer.Argument(metavar="ID")],  # noqa: A002 - the command line's word
    config: File = None,
    json: Json = False,
) -> None:
    """Show one message with all its recipients and what was last said about them."""
    from ironpost.cli import queue as command

    command.show(config, id, as_json=json)


@queue.command("retry")
def queue_retry(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID")] = None,
    all: Annotated[bool, typer.Option("--all", help="Every message that may leave now.")] = False,  # noqa: A002 - the command line's word
    config: File = None,
    json: Json = False,
) -> None:
    """Try messages again now."""
    from ironpost.cli import queue as command

    command.retry(config, ids or [], everything=all, as_json=json)


@queue.command("hold")
def queue_hold(
    ids: Annotated[list[str], typer.Argument(metavar="ID")], config: File = None, json: Json = False
) -> None:
    """Set messages aside; they are not tried until they are released."""
    from ironpost.cli import queue as command

    command.hold(config, ids, as_json=json)


@queue.command("release")
def queue_release(
    ids: Annotated[list[str], typer.Argument(metavar="ID")], config: File = None, json: Json = False
) -> None:
    """Let go of messages that were set aside, by policy or by hold."""
    from ironpost.cli import queue as command

    command.release(config, ids, as_json=json)


@queue.command("drop")
def queue_drop(
    ids: Annotated[list[str], typer.Argument(metavar="ID")],
    config: File = None,
    json: Json = False,
) -> None:
    """Remove messages; nobody gets a report."""
    from ironpost.cli import queue as command

    command.drop(config, ids, as_json=json)


@user.command("add")
def user_add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    replace: Annotated[bool, typer.Option("--replace", help="Change the password if the account exists.")] = False,
    config: File = None,
    json: Json = False,
) -> None:
    """Add an account. The password is asked for, or is the first line of standard input."""
    from ironpost.cli import user as command

    command.add(config, name, replace=replace, as_json=json)


@user.command("list")
def user_list(config: File = None, json: Json = False) -> None:
    """Show the accounts of the users file."""
    from ironpost.cli import user as command

    command.show(config, as_json=json)


@user.command("remove")
def user_remove(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    config: File = None,
    json: Json = False,
) -> None:
    """Remove an account. Sessions that are logged in stay so."""
    from ironpost.cli import user as command

    command.remove(config, name, as_json=json)
