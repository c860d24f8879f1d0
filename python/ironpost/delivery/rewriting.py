"""Address rewriting of mail that leaves for other systems over SMTP.

Promises: what is stored does not change, so each attempt starts from the same addresses, and reports name those that
the sender used. Destinations are chosen before, by the stored addresses. The body is not held: only the header section
is, at most 1 MiB (SECURITY R23).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from ironpost.delivery.sending import HEADER_OCTETS
from ironpost.message.section import HeaderReader
from ironpost.model.memory import MemoryBody
from ironpost.model.ports import Uncounted
from ironpost.routing.rewriting import QUICK, Place
from ironpost.telemetry.rewriting import log_rewritten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model.body import Body, Pieces
    from ironpost.model.ports import Metrics
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.rewriting import Rewriting, Rewritten

_log: Final = logging.getLogger("ironpost.delivery")


class DeliveryRewriting:
    """The rules for mail that leaves; a reload replaces them."""

    def __init__(self, rules: Rewriting | None = None, metrics: Metrics | None = None) -> None:
        """`rules`: None if there are none."""
        self.rules = rules
        self._metrics = metrics or Uncounted()

    async def apply(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], *, logged: bool = True
    ) -> tuple[QueuedMessage, Sequence[QueuedRecipient]]:
        """The message and its recipients as they are sent.

        Args:
            message: as it is stored.
            recipients: those of this attempt.
            logged: log and count what was replaced; False for what is not mail.

        Raises:
            OSError: the body cannot be read.
        """
        rules = self.rules
        if rules is None:
            return message, recipients
        changes: list[Rewritten] = []
        envelope = message.envelope
        if (found := rules.find(Place.REVERSE_PATH, envelope.reverse_path)) is not None:
            changes.append(found)
            message = message._replace(envelope=envelope._replace(reverse_path=found.after))
        sent = []
        for each in recipients:
            if (found := rules.find(Place.FORWARD_PATH, each.recipient.address)) is not None:
                changes.append(found)
                each = each._replace(recipient=each.recipient._replace(address=found.after))
            sent.append(each)
        own = rules.is_own(envelope.origin)
        if rules.changes_headers(own=own):
            reader = HeaderReader()
            head = await message.body.head(HEADER_OCTETS)
            reader.feed(head)
            header = reader.header or reader.finish()
            if len(header.octets) > QUICK:
                octets = await asyncio.to_thread(rules.header, header, changes, own=own)
            else:
                octets = rules.header(header, changes, own=own)
            if octets is not header.octets:
                replaced, body = len(header.octets), message.body
                whole = len(head) == body.size  # then it is not read again
                new = MemoryBody(octets + head[replaced:]) if whole else _RewrittenBody(body, octets, replaced)
                message = message._replace(body=new)
        if logged:
            log_rewritten(_log, self._metrics, message.id, changes)
        return message, sent


class _RewrittenBody:
    """A `model.body.Body` with another header section."""

    def __init__(self, body: Body, header: bytes, replaced: int) -> None:
        """`replaced` is the number of octets at the start of `body` that `header` stands for."""
        self._body = body
        self._header = header
        self._replaced = replaced

    @property
    def size(self) -> int:
        return self._body.size - self._replaced + len(self._header)

    async def pieces(self) -> Pieces:
        yield self._header
        skip = self._replaced
        async for piece in self._body.pieces():
            if skip < len(piece):
                yield piece[skip:]
            skip = max(0, skip - len(piece))

    async def head(self, limit: int) -> bytes:
        rest = limit - len(self._header)
        if rest <= 0:
            return self._header[:limit]
        return self._header + (await self._body.head(self._replaced + rest))[self._replaced :]
