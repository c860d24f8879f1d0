"""Operations on the queue: list, show, tally, retry, hold, release, bounce, edit, drop.

Promises: a request that names an unknown message changes nothing. Long lists are processed in batches, each durable by
itself, and the event loop serves sessions between them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ironpost.message.section import HeaderReader
from ironpost.model import Address
from ironpost.model.parameters import moment_text
from ironpost.model.text import complaint
from ironpost.mta.destinations import resolved
from ironpost.operations.operation import EmptyRequest, Operation, OperationError, Reason, Scope
from ironpost.operations.selection import SelectionRequest
from ironpost.processes.requests import RequestRefused
from ironpost.protocol.extensions import wire_parameters
from ironpost.queue.store import RecipientState, divided
from ironpost.routing.directory import Alias, DirectoryError, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from ironpost.operations.context import DataDirectory, ServingProcess
    from ironpost.queue.selection import Selection
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.queue.suspension import Suspension
    from ironpost.routing.directory import Directory, Entry

BATCH: Final = 200
"""Number of ids looked up at a time; the event loop serves sessions in between."""
WHY: Final = 200
"""Maximum length of a reason, in characters."""


def moment(seconds: float | None) -> str | None:
    """Format seconds since 1970 as `moment_text` does; None for None."""
    return None if seconds is None else moment_text(seconds)


@dataclass(frozen=True, slots=True)
class RecipientEntry:
    """One recipient of a queued message."""

    address: str = field(metadata={"name": "to"})
    parameters: dict[str, str | None]
    state: RecipientState
    attempts: int
    next: float | None = field(metadata={"json": moment})
    """The time of the next attempt, in seconds since 1970; None if none is planned."""
    last: str
    """The last reply, or why policy holds the message; empty if there is neither."""
    detail: str
    """Why, and what to do, if no host sent it; empty if that is all in the reply."""
    remote: str
    """The host that sent the last reply."""


@dataclass(frozen=True, slots=True)
class MessageEntry:
    """One queued message in a list."""

    id: str
    accepted: float = field(metadata={"json": moment})
    """Time of acceptance, in seconds since 1970."""
    size: int
    """Size in bytes."""
    sender: str = field(metadata={"name": "from"})
    fault: str | None
    """Reason why the message cannot be processed; None if it can."""
    recipients: list[RecipientEntry]


@dataclass(frozen=True, slots=True)
class MessageDetail(MessageEntry):
    """One queued message in full."""

    parameters: dict[str, str | None]
    """Parameters of MAIL."""
    client: dict[str, str]
    """The client that sent it (`model.Origin`)."""


@dataclass(frozen=True, slots=True)
class ListRequest(SelectionRequest):
    """The oldest messages with selected recipients, at most `limit`."""

    limit: int = 1000


@dataclass(frozen=True, slots=True)
class ListResponse:
    """Messages, oldest first, with the selected recipients; with all of them if the request has no criterion."""

    messages: list[MessageEntry]
    more: bool
    """Whether there are more than `limit`."""
    faults: list[str]
    """Shards that cannot be read."""


@dataclass(frozen=True, slots=True)
class ShowRequest:
    """One message."""

    id: str


@dataclass(frozen=True, slots=True)
class ShowResponse:
    """The message, if there is one of that id."""

    message: MessageDetail
    faults: list[str]


@dataclass(frozen=True, slots=True)
class TallyResponse:
    """The size of the queue."""

    messages: int
    recipients: dict[str, int]
    """Unfinished recipients by state."""
    faults: list[str]


@dataclass(frozen=True, slots=True)
class BounceRequest(SelectionRequest):
    """Recipients to fail now."""

    why: str = ""
    """The reason, for the sender."""


@dataclass(frozen=True, slots=True)
class EditRequest:
    """A recipient of one message whose address is wrong."""

    ids: list[str]
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RecipientsChanged:
    """The number of recipients that an operation changed."""

    recipients: int


@dataclass(frozen=True, slots=True)
class SuspendedEntry:
    """A destination that an operator suspended."""

    name: str
    until: str | None
    """ISO 8601; None until it is resumed."""
    why: str


def suspended_entry(suspension: Suspension) -> SuspendedEntry:
    """Return a suspension as operations show it."""
    return SuspendedEntry(suspension.name, moment(suspension.until), suspension.why)


@dataclass(frozen=True, slots=True)
class RecipientsRetried(RecipientsChanged):
    """The result of a retry."""

    suspended: list[SuspendedEntry]
    """Destinations of these recipients at which nothing is attempted."""
    early: int
    """Selected messages that wait for the time their sender asked for, and are attempted earlier only by id."""


# -- reading


async def _list(data: DataDirectory, request: ListRequest) -> ListResponse:
    with data.queue_reader() as reader:
        if request.is_empty:
            found = await reader.list(request.limit + 1)
        else:
            found = await reader.select(request.change(), request.limit + 1)
        more = len(found) > request.limit
        return ListResponse([_entry(message) for message in found[: request.limit]], more, list(reader.faults))


async def _show(data: DataDirectory, request: ShowRequest) -> ShowResponse:
    with data.queue_reader() as reader:
        message = await reader.get(request.id)
        if message is None:
            raise _no_message(request.id, reader.faults)
        envelope = message.envelope
        details = wire_parameters(envelope.parameters), envelope.origin._asdict()
        return ShowResponse(MessageDetail(*(*_summary(message), *details)), list(reader.faults))


def _no_message(identifier: str, faults: Sequence[str]) -> OperationError:
    unread = "".join(f"part of the queue cannot be read: {each}\n" for each in faults)
    return OperationError(Reason.NOT_FOUND, unread + _absent([identifier]))


def _absent(ids: Sequence[str]) -> str:
    """Return the sentence that these messages are not in the queue."""
    trace = f"it: ironpost trace {ids[0]}" if len(ids) == 1 else "them: ironpost trace ID"
    return f"no message {', '.join(ids)} in the queue; what happened to {trace}"


async def _tally(data: DataDirectory, _request: EmptyRequest) -> TallyResponse:
    with data.queue_reader() as reader:
        tally = await reader.tally()
        states = RecipientState.QUEUED, RecipientState.HELD
        recipients = {state.value: tally.recipients.get(state, 0) for state in states}
        return TallyResponse(tally.messages, recipients, list(reader.faults))


def _summary(message: QueuedMessage) -> tuple[Any, ...]:
    return (
        message.id, message.accepted, message.body.size, str(message.envelope.reverse_path), message.fault or None,
        [_recipient(recipient) for recipient in message.recipients],
    )  # fmt: skip


def _entry(message: QueuedMessage) -> MessageEntry:
    return MessageEntry(*_summary(message))


def _recipient(recipient: QueuedRecipient) -> RecipientEntry:
    return RecipientEntry(
        str(recipient.recipient.address),
        wire_parameters(recipient.recipient.parameters),
        recipient.state,
        recipient.attempts,
        recipient.due if recipient.state is RecipientState.QUEUED else None,
        *divided(recipient.last),
        recipient.remote,
    )


# -- changes


async def _retry(process: ServingProcess, request: SelectionRequest) -> RecipientsRetried:
    recipients, suspended, early = await process.runner.requests.retry(await checked(process, request))
    return RecipientsRetried(recipients, [suspended_entry(each) for each in suspended], early)


async def _hold(process: ServingProcess, request: SelectionRequest) -> RecipientsChanged:
    selection = await checked(process, request)
    recipients = await process.queue.hold(selection)
    await process.runner.requests.recall(selection)
    return RecipientsChanged(recipients)


async def _release(process: ServingProcess, request: SelectionRequest) -> RecipientsChanged:
    recipients = await process.queue.release(await checked(process, request))
    process.wake_queue()
    return RecipientsChanged(recipients)


async def _drop(process: ServingProcess, request: SelectionRequest) -> RecipientsChanged:
    selection = await checked(process, request)
    recipients = await process.queue.drop(selection)
    await process.runner.requests.recall(selection)
    return RecipientsChanged(recipients)


async def _bounce(process: ServingProcess, request: BounceRequest) -> RecipientsChanged:
    check_reason(request.why)
    return RecipientsChanged(await process.runner.requests.bounce(await checked(process, request), request.why))


def check_reason(why: str) -> None:
    """Check the reason that an operator gives.

    Raises:
        OperationError: it is too long, or not one line.
    """
    if not why.isprintable() or len(why) > WHY:
        raise OperationError(Reason.INVALID, f"the reason must be one line of at most {WHY} characters")


async def _edit(process: ServingProcess, request: EditRequest) -> RecipientsChanged:
    addresses: list[Address] = []
    for text in (request.old, request.new):
        try:
            addresses.append(Address("", "") if not text else Address.parse(text))
        except ValueError as fault:
            raise OperationError(Reason.INVALID, f"invalid address {text}: {complaint(text, fault)}") from None
    old, new = addresses
    if old.is_null or not new.domain:
        raise OperationError(Reason.INVALID, "an address must have a domain")
    await _refuse_unusable(process.runner.routes.directory, new)
    selection = await checked(process, SelectionRequest(request.ids, recipient=str(old)))
    for identifier in request.ids:
        message = await process.queue.get(identifier)
        if message is not None and new.needs_smtputf8 and not message.envelope.smtputf8:
            sentence = f"message {identifier} was not sent with SMTPUTF8: it cannot go to a non-ASCII address"
            raise OperationError(Reason.INVALID, sentence)
    count = await process.runner.requests.redirect(selection, new)
    if not count:
        where = " ".join(request.ids)
        sentence = f"no recipient {old} of {where} is queued or held, or it is being attempted right now"
        raise OperationError(Reason.NOT_FOUND, sentence)
    return RecipientsChanged(count)


async def _refuse_unusable(directory: Directory, address: Address) -> None:
    """Check that mail for an address can be delivered as it is.

    Raises:
        OperationError: it takes no mail here, is an alias, or cannot be looked up now.
    """
    try:
        entry: Entry = await resolved(directory.find(address))
    except DirectoryError as error:
        raise OperationError(Reason.UNAVAILABLE, f"{address}: {error}") from None
    if isinstance(entry, Alias):
        if entry.mailbox is None:
            sentence = f"{address} is an alias, which is not expanded again: name a target of it"
            raise OperationError(Reason.INVALID, sentence)
    elif (why := refusal_of(entry)) is not None:
        raise OperationError(Reason.INVALID, f"{address} takes no mail: {why}")


async def copy_content(data: DataDirectory, identifier: str, write: Callable[[bytes], object], *, header: bool) -> None:
    """Write the content of a message, as it is stored.

    Args:
        data: the data directory.
        identifier: of the message.
        write: gets the content in pieces.
        header: only the header section.

    Raises:
        OperationError: there is no such message, or it cannot be read.
    """
    with data.queue_reader() as reader:
        message = await reader.get(identifier)
        if message is None:
            raise _no_message(identifier, reader.faults)
        section = HeaderReader()
        async for piece in message.body.pieces():
            if not header:
                write(piece)
                continue
            section.feed(piece)
            if section.header is not None:
                break
        if header:
            write((section.header or section.finish()).octets)


async def checked(process: ServingProcess, request: SelectionRequest) -> Selection:
    """Parse and check the selection of a change.

    Raises:
        RequestRefused: it is invalid, or a message that it names is not in the queue.
    """
    selection = request.change()
    if selection.ids is not None:
        refuse_unknown(selection.ids, set(await owned(process, selection.ids)))
    return selection


async def owned(process: ServingProcess, ids: Sequence[str]) -> list[str]:
    """Return those of the messages that this process owns."""
    found: list[str] = []
    for start in range(0, len(ids), BATCH):
        found += await process.queue.find(ids[start : start + BATCH])
        await asyncio.sleep(0)
    return found


def refuse_unknown(ids: Sequence[str], known: Container[str]) -> None:
    """Check that every message is known.

    Raises:
        RequestRefused: a message is unknown; the text names the unknown ones.
    """
    unknown = [each for each in ids if each not in known]
    if unknown:
        raise RequestRefused(("nothing was changed: " if len(ids) > 1 else "") + _absent(unknown))


LIST: Final = Operation("queue.list", ListRequest, ListResponse, Scope.LOCAL, _list)
SHOW: Final = Operation("queue.show", ShowRequest, ShowResponse, Scope.LOCAL, _show)
TALLY: Final = Operation("queue.tally", EmptyRequest, TallyResponse, Scope.LOCAL, _tally)
RETRY: Final = Operation("retry", SelectionRequest, RecipientsRetried, Scope.OWNER, _retry)
HOLD: Final = Operation("hold", SelectionRequest, RecipientsChanged, Scope.OWNER, _hold)
RELEASE: Final = Operation("release", SelectionRequest, RecipientsChanged, Scope.OWNER, _release)
BOUNCE: Final = Operation("bounce", BounceRequest, RecipientsChanged, Scope.OWNER, _bounce)
EDIT: Final = Operation("edit", EditRequest, RecipientsChanged, Scope.OWNER, _edit)
DROP: Final = Operation("drop", SelectionRequest, RecipientsChanged, Scope.OWNER, _drop)
