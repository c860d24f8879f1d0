"""Runs operations for the command line: over the control socket of a running server, or on its data directory."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import typer

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.settings import configuration
from ironpost.model.packages import PackageMissing
from ironpost.operations.control_socket import ask
from ironpost.operations.operation import Operation, OperationError, Reason, decode, encode
from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from ironpost.operations.context import DataDirectory

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

EXITS: Final = {
    Reason.INVALID: exits.USAGE,
    Reason.NOT_FOUND: exits.NO_INPUT,
    Reason.UNAVAILABLE: exits.UNAVAILABLE,
    Reason.FORBIDDEN: exits.NO_PERMISSION,
    Reason.NOT_WRITABLE: exits.CANNOT_CREATE,
    Reason.CONFIGURATION: exits.CONFIGURATION,
    Reason.IN_USE: exits.TEMPORARY,
    Reason.DAMAGED: exits.IO_ERROR,
}
PUBLISHED: Final = {"GOOD": None, "ABSENT": exits.NO_INPUT, "FAULTY": exits.NOT_CONFORMING, "UNKNOWN": exits.TEMPORARY}
"""The exit code of a check of what a domain publishes, by the name of the result; None for success."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[ResponseT]):
    """The response of a running server."""

    response: ResponseT
    json: dict[str, Any]
    """The same as it was received, for `--json`."""

    @property
    def silent(self) -> list[str]:
        """A sentence for each worker whose part of the response is missing."""
        return [each["why"] for each in self.json.get("silent", ())]

    def warn_of_silent(self) -> None:
        """Report on standard error the workers whose part of the response is missing."""
        warn(self.silent)

    def require_complete(self) -> None:
        """Exit with an error if a change is incomplete; called after the response was printed.

        Raises:
            CommandError: a worker concerned did not answer.
        """
        if lines := self.silent:
            if not_done := self.json.get("not_done"):
                lines.append(f"these messages may be unchanged: {' '.join(not_done)}")
            raise CommandError(exits.TEMPORARY, "\n".join(lines))


def call(
    file: Path | None,
    operation: Operation[Any, RequestT, ResponseT],
    request: RequestT,
    *,
    refused: int = exits.NO_INPUT,
) -> Answer[ResponseT]:
    """Run an operation on the server that uses this configuration's data directory.

    Raises:
        CommandError: no server runs, permission is denied, it refuses (exit code `refused`), or does not answer in
            time.
    """
    found = configuration(file)
    socket = found.control
    try:
        answer = ask(socket, {"do": operation.name, **encode(request)})
        return Answer(decode(operation.response, answer), answer)
    except RequestTimedOut as error:
        raise CommandError(exits.TEMPORARY, str(error)) from None
    except RequestRefused as error:
        raise CommandError(refused, str(error)) from None
    except (FileNotFoundError, ConnectionRefusedError):
        sentence = f"no server runs on the data directory {found.data} (start it with: ironpost serve)"
        raise CommandError(exits.UNAVAILABLE, sentence) from None
    except PermissionError:
        sentence = f"permission denied: {socket}: only the user who runs the server may control it"
        raise CommandError(exits.NO_PERMISSION, sentence) from None
    except TimeoutError:
        raise CommandError(exits.TEMPORARY, f"{socket}: the server does not answer") from None
    except OSError as error:
        raise CommandError(exits.UNAVAILABLE, f"{socket}: {error}") from None


def call_local(
    file: Path | None, operation: Operation[DataDirectory, RequestT, ResponseT], request: RequestT
) -> ResponseT:
    """Run an operation of scope LOCAL in this process.

    Raises:
        CommandError: it failed.
    """
    from ironpost.compose.data_directory import LocalData  # loads the store, which `status` does not need

    data = LocalData(configuration(file))
    with failures_explained():
        return asyncio.run(_awaited(operation.run(data, request)))


@contextmanager
def failures_explained() -> Iterator[None]:
    """Convert an `OperationError`, or a package that is missing, into a `CommandError`."""
    try:
        yield
    except OperationError as error:
        raise CommandError(EXITS[error.reason], str(error)) from None
    except PackageMissing as error:
        raise CommandError(exits.UNAVAILABLE, str(error)) from None


def report(found: ResponseT, printed: Callable[[ResponseT], None], failed: int | None, *, as_json: bool) -> None:
    """Print the result of a check, and exit with its code.

    Args:
        found: the response.
        printed: prints it as text.
        failed: the exit code of this result; None if it is good.
        as_json: print it as JSON instead.

    Raises:
        typer.Exit: the result is not good.
    """
    if as_json:
        print_json(found)
    else:
        printed(found)
    if failed is not None:
        raise typer.Exit(failed)


def print_json(value: Any) -> None:
    """Print a response, or an answer as received: indented on a terminal, else on one line."""
    indent = 2 if sys.stdout.isatty() else None
    typer.echo(json.dumps(encode(value), indent=indent))


def warn(lines: Sequence[str]) -> None:
    """Print lines on standard error."""
    for line in lines:
        typer.echo(f"ironpost: {line}", err=True)


async def _awaited(response: Awaitable[ResponseT]) -> ResponseT:
    return await response
