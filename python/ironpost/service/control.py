"""The control socket: how the command line asks a running server to change something.

Promises: a Unix socket that only its owner can open (0600), one JSON object per line in, one out. A request is bounded
in size and time. A hostile or broken line costs its own connection and nothing else (SECURITY R24); a command that
fails answers with its sentence. Both ends have deadlines: a client gets an answer or an error within `CLIENT_SECONDS`,
even if the command takes longer; such a command is not interrupted.
Refuses: to stand in for authentication: whoever may open the socket may command. Paths that the system cannot bind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

Command: TypeAlias = "Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]"
"""Takes the request, returns the fields of the answer; a `ControlError` is answered with its sentence."""

REQUEST_OCTETS = 1 << 20
"""The longest line either side accepts; room for some 30,000 queue ids."""
REQUEST_SECONDS = 30.0
"""How long a connection may take to send a request, and to take its answer."""
COMMAND_SECONDS = 40.0
"""How long a command may take before its client is told that it has not finished. A reload asks the workers up to three
times, one after the other, and each time waits 10 seconds for those that are silent."""
CLIENT_SECONDS = 45.0
"""How long a client waits for an answer."""
UNFINISHED = 32
"""Commands that may still be running; one more is refused."""
CONNECTIONS = 32
"""Connections at one time; one more is closed at once."""
PATH_OCTETS = 100
"""The longest path of a socket that every system binds (sun_path is 104 octets on macOS, 108 on Linux)."""

log = logging.getLogger("ironpost.control")


class ControlError(Exception):
    """A request cannot be carried out; the text is for the person who asked."""


class Unanswered(ControlError):
    """There was no answer in time, or the process that has to give it is not running; it may help to ask again."""


class ControlServer:
    """Serves commands on one socket, until stopped."""

    def __init__(self, path: Path, commands: Mapping[str, Command]) -> None:
        """Does nothing yet. `path` is removed and made anew by `start`: hold the data directory's lock by then."""
        self.path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._unfinished: set[asyncio.Task[Mapping[str, Any]]] = set()

    async def start(self) -> None:
        """Listens.

        Raises:
            OSError: the socket cannot be made.
        """
        name = _reachable(self.path)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Nobody can connect before `listen`, so the mode is right before it matters.
            listener.bind(name)
            self.path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=REQUEST_OCTETS)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Stops listening, ends connections and commands, removes the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        running = [*self._busy, *self._unfinished]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._busy) >= CONNECTIONS:
            writer.close()
            return
        self._busy.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the peer left, dawdled, or the server stops: nobody is there to be told
        finally:
            self._busy.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(REQUEST_SECONDS):
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.IncompleteReadError:
                    return
                except asyncio.LimitOverrunError:
                    writer.write(_line({"error": "the request is too long"}))
                    return
            answer = await self._answer(line)
            writer.write(_line(answer))
            async with asyncio.timeout(REQUEST_SECONDS):
                await writer.drain()

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return {"error": "the request is not one JSON object on one line"}
        if not isinstance(request, dict):
            return {"error": "the request is not one JSON object on one line"}
        name = request.get("do")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            return {"error": f"unknown command; the commands are {', '.join(sorted(self._commands))}"}
        if len(self._unfinished) >= UNFINISHED:
            return _temporary("too many commands have not finished yet")
        task = asyncio.ensure_future(_carried_out(str(name), command, request))
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)
        # A change that is cut off half-way is worse than one that is late: it goes on without its client.
        done, _ = await asyncio.wait([task], timeout=COMMAND_SECONDS)
        if not done:
            log.error("the command %s has not finished within %g s", name, COMMAND_SECONDS)
            return _temporary(
                f"{name} has not finished within {COMMAND_SECONDS:g} s; the server is still working on it"
            )
        return task.result()


async def _carried_out(name: str, command: Command, request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return await command(request)
    except Unanswered as error:
        return _temporary(str(error))
    except ControlError as error:
        return {"error": str(error)}
    except Exception:
        log.exception("control command failed", extra={"command": name})
        return {"error": f"{name} failed; the server's log says why"}


def _temporary(sentence: str) -> Mapping[str, Any]:
    return {"error": sentence, "temporary": True}


def ask(path: Path, request: Mapping[str, Any], seconds: float = CLIENT_SECONDS) -> dict[str, Any]:
    """Sends one request and returns the answer. Blocks; for programs that have nothing else to do.

    Raises:
        Unanswered: the server has no answer yet, or not from all its processes.
        ControlError: the server refuses; the text says why.
        ConnectionRefusedError, FileNotFoundError: no server runs on this data directory.
        TimeoutError: the server does not answer within `seconds`.
        OSError: it cannot be reached.
    """
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(_reachable(path))
        except BlockingIOError:  # its backlog is full: it has not accepted connections for a while
            raise TimeoutError(f"{path}: the server does not accept connections") from None
        connection.sendall(_line(request))
        line = b""
        while not line.endswith(b"\n"):
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError(f"{path}: no answer within {seconds:g} s")
            connection.settimeout(left)
            piece = connection.recv(65536)
            if not piece or len(line) > REQUEST_OCTETS:
                raise ControlError("the server closed the control connection without an answer")
            line += piece
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ControlError("the server's answer is not a JSON object")
    if "error" in answer:
        raise (Unanswered if answer.get("temporary") else ControlError)(str(answer["error"]))
    return answer


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _reachable(path: Path) -> str:
    """The path as the system's socket calls take it: relative to the working directory where that is shorter."""
    absolute = str(path.absolute())
    shortest = min(absolute, os.path.relpath(absolute), key=len)
    if len(os.fsencode(shortest)) > PATH_OCTETS:
        raise OSError(
            f"{path}: this path is too long for a socket ({PATH_OCTETS} octets); choose a shorter data directory"
        )
    return shortest
