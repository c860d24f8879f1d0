"""One worker of `serve --workers`: a process that the supervisor starts, not a command for users.

Promises: it receives its configuration over the socket whose descriptor is its last argument, reports `ready` or why it
cannot start, and ends when that socket is closed: no worker outlives its supervisor. It logs to the standard error that
it inherits.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.cli.serve import run
from ironpost.compose.system import System, WorkerContext
from ironpost.config import Configuration, default, parse
from ironpost.processes import gc_tuning
from ironpost.processes.bus import OTHERS_SECONDS, WorkerBus
from ironpost.processes.channel import Channel
from ironpost.processes.requests import RequestRefused
from ironpost.telemetry import formatters as log_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.processes.requests import RequestHandler


class WorkerConfig:
    """The first message of the supervisor, with updates of the configuration."""

    def __init__(self, line: Mapping[str, Any]) -> None:
        self.number: int = line["number"]
        self.workers: int = line["workers"]
        self.ports: tuple[int, ...] = tuple(line["ports"])
        self.sockets: dict[str, list[socket.socket]] = {
            name: [socket.socket(fileno=descriptor) for descriptor in descriptors]
            for name, descriptors in line["sockets"].items()
        }
        self.text: str | None = line["text"]
        self.name: str = line["name"]
        self._source: str = line["source"]

    def configuration(self) -> Configuration:
        """Parse the configuration that the supervisor has read.

        Raises:
            ConfigError: it cannot be used.
        """
        return default() if self.text is None else parse(self.text, self._source, Path(self._source).parent)


class SupervisorLink:
    """Component: the channel to the supervisor, in place of the control socket."""

    def __init__(
        self,
        sock: socket.socket,
        commands: Mapping[str, RequestHandler],
        on_notification: Callable[[Mapping[str, Any]], None],
        stop: Callable[[], None],
    ) -> None:
        self._sock = sock
        self.channel = Channel(commands, on_notification, stop)

    async def start(self) -> None:
        """Begin to answer requests."""
        await self.channel.open(self._sock)

    async def stop(self) -> None:
        """Close the channel."""
        self.channel.close()


def main(descriptor: int) -> int:
    """Run until stopped, or until the supervisor has ended; return the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # reloads are requested by the supervisor
    log_output.open_standard_streams()
    channel = socket.socket(fileno=descriptor)
    line = _first_line(channel)
    if not line:
        return exits.OK  # the supervisor ended before it sent anything
    config = WorkerConfig(json.loads(line)["note"])
    link: SupervisorLink

    bus = WorkerBus(lambda note: link.channel.notify(note), lambda request: link.channel.ask(request, OTHERS_SECONDS))

    reloading = asyncio.Lock()

    def create_channel(commands: Mapping[str, RequestHandler], stop: Callable[[], None]) -> SupervisorLink:
        async def reload(request: Mapping[str, Any]) -> Mapping[str, Any]:
            async with reloading:
                before, config.text = config.text, request["text"]
                try:
                    return await commands["reload"](request)
                except RequestRefused:
                    config.text = before
                    raise

        nonlocal link
        link = SupervisorLink(channel.dup(), {**commands, "reload": reload}, bus.deliver, stop)
        return link

    def ready() -> None:
        gc_tuning.settle()
        link.channel.notify({"ready": True})

    try:
        configuration = config.configuration()
        log_output.write_to(sys.stderr, configuration.log.level, configuration.log.format, config.number)
        log_output.log_uncaught()
        context = WorkerContext(
            config.number, config.workers, config.name, config.ports, config.sockets, bus, create_channel
        )
        run(System(configuration, config.configuration, context), ready)
    except CommandError as stop:
        with contextlib.suppress(OSError):
            channel.sendall(json.dumps({"note": {"failed": str(stop), "code": stop.code}}).encode() + b"\n")
        return stop.code
    return exits.OK


def _first_line(channel: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        # Octets after the line would belong to the link, but the supervisor sends none before `ready`.
        piece = channel.recv(65536)
        if not piece:
            return b""
        line += piece
    return line


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[-1])))
