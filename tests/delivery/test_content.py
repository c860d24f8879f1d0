"""What a next hop gets of content that it cannot take, or that was stored by a rule that no peer shares.

Every octet that leaves is recorded, so that a bare CR or LF, or a dot that ends the content early, cannot hide.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.delivery.test_remote import D, F, deliver, delivery, message, one, run

from ironpost.client.connection import HELD
from ironpost.model import BodyType
from ironpost.routing.route import Host, Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ironpost.queue.store import QueuedMessage

BARE: bytes = rb"(?<!\r)\n|\r(?!\n)"
HOSTILE = {
    "bare-lf": b"a\nb\n.\nMAIL FROM:<x@y.example>\n",
    "bare-cr": b"a\rb\r.\rMAIL FROM:<x@y.example>\r",
    "lf-dot-crlf": b"a\n.\r\nQUIT\r\n",
    "crlf-dot-lf": b"a\r\n.\nQUIT\r\n",
    "cr-dot-crlf": b"a\r.\r\nQUIT\r\n",
    "crlf-dot-cr": b"a\r\n.\rQUIT\r\n",
    "dots": b"a\r\n.\r\n..\r\n...\r\n.\r\n",
    "crcrlf": b"a\r\r\n.\r\r\n.\r\n",
    "no-end": b"a\r\n.",
    "cr-end": b"a\r",
}


class Recorder:
    """An SMTP server that counts octets as RFC 3030 says, and keeps all of its input."""

    def __init__(self, *extensions: str) -> None:
        self.extensions = extensions
        self.port = 0
        self.input = b""
        self.contents: list[bytes] = []
        """The content of each message, by DATA with the dots of transparency removed."""
        self.commands: list[bytes] = []
        self.sessions: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.sessions.add(task)
        try:
            await self._talk(reader, writer)
        except OSError:  # the client has aborted
            pass
        finally:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 peer.example\r\n")
        chunks: list[bytes] = []
        while line := await self._line(reader):
            self.commands.append(line)
            verb = line.split()[0].upper()
            if verb == b"EHLO":
                lines = [b"peer.example", *(each.encode() for each in self.extensions)]
                joined = [b"250-" + each for each in lines[:-1]] + [b"250 " + lines[-1]]
                writer.write(b"".join(each + b"\r\n" for each in joined))
            elif verb == b"DATA":
                writer.write(b"354 go\r\n")
                content = b""
                while (line := await self._line(reader)) != b".\r\n":
                    if not line.endswith(b"\r\n"):
                        return  # the content has no end, so it was not sent
                    content += line.removeprefix(b".")
                self.contents.append(content)
                writer.write(b"250 taken\r\n")
            elif verb == b"BDAT":
                octets = await reader.readexactly(int(line.split()[1]))
                self.input += octets
                chunks.append(octets)
                if line.upper().endswith(b"LAST\r\n"):
                    self.contents.append(b"".join(chunks))
                    chunks.clear()
                writer.write(b"250 taken\r\n")
            else:
                writer.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                if verb == b"QUIT":
                    return

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        """One line as the strictest reader sees it: it ends at CRLF."""
        try:
            line = await reader.readuntil(b"\r\n")
        except asyncio.IncompleteReadError as end:
            line = end.partial
        self.input += line
        return line


@asynccontextmanager
async def recorder(*extensions: str) -> AsyncIterator[Recorder]:
    here = Recorder(*extensions)
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0, limit=1 << 22)
    here.port = server.sockets[0].getsockname()[1]
    try:
        yield here
    finally:
        server.close()
        await asyncio.gather(*here.sessions)


def with_body(content: bytes, body: BodyType | None, to: str = "x@elsewhere.example") -> QueuedMessage:
    sent = message(to, body=content)
    return sent._replace(envelope=sent.envelope._replace(parameters={} if body is None else {"BODY": body}))


def route(here: Recorder) -> Route:
    return Route.smart([Host("127.0.0.1", here.port)])


def normalised(content: bytes) -> bytes:
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    return text if text.endswith(b"\r\n") else text + b"\r\n"


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("large", [False, True], ids=["held", "streamed"])
@pytest.mark.parametrize("extensions", [("PIPELINING",), ("PIPELINING", "CHUNKING", "8BITMIME", "BINARYMIME")])
def test_r3_no_bare_cr_or_lf_leaves_whatever_is_stored(name: str, large: bool, extensions: tuple[str, ...]) -> None:
    """Also by BDAT, and to a host that offers BINARYMIME, because the message is not declared so (SECURITY R4)."""
    padding = b"x" * 70 + b"\r\n"
    content = b"Subject: s\r\n\r\n" + (padding * (HELD // 70) if large else b"") + HOSTILE[name]

    async def main() -> None:
        async with recorder(*extensions) as here, delivery() as made:
            for _ in range(2):  # the second one shows that the first was not cut
                assert one(await deliver(made, with_body(content, None), route(here))).disposition is D
        assert re.search(BARE, here.input) is None
        assert here.contents == [normalised(content)] * 2
        verbs = [line.split()[0] for line in here.commands]
        assert verbs.count(b"MAIL") == 2
        assert (b"BDAT" in verbs) == ("CHUNKING" in extensions and not large)

    run(main)


BINARY = b"Subject: s\r\n\r\n\x00\xff\r\n.\r\n\n\r."


@pytest.mark.parametrize("large", [False, True], ids=["held", "streamed"])
def test_r4_binary_content_arrives_unchanged_where_it_is_supported(large: bool) -> None:
    content = BINARY * (HELD // 10 if large else 1)

    async def main() -> None:
        async with recorder("CHUNKING", "BINARYMIME", "8BITMIME") as here, delivery() as made:
            assert one(await deliver(made, with_body(content, BodyType.BINARY), route(here))).disposition is D
        assert here.contents == [content]
        assert any(b"BODY=BINARYMIME" in line for line in here.commands)
        assert not any(line.startswith(b"DATA") for line in here.commands)

    run(main)


@pytest.mark.parametrize("extensions", [(), ("CHUNKING", "8BITMIME"), ("BINARYMIME", "8BITMIME")])
def test_r4_binary_content_is_not_sent_elsewhere(extensions: tuple[str, ...]) -> None:  # RFC 3030 §3
    async def main() -> None:
        async with recorder("PIPELINING", *extensions) as here, delivery() as made:
            outcome = one(await deliver(made, with_body(BINARY, BodyType.BINARY), route(here)))
            assert (outcome.disposition, outcome.reply.enhanced) == (F, "5.6.3")
        assert {line.split()[0] for line in here.commands} == {b"EHLO", b"QUIT"}

    run(main)


@pytest.mark.parametrize(
    ("declared", "content", "extensions", "enhanced", "parameter"),
    [
        (None, b"caf\xc3\xa9\r\n", (), "5.6.3", b""),
        (BodyType.EIGHT_BIT, b"caf\xc3\xa9\r\n", (), "5.6.3", b""),
        (BodyType.EIGHT_BIT, b"cafe\r\n", (), None, b""),
        (None, b"caf\xc3\xa9\r\n", ("8BITMIME",), None, b"BODY=8BITMIME"),
        (BodyType.EIGHT_BIT, b"cafe\r\n", ("8BITMIME",), None, b"BODY=8BITMIME"),
        (None, b"cafe\r\n", ("8BITMIME",), None, b""),
    ],
)
@pytest.mark.parametrize("large", [False, True], ids=["held", "streamed"])
def test_8bit_content_is_declared_or_fails(
    declared: BodyType | None,
    content: bytes,
    extensions: tuple[str, ...],
    enhanced: str | None,
    parameter: bytes,
    large: bool,
) -> None:  # RFC 6152 §3
    whole = b"Subject: s\r\n\r\n" + (b"x" * 70 + b"\r\n") * (HELD // 70 if large else 0) + content

    async def main() -> None:
        async with recorder("PIPELINING", *extensions) as here, delivery() as made:
            outcome = one(await deliver(made, with_body(whole, declared), route(here)))
            assert (outcome.disposition, None if outcome.disposition is D else outcome.reply.enhanced) == (
                D if enhanced is None else F,
                enhanced,
            )
        assert here.contents == ([whole] if enhanced is None else [])
        mails = [line for line in here.commands if line.startswith(b"MAIL")]
        assert all((b"BODY=" in line) == bool(parameter) for line in mails)
        assert all(parameter in line for line in mails)

    run(main)


@pytest.mark.parametrize(
    ("sender", "to", "header", "enhanced"),
    [
        ("j\u00f6@us.example", "x@elsewhere.example", b"Subject: s", "5.6.7"),
        ("jo@us.example", "gr\u00e2ce@elsewhere.example", b"Subject: s", "5.6.7"),
        ("jo@us.example", "x@elsewhere.example", "Subject: \u00e9".encode(), "5.6.9"),
        ("jo@b\u00fccher.example", "x@\u00fcber.example", b"Subject: s", None),
    ],
)
def test_what_needs_smtputf8_fails_with_the_reason_or_is_sent_in_ascii(
    sender: str, to: str, header: bytes, enhanced: str | None
) -> None:  # RFC 6531 §3.2, §3.5
    async def main() -> None:
        sent = message(to, sender=sender, body=header + b"\r\n\r\nhi\r\n")
        sent = sent._replace(envelope=sent.envelope._replace(parameters={"SMTPUTF8": None}))
        async with recorder("PIPELINING", "8BITMIME") as here, delivery() as made:
            outcome = one(await deliver(made, sent, route(here)))
            assert outcome.disposition is (D if enhanced is None else F)
            assert enhanced is None or outcome.reply.enhanced == enhanced
        assert here.input.isascii()
        if enhanced is None:
            assert b"MAIL FROM:<jo@xn--bcher-kva.example>" in here.input
            assert b"RCPT TO:<x@xn--ber-goa.example>" in here.input
        async with recorder("PIPELINING", "8BITMIME", "SMTPUTF8") as here, delivery() as made:
            assert one(await deliver(made, sent, route(here))).disposition is D
        assert b"SMTPUTF8" in here.input

    run(main)
