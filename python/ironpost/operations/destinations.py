"""Operations on destinations: their state, suspend and resume; and the shape of the queue by destination."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost.config.quantities import duration
from ironpost.model import Address
from ironpost.model.text import complaint, escape
from ironpost.mta.suspended import is_fetched, names
from ironpost.operations.operation import Operation, OperationError, Reason, Scope
from ironpost.operations.queue import SuspendedEntry, check_reason, moment, suspended_entry
from ironpost.processes.shared_destinations import destination_name
from ironpost.queue.scheduler import FOREVER
from ironpost.queue.store import AGES
from ironpost.routing.directory import POSTMASTER, DirectoryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ironpost.operations.context import DataDirectory, ServingProcess
    from ironpost.queue.scheduler import Destination


STATES: Final = ("up", "down", "suspended")


@dataclass(frozen=True, slots=True)
class DestinationEntry:
    """The state of the destination of a domain, in one worker."""

    domain: str
    """Of the recipients that were asked for; empty if the destination itself was."""
    destination: str
    """What shares its connections: a route with its hosts, or with the domain."""
    state: str
    """One of `STATES`."""
    until: str | None
    """When it is tried again, in ISO 8601; None if nothing is planned."""
    why: str
    """The last failure, or the operator's reason."""
    window: int
    """Deliveries that may run at a time."""
    busy: int
    """Deliveries that run."""


@dataclass(frozen=True, slots=True)
class DestinationsRequest:
    """Domains of recipients."""

    domains: list[str]


@dataclass(frozen=True, slots=True)
class Destinations:
    """The states of the destinations, equal ones of several workers once; domains without a route are left out."""

    destinations: list[DestinationEntry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SuspendRequest:
    """A destination to suspend."""

    name: str
    """A domain, or a smart host with or without its port."""
    time: str | None = field(default=None, metadata={"name": "for"})
    """A duration, `1h`; None until it is resumed."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class ResumeRequest:
    """A destination to resume."""

    name: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A destination that is not suspended any more."""

    name: str
    was_suspended: bool
    """Not set if there was nothing to end."""
    instead: str | None = None
    """If it was not suspended, the name of a suspension that stops its mail; None without one."""


@dataclass(frozen=True, slots=True)
class ShapeRequest:
    """The unfinished recipients by domain and age."""

    limit: int = 50
    """Domains, those with most recipients first."""


@dataclass(frozen=True, slots=True)
class ShapeLine:
    """Unfinished recipients of one domain."""

    domain: str
    total: int
    ages: list[int]
    """Recipients by the age of their message: up to each of `ages`, and above the last."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The queue by domain and age."""

    ages: list[float]
    """Seconds."""
    domains: list[ShapeLine]
    more: int
    """Domains beyond the limit."""
    faults: list[str]
    """Shards that cannot be read."""


async def _shape(data: DataDirectory, request: ShapeRequest) -> Shape:
    with data.queue_reader() as reader:
        found = await reader.shape()
        lines = [ShapeLine(domain, sum(counts), list(counts)) for domain, counts in found.items()]
        lines.sort(key=lambda line: (-line.total, line.domain))
        return Shape(list(AGES), lines[: request.limit], max(0, len(lines) - request.limit), list(reader.faults))


async def _destinations(process: ServingProcess, request: DestinationsRequest) -> Destinations:
    now = process.clock.now()
    found: list[DestinationEntry] = []
    for domain in request.domains:
        with contextlib.suppress(ValueError, DirectoryError):  # not a domain; or the directory cannot answer now
            found.append(entry(domain, await process.runner.destinations.of_domain(domain), now))
    return Destinations(found)


def entry(domain: str, destination: Destination, now: float) -> DestinationEntry:
    """The state of a destination at `now` (seconds since 1970)."""
    window, state = destination.window, state_of(destination, now)
    until, why = destination.blocked_until, window.failure
    if state == "suspended":
        until, why = destination.suspended_until, destination.reason
    elif state == "down":
        until = window.blocked_until
    planned = now < until < FOREVER
    return DestinationEntry(
        domain, destination_name(destination) or "this system", state, moment(until) if planned else None, why,
        min(window.size, destination.limit), destination.busy,
    )  # fmt: skip


def state_of(destination: Destination, now: float) -> str:
    """One of `STATES`, at `now` (seconds since 1970)."""
    if destination.suspended_until > now:
        return "suspended"
    return "down" if destination.window.down else "up"


def with_mail(process: ServingProcess) -> Iterator[Destination]:
    """The destinations other than this system for which this process has mail in the queue.

    Without those whose mail is fetched by its owner (ETRN, ATRN).
    """
    for each in process.runner.scheduler.destinations():
        if each.queues and names(each) and not is_fetched(each):
            yield each


async def _suspend(process: ServingProcess, request: SuspendRequest) -> SuspendedEntry:
    name = request.name.lower()
    try:
        seconds = None if request.time is None else duration(request.time)
    except ValueError as error:
        raise OperationError(Reason.INVALID, f"invalid time {request.time}: {error}") from None
    if seconds == 0:
        raise OperationError(Reason.INVALID, "the time must be above 0")
    check_reason(request.why)
    await _check_name(process, name)
    made = process.suspended.suspend(name, seconds, request.why)
    process.runner.pump()
    return suspended_entry(made)


async def _check_name(process: ServingProcess, name: str) -> None:
    """Check that a name is that of a destination.

    Raises:
        OperationError: it is not; the text says what to suspend instead.
    """
    if process.runner.routes.names_host(name):
        return
    try:
        Address(POSTMASTER, name)
    except ValueError as fault:
        sentence = f"{name}: neither a domain nor a smart host: {complaint(name, fault)}"
        raise OperationError(Reason.INVALID, sentence) from None
    try:
        destination = await process.runner.destinations.of_domain(name)
    except DirectoryError as error:
        raise OperationError(Reason.UNAVAILABLE, f"{name}: {error}") from None
    known = names(destination)
    if not known:
        raise OperationError(Reason.INVALID, f"mail for {name} stays on this system; see ironpost queue hold")
    if name not in known:
        where = destination_name(destination)
        sentence = f"mail for {name} goes to the {where}; suspend that: ironpost suspend {known[-1]}"
        raise OperationError(Reason.INVALID, sentence)


async def _resume(process: ServingProcess, request: ResumeRequest) -> Resumed:
    name = request.name.lower()
    if not name or not name.isprintable():
        raise OperationError(Reason.INVALID, f"{escape(name)!r}: neither a domain nor a smart host")
    if process.suspended.resume(name):
        process.runner.pump()
        return Resumed(name, True)
    destinations = [each for each in process.runner.scheduler.destinations() if name in names(each)]
    with contextlib.suppress(ValueError, DirectoryError):  # as in `_destinations`
        destinations.append(await process.runner.destinations.of_domain(name))
    stopped = next(filter(None, map(process.suspended.of, destinations)), None)
    return Resumed(name, False, None if stopped is None else stopped.name)


SHAPE: Final = Operation("queue.shape", ShapeRequest, Shape, Scope.LOCAL, _shape)
DESTINATIONS: Final = Operation("destinations", DestinationsRequest, Destinations, Scope.ALL, _destinations)
SUSPEND: Final = Operation("suspend", SuspendRequest, SuspendedEntry, Scope.ALL, _suspend)
RESUME: Final = Operation("resume", ResumeRequest, Resumed, Scope.ALL, _resume)
