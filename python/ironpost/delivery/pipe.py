"""Delivery to a program on this system, one process for each recipient.

Promises: no shell; addresses are arguments or parts of arguments, never the program or an option (SECURITY R40); the
process has the rights of the configured user before it gets any content (R47), PATH and the listed variables, and
variables that describe the delivery. The content is streamed to its standard input, below Return-Path (RFC 5321 §4.4),
Delivered-To (RFC 9228), and X-Original-To if an alias was used. The exit status decides the outcome (`STATUSES`); the
first line that the program prints is part of the reply. When the program ends or its time is over, its process group is
killed.
Refuses: at configuration time, arguments in which an address could be an option.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Final, Literal

from ironpost.delivery import NextHops, as_user, concurrently, misconfigured, programs, unreadable
from ironpost.delivery.as_user import AsUserError
from ironpost.message.header import shown
from ironpost.message.lineends import LineFeeds
from ironpost.message.trace import FinalContent, delivery_fields
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.options import Seconds, at_least_a_second
from ironpost.model.text import error_text, escape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from ironpost.delivery.as_user import Identity
    from ironpost.model import Address
    from ironpost.model.body import Body
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.route import Route

PROCESSES: Final = 20
"""Programs that run at the same time."""
TIMEOUT: Final = Seconds(60.0)
OUTPUT_OCTETS: Final = 4096
"""Octets of the output that are kept, to show the first line."""
DETAIL: Final = 200
"""Characters of that line that are shown."""

STATUSES: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        os.EX_OK: ("2.0.0", "Delivered to the program"),
        os.EX_USAGE: ("4.3.5", "The program was used incorrectly"),
        os.EX_DATAERR: ("5.6.0", "The content is not acceptable"),
        os.EX_NOUSER: ("5.1.1", "No such user"),
        os.EX_NOHOST: ("5.1.2", "No such host"),
        os.EX_UNAVAILABLE: ("5.3.0", "Service unavailable"),
        os.EX_PROTOCOL: ("5.5.0", "Protocol error"),
        os.EX_NOPERM: ("5.7.0", "Permission denied"),
        os.EX_CONFIG: ("4.3.5", "The program is not configured correctly"),
    }
)
"""Exit statuses with the enhanced status code and the text of the reply, after sysexits.h and Postfix's pipe(8). Those
that say something about the mail are permanent. All others, such as 75 (EX_TEMPFAIL), 1, or a signal, defer the mail:
they are faults of this system, and may be repaired."""
_OTHER: Final = ("4.3.0", "The program failed")

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_PLACEHOLDERS: Final = ("sender", "recipient", "original_recipient")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DELIVERY_VARIABLES: Final = frozenset(
    {"SENDER", "RECIPIENT", "ORIGINAL_RECIPIENT", "MESSAGE_ID", "USER", "LOGNAME", "HOME"}
)


def _arguments(argv: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse arguments with which an address could choose the program or become an option."""
    if not argv or not Path(argv[0]).is_absolute():
        raise ValueError(
            "expected the absolute path of a program and its arguments, "
            'like ["/usr/local/bin/ticket", "--", "{recipient}"]'
        )
    if any("\0" in argument for argument in argv):
        raise ValueError("an argument contains NUL")
    options = True
    for position, argument in enumerate(argv):
        for found in _PLACEHOLDER.finditer(argument):
            if found[1] not in _PLACEHOLDERS:
                known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
                raise ValueError(f'"{argument}": unknown placeholder {found[0]}; there are {known}')
            if position == 0:
                raise ValueError(f'"{argument}": an address must not choose the program')
            if options and not argument[: found.start()].strip("-"):
                raise ValueError(
                    f'"{argument}": an address that starts with a hyphen would be an option; '
                    f'put "--" before it, or write "--name={found[0]}"'
                )
        options = options and argument != "--"
    return argv


def _variables(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f'"{name}" is not the name of an environment variable')
        if name in _DELIVERY_VARIABLES:
            raise ValueError(f"{name} is set for each delivery")
    return names


@dataclass(frozen=True, slots=True)
class PipeOptions:
    """`[[local.delivery]] pipe = { ... }`: hand the mail to a program."""

    command: Annotated[tuple[str, ...], _arguments]
    """In `[local.delivery.pipe]` ([Delivery to a program](#delivery-to-a-program)): the absolute path of the program,
    and its arguments. `{sender}`, `{recipient}` and `{original_recipient}` in arguments are replaced by addresses:
    after `"--"`, or after other characters, as in `"--from={sender}"`."""
    user: str = ""
    """The user it runs as. It is required if the server runs as root; `root` is refused."""
    group: str = ""
    """The group it runs as."""
    environment: Annotated[tuple[str, ...], _variables] = ()
    """Environment variables that the program gets from the server, besides PATH."""
    timeout: Annotated[Seconds, at_least_a_second] = TIMEOUT
    """Time after which the program is killed and the mail is deferred."""
    content: Literal["lf", "crlf"] = "lf"
    """Line endings of the content: `lf`, as programs expect, or `crlf`, as it was received."""

    def verify(self) -> None:
        """Refuse what cannot work on this system. Blocks.

        Raises:
            ValueError: the text names the key and the reason.
        """
        try:
            as_user.identity(self.user, self.group)
        except AsUserError as error:
            raise ValueError(f"user: {error}") from None
        program = Path(self.command[0])
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise ValueError(f"command: {program} is not an executable file")

    def __str__(self) -> str:
        return f"{self.command[0]} as {self.user}" if self.user else self.command[0]


class Pipe:
    """Implements `ironpost.delivery.RouteAgent`; the options are those of the route."""

    def __init__(self, host: str) -> None:
        """`host` is our host name."""
        self._host = host
        self._turns = asyncio.Semaphore(PROCESSES)

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Run the program once for each of `recipients`."""
        options = route.options
        assert isinstance(options, PipeOptions)
        try:
            rights = await asyncio.to_thread(as_user.identity, options.user, options.group)
        except AsUserError as error:
            outcome = misconfigured(f"user: {error}")
            return [(each.number, outcome) for each in recipients]
        outcomes = await concurrently(self._run(message, each, options, rights) for each in recipients)
        return [(each.number, outcome) for each, outcome in zip(recipients, outcomes, strict=True)]

    async def preview(self, address: Address, route: Route) -> NextHops:  # noqa: ARG002 - the agent port's
        """The program, whatever the address."""
        return NextHops(str(route.options))

    def close(self) -> None:
        """Nothing to release: programs end with their deliveries."""

    async def _run(
        self, message: QueuedMessage, recipient: QueuedRecipient, options: PipeOptions, rights: Identity
    ) -> Outcome:
        address = recipient.recipient.address
        alias = recipient.recipient.original
        sender = message.envelope.reverse_path
        values = {
            "sender": shown(str(sender), utf8=True),
            "recipient": shown(str(address), utf8=True),
            "original_recipient": shown(str(alias or address), utf8=True),
        }
        fields = delivery_fields(sender, recipient.recipient, self._host)
        variables = {name: os.environ[name] for name in ("PATH", *options.environment) if name in os.environ}
        variables |= {name.upper(): value for name, value in values.items()}
        variables |= {"MESSAGE_ID": message.id, "USER": rights.name, "LOGNAME": rights.name, "HOME": rights.home}
        argv = [_PLACEHOLDER.sub(lambda found: values[found[1]], argument) for argument in options.command]
        content = _Content(message.body, fields, line_feeds=options.content == "lf")
        try:
            async with self._turns:
                ended = await programs.run(
                    as_user.command(rights, argv),
                    variables,
                    timeout=options.timeout,
                    limit=OUTPUT_OCTETS,
                    content=content.pieces(),
                    errors=True,
                )
        except TimeoutError:
            return _deferred(f"{argv[0]} did not finish within {options.timeout:g} seconds")
        except OSError as error:
            if content.error is not None:
                return unreadable(content.error)
            return _deferred(f"{argv[0]} cannot be started: {error_text(error)}")
        return _outcome(argv[0], ended)


class _Content:
    """The content for one program."""

    def __init__(self, body: Body, fields: bytes, *, line_feeds: bool) -> None:
        self.error: OSError | None = None
        """Why the stored content could not be read; None if it could."""
        self._body = body
        self._final = FinalContent(fields)
        self._lines = LineFeeds() if line_feeds else None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The pieces that the program reads."""
        lines = self._lines
        try:
            async for piece in self._body.pieces():
                rewritten = self._final.feed(piece)
                yield rewritten if lines is None else lines.feed(rewritten)
        except OSError as error:
            self.error = error
            raise
        rest = self._final.finish()
        yield rest if lines is None else lines.feed(rest) + lines.finish()


def _outcome(program: str, ended: programs.Ended) -> Outcome:
    """The outcome of a program that ended."""
    how = f"{program} " + (f"exited with {ended.code}" if ended.code >= 0 else f"was ended by {_signal(-ended.code)}")
    enhanced, text = STATUSES.get(ended.code, _OTHER)
    code = {"2": 250, "4": 451, "5": 550}[enhanced[0]]
    line = next((line for line in ended.output.decode(errors="replace").splitlines() if line.strip()), "")
    line = escape(line.strip()[:DETAIL])
    if line and code != 250:
        text = f"{text}: {line}"
    reply = Reply(code, enhanced, (text,), f"{how}: {line}" if line else how)
    disposition = {2: Disposition.DELIVERED, 4: Disposition.DEFERRED, 5: Disposition.FAILED}[code // 100]
    return Outcome(disposition, reply, ours=enhanced == "4.3.5")


def _signal(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _deferred(why: str) -> Outcome:
    return Outcome(Disposition.DEFERRED, Reply(451, _OTHER[0], (_OTHER[1],), why))
