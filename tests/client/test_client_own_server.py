"""Our client against our server: every extension both know, in one conversation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost import BaseHandler, Client, Server
from ironpost.client import ContentRefused, RecipientsRefused, Unsupported
from ironpost.model import Reply
from ironpost.protocol.client.envelope import CHUNK_LIMIT
from ironpost.protocol.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from ironpost.model import Address
    from ironpost.model.body import Spool
    from ironpost.model.memory import MemorySpool
    from ironpost.protocol.server.handler import HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire import BodyEnd


class Keeper(BaseHandler):
    """Takes mail for everybody but `no`, and keeps it with the parameters of MAIL."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, dict[str, str | None], bytes]] = []

    def recipient(
        self, session: ServerSession, forward_path: Address, parameters: Mapping[str, str | None]
    ) -> HookResult:
        return Reply(550, "5.1.1", ("no",)) if forward_path.local_part == "no" else None

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> HookResult:
        memory: MemorySpool = content  # type: ignore[assignment]
        transaction = session.transaction
        assert transaction is not None
        self.kept.append((str(transaction.reverse_path), dict(transaction.parameters), memory.content))
        return Reply(550, "5.7.1", ("spam",)) if b"spam" in memory.content else None


@pytest.mark.parametrize("lines", [1, 3, 200_000], ids=["by BDAT", "by BDAT, several lines", "by DATA"])
def test_content_arrives_as_it_should_whatever_its_line_ends(lines: int) -> None:
    text = b"Subject: x\n\r\n.\r.dot\n..\n" + b"0123456789\n" * lines
    assert (len(text) <= CHUNK_LIMIT) == (lines < 10)
    handler = Keeper()

    async def main() -> None:
        async with Server(handler, "127.0.0.1", 0) as server, Client(*server.addresses[0]) as client:
            assert {"CHUNKING", "PIPELINING", "8BITMIME", "SMTPUTF8", "SIZE"} <= client.extensions.keys()
            for _ in range(3):
                await client.send("a@a.example", "b@b.example", text)

    asyncio.run(main())
    normal = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    assert handler.kept == [("a@a.example", {"SIZE": len(text)}, normal)] * 3


def test_declarations_and_refusals() -> None:
    handler = Keeper()

    async def unknown_size() -> AsyncIterator[bytes]:
        yield b"x" * 40_000
        yield b"y" * 40_000

    async def main() -> None:
        settings = ServerSettings(max_size=65_536)
        async with Server(handler, "127.0.0.1", 0, settings=settings) as server, Client(*server.addresses[0]) as client:
            await client.send("é@a.example", "b@b.example", "é\r\n".encode())
            with pytest.raises(Unsupported, match="exceeds"):
                await client.send("a@a.example", "b@b.example", b"x" * 65_537)
            with pytest.raises(ContentRefused, match="spam"):
                await client.send("a@a.example", "b@b.example", b"spam")
            with pytest.raises(RecipientsRefused):
                await client.send("a@a.example", ["no@b.example", "no@c.example"], b"x")
            with pytest.raises(ContentRefused) as caught:
                await client.send("a@a.example", "b@b.example", unknown_size())
            assert caught.value.reply.code == 552
            result = await client.send("", ["no@b.example", "b@b.example"], b"last\r\n")
            assert len(result.refused) == len(result.accepted) == 1

    asyncio.run(main())
    assert handler.kept[0] == ("é@a.example", {"SIZE": 4, "BODY": "8BITMIME", "SMTPUTF8": None}, "é\r\n".encode())
    assert handler.kept[-1] == ("", {"SIZE": 6}, b"last\r\n")


def test_a_parameter_that_no_extension_has_is_refused_before_anything_is_sent() -> None:
    async def main() -> None:
        async with Server(Keeper(), "127.0.0.1", 0) as server, Client(*server.addresses[0]) as client:
            with pytest.raises(ValueError, match="unknown parameter XYZZY"):
                await client.send("a@a.example", "b@b.example", b"", parameters={"XYZZY": "1"})

    asyncio.run(main())
