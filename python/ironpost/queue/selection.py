"""Selects recipients of the queue: the criteria of all queue commands.

A `Selection` names recipients that are not finished, by criteria that must all hold. Stores evaluate it
(`queue.store`); `matches` defines its meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.queue.store import UNFINISHED

if TYPE_CHECKING:
    from typing import Self

    from ironpost.model.patterns import AddressPattern
    from ironpost.queue.store import QueuedMessage, QueuedRecipient, RecipientState


@dataclass(frozen=True, slots=True)
class Selection:
    """Recipients that fulfil every criterion that is given; without any, all that are not finished."""

    ids: tuple[str, ...] | None = None
    """Ids of messages; None for any."""
    sender: AddressPattern | None = None
    """The reverse-path."""
    null_sender: bool = False
    """The reverse-path is null (RFC 5321 §4.5.5)."""
    recipient: AddressPattern | None = None
    """The address that mail is delivered to, after aliases."""
    domain: AddressPattern | None = None
    """Its domain."""
    state: RecipientState | None = None
    """QUEUED or HELD."""
    older_than: float = 0.0
    """Minimum time in seconds since the message was accepted."""

    @classmethod
    def of(cls, *ids: str) -> Self:
        """Select all recipients of these messages."""
        return cls(tuple(dict.fromkeys(ids)))

    def matches(self, message: QueuedMessage, to: QueuedRecipient, now: float) -> bool:
        """Whether a recipient of a message is selected at `now` (seconds since 1970)."""
        sender, address = message.envelope.reverse_path, to.recipient.address
        return (
            (self.ids is None or message.id in self.ids)
            and to.state in (UNFINISHED if self.state is None else (self.state,))
            and (not self.null_sender or sender.is_null)
            and (self.sender is None or self.sender.matches(sender))
            and (self.recipient is None or self.recipient.matches(address))
            and (self.domain is None or self.domain.matches(address))
            and (not self.older_than or message.accepted <= now - self.older_than)
        )


EVERYTHING: Final = Selection()
"""All recipients that are not finished."""
