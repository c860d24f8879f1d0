"""`queue`: reads the queue beside a running server, or without one; changes go through the running server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.settings import command, complete, configuration
from ironpost.protocol.extensions import wire_parameters
from ironpost.queue.store import UNFINISHED, QueuedMessage, QueuedRecipient, State
from ironpost.storage.ownership import acting_for
from ironpost.storage.shards import ShardsReader
from ironpost.storage.sqlite_schema import SchemaError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ironpost.protocol.extensions import Parameters


def show_all(named: Path | None, *, as_json: bool, limit: int) -> None:
    """Lists the queue."""
    found: list[QueuedMessage] = _read(named, lambda reader: reader.list(limit + 1))
    if len(found) > limit:
        found.pop()
        typer.echo(f"ironpost: these are the oldest {limit}, there are more: see --limit", err=True)
    if as_json:
        _dump([_summary(message) for message in found])
        return
    if not found:
        typer.echo("The queue is empty.")
        return
    table = Table(box=None, header_style="", pad_edge=False)
    for title in ("ID", "AGE", "SIZE", "FROM", "TO", "NEXT TRY", "LAST REPLY"):
        table.add_column(title, no_wrap=title in {"ID", "AGE", "SIZE"}, overflow="fold")
    now = time.time()
    for message in found:
        waiting = [recipient for recipient in message.recipients if recipient.state in UNFINISHED]
        first = next(iter(waiting or message.recipients), None)
        more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
        row = (
            message.id, _span(now - message.accepted), _octets(message.body.size), f"<{message.envelope.reverse_path}>",
            f"{first.recipient.address}{more}" if first else "-", _next(first, now) if first else "-",
            message.fault or (first.last if first else ""),
        )  # fmt: skip
        table.add_row(*map(_text, row))
    _console().print(table)


def show(named: Path | None, identifier: str, *, as_json: bool) -> None:
    """Shows one message.

    Raises:
        Stop: it is not in the queue.
    """
    message: QueuedMessage | None = _read(named, lambda reader: reader.get(identifier))
    if message is None:
        raise Stop(exits.NO_INPUT, f"no message {identifier} in the queue; `ironpost queue list` shows what is there")
    if as_json:
        _dump(_whole(message))
        return
    now = time.time()
    origin = message.envelope.origin
    console = _console()
    lines = {
        "id": message.id,
        "accepted": f"{_moment(message.accepted)} ({_span(now - message.accepted)} ago)",
        "size": _octets(message.body.size),
        "from": f"<{message.envelope.reverse_path}>",
        "client": f"{origin.helo} [{origin.ip}] with {origin.protocol}" if origin.ip else "made here",
    }
    if message.fault:
        lines["fault"] = message.fault
    for name, value in lines.items():
        console.print(_text(f"{name:9} {value}"))
    if message.envelope.parameters:
        console.print(_text(f"asked     {_asked(message.envelope.parameters)}"))
    for recipient in message.recipients:
        console.print(_text(f"\nto        {recipient.recipient.address}"))
        console.print(_text(f"  state     {recipient.state.value}, {recipient.attempts} attempts"))
        console.print(_text(f"  next try  {_next(recipient, now)}"))
        if recipient.recipient.parameters:
            console.print(_text(f"  asked     {_asked(recipient.recipient.parameters)}"))
        if recipient.last:
            console.print(_text(f"  last      {recipient.last} {f'({recipient.remote})' if recipient.remote else ''}"))


def retry(named: Path | None, ids: list[str], *, everything: bool, as_json: bool) -> None:
    """Makes messages due now.

    Raises:
        Stop: neither ids nor `--all`, or both; an id is unknown; no server runs; a worker does not answer.
    """
    if everything == bool(ids):
        raise Stop(exits.USAGE, "name messages, or say --all")
    answer = command(configuration(named), {"do": "retry", "ids": None if everything else ids})
    _dump(answer) if as_json else typer.echo(f"{answer['recipients']} recipients are due now")
    complete(answer)


def hold(named: Path | None, ids: list[str], *, as_json: bool) -> None:
    """Sets messages aside.

    Raises:
        Stop: an id is unknown; no server runs; a worker does not answer.
    """
    answer = command(configuration(named), {"do": "hold", "ids": ids})
    _dump(answer) if as_json else typer.echo(f"{answer['recipients']} recipients are held")
    complete(answer)


def release(named: Path | None, ids: list[str], *, as_json: bool) -> None:
    """Lets go of messages that are held.

    Raises:
        Stop: an id is unknown; no server runs; a worker does not answer.
    """
    answer = command(configuration(named), {"do": "release", "ids": ids})
    _dump(answer) if as_json else typer.echo(f"{answer['recipients']} recipients are released")
    complete(answer)


def drop(named: Path | None, ids: list[str], *, as_json: bool) -> None:
    """Removes messages without a report.

    Raises:
        Stop: an id is unknown; no server runs; a worker does not answer.
    """
    answer = command(configuration(named), {"do": "drop", "ids": ids})
    _dump(answer) if as_json else typer.echo(f"{answer['messages']} messages dropped")
    complete(answer)


def _read(named: Path | None, question: Callable[[ShardsReader], Awaitable[Any]]) -> Any:
    data = configuration(named).data
    try:
        with acting_for(data):  # SQLite opens files beside the database, and would give links' targets to its owner
            reader = ShardsReader.open_readonly(data)
            try:
                return asyncio.run(_awaited(question(reader)))
            finally:
                for fault in reader.faults:
                    typer.echo(f"ironpost: part of the queue cannot be read: {fault}", err=True)
                reader.close()
    except FileNotFoundError:
        raise Stop(exits.UNAVAILABLE, f"there is no queue in {data}; has a server run on it?") from None
    except SchemaError as error:
        raise Stop(exits.UNAVAILABLE, str(error)) from None
    except PermissionError:
        raise Stop(exits.NO_PERMISSION, f"{data}: only the user who runs the server may read its queue") from None
    except OSError as error:
        raise Stop(exits.UNAVAILABLE, f"{data}: the queue cannot be read: {error.strerror or error}") from None


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


def _text(text: str) -> Text:
    """As a terminal may show it: what a stranger's address or reply could say to the terminal is escaped (R20)."""
    return Text("".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text))


def _console() -> Console:
    # Into a pipe nothing is cut to a width that nobody has.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _dump(value: Any) -> None:
    typer.echo(json.dumps(value, indent=None if not sys.stdout.isatty() else 2))


def _summary(message: QueuedMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "accepted": _moment(message.accepted),
        "size": message.body.size,
        "from": str(message.envelope.reverse_path),
        "fault": message.fault or None,
        "recipients": [_recipient(recipient) for recipient in message.recipients],
    }


def _whole(message: QueuedMessage) -> dict[str, Any]:
    origin = message.envelope.origin
    return _summary(message) | {
        "parameters": wire_parameters(message.envelope.parameters),
        "client": origin._asdict(),
    }


def _recipient(recipient: QueuedRecipient) -> dict[str, Any]:
    return {
        "to": str(recipient.recipient.address),
        "parameters": wire_parameters(recipient.recipient.parameters),
        "state": recipient.state.value,
        "attempts": recipient.attempts,
        "next": _moment(recipient.due) if recipient.state is State.QUEUED else None,
        "last": recipient.last,
        "remote": recipient.remote,
    }


def _asked(parameters: Parameters) -> str:
    return " ".join(key if value is None else f"{key}={value}" for key, value in parameters.items())


def _next(recipient: QueuedRecipient, now: float) -> str:
    if recipient.state is not State.QUEUED:
        return "held" if recipient.state is State.HELD else "-"
    return "now" if recipient.due <= now else f"in {_span(recipient.due - now)}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def _octets(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
