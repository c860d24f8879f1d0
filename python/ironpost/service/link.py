"""The channel between the supervisor and one of its workers: questions, answers and notes, both ways.

Promises: what one end sends, the other gets whole and in order. A question is answered, refused with a sentence
(`ControlError`), or fails: at its deadline (`Unanswered`), or when the other end is gone (`LinkLost`). A question that
is read after its deadline is not acted upon, so a process that was stopped does not carry out old orders when it goes
on; one that was begun in time may still finish later. Sending never blocks the event loop.
Trusts its peer: both ends are this program, over a socket pair that nobody else holds.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.service.control import ControlError, Unanswered

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from ironpost.service.control import Command

ANSWER_SECONDS: Final = 10.0
"""How long the other end has to answer, unless the caller says otherwise."""
GRACE_SECONDS: Final = 1.0
"""How long an answer that was given in time may take to arrive."""

log = logging.getLogger("ironpost.link")


class LinkLost(ConnectionError):
    """The other end is gone, and with it the answer."""


class Link(asyncio.Protocol):
    """One end."""

    def __init__(
        self,
        commands: Mapping[str, Command],
        heard: Callable[[Mapping[str, Any]], None],
        gone: Callable[[], None],
    ) -> None:
        """Does nothing before `open`.

        Args:
            commands: answers the other end's questions, by their `do`.
            heard: takes its notes.
            gone: called once when the other end has closed or died.
        """
        self._commands = commands
        self._heard = heard
        self._gone = gone
        self._transport: asyncio.Transport | None = None
        self.received = 0
        """Messages that came from the other end: as long as this grows, its event loop runs."""
        self._rest = b""
        self._serial = 0
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, sock: socket.socket) -> None:
        """Takes over one socket of the pair."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)

    def close(self) -> None:
        """What was sent before still arrives."""
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Closes at once; what was not sent yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    def ping(self) -> None:
        """Makes the other end send something (`received`), if its event loop runs."""
        self._send({"ping": True})

    def tell(self, note: Mapping[str, Any]) -> None:
        """Sends a note that nobody answers. To an end that is gone it is lost."""
        self._send({"note": note})

    async def ask(self, request: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """Sends a question, with its deadline as `until`, which is `time.monotonic` on this machine.

        Raises:
            Unanswered: there is no answer within `seconds`.
            ControlError: it is refused; the text says why.
            LinkLost: the other end went without an answer.
        """
        if self._transport is None or self._transport.is_closing():
            raise LinkLost("the process is gone")
        self._serial += 1
        serial = self._serial
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._questions[serial] = future
        self._send({"ask": serial, "request": {**request, "until": time.monotonic() + seconds}})
        try:
            async with asyncio.timeout(seconds + GRACE_SECONDS):
                return await future
        except TimeoutError:
            raise Unanswered(f"no answer within {seconds:g} s") from None
        finally:
            self._questions.pop(serial, None)

    def _send(self, line: Mapping[str, Any]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(json.dumps(line).encode() + b"\n")

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Lines, or parts of them."""
        *lines, self._rest = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        for line in lines:
            self.received += 1
            try:
                self._line(json.loads(line))
            except Exception:
                # Whatever has become of the process at the other end, nobody but itself is cut off (SECURITY R24).
                log.exception("the process at the other end sent what is no message; it is cut off")
                if self._transport is not None:
                    self._transport.abort()
                return

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end closed, or died."""
        del exc
        for question in self._questions.values():
            if not question.done():
                question.set_exception(LinkLost("the process ended before it answered"))
        for task in self._answering:
            task.cancel()
        self._gone()

    def _line(self, line: Mapping[str, Any]) -> None:
        if "note" in line:
            self._heard(line["note"])
        elif "ping" in line:
            self._send({"pong": True})
        elif "pong" in line:
            pass  # it was counted
        elif "ask" in line:
            if time.monotonic() > line["request"]["until"]:
                log.warning("a question came too late and is ignored: %s", line["request"]["do"])
                return
            task = asyncio.get_running_loop().create_task(
                self._answer(line["ask"], line["request"]["do"], line["request"])
            )
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            question = self._questions.get(line["to"])
            if question is not None and not question.done():
                if "refused" in line:
                    question.set_exception(ControlError(line["refused"]))
                else:
                    question.set_result(line["answer"])

    async def _answer(self, serial: int, name: str, request: Mapping[str, Any]) -> None:
        try:
            command = self._commands.get(name)
            if command is None:
                raise ControlError(f"unknown command; the commands are {', '.join(sorted(self._commands))}")
            self._send({"to": serial, "answer": await command(request)})
        except ControlError as error:
            self._send({"to": serial, "refused": str(error)})
        except Exception:
            log.exception("command failed", extra={"command": name})
            self._send({"to": serial, "refused": f"{name} failed; the server's log says why"})
