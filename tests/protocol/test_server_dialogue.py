"""Transcripts of server dialogues: in batches, by lines and by octets; with hooks that suspend and that do not."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ironpost.model import Reply
from ironpost.protocol.replies import NOT_ACCEPTED_HERE
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable

SETTINGS = ServerSettings(hostname="mx.example", max_size=65536)
ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|([rn0\\]))")
PLAIN = {"r": "\r", "n": "\n", "0": "\0", "\\": "\\"}


class Step(NamedTuple):
    kind: str
    """C, S, M, eof or closed."""
    octets: bytes = b""


def octets(text: str) -> bytes:
    return ESCAPE.sub(lambda m: chr(int(m[1], 16)) if m[1] else PLAIN[m[2]], text).encode("latin-1")


def transcripts() -> dict[str, list[Step]]:
    found: dict[str, list[Step]] = {}
    for line in Path(__file__).with_name("server_dialogue.txt").read_text().splitlines():
        if line.startswith("= "):
            steps = found[line[2:]] = []
        elif line.startswith(("C: ", "C:")) and line[:2] == "C:":
            text = line[3:]
            steps.append(Step("C", octets(text[:-2]) if text.endswith("\\~") else octets(text) + b"\r\n"))
        elif line.startswith("S:"):
            steps.append(Step("S", line[3:].encode() + b"\r\n"))
        elif line.startswith("M:"):
            steps.append(Step("M", octets(line[3:])))
        elif line in {"<eof>", "<closed>"}:
            steps.append(Step(line[1:-1]))
        else:
            assert not line or line.startswith("#"), line
    return found


class Script(BaseHandler):
    """A handler that decides by local part, so that transcripts select the verdict."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def _by_name(self, name: str) -> Reply | None:
        if name == "raise":
            raise ZeroDivisionError("as asked")
        return {
            "refused": Reply(550, "5.7.1", ("Sender refused",)),
            "no": NOT_ACCEPTED_HERE,
            "later": Reply(450, "4.2.0", ("Try again later",)),
        }.get(name)

    def mail(self, session, reverse_path, parameters):
        return self._by_name(reverse_path.local_part)

    def recipient(self, session, forward_path, parameters):
        return self._by_name(forward_path.local_part)

    def message(self, session, content, facts):
        assert facts.size == len(content.content)
        if content.content == b"raise\r\n":
            raise ZeroDivisionError("as asked")
        self.messages.append(content.content)


class Later(Script):
    """The same results, each from a coroutine that suspends once."""

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name not in {"connect", "hello", "mail", "recipient", "content", "message", "verify"}:
            return method

        async def hook(*args):
            await asyncio.sleep(0)
            return method(*args)

        return hook


def drive(session: ServerSession, pending: Awaitable[object] | None) -> None:
    """Await what a hook returned, as the driver of a session does."""

    async def ask() -> None:
        nonlocal pending
        while pending is not None:
            try:
                value = await pending
            except Exception as exc:  # noqa: BLE001
                pending = session.fail(exc)
            else:
                pending = session.answer(value)

    if pending is not None:
        asyncio.run(ask())


def cut(batch: list[bytes], how: str) -> list[bytes]:
    if how == "batch":
        return [b"".join(batch)]
    if how == "line":
        return batch
    return [bytes([octet]) for octet in b"".join(batch)]


@pytest.mark.parametrize("how", ["batch", "line", "octet"])
@pytest.mark.parametrize("handler", [Script, Later])
@pytest.mark.parametrize("name", transcripts())
def test_transcript(name: str, handler: type[Script], how: str) -> None:
    script = handler()
    session = ServerSession(script, SETTINGS)
    drive(session, session.start())
    written, expected, messages = session.output(), b"", []
    batch: list[bytes] = []
    for step in [*transcripts()[name], Step("end")]:
        if step.kind == "C":
            if not batch:
                assert written == expected
                written = expected = b""
            batch.append(step.octets)
            continue
        for piece in cut(batch, how):
            drive(session, session.receive(piece))
            written += session.output()
        batch = []
        if step.kind == "S":
            expected += step.octets
        elif step.kind == "M":
            messages.append(step.octets)
        elif step.kind == "eof":
            session.eof()
        elif step.kind == "closed":
            assert session.closing
    assert written == expected
    assert script.messages == messages
    session.lost()
    assert session.receive(b"NOOP\r\n") is None
    assert session.output() == b""


def test_the_transcript_file_is_not_empty() -> None:
    assert len(transcripts()) > 15
