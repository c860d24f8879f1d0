"""Conversion of a hook's result to a reply, with its effects on the session: quarantine, drop, delay.

Promises: a refusal takes the form that its stage allows; a delay is an awaitable created by the handler's `pause`, so
that no other session waits; a quarantine adds a reason to `transaction.quarantine`, for the code that stores the
message. A drop is replied to like an acceptance: a dropped recipient is not added to the transaction, and no further
hook is called for a dropped sender or session.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from ironpost.model import Address, Reply
from ironpost.model.text import counted
from ironpost.model.verdict import Action, Verdict, greeting, unenhanced
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server.session import ServerSession


class HookStage(Enum):
    """The hook that returned a verdict, where that makes a difference."""

    CONNECT = auto()
    HELLO = auto()
    MAIL = auto()
    RECIPIENT = auto()
    OTHER = auto()


class _DroppedSpool:
    """A `model.body.Spool` for content that is dropped."""

    size = 0

    def write(self, piece: bytes) -> None:
        pass

    def discard(self) -> None:
        pass


DROPPED: Final = _DroppedSpool()
"""The spool of every message that is dropped."""


def settle(session: ServerSession, result: Any, stage: HookStage) -> Reply | Awaitable[Any] | None:
    """Convert a hook's result that is neither a Reply nor None, and apply its effects to the session.

    Returns:
        The reply; None for the usual positive one; an awaitable if the reply is delayed.
    """
    if not isinstance(result, Verdict):
        return session.raised(TypeError(f"a hook returned {type(result).__name__}, not a Verdict, Reply or None"))
    if result.then is not None:
        return _pause(session, result.seconds, result.then)
    reply = result.reply
    if reply is not None:
        if stage is HookStage.CONNECT:
            return greeting(reply) if not reply.positive else _welcome(session, reply)
        if stage is HookStage.HELLO:  # a text cannot replace the list of extensions
            return None if reply.positive else unenhanced(reply)
        return reply
    if result.action is Action.QUARANTINE:
        if stage in {HookStage.CONNECT, HookStage.HELLO}:
            session.quarantine = (*session.quarantine, result.reason)
        else:
            transaction = session.proposed_transaction if stage is HookStage.MAIL else session.transaction
            if transaction is not None:
                transaction.quarantine = (*transaction.quarantine, result.reason)
    elif result.action is Action.DROP:
        if stage is HookStage.RECIPIENT:
            session.proposed_recipient = None
        elif stage is HookStage.MAIL:
            if session.proposed_transaction is not None:
                session.proposed_transaction.dropping = True
        elif stage is not HookStage.OTHER:
            session.dropping = True
    return None


def _pause(session: ServerSession, seconds: float, then: Any) -> Reply | Awaitable[Any]:
    try:
        return session.handler.pause(session, seconds, then)
    except BaseException as exc:  # noqa: BLE001 - R26
        return session.raised(exc)


def _welcome(session: ServerSession, reply: Reply) -> Reply:
    return Reply(220, None, (f"{session.settings.hostname} {' '.join(reply.text)}",))


def settle_message(session: ServerSession, result: Any) -> Reply | list[Reply | None] | Awaitable[Any] | None:
    """Convert the result of a message hook to one reply, to one for each recipient, or to an awaitable of either.

    The keys of a mapping are recipients, as text or `Address`; a recipient without a key is deferred, because it was
    not explicitly accepted.
    """
    if isinstance(result, Verdict):
        return settle(session, result, HookStage.OTHER)
    transaction = session.transaction
    assert transaction is not None  # content follows RCPT
    recipients = transaction.recipients
    if isinstance(result, Mapping):
        results, problem = _by_address(result, [recipient.address for recipient in recipients])
    elif isinstance(result, list | tuple):
        results = list(result)
        problem = f"{len(results)} results" if len(results) != len(recipients) else ""
    else:
        results, problem = [], type(result).__name__
    invalid = [each for each in results if not (each is None or isinstance(each, Reply | Verdict))]
    if problem or invalid:
        problem = problem or type(invalid[0]).__name__
        expected = f"a Verdict, Reply or None for each of {counted(len(recipients), 'recipient')}"
        return session.raised(TypeError(f"the message hook returned {problem}, not {expected}"))
    seconds = max((each.seconds for each in results if isinstance(each, Verdict)), default=0.0)
    each_reply = [each.final.reply if isinstance(each, Verdict) else each for each in results]
    settled: Reply | list[Reply | None] | None = each_reply
    if not session.settings.dialect.per_recipient:
        settled = _one_for_all(session, each_reply)
    return _pause(session, seconds, settled) if seconds else settled


def _by_address(result: Mapping[Any, Any], recipients: list[Address]) -> tuple[list[Any], str]:
    """Return the results in the order of the recipients, and a description of an error in the mapping, if any."""
    try:
        by_address = {
            key if isinstance(key, Address) else Address.parse(str(key)): value for key, value in result.items()
        }
    except ValueError as exc:
        return [], f"an invalid address ({exc})"
    strangers = ", ".join(str(address) for address in by_address if address not in recipients)
    if strangers:
        return [], f"results for {strangers}"
    return [by_address.get(address, replies.HOOK_FAILED) for address in recipients], ""


def _one_for_all(session: ServerSession, each_reply: list[Reply | None]) -> Reply | None:
    """Return the single reply of SMTP, which requires that the results do not differ."""
    positive = [reply is None or reply.positive for reply in each_reply]
    if all(positive) or not any(positive):
        return each_reply[0]
    return session.raised(TypeError("the message hook accepted some recipients only; only LMTP can reply so"))
