"""The commands about mail in the queue. See `app`."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ironpost.cli.options import File, Json  # noqa: TC001 - Typer reads annotations

if TYPE_CHECKING:
    from collections.abc import Callable

queue = typer.Typer(help="Manage the queue.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Message IDs.", show_default=False)]
Sender = Annotated[
    str | None, typer.Option("--from", metavar="PATTERN", help="Sender: address, domain, *.domain or <>.")
]
To = Annotated[str | None, typer.Option("--to", metavar="PATTERN", help="Recipient: address, domain or *.domain.")]
Domain = Annotated[
    str | None, typer.Option("--domain", metavar="PATTERN", help="Domain of the recipient: domain or *.domain.")
]
State = Annotated[Literal["queued", "held"] | None, typer.Option("--state", help="State of the recipient.")]
OlderThan = Annotated[
    str | None, typer.Option("--older-than", metavar="TIME", help="Accepted at least this long ago, like 2h or 3d.")
]
All = Annotated[bool, typer.Option("--all", help="Everything in the queue; without other criteria.")]


def _selection(
    ids: Ids = None,
    everything: All = False,
    sender: Sender = None,
    to: To = None,
    domain: Domain = None,
    state: State = None,
    older_than: OlderThan = None,
) -> Any:
    from ironpost.operations.selection import SelectionRequest

    return SelectionRequest(ids, everything, sender, to, domain, state, older_than)


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `_selection`, whose result it takes as its first argument."""
    options = inspect.signature(_selection, eval_str=True).parameters
    _, *own = inspect.signature(command, eval_str=True).parameters.values()

    @functools.wraps(command)
    def run(**values: Any) -> None:
        command(_selection(**{name: values.pop(name) for name in options}), **values)

    run.__signature__ = inspect.Signature([*options.values(), *own])  # type: ignore[attr-defined] # read by Typer
    return run


@queue.command("list")
@_selecting
def queue_list(
    selection: Any,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of messages to list.")] = 1000,
    config: File = None,
    json: Json = False,
) -> None:
    """List the messages in the queue, or those selected, oldest first."""
    from ironpost.cli import queue as command

    command.show_all(config, selection, as_json=json, limit=limit)


@queue.command("show")
def queue_show(
    id: Annotated[str, typer.Argument(metavar="ID")],  # noqa: A002 - the command line's word
    config: File = None,
    json: Json = False,
) -> None:
    """Show one message with all recipients and their last replies."""
    from ironpost.cli import queue as command

    command.show(config, id, as_json=json)


@queue.command("retry")
@_selecting
def queue_retry(
    selection: Any,
    config: File = None,
    json: Json = False,
) -> None:
    """Attempt delivery of selected mail now, regardless of the retry schedule."""
    from ironpost.cli import queue as command

    command.retry(config, selection, as_json=json)


@queue.command("hold")
@_selecting
def queue_hold(
    selection: Any,
    config: File = None,
    json: Json = False,
) -> None:
    """Hold selected mail: no delivery attempts until it is released."""
    from ironpost.cli import queue as command

    command.hold(config, selection, as_json=json)


@queue.command("release")
@_selecting
def queue_release(
    selection: Any,
    config: File = None,
    json: Json = False,
) -> None:
    """Release selected mail that was held by policy or by `queue hold`."""
    from ironpost.cli import queue as command

    command.release(config, selection, as_json=json)


@queue.command("bounce")
@_selecting
def queue_bounce(
    selection: Any,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the sender.")] = "",
    config: File = None,
    json: Json = False,
) -> None:
    """Return selected mail to its sender now."""
    from ironpost.cli import queue as command

    command.bounce(config, selection, why=why, as_json=json)


@queue.command("edit")
def queue_edit(
    id: Annotated[str, typer.Argument(metavar="ID")],  # noqa: A002 - the command line's word
    old: Annotated[str, typer.Argument(metavar="OLD", help="Address of the recipient.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Address that replaces it.")],
    config: File = None,
    json: Json = False,
) -> None:
    """Replace the address of a recipient, and attempt delivery now."""
    from ironpost.cli import queue as command

    command.edit(config, id, old, new, as_json=json)


@queue.command("cat")
def queue_cat(
    id: Annotated[str, typer.Argument(metavar="ID")],  # noqa: A002 - the command line's word
    header: Annotated[bool, typer.Option("--header", help="Only the header section.")] = False,
    config: File = None,
) -> None:
    """Print a message as it is stored."""
    from ironpost.cli import queue as command

    command.cat(config, id, header=header)


@queue.command("drop")
@_selecting
def queue_drop(
    selection: Any,
    config: File = None,
    json: Json = False,
) -> None:
    """Remove selected mail without sending a bounce."""
    from ironpost.cli import queue as command

    command.drop(config, selection, as_json=json)


@queue.command("shape")
def queue_shape(
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of domains to show.")] = 50,
    config: File = None,
    json: Json = False,
) -> None:
    """Show the queue by domain and age, and the state of each destination."""
    from ironpost.cli import queue as command

    command.shape(config, limit=limit, as_json=json)


@queue.command("sql")
def queue_sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT.")],
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows to print.")] = 10_000,
    config: File = None,
    json: Json = False,
) -> None:
    """Query the views queue, attempts and events in SQL. Changes nothing."""
    from ironpost.cli import queue as command

    command.sql(config, statement, limit=limit, as_json=json)


@queue.command("explain")
def queue_explain(
    id: Annotated[str, typer.Argument(metavar="ID")],  # noqa: A002 - the command line's word
    config: File = None,
    json: Json = False,
) -> None:
    """Show why each recipient of a message is where it is, and what comes next."""
    from ironpost.cli import queue as command

    command.explain(config, id, as_json=json)
