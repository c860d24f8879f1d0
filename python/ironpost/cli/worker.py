"""One worker of `serve --workers`: a process that the supervisor starts, not a command for people.

Promises: it gets its orders over the socket whose descriptor is its last argument, says `ready` or why it cannot, and
ends when that socket does: no worker outlives its supervisor. It logs to the standard error that it inherited.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.serve import run
from ironpost.compose.system import Share, System
from ironpost.config import Configuration, default, parse
from ironpost.service import collector, records
from ironpost.service.control import ControlError
from ironpost.service.link import Link
from ironpost.service.news import OTHERS_SECONDS, News

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.service.control import Command


class Orders:
    """What the supervisor said, and whatever it says about the configuration later."""

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
        """As the supervisor read it.

        Raises:
            ConfigError: it cannot be used.
        """
        return default() if self.text is None else parse(self.text, self._source)


class Front:
    """A part: the link to the supervisor in the place of the control socket."""

    def __init__(
        self,
        sock: socket.socket,
        commands: Mapping[str, Command],
        heard: Callable[[Mapping[str, Any]], None],
        stop: Callable[[], None],
    ) -> None:
        self._sock = sock
        self.link = Link(commands, heard, stop)

    async def start(self) -> None:
        """Answers from now on."""
        await self.link.open(self._sock)

    async def stop(self) -> None:
        """Lets go."""
        self.link.close()


def main(descriptor: int) -> int:
    """Runs until told to stop, or until the supervisor is gone; returns the exit code."""
    records.keep_descriptors()
    channel = socket.socket(fileno=descriptor)
    line = _first_line(channel)
    if not line:
        return exits.OK  # the supervisor ended before it said anything
    orders = Orders(json.loads(line)["note"])
    front: Front

    news = News(lambda note: front.link.tell(note), lambda request: front.link.ask(request, OTHERS_SECONDS))

    reloading = asyncio.Lock()

    def make_front(commands: Mapping[str, Command], stop: Callable[[], None]) -> Front:
        async def reload(request: Mapping[str, Any]) -> Mapping[str, Any]:
            async with reloading:
                before, orders.text = orders.text, request["text"]
                try:
                    return await commands["reload"](request)
                except ControlError:
                    orders.text = before
                    raise

        nonlocal front
        front = Front(channel.dup(), {**commands, "reload": reload}, news.heard, stop)
        return front

    def ready() -> None:
        collector.settle()
        front.link.tell({"ready": True})

    try:
        configuration = orders.configuration()
        records.write_to(sys.stderr, configuration.log.level, configuration.log.format, orders.number)
        records.take_uncaught()
        share = Share(orders.number, orders.workers, orders.name, orders.ports, orders.sockets, news, make_front)
        run(System(configuration, orders.configuration, share), ready)
    except Stop as stop:
        with contextlib.suppress(OSError):
            channel.sendall(json.dumps({"note": {"failed": str(stop), "code": stop.code}}).encode() + b"\n")
        return stop.code
    return exits.OK


def _first_line(channel: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        # One octet at a time would do; the rest of a piece would belong to the link, and there is none before `ready`.
        piece = channel.recv(65536)
        if not piece:
            return b""
        line += piece
    return line


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[-1])))
