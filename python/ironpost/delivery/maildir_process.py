"""The process that writes Maildirs, and its client.

A thread gives up the interpreter lock at each system call and competes with the event loop to get it back, several
times for each file. A process writes while the event loop serves sessions, on another core if there is one.

Promises: what `publish` returns was returned by `maildir_files.publish`. The process starts with the first batch,
ignores the signals sent to the server, and ends when the server does, even if that crashed; a batch that it has begun
is then still delivered, as by a server that crashed before it could record that. A process that ends is replaced with
the next batch.
A batch and its answer are pickled, each preceded by its length. Nobody else has the socket.
"""

from __future__ import annotations

import asyncio
import errno
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ironpost.delivery.maildir_files import publish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.delivery.maildir_files import Job
    from ironpost.model import Outcome

LENGTH: Final = 8
"""Octets of the length before a batch and before an answer."""
IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals for the server, which blocks them when it starts this process."""
_ROOT: Final = str(Path(__file__).parents[2])
_PROGRAM: Final = f"""\
import sys
sys.path.insert(0, sys.argv[1])
from {__name__} import main
main(int(sys.argv[2]))
"""


class MaildirProcess:
    """The client, used by one event loop for one batch at a time."""

    def __init__(self) -> None:
        """The process starts with the first batch."""
        self._process: subprocess.Popen[bytes] | None = None
        self._ending: list[subprocess.Popen[bytes]] = []
        """Processes that end after their batch, and that must be waited for."""
        self._socket: socket.socket
        self._closed = False
        self._using = asyncio.Lock()
        """Held while a batch is published."""

    @property
    def pid(self) -> int:
        """The process id; 0 while there is no process."""
        return 0 if self._process is None else self._process.pid

    async def publish(self, jobs: Sequence[Job]) -> list[list[Outcome]]:
        """Write, sync and show several messages, of which no file exists yet. As `maildir_files.publish`.

        If this is cancelled, the process still finishes a batch that it has received, and the next gets a new process.

        Raises:
            OSError: the process cannot be started, or has ended. Messages that it had begun may be delivered.
            RuntimeError: a bug, of which the text has the error; or `close` was called before.
        """
        async with self._using:
            if self._closed:
                raise RuntimeError("the process that writes Maildirs was closed")
            if self._process is None or self._process.poll() is not None:
                self._start()
            try:
                await asyncio.get_running_loop().sock_sendall(self._socket, _packed(jobs))
                length = int.from_bytes(await self._received(LENGTH), "big")
                answer = pickle.loads(await self._received(length))  # noqa: S301 - from our own process
            except (EOFError, ConnectionError) as error:
                self._end()
                raise OSError(errno.EIO, "the process that writes Maildirs has ended") from error
            except BaseException:
                self._end()  # its answer would be taken for that to the next batch
                raise
        if isinstance(answer, RuntimeError):
            raise answer
        return cast("list[list[Outcome]]", answer)

    async def close(self) -> None:
        """Let `publish` return if it runs, then wait until each process has ended, also after a cancelled `publish`."""
        self._closed = True
        async with self._using:
            self._end()
            for process in self._ending:
                await asyncio.to_thread(process.wait)

    async def _received(self, length: int) -> bytes:
        loop, octets = asyncio.get_running_loop(), bytearray()
        while len(octets) < length:
            piece = await loop.sock_recv(self._socket, length - len(octets))
            if not piece:
                raise EOFError
            octets += piece
        return bytes(octets)

    def _start(self) -> None:
        self._end()
        ours, its = socket.socketpair()
        # The process inherits the mask, and clears it once it ignores these signals: until then a Ctrl-C would end it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-S", "-c", _PROGRAM, _ROOT, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(its.fileno(),),
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            its.close()
        ours.setblocking(False)
        self._socket = ours

    def _end(self) -> None:
        """Let the process end; it may have a batch to finish first."""
        if self._process is not None:
            self._socket.close()
            self._ending.append(self._process)
            self._process = None
        self._ending = [process for process in self._ending if process.poll() is None]


def _packed(value: object) -> bytes:
    octets = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return len(octets).to_bytes(LENGTH, "big") + octets


def main(descriptor: int) -> None:
    """Publish the batches that arrive on a socket, until the server closes it."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)
    with socket.socket(fileno=descriptor) as server, server.makefile("rb") as batches:
        while length := batches.read(LENGTH):
            jobs = pickle.loads(batches.read(int.from_bytes(length, "big")))  # noqa: S301 - from the server
            answer: object
            try:
                answer = publish(jobs)
            except Exception as error:  # noqa: BLE001 - the server logs it
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            with suppress(ConnectionError):  # the server was killed: a normal end
                server.sendall(_packed(answer))
