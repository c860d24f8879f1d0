"""Addresses of mail that leaves: the message as it is sent, and the stored one unchanged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.sending import HEADER_OCTETS
from ironpost.model import Address, Envelope, Origin, Recipient
from ironpost.model.patterns import AddressPattern
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.routing.rewriting import RewriteRule, Rewriting
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

A = Address.parse
RULES = Rewriting([RewriteRule((AddressPattern("lan.example"),), "mail.example", name="rewrite[2]")])
HEADER = b"Received: x\r\nFrom: Flo <flo@lan.example>\r\nTo: jo@far.example,\r\n eve@lan.example\r\n\r\n"
CHANGED = HEADER.replace(b"@lan.", b"@mail.")
BODY = b"To: flo@lan.example\r\n" * 50


class Stored:
    """A body that is read in pieces of some size."""

    def __init__(self, octets: bytes, piece: int) -> None:
        self.octets = octets
        self.piece = piece

    @property
    def size(self) -> int:
        return len(self.octets)

    async def pieces(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.octets), self.piece):
            yield self.octets[at : at + self.piece]

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


def queued(octets: bytes, piece: int = 1000, origin: Origin = Origin("127.0.0.1", listener="mx")) -> QueuedMessage:  # noqa: B008 - immutable
    rows = tuple(
        QueuedRecipient(number, Recipient(A(each))) for number, each in enumerate(["jo@far.example", "eve@lan.example"])
    )
    envelope = Envelope(A("flo@lan.example"), tuple(row.recipient for row in rows), origin=origin)
    return QueuedMessage("Q1", envelope, 0.0, Stored(octets, piece), rows)


async def read(message: QueuedMessage) -> bytes:
    return b"".join([piece async for piece in message.body.pieces()])


@pytest.mark.parametrize("piece", [1, 10, len(HEADER), len(HEADER) + 1, 10_000])
@pytest.mark.parametrize("held", [HEADER_OCTETS, 2 * len(HEADER)], ids=["small", "large"])
def test_the_message_is_rewritten_as_it_is_sent(piece: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironpost.delivery.rewriting.HEADER_OCTETS", held)

    async def run() -> None:
        message, counters = queued(HEADER + BODY, piece), Counters()
        sent, recipients = await DeliveryRewriting(RULES, counters).apply(message, message.recipients)
        assert str(sent.envelope.reverse_path) == "flo@mail.example"
        assert [(each.number, str(each.recipient.address)) for each in recipients] == [
            (0, "jo@far.example"), (1, "eve@mail.example"),
        ]  # fmt: skip
        whole = CHANGED + BODY
        assert await read(sent) == whole
        assert sent.body.size == len(whole)
        for limit in (0, 1, len(CHANGED) - 1, len(CHANGED), len(CHANGED) + 5, 10_000):
            assert await sent.body.head(limit) == whole[:limit]
        assert await read(message) == HEADER + BODY
        assert counters.snapshot()["addresses_rewritten"]["rewrite[2]"] == 4

    asyncio.run(run())


def test_a_large_header_section_is_rewritten_too() -> None:
    async def run() -> None:
        header = b"To: " + b",\r\n ".join(b"u%d@lan.example" % number for number in range(2000)) + b"\r\n\r\n"
        message = queued(header + BODY, 256 * 1024)
        sent, _ = await DeliveryRewriting(RULES).apply(message, message.recipients)
        assert await read(sent) == header.replace(b"@lan.", b"@mail.") + BODY

    asyncio.run(run())


def test_mail_of_others_keeps_its_header_section() -> None:
    async def run() -> None:
        message = queued(HEADER + BODY, origin=Origin("198.51.100.7", listener="mx"))
        sent, _ = await DeliveryRewriting(RULES).apply(message, message.recipients)
        assert str(sent.envelope.reverse_path) == "flo@mail.example"
        assert sent.body is message.body

    asyncio.run(run())


@pytest.mark.parametrize("rules", [None, Rewriting([RewriteRule((AddressPattern("x.example"),), "y.example")])])
def test_without_a_match_the_body_is_the_stored_one(rules: Rewriting | None) -> None:
    async def run() -> None:
        message = queued(HEADER + BODY)
        sent, recipients = await DeliveryRewriting(rules).apply(message, message.recipients)
        assert sent.body is message.body
        assert tuple(recipients) == message.recipients

    asyncio.run(run())


def test_a_message_without_a_body_or_an_empty_line() -> None:
    async def run() -> None:
        message = queued(b"From: flo@lan.example\r\n")
        sent, _ = await DeliveryRewriting(RULES).apply(message, message.recipients)
        assert await read(sent) == b"From: flo@mail.example\r\n"

    asyncio.run(run())
