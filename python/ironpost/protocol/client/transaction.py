"""One outgoing transaction: the envelope, facts about the content, and the outcome of each recipient.

Promises: `outcomes` has one entry for each recipient, in order; when `done` is true, all are set. An outcome that is
set never changes.
Refuses: a transaction without recipients, with ValueError.
Standards: RFC 5321 §3.3, §4.2.1, §4.2.3, §5.1; RFC 3463 §3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Envelope, Recipient, Reply
    from ironpost.protocol.client.states import ClientStep


_HEADER_END: Final = re.compile(rb"(?>\A|\r\n|\n|\r)(?>\r\n|\n|\r)")
"""An empty line with any kind of line end, because content may come from a file."""


def header_is_ascii(content: bytes, *, whole: bool = True) -> bool | None:
    """Whether the header section is ASCII; None if its end is not in `content`, which is not the `whole` message."""
    end = _HEADER_END.search(content)
    if end is not None:
        return content[: end.start()].isascii()
    return content.isascii() if whole else None


class OutgoingTransaction:
    """One outgoing transaction: envelope, facts about the content, and outcomes."""

    __slots__ = (
        "_eight_bit",
        "_header_ascii",
        "callout",
        "content",
        "envelope",
        "failed_at",
        "now",
        "open",
        "outcomes",
        "recipients",
        "refusal",
        "size",
        "undecided",
        "unsupported",
        "without_chunks",
    )

    def __init__(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient] | None = None,
        *,
        size: int | None = None,
        content: bytes | None = None,
        eight_bit: bool | None = None,
        header_ascii: bool | None = None,
        callout: bool = False,
    ) -> None:
        """Create a transaction without outcomes.

        Args:
            envelope: the envelope with which the message was accepted.
            recipients: the recipients of this transaction, at least one; None for all recipients of the envelope.
            size: octets of content; None if unknown.
            content: the whole content if it is small; None if it is streamed.
            eight_bit: whether the content contains octets above 127; None to determine it from `content`.
            header_ascii: whether the header section is ASCII; None to determine it from `content`.
            callout: end after RCPT, without content: the outcomes say what the peer replied to each recipient.

        Raises:
            ValueError: there is no recipient.
        """
        self.envelope = envelope
        self.recipients = envelope.recipients if recipients is None else recipients
        if not self.recipients:
            raise ValueError("a transaction needs at least one recipient")
        self.callout = callout
        self.content = content
        self.size = len(content) if content is not None else size
        self.now = 0.0
        """The time of sending, in seconds since 1970; the driver sets it, for extensions that need it."""
        self.outcomes: list[Outcome | None] = [None] * len(self.recipients)
        """The outcome of each recipient; None if there is none yet."""
        self.open = len(self.recipients)
        """The number of recipients without an outcome."""
        self.failed_at: ClientStep | None = None
        """The step of the last refusal; None if there was none."""
        self.refusal: Reply | None = None
        """The last refusal; None if there was none."""
        self.unsupported = False
        """Our client refused the message, because the peer does not support what it requires."""
        self.undecided: set[int] = set()
        """Recipients whose outcome is not a verdict on the mail: the host or the protocol failed before the end of the
        content was sent, so another connection or host may be tried at once (RFC 5321 §5.1)."""
        self.without_chunks = False
        """The peer offered CHUNKING and then rejected BDAT as a command: DATA on a new connection may work."""
        self._eight_bit = eight_bit
        self._header_ascii = header_ascii

    @property
    def done(self) -> bool:
        """Whether every recipient has an outcome."""
        return not self.open

    @property
    def eight_bit(self) -> bool | None:
        """Whether the content contains octets above 127; None if that is unknown before it is streamed."""
        if self._eight_bit is None and self.content is not None:
            self._eight_bit = not self.content.isascii()
        return self._eight_bit

    @property
    def header_ascii(self) -> bool | None:
        """Whether the header section is ASCII; None if that is unknown before it is streamed."""
        if self._header_ascii is None:
            if self.content is not None:
                self._header_ascii = header_is_ascii(self.content)
            elif self.eight_bit is False:
                self._header_ascii = True
        return self._header_ascii

    @property
    def depends_on_smtputf8(self) -> bool:
        """Whether the message cannot be sent without SMTPUTF8, because of the sender's local part or the header."""
        if not self.envelope.reverse_path.local_part.isascii():
            return True
        return self.envelope.smtputf8 and self.header_ascii is not True

    @property
    def needs_smtputf8(self) -> bool:
        """Whether to use SMTPUTF8 if supported, because of an address or the header (RFC 6531 §3.3, §3.4)."""
        if self.envelope.reverse_path.needs_smtputf8 or any(r.address.needs_smtputf8 for r in self.recipients):
            return True
        return self.envelope.smtputf8 and self.eight_bit is not False

    def settle(self, number: int, outcome: Outcome, step: ClientStep, *, undecided: bool = False) -> None:
        """Set the outcome of one recipient, unless it has one."""
        if self.outcomes[number] is None:
            self._refused(outcome, step)
            self.outcomes[number] = outcome
            self.open -= 1
            if undecided:
                self.undecided.add(number)

    def settle_rest(self, outcome: Outcome, step: ClientStep, *, undecided: bool = False) -> None:
        """Set the same outcome for every recipient without one."""
        if self.open:
            self._refused(outcome, step)
        if undecided:
            self.undecided.update(number for number, known in enumerate(self.outcomes) if known is None)
        self.outcomes = [outcome if known is None else known for known in self.outcomes]
        self.open = 0

    def _refused(self, outcome: Outcome, step: ClientStep) -> None:
        if outcome.disposition is not Disposition.DELIVERED:
            self.failed_at, self.refusal = step, outcome.reply
