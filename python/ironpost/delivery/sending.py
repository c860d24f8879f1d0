"""One message over connections that are there: what every way out by SMTP has in common.

Promises: one outcome for each recipient and transaction; a body that cannot be read to its end closes the connection
and defers. Small content is read once, whatever the number of transactions.
Standards: RFC 5321 §4.5.3.1.8 and §4.5.3.1.10 (too many recipients); RFC 6152 §3 (declared as what it is).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost.client.connection import HELD
from ironpost.delivery import unreadable
from ironpost.model import Disposition, Outcome, Reply
from ironpost.protocol import replies
from ironpost.protocol.client import Transaction
from ironpost.protocol.client_transaction import UNREADABLE, header_is_ascii
from ironpost.protocol.extensions import future_release

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ironpost.client.connection import Connection
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

    Results: TypeAlias = list[tuple[QueuedRecipient, Outcome]]

HEADER_OCTETS: Final = 1 << 20
"""Octets of a large message in which its header section must end (SECURITY R23)."""

_TOO_MANY: Final = frozenset({None, "4.5.3"})
"""The enhanced code of a 452 about the number of recipients, if it has one (RFC 3463 §3.6). Others are about one of
them, such as 4.2.2, a full mailbox."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A message that is being sent. Make it with `of`."""

    message: QueuedMessage
    content: bytes | None
    """All of it, if it is small."""
    eight_bit: bool | None
    header_ascii: bool | None = None
    """Of a message that came under SMTPUTF8."""

    @classmethod
    async def of(cls, message: QueuedMessage) -> Self:
        """Reads what must be known before MAIL.

        Raises:
            OSError: the body cannot be read; see `unreadable`.
        """
        body = message.body
        content = await body.head(body.size) if body.size <= HELD else None
        if content is not None:
            return cls(message, content, None)
        header_ascii = None
        if message.envelope.smtputf8:
            header_ascii = header_is_ascii(await body.head(HEADER_OCTETS), whole=False)
        return cls(message, None, await _eight_bit(message), header_ascii)

    async def over(self, connection: Connection, recipients: Sequence[QueuedRecipient]) -> Results:
        """One transaction."""
        return (await self.transact(connection, recipients))[1]

    async def transact(
        self, connection: Connection, recipients: Sequence[QueuedRecipient], *, deadline: float | None = None
    ) -> tuple[Transaction, Results]:
        """One transaction, with what it knows beyond the outcomes. Its numbers are positions in `recipients`.

        Args:
            connection: which is ready.
            recipients: whom it is for.
            deadline: see `Connection.transact`.
        """
        body = self.message.body
        transaction = Transaction(
            future_release.released(self.message.envelope),
            [each.recipient for each in recipients],
            size=body.size,
            content=self.content,
            eight_bit=self.eight_bit,
            header_ascii=self.header_ascii,
        )
        try:
            pieces = None if self.content is not None else body.pieces()
            await connection.transact(transaction, pieces, deadline=deadline)
        except OSError as error:
            # The body could not be read to its end: the connection is gone.
            transaction.undecided.clear()
            return transaction, same(recipients, unreadable(error))
        return transaction, [
            (each, _once(each, outcome))
            for each, outcome in zip(recipients, transaction.outcomes, strict=True)
            if outcome is not None
        ]


def _once(recipient: QueuedRecipient, outcome: Outcome) -> Outcome:
    """RFC 1047: a host that has the message, and whose replies to it nobody can read, gets two copies of it at most."""
    if outcome.reply.transient and UNREADABLE in recipient.last and outcome.reply.text[0].startswith(UNREADABLE):
        reply = Reply(554, "5.5.0", outcome.reply.text)
        return Outcome(Disposition.FAILED, reply, outcome.remote, outcome.asked)
    return outcome


async def _eight_bit(message: QueuedMessage) -> bool | None:
    """Whether a large body, not declared 8BITMIME, is: it is read once more, so as to be declared truly (RFC 6152 §3).

    A declared one is taken at its word where the peer takes 8 bits, and watched as it passes where not: None.
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
    """The same for each."""
    return [(each, outcome) for each in recipients]


def too_many(results: Results) -> Sequence[QueuedRecipient]:
    """Those that did not fit beside others: they go at once, in a transaction of their own.

    RFC 5321 §4.5.3.1.8 and §4.5.3.1.10: a peer should take a hundred, and says 452 to the rest; one that takes fewer
    says it sooner. As each transaction disposes of somebody, there is an end to it. A peer that said before how many it
    takes (RFC 9422 §4.2) was asked for no more; if it disposed of one of these, the others are next.
    """
    waiting = [each for each, outcome in results if outcome.reply is replies.PEER_WANTS_FEWER_RECIPIENTS]
    if waiting:
        decided = any(outcome.disposition is not Disposition.DEFERRED for _, outcome in results)
        return waiting if decided else ()
    if not any(outcome.disposition is Disposition.DELIVERED for _, outcome in results):
        return ()
    return [each for each, outcome in results if outcome.reply.code == 452 and outcome.reply.enhanced in _TOO_MANY]


def undecided(transaction: Transaction, results: Results) -> Sequence[QueuedRecipient]:
    """Those whom this host did not judge, in their order: another may be asked (RFC 5321 §5.1)."""
    return [
        each
        for position, (each, outcome) in enumerate(results)
        if position in transaction.undecided or outcome.ours or outcome.reply is replies.PEER_WANTS_FEWER_RECIPIENTS
    ]
