"""The server's dialogue as a table: which command is handled how in which state (RFC 5321 §4.1.1, §4.1.4).

Promises: a pair of state and verb that is not in the table is answered 503 and changes nothing; tools can read the
table. Each handling judges the argument, asks the handler at most once, and replies through the session.
Refuses: TURN, SEND, SOML, SAML and every verb whose extension is not offered, with 502.

Standards: RFC 5321 §3.3 (transaction), §4.1.1 (commands), §4.1.4 (order), §4.3.2 (codes).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ironpost.model import Address, Recipient, Reply
from ironpost.protocol import replies
from ironpost.protocol.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.protocol.extensions.base import Check, Handling
    from ironpost.protocol.server import ServerSession
    from ironpost.wire.interface import Command


class State(Enum):
    """Where a session is. Members are compared by identity."""

    __hash__ = object.__hash__  # by identity too; Enum's own is a Python function, called at every change of state

    GREETING = auto()
    """Connected; the greeting is not written yet. Nothing may come from the client (RFC 5321 §3.1)."""
    READY = auto()
    """Greeted; no EHLO or HELO yet."""
    IDLE = auto()
    """After EHLO or HELO, no transaction."""
    MAIL = auto()
    """A transaction without recipients."""
    RCPT = auto()
    """A transaction with at least one recipient."""
    CONTENT = auto()
    """Content is coming: in DATA, or in chunks, between which commands may come."""
    CLOSED = auto()
    """Nothing is interpreted any more."""


# ---------------------------------------------------------------------------------------------------------------------
# Handlings. Each is (session, command) -> None; a continuation is (session, answer) -> None


def hello(session: ServerSession, command: Command) -> None:
    """EHLO, HELO (RFC 5321 §4.1.1.1). Refused, the session stays in its state (§4.1.4)."""
    if command.fault is not None or command.domain is None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    session.candidate = command
    try:
        answer = session.handler.hello(session, command.verb, command.domain)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, _hello_answered)


def _hello_answered(session: ServerSession, answer: Reply | None) -> None:
    if answer is not None and not answer.positive:
        return session.reply(answer)
    command = session.candidate
    session.helo = command.domain or ""
    session.esmtp = command.verb == "EHLO"
    session.drop_transaction()  # EHLO resets as RSET does (RFC 5321 §4.1.4)
    if answer is not None:
        return session.reply(answer)
    settings = session.settings
    return session.write(settings.ehlo_reply if session.esmtp else settings.helo_reply)


def mail(session: ServerSession, command: Command) -> None:
    """MAIL (RFC 5321 §4.1.1.2)."""
    path = command.path
    if command.fault is not None or path is None:
        return session.refuse_fault(command, replies.SENDER_FAULTS)
    parameters = command.parameters
    if parameters:
        refusal = _judged(session, parameters, session.settings.mail_parameters)
        if refusal is not None:
            return session.refuse(refusal)
    address = Address.of(path)
    if "SMTPUTF8" not in parameters and address.needs_smtputf8:  # RFC 6531 §3.5
        return session.refuse(replies.SENDER_NEEDS_SMTPUTF8)
    session.candidate = Transaction(address, parameters)
    try:
        answer = session.handler.mail(session, address, parameters)
    except Exception as exc:  # noqa: BLE001 - R26
        answer = session.raised(exc)
    return session.ask(answer, _mail_answered)


def _mail_answered(session: ServerSession, answer: Reply | None) -> None:
    if answer is None:
        session.write(_SENDER_OK)
    else:
        session.reply(answer)
        if not answer.positive:
            return
    session.transaction = session.candidate
    session.enter(State.MAIL)


def rcpt(session: ServerSession, command: Command) -> None:
    """RCPT (RFC 5321 §4.1.1.3)."""
    path, transaction = command.path, session.transaction
    if command.fault is not None or path is None:
        return session.refuse_fault(command, replies.RECIPIENT_FAULTS)
    assert transaction is not None
    parameters = command.parameters
    if parameters:
        refusal = _judged(session, parameters, session.settings.rcpt_parameters)
        if refusal is not None:
            return session.refuse(refusal)
    if len(transaction.recipients) >= session.settings.max_recipients:  # RFC 5321 §4.5.3.1.10
        return session.reply(replies.TOO_MANY_RECIPIENTS)
    address = Address.of(path)
    if address.needs_smtputf8 and "SMTPUTF8" not in transaction.parameters:  # RFC 6531 §3.5
        return session.refuse(replies.RECIPIENT_NEEDS_SMTPUTF8)
    session.candidate = Recipient(address, parameters) if parameters else Recipient(address)
    try:
        answer = session.handler.recipient(session, address, parameters)
    except Exception as exc:  # noqa: BLE001 - R26
        answer = session.raised(exc)
    return session.ask(answer, _recipient_answered)


def _recipient_answered(session: ServerSession, answer: Reply | None) -> None:
    if answer is None:
        session.write(_RECIPIENT_OK)
    else:
        session.reply(answer)
        if not answer.positive:
            return
    assert session.transaction is not None
    session.transaction.recipients.append(session.candidate)
    session.enter(State.RCPT)


def _judged(session: ServerSession, parameters: Mapping[str, str | None], owned: Mapping[str, Check]) -> Reply | None:
    """The first reply that refuses a parameter. After HELO there are no extensions, hence no parameters."""
    for keyword, value in parameters.items():
        check = owned.get(keyword) if session.esmtp else None
        if check is None:
            return replies.UNKNOWN_PARAMETER  # RFC 5321 §4.1.1.11
        refusal = check(session, value)
        if refusal is not None:
            return refusal
    return None


def data(session: ServerSession, command: Command) -> None:
    """DATA (RFC 5321 §4.1.1.4)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.begin_data()


def data_without_recipients(session: ServerSession, command: Command) -> None:
    """DATA, but every RCPT was refused or none came: 554 (RFC 5321 §3.3, RFC 2920 §3.2)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.refuse(replies.NO_RECIPIENTS)


def rset(session: ServerSession, command: Command) -> None:
    """RSET (RFC 5321 §4.1.1.5)."""
    if session.state is State.CONTENT:
        session.drop_transaction()  # even if the command is faulty: see `interrupted`
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if session.state is not State.READY:
        session.drop_transaction()
    return session.write(_RESET)


def noop(session: ServerSession, command: Command) -> None:
    """NOOP; its argument is ignored (RFC 5321 §4.1.1.9)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.write(_NOTHING_DONE)


def quit_(session: ServerSession, command: Command) -> None:
    """QUIT: 221, and nothing behind it is interpreted (RFC 5321 §4.1.1.10, SECURITY R7)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    session.write(_GOODBYE)
    session.heard_out = True
    return session.close()


def interrupted(session: ServerSession, command: Command) -> None:  # noqa: ARG001 - a Handling
    """A command that has no place between two chunks: 503, and the transaction is over.

    RFC 3030 §2 leaves the state open and makes the client send RSET. The framer's facts about the content start anew
    at some of these verbs, so content that was judged only in part must never be accepted.
    """
    session.drop_transaction()
    session.refuse(replies.BAD_SEQUENCE)


def hello_between_chunks(session: ServerSession, command: Command) -> None:
    """EHLO between two chunks ends the transaction, whatever becomes of the EHLO (see `interrupted`)."""
    session.drop_transaction()
    hello(session, command)


_SENDER_OK: Final = replies.SENDER_OK.octets
_RECIPIENT_OK: Final = replies.RECIPIENT_OK.octets
_RESET: Final = replies.RESET.octets
_NOTHING_DONE: Final = replies.NOTHING_DONE.octets
_GOODBYE: Final = replies.GOODBYE.octets

# ---------------------------------------------------------------------------------------------------------------------
# The table

ANYWHERE: Final[Mapping[str, Handling]] = {
    # RFC 5321 §4.1.4: at any time, also before EHLO. VRFY and HELP come with their extensions.
    "EHLO": hello,
    "HELO": hello,
    "RSET": rset,
    "NOOP": noop,
    "QUIT": quit_,
}

TABLE: Final[Mapping[State, Mapping[str, Handling]]] = {
    # Nothing may come before the greeting: the session answers 554 and closes without looking (SECURITY R7).
    State.GREETING: {},
    # A transaction needs EHLO or HELO first.
    State.READY: {**ANYWHERE},
    # A transaction may begin.
    State.IDLE: {**ANYWHERE, "MAIL": mail},
    # It needs a recipient; MAIL inside a transaction is absent, hence 503.
    State.MAIL: {**ANYWHERE, "RCPT": rcpt, "DATA": data_without_recipients},
    # More recipients, or the content. BDAT comes with its extension, judges the order itself, and consumes its octets.
    State.RCPT: {**ANYWHERE, "RCPT": rcpt, "DATA": data},
    # During DATA no commands exist. Between chunks there may be some, but none that goes on with the transaction.
    State.CONTENT: {
        **ANYWHERE,
        "EHLO": hello_between_chunks,
        "HELO": hello_between_chunks,
        "MAIL": interrupted,
        "RCPT": interrupted,
        "DATA": interrupted,
    },
    State.CLOSED: {},
}

SEQUENCE: Final[Mapping[tuple[State, str], Reply]] = {
    (State.READY, "MAIL"): replies.HELLO_FIRST,
    (State.READY, "RCPT"): replies.HELLO_FIRST,
    (State.READY, "DATA"): replies.HELLO_FIRST,
    (State.IDLE, "RCPT"): replies.MAIL_FIRST,
    (State.IDLE, "DATA"): replies.MAIL_FIRST,
    (State.MAIL, "MAIL"): replies.NESTED_MAIL,
    (State.RCPT, "MAIL"): replies.NESTED_MAIL,
}
"""What a pair that is absent from the table is told, where more than "bad sequence" can be said. All are 503."""

KNOWN: Final = frozenset(
    {"LHLO", "EXPN", "TURN", "SEND", "SOML", "SAML", "STARTTLS", "AUTH", "ETRN", "ATRN", "BURL", "XCLIENT", "XFORWARD"}
    | {"VRFY", "HELP", "BDAT"}
)
"""Verbs that exist, but not here unless an extension brings them: 502 (RFC 5321 §4.2.4). The rest is unknown: 500."""

RESTARTING: Final = frozenset({"MAIL", "RSET", "EHLO", "HELO", "LHLO", "STARTTLS", "DATA"})
"""Verbs at which the framer's facts about content start anew."""


class Dialogue:
    """The table with the verbs of one server's extensions."""

    __slots__ = ("help_reply", "known", "verbs")

    def __init__(self, extra: Mapping[str, Handling]) -> None:
        self.verbs: dict[State, dict[str, Handling]] = {
            state: {**verbs, **extra} if verbs else {} for state, verbs in TABLE.items()
        }
        self.known = frozenset(verb for verbs in self.verbs.values() for verb in verbs)
        self.help_reply = replies.reply(214, "0.0", "Commands: " + " ".join(sorted(self.known))).octets
