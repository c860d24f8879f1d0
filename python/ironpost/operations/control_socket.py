"""The control socket: carries requests from the command line to a running server.

Promises: a Unix socket that only its owner can open (0600), with one JSON object per line in each direction. A request
is bounded in size and time. An invalid line affects only its own connection (SECURITY R24); a command that fails is
answered with its error. Both ends have deadlines: a client gets an answer or an error within `CLIENT_SECONDS`, even if
the command takes longer; such a command is not interrupted.
Limitations: no authentication; every process that may open the socket may control the server.
Refuses: paths that are too long for a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ironpost.processes.requests import RequestHandler

REQUEST_OCTETS = 1 << 20
"""Maximum length of a line in either direction, in octets; room for some 30,000 queue ids."""
REQUEST_SECONDS = 30.0
"""Seconds in which a connection must send its request, and then receive its answer."""
COMMAND_SECONDS = 40.0
"""Seconds that a command may take before its client gets a timeout error. A reload asks the workers up to three times
in sequence, and waits up to 10 seconds each time for those that do not answer."""
CLIENT_SECONDS = 45.0
"""Seconds that a client waits for an answer."""
UNFINISHED = 32
"""Maximum number of commands still running; further ones are refused."""
CONNECTIONS = 32
"""Maximum number of connections; further ones are closed at once."""
PATH_OCTETS = 100
"""Maximum length of a socket's path in octets that every system can bind (sun_path is 104 octets on macOS, 108 on
Linux)."""

log = logging.getLogger("ironpost.control")


class ControlServer:
    """Serves commands on one socket, until stopped."""

    def __init__(self, path: Path, commands: Mapping[str, RequestHandler]) -> None:
        """Create a server; `start` listens.

        Args:
            path: the socket, which `start` replaces: the caller holds the data directory's lock by then.
            commands: handlers by name.
        """
        self.path = path
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._unfinished: set[asyncio.Task[Mapping[str, Any]]] = set()

    async def start(self) -> None:
        """Listen on the socket.

        Raises:
            OSError: the socket cannot be created.
        """
        name = reachable(self.path)
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # No connection is possible before `listen`, so the mode is set in time.
            listener.bind(name)
            self.path.chmod(0o600)
            self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=REQUEST_OCTETS)
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Stop listening, end connections and commands, and remove the socket."""
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
            pass  # the peer closed or timed out, or the server stops: there is no one to report to
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
        # An interrupted change would be worse than a late one: it continues without its client.
        done, _ = await asyncio.wait([task], timeout=COMMAND_SECONDS)
        if not done:
            log.error("the command %s has not finished within %g s", name, COMMAND_SECONDS)
            return _temporary(
                f"{name} has not finished within {COMMAND_SECONDS:g} s; the server is still working on it"
            )
        return task.result()


async def _carried_out(name: str, command: RequestHandler, request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return await command(request)
    except RequestTimedOut as error:
        return _temporary(str(error))
    except RequestRefused as error:
        return {"error": str(error)}
    except Exception:
        log.exception("control command failed", extra={"command": name})
        return {"error": f"{name} failed; the server's log says why"}


def _temporary(sentence: str) -> Mapping[str, Any]:
    return {"error": sentence, "temporary": True}


def ask(path: Path, request: Mapping[str, Any], seconds: float = CLIENT_SECONDS) -> dict[str, Any]:
    """Send one request and return the answer. Blocks; for programs without an event loop.

    Raises:
        RequestTimedOut: the server has no answer yet, or not from all its processes.
        RequestRefused: the server refuses; the text gives the reason.
        ConnectionRefusedError, FileNotFoundError: no server runs on this data directory.
        TimeoutError: the server does not answer within `seconds`.
        OSError: it cannot be reached.
    """
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(seconds)
        try:
            connection.connect(reachable(path))
        except BlockingIOError:  # its backlog is full: it has stopped accepting connections
            raise TimeoutError(f"{path}: the server does not accept connections") from None
        connection.sendall(_line(request))
        line = b""
        while not line.endswith(b"\n"):
            if (left := end - time.monotonic()) <= 0:
                raise TimeoutError(f"{path}: no answer within {seconds:g} s")
            connection.settimeout(left)
            piece = connection.recv(65536)
            if len(line) > REQUEST_OCTETS:
                raise RequestRefused("the server's answer is too long: select less, or use --limit")
            if not piece:
                raise RequestRefused("the server closed the control connection without an answer")
            line += piece
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise RequestRefused("the server's answer is not a JSON object")
    if "error" in answer:
        raise (RequestTimedOut if answer.get("temporary") else RequestRefused)(str(answer["error"]))
    return answer


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def reachable(path: Path) -> str:
    """Return the path for socket calls: relative to the working directory if that is shorter.

    Raises:
        OSError: both are too long.
    """
    absolute = str(path.absolute())
    shortest = min(absolute, os.path.relpath(absolute), key=len)
    if len(os.fsencode(shortest)) > PATH_OCTETS:
        raise OSError(
            f"{path}: this path is too long for a socket ({PATH_OCTETS} octets); choose a shorter data directory"
        )
    return shortest
