"""One outgoing transaction: what is to be sent, and what became of each recipient.

Promises: `outcomes` has one place for each recipient, in order; when `done` is true every place is filled. A fate once
settled is never changed.
Refuses: a transaction without recipients, with ValueError.
Standards: RFC 5321 §3.3, §4.2.1, §4.2.3, §5.1; RFC 3463 §3.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition, Outcome, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost import wire
    from ironpost.model import Envelope, Recipient


class Step(Enum):
    """What a client sends and the reply it then waits for. The value is how a reason calls it."""

    GREETING = "the greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    TLS = "the TLS handshake"
    AUTH = "AUTH"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "the content"
    END = "the end of the content"
    BDAT = "BDAT"
    CHUNK = "a chunk"
    RSET = "RSET"
    QUIT = "QUIT"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is a Python call


_HEADER_END: Final = re.compile(rb"(?>\A|\r\n|\n|\r)(?>\r\n|\n|\r)")
"""An empty line, by any line ends: content may come from a file."""


def header_is_ascii(content: bytes, *, whole: bool = True) -> bool | None:
    """Whether the header section is ASCII; None if its end is not in `content`, which is not the `whole` message."""
    end = _HEADER_END.search(content)
    if end is not None:
        return content[: end.start()].isascii()
    return content.isascii() if whole else None


class Transaction:
    """The envelope and the facts about the content that extensions decide by."""

    __slots__ = (
        "_eight_bit",
        "_header_ascii",
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
    ) -> None:
        """Describes what to send.

        Args:
            envelope: reverse-path and parameters, as the message was accepted.
            recipients: whom to send to in this transaction, at least one; all of the envelope's if None.
            size: octets of content, None if unknown.
            content: the whole content when it is small enough to be held; None when it is streamed.
            eight_bit: whether the content holds octets above 127, if the caller knows; seen from `content` otherwise.
            header_ascii: whether the header section is ASCII, likewise.
        """
        self.envelope = envelope
        self.recipients = envelope.recipients if recipients is None else recipients
        if not self.recipients:
            raise ValueError("a transaction needs at least one recipient")
        self.content = content
        self.size = len(content) if content is not None else size
        self.now = 0.0
        """Seconds since 1970: when it is sent. Whoever has a clock sets it just before, for what counts time."""
        self.outcomes: list[Outcome | None] = [None] * len(self.recipients)
        self.open = len(self.recipients)
        """How many recipients have no outcome yet."""
        self.failed_at: Step | None = None
        """The step at which the last refusal came, None if there was none."""
        self.refusal: Reply | None = None
        """That refusal."""
        self.unsupported = False
        """The refusal is ours: the peer does not offer what the message needs."""
        self.undecided: set[int] = set()
        """Recipients whose outcome says nothing about the mail: the host or the dialogue failed before the end of the
        content was sent, so another connection or another host may be tried at once (RFC 5321 §5.1)."""
        self.without_chunks = False
        """The peer offered CHUNKING and then rejected BDAT as a command: DATA on a new connection may work."""
        self._eight_bit = eight_bit
        self._header_ascii = header_ascii

    @property
    def done(self) -> bool:
        """Every recipient has its outcome."""
        return not self.open

    @property
    def eight_bit(self) -> bool | None:
        """The content holds octets above 127; None if only the stream can tell."""
        if self._eight_bit is None and self.content is not None:
            self._eight_bit = not self.content.isascii()
        return self._eight_bit

    @property
    def header_ascii(self) -> bool | None:
        """The header section is ASCII, whatever the body is; None if only the stream can tell."""
        if self._header_ascii is None:
            if self.content is not None:
                self._header_ascii = header_is_ascii(self.content)
            elif self.eight_bit is False:
                self._header_ascii = True
        return self._header_ascii

    @property
    def depends_on_smtputf8(self) -> bool:
        """No recipient can have it without SMTPUTF8: for the sender's local part, or for the header section."""
        if not self.envelope.reverse_path.local_part.isascii():
            return True
        return self.envelope.smtputf8 and self.header_ascii is not True

    @property
    def needs_smtputf8(self) -> bool:
        """As it stands it travels under SMTPUTF8 (RFC 6531 §3.3, §3.4): for an address, or for what its header may
        hold."""
        if self.envelope.reverse_path.needs_smtputf8 or any(r.address.needs_smtputf8 for r in self.recipients):
            return True
        return self.envelope.smtputf8 and self.eight_bit is not False

    def settle(self, number: int, outcome: Outcome, step: Step, *, undecided: bool = False) -> None:
        """The outcome of one recipient, unless it has one."""
        if self.outcomes[number] is None:
            self._refused(outcome, step)
            self.outcomes[number] = outcome
            self.open -= 1
            if undecided:
                self.undecided.add(number)

    def settle_rest(self, outcome: Outcome, step: Step, *, undecided: bool = False) -> None:
        """The same outcome for every recipient that has none."""
        if self.open:
            self._refused(outcome, step)
        if undecided:
            self.undecided.update(number for number, known in enumerate(self.outcomes) if known is None)
        self.outcomes = [outcome if known is None else known for known in self.outcomes]
        self.open = 0

    def _refused(self, outcome: Outcome, step: Step) -> None:
        if outcome.disposition is not Disposition.DELIVERED:
            self.failed_at, self.refusal = step, outcome.reply


# What the log and a report read when the reason is ours and not a reply of the peer. Detail codes of RFC 3463 §3.


def lost(step: Step) -> Reply:
    """The connection ended early."""
    if step in (Step.END, Step.BDAT):
        # RFC 1047: the peer may have taken the message; to send it again is the lesser harm.
        return Reply(
            451, "4.4.2", ("Connection lost after the end of the message, before its reply: it may arrive twice",)
        )
    return Reply(451, "4.4.2", (f"Connection lost at {step.value}",))


def expired(step: Step) -> Reply:
    """A limit of RFC 5321 §4.5.3.2 passed."""
    return Reply(451, "4.4.2", (f"Time-out at {step.value}",))


def faulty(step: Step, sentence: str) -> Reply:
    """The peer's octets are no reply (SECURITY R18, R19)."""
    if step in (Step.END, Step.BDAT):
        return Reply(451, "4.5.0", (f"{UNREADABLE}: {sentence}",))
    return Reply(451, "4.5.0", (f"Protocol error at {step.value}: {sentence}",))


def unexpected(step: Step, reply: Reply) -> Reply:
    """A reply whose first digit means nothing at this step."""
    if step in (Step.END, Step.BDAT):
        return Reply(451, "4.5.0", (f"{UNREADABLE}: {reply}",))
    return Reply(451, "4.5.0", (f"Unexpected reply at {step.value}: {reply}",))


DIALOGUE_FAULTS: Final = frozenset({500, 501, 502, 503})
"""Replies about the form or the order of commands (RFC 5321 §4.2.1: x0z, syntax; §4.2.3)."""
_PROTOCOL: Final = frozenset({"0", "5"})
"""Subjects of an enhanced code that do not contradict that: unspecified, and the delivery protocol (RFC 3463 §3)."""


UNREADABLE: Final = "No readable reply to the end of the message"
"""How the reason begins when nobody knows whether the peer took the message (RFC 1047)."""
_CODE: Final = re.compile(rb"[2-5][0-9]{2}")


def final_code(octets: bytes) -> int | None:
    """The code at the start of a reply whose rest cannot be read."""
    return int(octets) if _CODE.fullmatch(octets) else None


def garbled(code: int, sentence: str) -> Reply:
    """What is understood of such a reply by its first digit (RFC 5321 §4.3.2); 3yz means nothing here."""
    if code // 100 == 2:
        return Reply(250, "2.5.0", (f"Accepted with {code} in a malformed reply: {sentence}",))
    if code // 100 == 5:
        return Reply(554, "5.5.0", (f"Refused with {code} in a malformed reply: {sentence}",))
    if code // 100 == 4:
        return Reply(451, "4.5.0", (f"Refused with {code} in a malformed reply: {sentence}",))
    return Reply(451, "4.5.0", (f"{UNREADABLE}: {sentence}",))


def blames_dialogue(reply: wire.Reply, step: Step, *, parameters: bool = False) -> bool:
    """Whether a reply says that the conversation went wrong, and nothing about the mail.

    A 501 to MAIL or RCPT is a verdict on the address when its enhanced code says so, or when it has none and the
    command carried nothing but the address. A reply to the content is a verdict when its enhanced code names another
    subject than the protocol.

    Args:
        reply: the peer's.
        step: what it answers.
        parameters: the command carried ESMTP parameters.
    """
    if reply.code not in DIALOGUE_FAULTS:
        return False
    if reply.code == 501 and step in (Step.MAIL, Step.RCPT):
        return parameters if reply.enhanced is None else _subject(reply) in _PROTOCOL
    return step not in (Step.END, Step.BDAT) or reply.enhanced is None or _subject(reply) in _PROTOCOL


def _subject(reply: wire.Reply) -> str:
    return (reply.enhanced or "..").split(".")[1]


def dialogue(step: Step, reply: Reply) -> Reply:
    """The peer says that the conversation went wrong (`blames_dialogue`)."""
    return Reply(451, "4.5.0", (f"Protocol error reported at {step.value}: {reply}",))


def unsolicited(reply: Reply) -> Reply:
    """A reply to nothing that was asked: client and server are out of step (SECURITY R19)."""
    return Reply(451, "4.5.0", (f"A reply came to nothing that was asked: {reply}",))
