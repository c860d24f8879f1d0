"""Sending one message over open connections; shared by relaying and mail on demand.

Promises: one outcome for each recipient and transaction; if the body cannot be read to its end, the connection is
closed and the recipients are deferred. Small content is read once, whatever the number of transactions.
Standards: RFC 5321 §4.5.3.1.8 and §4.5.3.1.10 (too many recipients); RFC 6152 §3 (declared as what it is).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.client.connection import HELD
from ironpost.delivery import unreadable
from ironpost.model import Disposition, Outcome, Reply
from ironpost.protocol import replies
from ironpost.protocol.client.reasons import UNREADABLE
from ironpost.protocol.client.session import OutgoingTransaction
from ironpost.protocol.client.transaction import header_is_ascii
from ironpost.protocol.extensions import relay_reported, without_queue_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ironpost.client.connection import Connection
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

    Results: TypeAlias = list[tuple[QueuedRecipient, Outcome]]

HEADER_OCTETS: Final = 1 << 20
"""Bytes of a large message within which its header section must end (SECURITY R23)."""

_TOO_MANY: Final = frozenset({None, "4.5.3"})
"""Enhanced status codes of a 452 for too many recipients (RFC 3463 §3.6). Others concern one recipient: 4.2.2 is a full
mailbox."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that is being sent; create it with `of`."""

    message: QueuedMessage
    content: bytes | None
    """The whole content, if it is small."""
    eight_bit: bool | None
    header_ascii: bool | None = None
    """Whether the header section is ASCII; known only for large messages received with SMTPUTF8."""
    callout: bool = False
    """Only ask for the recipients; see `OutgoingTransaction`."""

    @classmethod
    async def of(cls, message: QueuedMessage, *, callout: bool = False) -> Self:
        """Read what must be known before MAIL.

        Raises:
            OSError: the body cannot be read; see `unreadable`.
        """
        body = message.body
        content = await body.head(body.size) if body.size <= HELD else None
        if content is not None:
            return cls(message, content, None, callout=callout)
        header_ascii = None
        if message.envelope.smtputf8:
            header_ascii = header_is_ascii(await body.head(HEADER_OCTETS), whole=False)
        return cls(message, None, await _eight_bit(message), header_ascii, callout)

    async def over(self, connection: Connection, recipients: Sequence[QueuedRecipient]) -> Results:
        """Run one transaction; return the outcome of each recipient."""
        return (await self.transact(connection, recipients))[1]

    async def transact(
        self, connection: Connection, recipients: Sequence[QueuedRecipient], *, deadline: float | None = None
    ) -> tuple[OutgoingTransaction, Results]:
        """Run one transaction; return it and the outcomes. Its numbers are positions in `recipients`.

        Args:
            connection: a connection that is ready.
            recipients: the recipients of this transaction.
            deadline: see `Connection.transact`.
        """
        body = self.message.body
        transaction = OutgoingTransaction(
            without_queue_parameters(self.message.envelope),
            [each.recipient for each in recipients],
            size=body.size,
            content=self.content,
            eight_bit=self.eight_bit,
            header_ascii=self.header_ascii,
            callout=self.callout,
        )
        try:
            pieces = None if self.content is not None else body.pieces()
            await connection.transact(transaction, pieces, deadline=deadline)
        except OSError as error:
            # The body could not be read to its end: the connection is closed.
            transaction.undecided.clear()
            return transaction, same(recipients, unreadable(error))
        results = [
            (each, _once(each, outcome))
            for each, outcome in zip(recipients, transaction.outcomes, strict=True)
            if outcome is not None
        ]
        if relay_reported(self.message.envelope, connection.session.offered, transaction.now):
            results = [
                (each, replace(outcome, relayed=outcome.disposition is Disposition.DELIVERED))
                for each, outcome in results
            ]
        return transaction, results


def _once(recipient: QueuedRecipient, outcome: Outcome) -> Outcome:
    """Fail the second time a host's reply to the content cannot be read: it may have the message twice (RFC 1047)."""
    if outcome.reply.transient and UNREADABLE in recipient.last and outcome.reply.text[0].startswith(UNREADABLE):
        reply = Reply(554, "5.5.0", outcome.reply.text)
        return Outcome(Disposition.FAILED, reply, outcome.remote, outcome.asked)
    return outcome


async def _eight_bit(message: QueuedMessage) -> bool | None:
    """Whether a large body that was not declared 8BITMIME has 8-bit content, so that it is declared (RFC 6152 §3).

    None for a declared body: it is trusted if the peer offers 8BITMIME, and checked while it is sent if not.
    """
    if message.envelope.body_type != "7BIT":
        return None
    pieces = message.body.pieces()
    try:
        async for piece in pieces:
            if not piece.isascii():
                return True
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()
    return False


def same(recipients: Sequence[QueuedRecipient], outcome: Outcome) -> Results:
    """The same outcome for each recipient."""
    return [(each, outcome) for each in recipients]


def too_many(results: Results) -> Sequence[QueuedRecipient]:
    """The recipients beyond the peer's limit, which are sent at once in another transaction.

    RFC 5321 §4.5.3.1.8 and §4.5.3.1.10: a peer replies 452 to recipients above its limit, which should be 100 or more.
    Every transaction decides at least one recipient, so this ends. If the peer announced its limit (RFC 9422 §4.2), no
    more recipients than that were sent; the others follow if it decided one.
    """
    remaining = [each for each, outcome in results if outcome.reply is replies.PEER_WANTS_FEWER_RECIPIENTS]
    if remaining:
        decided = any(outcome.disposition is not Disposition.DEFERRED for _, outcome in results)
        return remaining if decided else ()
    if not any(outcome.disposition is Disposition.DELIVERED for _, outcome in results):
        return ()
    return [each for each, outcome in results if outcome.reply.code == 452 and outcome.reply.enhanced in _TOO_MANY]


def undecided(transaction: OutgoingTransaction, results: Results) -> Sequence[QueuedRecipient]:
    """The recipients that this host did not decide, in order: the next host is tried (RFC 5321 §5.1)."""
    return [
        each
        for position, (each, outcome) in enumerate(results)
        if position in transaction.undecided or outcome.ours or outcome.reply is replies.PEER_WANTS_FEWER_RECIPIENTS
    ]
