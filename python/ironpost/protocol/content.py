"""The content of a message on its way through a session: asked for, taken in piece by piece, judged at its true end.

Promises: content is judged and answered only at its end, be that CRLF.CRLF or the last octet of a chunk, and then once:
one reply, or one for each recipient where the dialect says so. What was refused is read to its end all the same
(SECURITY R5). Content that is not handed over is discarded.

Like the handlings in `commands`, each function takes the session; `ServerSession` calls them and holds the state.

Standards: RFC 5321 §4.1.1.4, §4.2.5; RFC 3030 §2; RFC 2033 §4.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.model import BodyType, Reply, Verdict
from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.verdicts import NOWHERE, Stage, of_message, settle

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model.body import Spool
    from ironpost.protocol.handler import ContentAnswer, MessageAnswer
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.transaction import Transaction
    from ironpost.wire import BodyEnd


def begin(session: ServerSession) -> None:
    """DATA in its place: asks where the content goes, then 354."""
    if _binary(session):
        session.drop_transaction()
        session.refuse(replies.BINARY_NEEDS_CHUNKS)
        return
    session.by_data = True
    ask(session)


def chunk(session: ServerSession) -> None:
    """BDAT with a size: the octets follow, whatever we think of it (RFC 3030 §2, SECURITY R5)."""
    if not session.esmtp or session.state not in {State.RCPT, State.CONTENT}:
        session.refuse_chunk(replies.RECIPIENT_FIRST if session.state is State.MAIL else replies.BAD_SEQUENCE)
    elif session.state is State.RCPT:
        session.by_data = False
        ask(session)


def ask(session: ServerSession) -> None:
    """Asks where the content goes; `content_answered` goes on."""
    if session.transaction is None or not session.transaction.recipients:  # all were dropped
        content_answered(session, NOWHERE)
        return
    try:
        answer: ContentAnswer = session.handler.content(session)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc, storage=True)
    if isinstance(answer, Reply):
        content_answered(session, answer)
    elif hasattr(answer, "__await__"):
        session.wait(cast("Awaitable[Any]", answer), content_answered)
    else:
        content_answered(session, answer)


def content_answered(session: ServerSession, answer: Spool | Reply | Verdict | None) -> None:
    """Where the content goes, or why it must not come."""
    if isinstance(answer, Verdict):
        settled = settle(session, answer, Stage.OTHER)
        if settled is not None and not isinstance(settled, Reply):
            session.wait(settled, content_answered)
            return
        answer = settled
    if answer is None:
        answer = session.raised(TypeError("the content hook answered None, not Spool or Reply"))
    fetch = None if session.transaction is None else session.transaction.fetch
    if isinstance(answer, Reply):
        if session.by_data:  # refused instead of 354: no content comes
            session.reply(answer)
        elif fetch is not None:
            session.drop_transaction()
            session.reply(answer)
        else:  # the octets of the chunk come all the same
            session.refusal = answer
            session.enter(State.CONTENT)
        return
    session.spool = answer
    session.enter(State.CONTENT)
    if session.by_data:
        session.write(_START_CONTENT)
    elif fetch is not None:
        fetch(session)


def piece(session: ServerSession, octets: bytes) -> None:
    """A piece of content."""
    session.octets += len(octets)
    spool = session.spool
    if spool is None or session.chunk_refusal is not None:
        return
    if not session.by_data and (transaction := session.transaction) is not None and transaction.scanner is not None:
        transaction.scanner.piece(octets)
    try:
        wait = spool.write(octets)
    except Exception as exc:  # noqa: BLE001 - R26
        _spoil(session, session.raised(exc, storage=True))
        return
    if wait is not None:
        session.wait(wait, written)


def written(session: ServerSession, answer: Any) -> None:
    """A piece is stored, or could not be."""
    if answer is not None:
        wrong = TypeError(f"a spool's write gave {type(answer).__name__}, not None")
        _spoil(session, answer if isinstance(answer, Reply) else session.raised(wrong))


def _spoil(session: ServerSession, refusal: Reply) -> None:
    discard(session)
    session.refusal = refusal


def discard(session: ServerSession) -> None:
    """Forgets content that was not handed over."""
    spool, session.spool = session.spool, None
    if spool is not None:
        try:
            spool.discard()  # it may look at the refusal
        except Exception as exc:  # noqa: BLE001 - R26
            session.raised(exc)
    session.refusal = None


def end(session: ServerSession, facts: BodyEnd) -> None:
    """The true end of DATA, or the end of a chunk: only here content is judged and answered."""
    refusal = session.chunk_refusal
    if refusal is not None:
        session.chunk_refusal = None
        session.refuse(refusal)
        return
    if not session.by_data and (transaction := session.transaction) is not None and transaction.scanner is not None:
        facts = transaction.scanner.facts(last=facts.last)
    refusal = _judge(session, facts) or session.refusal
    if refusal is not None:
        session.refusal = refusal
        if facts.last:
            message_answered(session, refusal)
        else:
            session.drop_transaction()
            session.reply(refusal)
        return
    if not facts.last:
        session.write(_CHUNK_OK)
        return
    spool, session.spool = session.spool, None
    assert spool is not None
    if spool is NOWHERE:
        message_answered(session, None)
        return
    try:
        answer: MessageAnswer = session.handler.message(session, spool, facts)
    except Exception as exc:  # noqa: BLE001 - R26
        answer = session.raised(exc, storage=True)
    if hasattr(answer, "__await__"):
        session.wait(cast("Awaitable[Any]", answer), message_answered)
    else:
        message_answered(session, answer)


def _judge(session: ServerSession, facts: BodyEnd) -> Reply | None:
    settings = session.settings
    if facts.size > settings.max_size:
        return replies.TOO_LARGE
    if _binary(session):
        return None
    if (facts.bare_cr or facts.bare_lf) and not settings.takes_bare(session.peer.ip, by_data=session.by_data):
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


def message_answered(session: ServerSession, answer: Any) -> None:
    """What became of a complete message: one reply, or one a recipient (RFC 2033 §4.2)."""
    if answer is not None and type(answer) is not Reply:
        answer = of_message(session, answer)
        if hasattr(answer, "__await__"):
            session.wait(answer, message_answered)
            return
    transaction = session.transaction
    session.drop_transaction()
    if session.settings.dialect.per_recipient:
        assert transaction is not None  # content follows RCPT
        _reply_each(session, transaction, answer)
    elif answer is None or answer.positive:
        session.errors = 0
        session.messages += 1
        session.write(_ACCEPTED if answer is None else answer.octets)
    else:
        session.reply(answer)


def _reply_each(session: ServerSession, transaction: Transaction, answer: Reply | list[Reply | None] | None) -> None:
    if isinstance(answer, list):
        answers = answer
        for place in transaction.dropped:  # in rising order
            answers.insert(place, None)
    else:
        answers = [answer] * (len(transaction.recipients) + len(transaction.dropped))
    session.reply_each([replies.ACCEPTED if each is None else each for each in answers])


_START_CONTENT: Final = replies.START_CONTENT.octets
_CHUNK_OK: Final = replies.CHUNK_OK.octets
_ACCEPTED: Final = replies.ACCEPTED.octets
