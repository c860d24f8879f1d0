"""`queue`: show the queue, with or without a running server, and change it through the running server."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.call import call, call_local, failures_explained, print_json, warn
from ironpost.cli.settings import configuration
from ironpost.compose.data_directory import LocalData
from ironpost.model.text import counted, escape
from ironpost.operations.destinations import (
    DESTINATIONS,
    RESUME,
    SHAPE,
    SUSPEND,
    DestinationEntry,
    DestinationsRequest,
    ResumeRequest,
    ShapeRequest,
    SuspendRequest,
)
from ironpost.operations.operation import encode
from ironpost.operations.queue import (
    BOUNCE,
    DROP,
    EDIT,
    HOLD,
    LIST,
    RELEASE,
    RETRY,
    SHOW,
    BounceRequest,
    EditRequest,
    ListRequest,
    RecipientEntry,
    RecipientsChanged,
    ShowRequest,
    copy_content,
    moment,
)
from ironpost.operations.selection import SelectionRequest
from ironpost.operations.trace import EXPLAIN, QUERY, TRACE, EventEntry, ExplainQueued, QueryRequest, TraceRequest
from ironpost.queue.store import UNFINISHED, RecipientState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ironpost.operations.operation import Operation

DOMAINS_AT_ONCE: Final = 500
"""Domains whose destinations one request asks for."""
SHOWN: Final = 5
"""Maximum number of messages that a sentence lists by id."""
SEARCHED: Final = 10_000
"""Maximum number of held messages that are counted."""

RequestT = TypeVar("RequestT", bound=SelectionRequest)
ChangedT = TypeVar("ChangedT", bound=RecipientsChanged)


def show_all(file: Path | None, selection: SelectionRequest, *, as_json: bool, limit: int) -> None:
    """List the queue, or the selected part."""
    queue = call_local(file, LIST, ListRequest(**asdict(selection), limit=limit))
    _warn_of_faults(queue.faults)
    if queue.more:
        warn([f"the list ends after {limit}, oldest first; use --limit to see more"])
    if as_json:
        print_json(queue.messages)
        return
    if not queue.messages:
        typer.echo("The queue is empty." if selection.is_empty else "No such mail is in the queue.")
        return
    table = Table(box=None, header_style="", pad_edge=False)
    for title in ("ID", "AGE", "SIZE", "FROM", "TO", "NEXT TRY", "LAST REPLY"):
        table.add_column(title, no_wrap=title in {"ID", "AGE", "SIZE"}, overflow="fold")
    lines = [(message, [to for to in message.recipients if to.state in UNFINISHED]) for message in queue.messages]
    now, states = time.time(), _states_of(file, [unfinished[0] for _, unfinished in lines if unfinished])
    for message, unfinished in lines:
        first = next(iter(unfinished or message.recipients), None)
        more = f" and {len(unfinished) - 1} more" if len(unfinished) > 1 else ""
        row = (
            message.id, _duration(now - message.accepted), _bytes(message.size), f"<{message.sender}>",
            f"{first.address}{more}" if first else "-", _next_attempt(first, states, now) if first else "-",
            message.fault or (_reply_text(first.last, first.detail) if first else ""),
        )  # fmt: skip
        table.add_row(*map(_escaped, row))
    _console().print(table)


def show(file: Path | None, identifier: str, *, as_json: bool) -> None:
    """Show one message.

    Raises:
        CommandError: it is not in the queue.
    """
    response = call_local(file, SHOW, ShowRequest(identifier))
    _warn_of_faults(response.faults)
    message = response.message
    if as_json:
        print_json(message)
        return
    now, states = time.time(), _states_of(file, message.recipients)
    client = message.client
    console = _console()
    lines = {
        "id": message.id,
        "accepted": f"{moment(message.accepted)} ({_duration(now - message.accepted)} ago)",
        "size": _bytes(message.size),
        "from": f"<{message.sender}>",
        "client": f"{client['helo']} [{client['ip']}] with {client['protocol']}" if client["ip"] else "generated here",
    }
    if message.fault:
        lines["fault"] = message.fault
    for name, value in lines.items():
        console.print(_escaped(f"{name:9} {value}"))
    if message.parameters:
        console.print(_escaped(f"asked     {_parameters(message.parameters)}"))
    for recipient in message.recipients:
        console.print(_escaped(f"\nto        {recipient.address}"))
        console.print(_escaped(f"  state     {recipient.state.value}, {counted(recipient.attempts, 'attempt')}"))
        console.print(_escaped(f"  next try  {_next_attempt(recipient, states, now)}"))
        if recipient.parameters:
            console.print(_escaped(f"  asked     {_parameters(recipient.parameters)}"))
        if recipient.last:
            console.print(_escaped(f"  last      {_reply_text(recipient.last, recipient.remote or recipient.detail)}"))


def retry(file: Path | None, selection: SelectionRequest, *, as_json: bool) -> None:
    """Make selected recipients due now.

    Raises:
        CommandError: nothing is due, because all of it is held or waits for a time, or nothing is selected; or see
            `_change`.
    """
    found = _change(file, RETRY, selection, "{} due now", as_json)
    for each in found.suspended:
        end = f"until {each.until}" if each.until else "until it is resumed"
        warn([f"{each.name} is suspended {end}; to attempt delivery there: ironpost resume {each.name}"])
    if selection.everything and found.recipients:
        return  # held messages are not an error if everything was selected
    left: list[str] = []
    if held := _held(file, selection):
        which = " ".join(held) if selection.ids or len(held) <= SHOWN else "ID"
        left.append(f"{_are(held)} held and not retried; release with: ironpost queue release {which}")
    if found.early:
        waits = "message waits" if found.early == 1 else "messages wait"
        left.append(f"{found.early} {waits} for the time the sender asked for; to attempt delivery now, give the ID")
    if found.recipients:
        warn(left)
    elif left:
        raise CommandError(exits.NO_INPUT, "\n".join(left))
    else:
        _require_any(found, selection)


def hold(file: Path | None, selection: SelectionRequest, *, as_json: bool) -> None:
    """Hold selected recipients.

    Raises:
        CommandError: all are held already, or nothing is selected; or see `_change`.
    """
    found = _change(file, HOLD, selection, "{} held", as_json)
    if not found.recipients and (held := _held(file, selection)):
        raise CommandError(exits.NO_INPUT, f"{_are(held)} already held")
    _require_any(found, selection)


def release(file: Path | None, selection: SelectionRequest, *, as_json: bool) -> None:
    """Release selected recipients that are held.

    Raises:
        CommandError: none of them was held; or see `_change`.
    """
    if not _change(file, RELEASE, selection, "{} released", as_json).recipients:
        if selection.ids is None:
            raise CommandError(exits.NO_INPUT, "no such mail is held")
        which = list(dict.fromkeys(selection.ids))
        sentence = f"{_are(which)} not held; to attempt delivery now: ironpost queue retry {' '.join(selection.ids)}"
        raise CommandError(exits.NO_INPUT, sentence)


def drop(file: Path | None, selection: SelectionRequest, *, as_json: bool) -> None:
    """Remove selected recipients without a bounce.

    Raises:
        CommandError: nothing is selected; or see `_change`.
    """
    _require_any(_change(file, DROP, selection, "{} dropped", as_json), selection)


def bounce(file: Path | None, selection: SelectionRequest, *, why: str, as_json: bool) -> None:
    """Fail selected recipients, with a bounce to the sender.

    Raises:
        CommandError: nothing is selected, or all of it is being attempted; or see `_change`.
    """
    found = _change(file, BOUNCE, BounceRequest(**asdict(selection), why=why), "{} returned to the sender", as_json)
    _require_any(found, selection, ", or it is being attempted right now")


def edit(file: Path | None, identifier: str, old: str, new: str, *, as_json: bool) -> None:
    """Replace the address of a recipient."""
    answer = call(file, EDIT, EditRequest([identifier], old, new))
    if as_json:
        print_json(answer.json)
    else:
        typer.echo(f"{old} is replaced by {new}")
    answer.require_complete()


def cat(file: Path | None, identifier: str, *, header: bool) -> None:
    """Write the content of a message to standard output.

    Raises:
        CommandError: it is not in the queue, or cannot be read.
    """
    data = LocalData(configuration(file))
    with failures_explained():
        asyncio.run(copy_content(data, identifier, sys.stdout.buffer.write, header=header))
    sys.stdout.buffer.flush()


def sql(file: Path | None, statement: str, *, limit: int, as_json: bool) -> None:
    """Runs a query over the views of the queue."""
    found = call_local(file, QUERY, QueryRequest(statement, limit))
    _warn_of_faults(found.faults)
    if found.more:
        warn([f"the result ends after {counted(limit, 'row')}; use --limit to see more"])
    if as_json:
        print_json([dict(zip(found.columns, row, strict=True)) for row in found.rows])
        return
    for row in (found.columns, *found.rows):
        typer.echo("\t".join(escape("" if value is None else str(value)) for value in row))


def trace(file: Path | None, what: str, *, limit: int, as_json: bool) -> None:
    """Shows the events of messages.

    Raises:
        CommandError: none is found.
    """
    found = call_local(file, TRACE, TraceRequest(what, limit))
    _warn_of_faults(found.faults)
    if as_json:
        print_json(found.messages)
        return
    if not found.messages:
        raise CommandError(
            exits.NO_INPUT,
            f"no events of {what} are recorded: queue.history limits how long they are kept, refused mail is in the"
            " log only (event refused), and mail to an alias is found by its targets",
        )
    console = _console()
    for message in found.messages:
        console.print(_escaped(f"{message.id} {message.message_id}".rstrip()))
        for event in message.events:
            console.print(_escaped(f"  {_event_text(event)}"))


def _event_text(event: EventEntry) -> str:
    reply = _reply_text(event.reply, event.remote or event.detail)
    return " ".join(part for part in (moment(event.at), event.kind, f"<{event.address}>", reply) if part)


def _reply_text(reply: str, origin: str) -> str:
    """A reply with the host that sent it, or with the reason why this system concluded it."""
    return f"{reply} ({origin})" if origin else reply


def explain(file: Path | None, identifier: str, *, as_json: bool) -> None:
    """Explains the decisions about a message in the queue, with the events so far."""
    answer = call(file, EXPLAIN, ExplainQueued([identifier]))
    history = call_local(file, TRACE, TraceRequest(identifier))
    events = [event for message in history.messages if message.id == identifier for event in message.events]
    if as_json:
        print_json({"recipients": answer.json["recipients"], "events": events})
        return
    console = _console()
    for to in answer.response.recipients:
        console.print(_escaped(f"to        {to.recipient}: {to.state}, {counted(to.attempts, 'attempt')}"))
        console.print(_escaped(f"  route     {to.route}"))
        for reason in to.reasons:
            console.print(_escaped(f"              {reason}"))
        if to.destination is not None:
            window = f"{to.destination.busy} of {counted(to.destination.window, 'slot')} in use"
            console.print(
                _escaped(f"  goes to   {to.destination.destination}: {_state_text(to.destination)}, {window}")
            )
        console.print(_escaped(f"  next try  {to.next or '-'} ({to.why})"))
        if to.expires:
            console.print(_escaped(f"  expires   {to.expires}"))
        for event in events:
            if event.address == to.recipient:
                console.print(_escaped(f"  event     {_event_text(event)}"))


def shape(file: Path | None, *, limit: int, as_json: bool) -> None:
    """Shows the queue by destination domain and age, with the state of each destination if a server runs."""
    found = call_local(file, SHAPE, ShapeRequest(limit))
    _warn_of_faults(found.faults)
    states = _destinations(file, [line.domain for line in found.domains])
    if as_json:
        lines = [{**encode(line), "destination": encode(states.get(line.domain))} for line in found.domains]
        print_json({"ages": found.ages, "domains": lines, "more": found.more})
        return
    table = Table(box=None, header_style="", pad_edge=False)
    table.add_column("DOMAIN", overflow="fold")
    for title in ("TOTAL", *(f"<={_duration(age)}" for age in found.ages), f">{_duration(found.ages[-1])}"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("DESTINATION", overflow="fold")
    for line in found.domains:
        state = states.get(line.domain)
        text = "unknown" if state is None else f"{state.destination}: {_state_text(state)}"
        table.add_row(*map(_escaped, (line.domain or "-", str(line.total), *map(str, line.ages), text)))
    _console().print(table)
    if found.more:
        warn([f"{counted(found.more, 'more domain')}; use --limit to see them"])


def _destinations(file: Path | None, domains: Sequence[str]) -> dict[str, DestinationEntry]:
    """Return the destinations of domains, as the worker knows them that cannot reach them; none without a server."""
    states: dict[str, DestinationEntry] = {}
    try:
        for start in range(0, len(domains), DOMAINS_AT_ONCE):
            answer = call(file, DESTINATIONS, DestinationsRequest(list(domains[start : start + DOMAINS_AT_ONCE])))
            answer.warn_of_silent()
            for each in answer.response.destinations:
                if each.domain not in states or states[each.domain].state == "up":
                    states[each.domain] = each
    except CommandError as error:
        if error.code != exits.UNAVAILABLE:
            warn([str(error)])
    return states


def _state_text(entry: DestinationEntry) -> str:
    until = f" until {entry.until}" if entry.until else ""
    why = ", last failure" if entry.state == "up" else ""
    return f"{entry.state}{until}{f'{why}: {entry.why}' if entry.why else ''}"


def suspend(file: Path | None, request: SuspendRequest, *, as_json: bool) -> None:
    """Suspends a destination."""
    answer = call(file, SUSPEND, request, refused=exits.USAGE)
    found = answer.response
    if as_json:
        print_json(answer.json)
    else:
        typer.echo(f"{found.name} is suspended {f'until {found.until}' if found.until else 'until it is resumed'}")
    answer.require_complete()


def resume(file: Path | None, name: str, *, as_json: bool) -> None:
    """Resumes a destination.

    Raises:
        CommandError: it was not suspended.
    """
    answer = call(file, RESUME, ResumeRequest(name))
    if as_json:
        print_json(answer.json)
    elif answer.response.was_suspended:
        typer.echo(f"{answer.response.name} is resumed")
    answer.require_complete()
    if not answer.response.was_suspended:
        instead = answer.response.instead
        hint = f"; its mail waits for {instead}: ironpost resume {instead}" if instead else ""
        raise CommandError(exits.NO_INPUT, f"{answer.response.name} is not suspended{hint}")


def _change(
    file: Path | None,
    operation: Operation[Any, RequestT, ChangedT],
    request: RequestT,
    sentence: str,
    as_json: bool,
) -> ChangedT:
    """Change the queue of the running server, and print and return what changed.

    Raises:
        CommandError: the selection is invalid; an id is unknown; no server runs; a worker does not answer.
    """
    with failures_explained():
        request.change()
    answer = call(file, operation, request)
    count = answer.response.recipients
    if as_json:
        print_json(answer.json)
    else:
        typer.echo(sentence.format(f"{counted(count, 'recipient')} {'is' if count == 1 else 'are'}"))
    answer.require_complete()
    return answer.response


def _require_any(found: RecipientsChanged, selection: SelectionRequest, otherwise: str = "") -> None:
    """Check that a change concerned something, unless it was asked for the whole queue.

    Raises:
        CommandError: nothing was changed.
    """
    if not (found.recipients or selection.everything):
        raise CommandError(exits.NO_INPUT, f"no such mail is in the queue{otherwise}")


def _are(ids: list[str]) -> str:
    """Return the messages and the verb; the number of messages if there are many."""
    if len(ids) > SHOWN:
        return f"{counted(len(ids), 'message')} are"
    return f"{', '.join(ids)} {'is' if len(ids) == 1 else 'are'}"


def _held(file: Path | None, selection: SelectionRequest) -> list[str]:
    """Return messages with selected recipients that are held, at most `SEARCHED`."""
    if selection.state not in {None, RecipientState.HELD.value}:
        return []
    criteria = replace(selection, everything=False, state=RecipientState.HELD.value)
    request = ListRequest(**asdict(criteria), limit=SEARCHED)
    return [each.id for each in call_local(file, LIST, request).messages]


def _warn_of_faults(faults: Sequence[str]) -> None:
    warn([f"part of the queue cannot be read: {fault}" for fault in faults])


def _escaped(text: str) -> Text:
    """Return text that is safe on a terminal: control characters in peers' addresses and replies are escaped (R20)."""
    return Text(escape(text, keep="\n"))


def _console() -> Console:
    # A pipe has no width: fold only very long lines.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _parameters(parameters: Mapping[str, str | None]) -> str:
    return " ".join(key if value is None else f"{key}={value}" for key, value in parameters.items())


def _states_of(file: Path | None, recipients: Sequence[RecipientEntry]) -> dict[str, DestinationEntry]:
    """Return the destinations of those of these recipients that are queued, by domain."""
    queued = [to for to in recipients if to.state is RecipientState.QUEUED]
    return _destinations(file, list(dict.fromkeys(map(_domain, queued))))


def _domain(recipient: RecipientEntry) -> str:
    return recipient.address.rpartition("@")[2].lower()


def _next_attempt(recipient: RecipientEntry, states: Mapping[str, DestinationEntry], now: float) -> str:
    if recipient.next is None:
        return "held" if recipient.state is RecipientState.HELD else "-"
    state = states.get(_domain(recipient))
    if state is not None and state.state == "suspended":
        return "suspended"
    if state is not None and state.state == "down" and (state.until or "") > (moment(recipient.next) or ""):
        return f"down until {state.until}"
    return "now" if recipient.next <= now else f"in {_duration(recipient.next - now)}"


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
