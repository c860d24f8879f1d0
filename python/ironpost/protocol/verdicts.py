"""What becomes of a verdict in a session: the reply, and what the session remembers of mail that is not as other mail.

Promises: a refusal is given as its stage can give it; a delay is an awaitable of the handler's `pause`, so that nobody
else waits; a quarantine is a reason in `transaction.quarantine`, for whoever stores the message. Of what is dropped the
client reads what it would read of everything: a recipient that is dropped is not in the transaction, and about a sender
or a session that is dropped no further question is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from ironpost.model import Address, Reply
from ironpost.model.verdict import Action, Verdict, greeting, unenhanced
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server import ServerSession


class Stage(Enum):
    """Which question a verdict answers, where that makes a difference."""

    CONNECT = auto()
    HELLO = auto()
    MAIL = auto()
    RECIPIENT = auto()
    OTHER = auto()


class _Nowhere:
    """A `model.body.Spool` for what is dropped."""

    size = 0

    def write(self, piece: bytes) -> None:
        """Holds nothing."""

    def discard(self) -> None:
        """There is nothing."""


NOWHERE: Final = _Nowhere()


def settle(session: ServerSession, answer: Any, stage: Stage) -> Reply | Awaitable[Any] | None:
    """What an answer that is neither a Reply nor None stands for; what it means beyond that is noted in the session."""
    if not isinstance(answer, Verdict):
        return session.raised(TypeError(f"a hook answered {type(answer).__name__}, not Verdict, Reply or None"))
    if answer.then is not None:
        return session.handler.pause(session, answer.seconds, answer.then)
    reply = answer.reply
    if reply is not None:
        if stage is Stage.CONNECT:
            return greeting(reply) if not reply.positive else _welcome(session, reply)
        if stage is Stage.HELLO:  # what EHLO offers is not a text to be replaced
            return None if reply.positive else unenhanced(reply)
        return reply
    if answer.action is Action.QUARANTINE:
        if stage in {Stage.CONNECT, Stage.HELLO}:
            session.quarantine = (*session.quarantine, answer.reason)
        else:
            transaction = session.candidate if stage is Stage.MAIL else session.transaction
            if transaction is not None:
                transaction.quarantine = (*transaction.quarantine, answer.reason)
    elif answer.action is Action.DROP:
        if stage is Stage.RECIPIENT:
            session.candidate = None
        elif stage is Stage.MAIL:
            session.candidate.dropping = True
        elif stage is not Stage.OTHER:
            session.dropping = True
    return None


def _welcome(session: ServerSession, reply: Reply) -> Reply:
    return Reply(220, None, (f"{session.settings.hostname} {' '.join(reply.text)}",))


def of_message(session: ServerSession, answer: Any) -> Reply | list[Reply | None] | Awaitable[Any] | None:
    """What the answer of a message hook stands for: one reply, one for each recipient, or one of these after a delay.

    A mapping says by address, as text or `Address`, what becomes of each recipient; one that it does not name is
    deferred, as nobody said yes to it.
    """
    if isinstance(answer, Verdict):
        return settle(session, answer, Stage.OTHER)
    transaction = session.transaction
    assert transaction is not None  # content follows RCPT
    recipients = transaction.recipients
    if isinstance(answer, Mapping):
        answers, told = _by_address(answer, [recipient.address for recipient in recipients])
    elif isinstance(answer, list | tuple):
        answers = list(answer)
        told = f"{len(answers)} times" if len(answers) != len(recipients) else ""
    else:
        answers, told = [], type(answer).__name__
    wrong = [each for each in answers if not (each is None or isinstance(each, Reply | Verdict))]
    if told or wrong:
        told = told or type(wrong[0]).__name__
        wanted = f"a Verdict, Reply or None for each of {len(recipients)} recipients"
        return session.raised(TypeError(f"the message hook answered {told}, not {wanted}"))
    seconds = max((each.seconds for each in answers if isinstance(each, Verdict)), default=0.0)
    said = [each.final.reply if isinstance(each, Verdict) else each for each in answers]
    settled: Reply | list[Reply | None] | None = said
    if not session.settings.dialect.per_recipient:
        settled = _one(session, said)
    return session.handler.pause(session, seconds, settled) if seconds else settled


def _by_address(answer: Mapping[Any, Any], recipients: list[Address]) -> tuple[list[Any], str]:
    """The answers in the order of the recipients, and what is wrong with them."""
    try:
        named = {key if isinstance(key, Address) else Address.parse(str(key)): value for key, value in answer.items()}
    except ValueError as exc:
        return [], f"about what is no address ({exc})"
    strangers = ", ".join(str(address) for address in named if address not in recipients)
    if strangers:
        return [], f"about {strangers}"
    return [named.get(address, replies.HOOK_FAILED) for address in recipients], ""


def _one(session: ServerSession, said: list[Reply | None]) -> Reply | None:
    """The one reply that SMTP has for what is the same for everybody."""
    positive = [each is None or each.positive for each in said]
    if all(positive) or not any(positive):
        return said[0]
    return session.raised(TypeError("the message hook took some recipients and not others, which only LMTP can say"))
