"""Writes into the mailboxes of other users, by a process with the rights of the mailbox's user (SECURITY R47).

Promises: the server opens nothing in such a mailbox. A process is started for each message, gives up all other rights
(`as_user`), and only then reads what is to be written and looks at the mailbox. Content that ends early, because the
server has crashed, is not delivered. `PROCESSES` of an agent run at the same time, and `USER_PROCESSES` of one user,
who may stop them.
Refuses: root and users that do not exist, when the server starts and at each delivery (451 4.3.5).

The process belongs to a user who may interfere with it, so the server believes it nothing but the enhanced status code
of one of the known replies, and a detail for the log.
Limitations: a delivery that is cancelled kills its process, so a message may be delivered again, and an mbox is left as
after a crash.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol
from weakref import WeakValueDictionary

from ironpost.delivery import as_user, misconfigured, programs
from ironpost.delivery.as_user import AsUserError
from ironpost.delivery.mailbox import not_written, outcome_of
from ironpost.model.text import escape
from ironpost.routing.mail_directory import folded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ironpost.model import Address, Outcome

PROCESSES: Final = 20
"""Processes that write at the same time."""
USER_PROCESSES: Final = 3
"""Processes of one user that write at the same time."""
TIMEOUT: Final = 600.0
"""Seconds after which a process is killed and its message deferred."""
LENGTH: Final = 8
"""Octets of the length before each piece of the input; the last piece is empty."""
_OUTPUT_OCTETS: Final = 4096
_LOCAL: Final = "{local}"
_ROOT: Final = str(Path(__file__).parents[2])
_PROGRAM: Final = f"""\
import sys
sys.path.insert(0, sys.argv[1])
from {__name__} import main
main(*sys.argv[2:])
"""


class Writer(Protocol):
    """What the process does. It is pickled by the server."""

    @property
    def path(self) -> Path:
        """The mailbox."""
        ...

    def write(self, pieces: Iterator[bytes]) -> Outcome:
        """Write a message durably. Blocks; runs in the process.

        Raises:
            OSError: it cannot be written.
        """
        ...


def user_name(text: str) -> str:
    """Validate the name of a user, in which `{local}` stands for the local part of the mailbox.

    Raises:
        ValueError: it has other placeholders.
    """
    if set("{}\0") & set(text.replace(_LOCAL, "")):
        raise ValueError(f'"{text}": expected the name of a user, or {_LOCAL}')
    return text


def verify(user: str) -> None:
    """Refuse a user whose mailboxes this server cannot write. Blocks.

    Raises:
        ValueError: the text names the key and the reason.
    """
    if _LOCAL in user:
        if os.geteuid() != 0:
            raise ValueError("user: the server is not root, so it cannot write the mailboxes of other users")
    elif user:
        try:
            as_user.identity(user)
        except AsUserError as error:
            raise ValueError(f"user: {error}") from None


class MailboxProcesses:
    """Starts the processes of one delivery agent."""

    def __init__(self) -> None:
        """Nothing is started before the first message."""
        self._turns = asyncio.Semaphore(PROCESSES)
        self._user_turns: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        """By user id; taken before `_turns`, so that one user's processes leave turns to those of others."""

    async def write(self, user: str, mailbox: Address, writer: Writer, content: AsyncIterator[bytes]) -> Outcome:
        """Write a message as a user; what `content` raises ends the process before it has delivered anything.

        Args:
            user: the configured name.
            mailbox: the address of the mailbox, for `{local}`.
            writer: what the process does.
            content: the message as it is written.
        """
        try:
            rights = await asyncio.to_thread(as_user.identity, user.replace(_LOCAL, folded(mailbox.local_part)))
        except AsUserError as error:
            return misconfigured(f"user: {error}")
        # As `as_user.command`. What is imported need not be readable for the user.
        argv = (sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, type(writer).__module__, *as_user.arguments(rights))
        try:
            async with self._user_turns.setdefault(rights.user, asyncio.Semaphore(USER_PROCESSES)), self._turns:
                ended = await programs.run(
                    argv,
                    {},
                    timeout=TIMEOUT,
                    limit=_OUTPUT_OCTETS,
                    content=_input(writer, content),
                    errors=True,
                )
        except TimeoutError:
            return not_written(OSError(f"not written within {TIMEOUT:g} seconds"), writer.path)
        enhanced, _, detail = ended.output.decode(errors="replace").partition(" ")
        found = outcome_of(enhanced, escape(detail.strip())) if ended.code == 0 else None
        if found is not None:
            return found
        lines = ended.output.decode(errors="replace").split("\n")
        said = escape(next((line for line in reversed(lines) if line.strip()), "nothing was printed"))
        return not_written(OSError(f"the process of {rights.name} failed with {ended.code}: {said}"), writer.path)


async def _input(writer: Writer, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield _framed(pickle.dumps(writer, pickle.HIGHEST_PROTOCOL))
    async for piece in content:
        if piece:
            yield _framed(piece)
    yield _framed(b"")


def _framed(piece: bytes) -> bytes:
    return len(piece).to_bytes(LENGTH, "big") + piece


def main(module: str, *rights: str) -> None:
    """Become a user (`as_user.become`), then write the message that arrives at standard input.

    Args:
        module: where the writer's class is.
        rights: those of the user.
    """
    import_module(module)
    as_user.become(*rights)
    server = sys.stdin.buffer
    writer: Writer = pickle.loads(_piece(server))  # noqa: S301 - from the server
    try:
        outcome = writer.write(iter(lambda: _piece(server), b""))
    except OSError as error:
        outcome = not_written(error, writer.path)
    sys.stdout.write(f"{outcome.reply.enhanced} {outcome.reply.detail}")


def _piece(server: IO[bytes]) -> bytes:
    length = server.read(LENGTH)
    size = int.from_bytes(length, "big")
    piece = server.read(size)
    if len(length) < LENGTH or len(piece) < size:
        raise SystemExit("the content ends early")
    return piece
