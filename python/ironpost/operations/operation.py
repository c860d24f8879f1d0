"""Operations: queries and commands for operators, each with a typed request and response.

Promises: an operation is declared once, in the module of its noun, and listed once, in `registry`. The control socket,
the workers' channels and the command line find it there; none of them names it. Requests from outside are checked
against the declaration before the operation runs; an invalid one is refused with a sentence that names the field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from ironpost.processes.requests import RequestRefused

ContextT = TypeVar("ContextT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class Reason(Enum):
    """Category of a failed operation; the command line has an exit code for each."""

    INVALID = "invalid"
    """An argument is invalid."""
    NOT_FOUND = "not found"
    UNAVAILABLE = "unavailable"
    FORBIDDEN = "forbidden"
    NOT_WRITABLE = "not writable"
    CONFIGURATION = "configuration"
    IN_USE = "in use"
    """Another process uses the data directory."""
    DAMAGED = "damaged"
    """Stored data is not what was written."""


class OperationError(RequestRefused):
    """An operation failed. The text is for the operator."""

    def __init__(self, reason: Reason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SilentWorker:
    """A worker that did not answer."""

    worker: int
    why: str


class Scope(Enum):
    """The processes that run an operation."""

    LOCAL = "local"
    """The requesting process. It reads the data directory and needs no server; the context is a
    `context.DataDirectory`."""
    ONE = "one"
    """The process that holds the control socket: the supervisor, or the only process. A `context.ControlProcess`."""
    ALL = "all"
    """Every process that serves mail; their responses are merged. A `context.ServingProcess`."""
    OWNER = "owner"
    """The processes that own the messages in the request's `ids`; all of them if that is None. A
    `context.ServingProcess`."""


@dataclass(frozen=True, slots=True)
class Operation(Generic[ContextT, RequestT, ResponseT]):
    """One operation. `request` and `response` are dataclasses."""

    name: str
    """The value of `do` in a request."""
    request: type[RequestT]
    response: type[ResponseT]
    scope: Scope
    run: Callable[[ContextT, RequestT], Awaitable[ResponseT]]
    """Runs the operation; raises `RequestRefused` with a sentence for the operator."""
    complete: Callable[[Any, ResponseT, Mapping[int, str]], ResponseT] | None = None
    """Adds what only the supervisor knows to a merged response. Arguments: the supervisor
    (`context.SupervisorProcess`), the response, and by worker number why workers did not answer."""
    empty: ResponseT | None = None
    """The merged response if no worker answers; if None, the operation fails then."""


@dataclass(frozen=True, slots=True)
class EmptyRequest:
    """The request of operations that take no arguments."""


@cache
def _types(kind: Any) -> Mapping[str, Any]:
    return get_type_hints(kind)


def encode(value: Any) -> Any:
    """Convert a request or response to JSON values, using `name` and the converter `json` in metadata of fields."""
    if is_dataclass(value):
        return {
            each.metadata.get("name", each.name): each.metadata.get("json", encode)(getattr(value, each.name))
            for each in fields(value)
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    return value


def decode(kind: type[ResponseT], values: Mapping[str, Any]) -> ResponseT:
    """Convert JSON values to a request or response of that type. Fields it does not declare are ignored.

    Raises:
        RequestRefused: a field is missing or has the wrong type; the text names it.
    """
    arguments = {}
    hints = _types(kind)  # type: ignore[arg-type] # a class can be hashed
    for each in fields(kind):  # type: ignore[arg-type] # a dataclass by the contract of Operation
        name = each.metadata.get("name", each.name)
        if name in values:
            arguments[each.name] = _checked(name, hints[each.name], values[name])
        elif each.default is MISSING and each.default_factory is MISSING:
            raise RequestRefused(f'invalid request: "{name}" is missing')
    return kind(**arguments)


def _checked(name: str, kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in {Union, UnionType}:
        if value is None and NoneType in arguments:
            return None
        chosen = next(each for each in arguments if each is not NoneType)
        return _checked(name, chosen, value)
    if origin in {list, tuple} and isinstance(value, list):
        if arguments[0] in _PLURAL and not all(_is(each, arguments[0]) for each in value):
            raise RequestRefused(f'invalid request: "{name}" must be {_described(kind)}')
        return origin(_checked(name, arguments[0], each) for each in value)
    if origin is dict and isinstance(value, dict):
        return {key: _checked(name, arguments[1], each) for key, each in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return decode(kind, value)  # type: ignore[arg-type]
    if isinstance(kind, type) and origin is None and _is(value, kind):
        return value
    raise RequestRefused(f'invalid request: "{name}" must be {_described(kind)}')


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _described(kind: Any) -> str:
    if get_origin(kind) in {list, tuple}:
        return f"a list of {_PLURAL.get(get_args(kind)[0], 'objects')}"
    return _SINGULAR.get(kind, "an object")


_SINGULAR = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
_PLURAL = {str: "strings", int: "integers", float: "numbers"}


def merged(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the answers of several workers: numbers are added, lists joined, of other values the first is taken."""
    total: dict[str, Any] = {}
    for answer in answers:
        for key, value in answer.items():
            total[key] = _joined(total[key], value) if key in total else value
    return total


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return merged([one, other])
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *(each for each in other if each not in one)]
    return one + other if _is(one, float) and _is(other, float) else one
