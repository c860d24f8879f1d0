"""Reception of message content in a server session: opening a spool, storing pieces, checking at the true end.

Promises: content is checked and replied to only at its end, CRLF.CRLF or the last octet of a chunk, and only once: with
one reply, or one for each recipient if the dialect demands that. Refused content is still read to its end (SECURITY
R5), unless it far exceeds the size limit (`ServerSettings.max_read`): then 552 is sent, and the session ends with 421.
Content that is not passed to the handler is discarded.

Like the commands in `commands`, each function takes the session, which holds the state.

Standards: RFC 5321 §4.1.1.4, §4.2.5; RFC 3030 §2; RFC 2033 §4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.model import BodyType, Reply, Verdict
from ironpost.protocol import replies
from ironpost.protocol.server.settle import DROPPED, HookStage, settle, settle_message
from ironpost.protocol.server.states import CONTENT

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.body import Spool
    from ironpost.protocol.server.handler import ContentResult, MessageResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.transaction import Transaction
    from ironpost.wire import BodyEnd


def begin(session: ServerSession) -> None:
    """Handle DATA: open a spool, then reply 354."""
    if _binary(session):
        session.drop_transaction()
        session.refuse(replies.BINARY_NEEDS_CHUNKS)
        return
    session.by_data = True
    open_spool(session)


def begin_chunks(session: ServerSession) -> None:
    """Handle the first BDAT, or another command that begins content without DATA: open a spool."""
    session.by_data = False
    open_spool(session)


def refuse_endless_chunk(session: ServerSession, size: int) -> bool:
    """Refuse a chunk that far exceeds the size limit before it is read, and end the session; return whether it does."""
    if session.received + size <= session.settings.max_read:
        return False
    session.drop_transaction()
    session.refuse(replies.TOO_LARGE)
    session.end_with(replies.CONTENT_ENDLESS)
    return True


def open_spool(session: ServerSession) -> None:
    """Ask the handler where to store the content; `spool_opened` continues."""
    if session.transaction is None or not session.transaction.recipients:  # all were dropped
        spool_opened(session, DROPPED)
        return
    try:  # as `query` does, inline: this is the hot path
        result: ContentResult = session.handler.content(session)
    except BaseException as exc:  # noqa: BLE001 - R26
        result = session.raised(exc, storage=True)
    if hasattr(result, "__await__"):
        session.wait(cast("Awaitable[Any]", result), spool_opened)
    else:
        spool_opened(session, result)


def spool_opened(session: ServerSession, result: Spool | Reply | Verdict | None) -> None:
    """Continue DATA or the first chunk with the handler's spool or refusal."""
    if isinstance(result, Verdict):
        settled = settle(session, result, HookStage.OTHER)
        if settled is not None and not isinstance(settled, Reply):
            session.wait(settled, spool_opened)
            return
        result = settled
    if result is None:
        result = session.raised(TypeError("the content hook returned None, not a Spool or Reply"))
    source = None if session.by_data else session.content_source
    fetch = None if source is None else source.fetch
    if isinstance(result, Reply):
        if session.by_data:  # refused instead of 354: no content follows
            session.reply(result)
        elif fetch is not None:
            session.drop_transaction()
            session.reply(result)
        else:  # the octets of the chunk follow in any case
            session.refusal = result
            session.enter(CONTENT)
        return
    session.spool = result
    session.enter(CONTENT)
    if session.by_data:
        session.write(_START_CONTENT)
    elif fetch is not None:
        fetch(session)


def piece(session: ServerSession, octets: bytes) -> None:
    """Store one piece of content."""
    session.octets += len(octets)
    if session.chunk_refusal is not None or session.ignores_chunk:
        return
    session.received += len(octets)
    settings, spool = session.settings, session.spool
    if session.received > settings.max_size:
        if spool is not None:
            _refuse_rest(session, replies.TOO_LARGE)
        if session.by_data and session.received >= settings.max_read:
            message_done(session, replies.TOO_LARGE)
            session.end_with(replies.CONTENT_ENDLESS)
        return
    if spool is None:
        return
    if not session.by_data and (source := session.content_source) is not None:
        source.piece(octets)
    try:
        wait = spool.write(octets)
    except BaseException as exc:  # noqa: BLE001 - R26
        _refuse_rest(session, session.raised(exc, storage=True))
        return
    if wait is not None:
        session.wait(wait, written)


def written(session: ServerSession, result: Any) -> None:
    """Continue after a piece was stored, or after that failed."""
    if result is not None:
        wrong = TypeError(f"a spool's write returned {type(result).__name__}, not None")
        _refuse_rest(session, result if isinstance(result, Reply) else session.raised(wrong))


def _refuse_rest(session: ServerSession, refusal: Reply) -> None:
    session.refusal = refusal  # the spool's `discard` may read it
    discard(session)
    session.refusal = refusal


def discard(session: ServerSession) -> None:
    """Discard content that was not passed to the handler."""
    spool, session.spool = session.spool, None
    if spool is not None:
        try:
            spool.discard()  # it may read `session.refusal`
        except BaseException as exc:  # noqa: BLE001 - R26
            session.raised(exc)
    session.refusal = None


def end(session: ServerSession, facts: BodyEnd) -> None:
    """Handle the true end of DATA, or the end of a chunk: the only place where content is checked and replied to."""
    if session.ignores_chunk:
        session.ignores_chunk = False
        return
    refusal = session.chunk_refusal
    if refusal is not None:
        session.chunk_refusal = None
        session.refuse(refusal)
        return
    if not session.by_data and (source := session.content_source) is not None:
        facts = source.facts(last=facts.last)
    refusal = _check(session, facts) or session.refusal
    if refusal is not None:
        session.refusal = refusal
        if facts.last:
            message_done(session, refusal)
        else:
            session.drop_transaction()
            session.reply(refusal)
        return
    if not facts.last:
        session.write(_CHUNK_OK)
        return
    if facts.eight_bit and not _eight_bit_declared(session):
        session.tolerate("eight_bit")
    spool, session.spool = session.spool, None
    assert spool is not None
    if spool is DROPPED:
        message_done(session, None)
        return
    try:  # as `query` does, inline: this is the hot path
        result: MessageResult = session.handler.message(session, spool, facts)
    except BaseException as exc:  # noqa: BLE001 - R26
        result = session.raised(exc, storage=True)
    if hasattr(result, "__await__"):
        session.wait(cast("Awaitable[Any]", result), message_done)
    else:
        message_done(session, result)


def _check(session: ServerSession, facts: BodyEnd) -> Reply | None:
    """Return the refusal of content with these facts; None to accept it."""
    settings = session.settings
    if facts.size > settings.max_size:
        return replies.TOO_LARGE
    if _binary(session):
        return None
    if (facts.bare_cr or facts.bare_lf) and not settings.accepts_bare(session.peer.ip, by_data=session.by_data):
        return replies.BARE_NEWLINE
    if facts.nul:
        return replies.NUL_OCTET
    if facts.longest_line > settings.max_body_line and settings.long_lines == "reject":
        return replies.LINE_TOO_LONG
    if facts.eight_bit and settings.eight_bit == "reject" and not _eight_bit_declared(session):
        return replies.EIGHT_BIT_UNDECLARED
    return None


def _binary(session: ServerSession) -> bool:
    return session.transaction is not None and session.transaction.binary


def _eight_bit_declared(session: ServerSession) -> bool:
    transaction = session.transaction
    assert transaction is not None  # content follows RCPT
    parameters = transaction.parameters
    return "SMTPUTF8" in parameters or parameters.get("BODY", BodyType.SEVEN_BIT) != BodyType.SEVEN_BIT


def message_done(session: ServerSession, result: Any) -> None:
    """Finish the transaction with the handler's result: one reply, or one for each recipient (RFC 2033 §4.2)."""
    if result is not None and not isinstance(result, Reply):
        result = settle_message(session, result)
        if hasattr(result, "__await__"):
            session.wait(result, message_done)
            return
    transaction = session.transaction
    session.drop_transaction()
    if session.settings.dialect.per_recipient:
        assert transaction is not None  # content follows RCPT
        _reply_each(session, transaction, result)
    elif result is None or result.positive:
        session.errors = 0
        session.messages += 1
        session.write(_ACCEPTED if result is None else result.octets)
    else:
        session.reply(result)


def _reply_each(session: ServerSession, transaction: Transaction, result: Reply | list[Reply | None] | None) -> None:
    if isinstance(result, list):
        each = result
        for position in transaction.dropped:  # in rising order
            each.insert(position, None)
    else:
        each = [result] * (len(transaction.recipients) + len(transaction.dropped))
    session.reply_each([replies.ACCEPTED if reply is None else reply for reply in each])


_START_CONTENT: Final = replies.START_CONTENT.octets
_CHUNK_OK: Final = replies.CHUNK_OK.octets
_ACCEPTED: Final = replies.ACCEPTED.octets
