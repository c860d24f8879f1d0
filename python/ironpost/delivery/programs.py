"""Runs a program without a shell: token commands, and programs that take mail.

Promises: the program has the arguments and the environment that are given and nothing else, its own session, a time
limit, and a limit of the output that is kept. Input waits until the program reads (back-pressure). When a run ends, for
whatever reason, the program and everything in its process group is killed; a process that left the group and keeps the
output open delays nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

END_SECONDS: Final = 1.0
"""Seconds to wait for the end of the output of a program that exited."""


class Ended(NamedTuple):
    """How a program ended, and what it printed."""

    code: int
    """The exit status; the negative number of the signal that ended it."""
    output: bytes
    """What it printed, up to the limit."""
    too_long: bool
    """It printed more."""


async def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    *,
    timeout: float,  # noqa: ASYNC109 - it covers the start, the input and the end
    limit: int,
    content: AsyncIterator[bytes] | None = None,
    errors: bool = False,
    kill_at_limit: bool = False,
) -> Ended:
    """Run a program until it exits.

    Args:
        argv: the program and its arguments.
        environment: its environment.
        timeout: seconds after which it is killed.
        limit: octets of the output that are kept.
        content: its standard input; without it that is empty. A program need not read everything.
        errors: standard error belongs to the output; else it is discarded.
        kill_at_limit: kill it when it has printed more than `limit`; else the rest is discarded.

    Raises:
        OSError: it cannot be started, or `content` cannot be read.
        TimeoutError: it did not finish in time.
    """
    nothing = asyncio.subprocess.DEVNULL
    transport, talk = await asyncio.get_running_loop().subprocess_exec(
        lambda: _Talk(limit),
        *argv,
        stdin=nothing if content is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT if errors else nothing,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout):
            if content is not None:
                await _feed(transport, talk, content)
            if kill_at_limit:
                await asyncio.wait([talk.filled, talk.exited], return_when=asyncio.FIRST_COMPLETED)
            if not (kill_at_limit and talk.too_long):
                await asyncio.shield(talk.exited)
        # What it printed is read at once, but a child that outlives it may keep the output open.
        await asyncio.wait([talk.ended], timeout=END_SECONDS)
    finally:
        await _end(transport, talk)
    return Ended(cast("int", transport.get_returncode()), talk.octets[:limit], talk.too_long)


class _Talk(asyncio.SubprocessProtocol):
    """Keeps what a program prints, up to a limit, and says when it reads its input."""

    def __init__(self, limit: int) -> None:
        self.octets = b""
        self._limit = limit
        loop = asyncio.get_running_loop()
        self.filled: asyncio.Future[None] = loop.create_future()
        """It printed more than the limit, or nothing more follows."""
        self.ended: asyncio.Future[None] = loop.create_future()
        """Nothing more follows."""
        self.exited: asyncio.Future[None] = loop.create_future()
        self.reads = asyncio.Event()
        """Input can be written, or nobody reads it any more."""
        self.reads.set()
        self.closed = False
        """Nobody reads the input any more."""

    @property
    def too_long(self) -> bool:
        return len(self.octets) > self._limit

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002
        self.octets += data[: self._limit + 1 - len(self.octets)]
        if self.too_long:
            _finish(self.filled)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if fd == 0:
            self.closed = True
            self.reads.set()
        else:
            _finish(self.filled)
            _finish(self.ended)

    def pause_writing(self) -> None:
        self.reads.clear()

    def resume_writing(self) -> None:
        self.reads.set()

    def process_exited(self) -> None:
        self.closed = True
        self.reads.set()
        _finish(self.exited)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _feed(transport: asyncio.SubprocessTransport, talk: _Talk, content: AsyncIterator[bytes]) -> None:
    """Write the input, as fast as it is read, and end it."""
    pipe: Any = transport.get_pipe_transport(0)
    async for piece in content:
        await talk.reads.wait()
        if talk.closed:
            return
        pipe.write(piece)
    pipe.close()  # after what is still to be written


async def _end(transport: asyncio.SubprocessTransport, talk: _Talk) -> None:
    """Kill the program and what it started, if that still runs, and close its input and output."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), signal.SIGKILL)
    pipe: Any = transport.get_pipe_transport(0)
    try:
        await talk.exited
    finally:
        if pipe is not None and pipe.get_write_buffer_size():
            pipe.abort()  # `close` would wait until it is written, and nobody reads it
        transport.close()
