"""Over sockets: what a message asks for reaches our server from our client, and binary content in chunks."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from ironpost import BaseHandler, Client, Server
from ironpost.client import Unsupported
from ironpost.client.connection import connect
from ironpost.model import Address, BodyType, Disposition, Envelope, Recipient
from ironpost.model.parameters import DeliverBy, EnvelopeId, HoldUntil, Notify, Return
from ironpost.protocol.client.session import OutgoingTransaction
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPEN_SUBMISSION = ServerSettings(dialect=SUBMISSION._replace(authenticate=False))
OCTETS = bytes(range(256)) * 12_000


class Keeper(BaseHandler):
    """Claims what these tests look for."""

    claims = frozenset({"DSN", "DELIVERBY", "FUTURERELEASE", "BINARYMIME"})

    def __init__(self) -> None:
        self.kept: list[tuple[dict[str, Any], dict[str, Any], bytes]] = []

    def recipient(self, session: Any, forward_path: Any, parameters: Any) -> None:
        return None

    def message(self, session: Any, content: Any, facts: Any) -> None:
        transaction = session.transaction
        self.kept.append((dict(transaction.parameters), dict(transaction.recipients[0].parameters), content.content))


async def pieces(octets: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(octets), 100_000):
        yield octets[start : start + 100_000]


async def send(server: Server, envelope: Envelope, octets: bytes, *, streamed: bool) -> list[Disposition]:
    connection = await connect(*server.addresses[0], "client.example")
    try:
        sent = OutgoingTransaction(envelope, size=len(octets), content=None if streamed else octets)
        await connection.transact(sent, pieces(octets) if streamed else None)
        # The connection is in step: another message goes over it.
        again = OutgoingTransaction(envelope, size=len(octets), content=octets)
        await connection.transact(again)
    finally:
        await connection.quit()
    return [outcome.disposition for each in (sent, again) for outcome in each.outcomes if outcome is not None]


def test_what_is_asked_for_arrives() -> None:
    handler = Keeper()
    release, deadline = int(time.time()) + 600, int(time.time()) + 3600
    parameters = {
        "RET": Return.HDRS,
        "ENVID": EnvelopeId("QQ314159"),
        "HOLDUNTIL": HoldUntil(release),
        "BY": DeliverBy(deadline, returned=True),
    }
    to = Recipient(Address.parse("b@b.example"), {"NOTIFY": Notify.NEVER})

    async def main() -> list[Disposition]:
        async with Server(handler, "127.0.0.1", 0, settings=OPEN_SUBMISSION) as server:
            envelope = Envelope(Address.parse("a@a.example"), (to,), parameters)
            return await send(server, envelope, b"Subject: x\r\n\r\nhi\r\n", streamed=False)

    assert asyncio.run(main()) == [Disposition.DELIVERED] * 2
    for got, of_recipient, _ in handler.kept:
        by = got.pop("BY")
        assert deadline - 60 <= by.deadline <= deadline + 60
        assert by.returned
        assert got == {"SIZE": 18, **{key: parameters[key] for key in ("RET", "ENVID", "HOLDUNTIL")}}
        assert of_recipient == {"NOTIFY": Notify.NEVER}


def test_a_program_asks_for_it_in_send() -> None:
    handler = Keeper()
    to = Recipient(Address.parse("b@b.example"), {"NOTIFY": "success,delay"})

    async def main() -> None:
        async with Server(handler, "127.0.0.1", 0) as server, Client(*server.addresses[0]) as client:
            await client.send("a@a.example", to, b"hi\r\n", parameters={"RET": Return.FULL, "ENVID": "QQ314159"})
            await client.send("a@a.example", ["c@b.example", to], b"\0", parameters={"BODY": "BINARYMIME"})
            with pytest.raises(ValueError, match="BY=120;R: '120' is not a valid date and time"):
                await client.send("a@a.example", to, b"hi\r\n", parameters={"BY": "120;R"})
            with pytest.raises(ValueError, match="NOTIFY=now"):
                await client.send("a@a.example", Recipient(to.address, {"NOTIFY": "now"}), b"hi\r\n")
            with pytest.raises(Unsupported, match=r"5\.7\.30"):
                await client.send("a@a.example", to, b"hi\r\n", parameters={"REQUIRETLS": None})

    asyncio.run(main())
    asked = {"SIZE": 4, "RET": Return.FULL, "ENVID": EnvelopeId("QQ314159")}
    assert handler.kept[0] == (asked, {"NOTIFY": Notify.SUCCESS | Notify.DELAY}, b"hi\r\n")
    assert handler.kept[1] == ({"SIZE": 1, "BODY": BodyType.BINARY}, {}, b"\0")
    assert len(handler.kept) == 2


@pytest.mark.parametrize("value", ["x\r\nRSET", "\n", "\r", "x\0", "x y"])
@pytest.mark.parametrize("keyword", ["RET", "ENVID", "BY", "HOLDFOR", "HOLDUNTIL", "AUTH", "SOLICIT"])
def test_r17_no_parameter_of_a_program_ends_its_line(keyword: str, value: str) -> None:
    handler = Keeper()

    async def main() -> None:
        async with Server(handler, "127.0.0.1", 0) as server, Client(*server.addresses[0]) as client:
            with pytest.raises((ValueError, Unsupported)):
                await client.send("a@a.example", "b@b.example", b"hi\r\n", parameters={keyword: value})
            to = Recipient(Address.parse("b@b.example"), {"NOTIFY" if keyword == "RET" else keyword: value})
            with pytest.raises((ValueError, Unsupported)):
                await client.send("a@a.example", to, b"hi\r\n")

    asyncio.run(main())
    assert handler.kept == []


def test_binary_content_streams_in_chunks() -> None:
    handler = Keeper()
    to = Recipient(Address.parse("b@b.example"))
    envelope = Envelope(Address.parse("a@a.example"), (to,), {"BODY": BodyType.BINARY})

    async def main() -> list[Disposition]:
        async with Server(handler, "127.0.0.1", 0) as server:
            return await send(server, envelope, OCTETS, streamed=True)

    assert asyncio.run(main()) == [Disposition.DELIVERED] * 2
    assert [content for _, _, content in handler.kept] == [OCTETS] * 2
