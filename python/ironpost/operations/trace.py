"""The history of a message, the decisions about one that is still in the queue, and queries in SQL.

`queue.trace` reads the events, so it works for delivered, failed and dropped mail, with or without a server;
`queue.explain` asks the process that owns the message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ironpost.operations.destinations import DestinationEntry, entry
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.operations.queue import checked, moment
from ironpost.operations.selection import SelectionRequest
from ironpost.queue.store import QueryRefused, RecipientState, divided
from ironpost.routing.directory import DirectoryError

if TYPE_CHECKING:
    from ironpost.operations.context import DataDirectory, ServingProcess
    from ironpost.queue.store import Event, QueuedMessage, QueuedRecipient


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """Which messages."""

    what: str
    """A queue ID, a Message-ID, or the address of a sender or recipient."""
    limit: int = 20
    """The number of messages, the newest ones."""


@dataclass(frozen=True, slots=True)
class EventEntry:
    """One event (docs/storage.md)."""

    at: float = field(metadata={"json": moment})
    """Seconds since 1970."""
    kind: str
    address: str
    reply: str
    """As `queue.store.Event.reply`, without its detail."""
    detail: str
    """As in `RecipientEntry`."""
    remote: str


@dataclass(frozen=True, slots=True)
class TracedMessage:
    """One message and its events, in order."""

    id: str
    message_id: str
    """Empty if it has none, or its `accepted` event is too old."""
    events: list[EventEntry]


@dataclass(frozen=True, slots=True)
class Trace:
    """The messages that were found."""

    messages: list[TracedMessage]
    faults: list[str]
    """Shards that cannot be read."""


@dataclass(frozen=True, slots=True)
class ExplainQueued:
    """One message in the queue."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class RecipientDecisions:
    """The decisions about one recipient; `expires` is None if it is finished."""

    recipient: str
    state: str
    route: str
    reasons: list[str]
    """Why that route."""
    destination: DestinationEntry | None
    """None if the route cannot be determined now; the reasons say why."""
    attempts: int
    last: str
    detail: str
    """Both as in `RecipientEntry`."""
    next: str | None
    """When the next attempt is made, at the earliest, in ISO 8601; None if none is planned."""
    why: str
    """Why then."""
    expires: str | None
    """When the message is returned if it cannot be delivered, in ISO 8601."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """The decisions about the recipients of a message."""

    recipients: list[RecipientDecisions]


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query in SQL."""

    sql: str
    limit: int = 10_000
    """Rows."""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The rows of a query."""

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    """There are more than `limit`."""
    faults: list[str]
    """Shards that cannot be read."""


async def _query(data: DataDirectory, request: QueryRequest) -> QueryResult:
    with data.queue_reader() as reader:
        try:
            columns, rows = reader.query(request.sql, request.limit + 1)
        except QueryRefused as error:
            raise OperationError(Reason.INVALID, f"the query is refused: {error}") from None
        shown = [list(map(_plain, row)) for row in rows[: request.limit]]
        return QueryResult(list(columns), shown, len(rows) > request.limit, list(reader.faults))


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


async def _trace(data: DataDirectory, request: TraceRequest) -> Trace:
    with data.queue_reader() as reader:
        by_message: dict[str, list[Event]] = {}
        for event in await reader.trace(request.what, request.limit):
            by_message.setdefault(event.message, []).append(event)
        messages = [
            TracedMessage(
                identifier,
                next((each.message_id for each in events if each.message_id), ""),
                [EventEntry(each.at, each.kind, each.address, *divided(each.reply), each.remote) for each in events],
            )
            for identifier, events in list(by_message.items())[-request.limit :]
        ]
        return Trace(messages, list(reader.faults))


async def _explain(process: ServingProcess, request: ExplainQueued) -> Decisions:
    await checked(process, SelectionRequest(request.ids))
    found: list[RecipientDecisions] = []
    for identifier in request.ids:
        message = await process.queue.get(identifier)
        if message is not None and message.fault:
            raise OperationError(Reason.NOT_FOUND, f"message {identifier} cannot be read: {message.fault}")
        if message is not None:
            found += [await _decisions(process, message, to) for to in message.recipients]
    return Decisions(found)


async def _decisions(process: ServingProcess, message: QueuedMessage, to: QueuedRecipient) -> RecipientDecisions:
    now, address = process.clock.now(), to.recipient.address
    try:
        decision, destination = await process.runner.destinations.decide(message.envelope, address)
        route, reasons = str(decision.route), list(decision.reasons)
        state = entry(address.key, destination, now)
    except (ValueError, DirectoryError) as error:
        route, reasons, state = "unknown", [str(error)], None
    next_attempt, why = _next(message, to, state, destination.blocked_until if state else 0.0, now)
    unfinished = to.state in {RecipientState.QUEUED, RecipientState.HELD}
    return RecipientDecisions(
        str(address), to.state.value, route, reasons, state, to.attempts, *divided(to.last), moment(next_attempt), why,
        moment(process.runner.expires(message)) if unfinished else None,
    )  # fmt: skip


def _next(
    message: QueuedMessage, to: QueuedRecipient, state: DestinationEntry | None, blocked: float, now: float
) -> tuple[float | None, str]:
    """The time of the next attempt, and why then."""
    if to.state is RecipientState.HELD:
        return None, "held until it is released"
    if to.state is not RecipientState.QUEUED:
        return None, f"{to.state.value}: nothing is left to do"
    if state is not None and blocked > max(now, to.due):
        until = None if state.until is None else blocked
        if state.state == "suspended":
            return until, "the destination is suspended"
        return until, "the destination is down, and is probed then" if state.state == "down" else "rate limit"
    if to.due <= now:
        return now, "due: it is being attempted, or waits for its turn"
    if to.due == message.not_before and not to.attempts:
        return to.due, "not before the time that the sender asked for"
    return to.due, "retry schedule"


QUERY: Final = Operation("queue.sql", QueryRequest, QueryResult, Scope.LOCAL, _query)
TRACE: Final = Operation("queue.trace", TraceRequest, Trace, Scope.LOCAL, _trace)
EXPLAIN: Final = Operation("queue.explain", ExplainQueued, Decisions, Scope.OWNER, _explain)
