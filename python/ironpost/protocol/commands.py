"""The server's dialogue as a table: which command is handled how in which state (RFC 5321 §4.1.1, §4.1.4).

Promises: a pair of state and verb that is not in the table is answered 503 and changes nothing; tools can read the
table. Each handling judges the argument, asks the handler at most once, and replies through the session.
Refuses: TURN, SEND, SOML, SAML and every verb whose extension is not there, with 502.

Standards: RFC 5321 §3.3 (transaction), §4.1.1 (commands), §4.1.4 (order), §4.3.2 (codes).
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from ironpost.model import Address, Recipient, Reply
from ironpost.protocol import replies
from ironpost.protocol.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Value
    from ironpost.protocol.extensions.base import Handling, Parse
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
    """EHLO, HELO (RFC 5321 §4.1.1.1), LHLO (RFC 2033 §4.1). Refused, the session stays in its state (§4.1.4)."""
    domain = command.domain
    if command.fault is not None or domain is None:
        domain = _said(command.argument) if session.settings.hello == "lenient" else None
        if domain is None:
            return session.refuse_fault(command, replies.FAULT_REPLIES)
        session.lenient_hellos += 1
    session.candidate = command.verb, domain
    try:
        answer = session.handler.hello(session, command.verb, domain)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    return session.ask(answer, hello_answered)


def _said(argument: bytes) -> str | None:
    """What a client calls itself that is no domain, as text to be shown; None if there is nothing to show.

    RFC 5321 §4.1.4 lets no server refuse mail because a name does not belong to the client's address, and a program
    that does not know its own name cannot mend it. What is no domain stands in Received as a comment.
    """
    argument = argument.strip(b" ")
    if not 0 < len(argument) <= HELLO or _CONTROL.search(argument) is not None:
        return None
    return argument.decode("utf-8", "backslashreplace")


def hello_answered(session: ServerSession, answer: Reply | None) -> None:
    """What the handler said to EHLO, HELO or LHLO."""
    if answer is not None and not answer.positive:
        return session.reply(answer)
    verb, session.helo = session.candidate
    session.esmtp = verb != "HELO"
    session.drop_transaction()  # EHLO resets as RSET does (RFC 5321 §4.1.4)
    if answer is not None:
        return session.reply(answer)
    if not session.esmtp:
        return session.write(session.settings.helo_reply)
    return session.write(
        session.settings.ehlo_reply(
            secure=session.secure,
            authenticated=session.identity is not None,
            trusted=session.trusted,
            bound=bool(session.bindings),
            certified=session.certified,
        )
    )


def mail(session: ServerSession, command: Command) -> None:
    """MAIL (RFC 5321 §4.1.1.2)."""
    limit = session.settings.max_transactions
    if limit is not None:
        session.transactions += 1
        if session.transactions > limit:  # RFC 9422 §4.1
            return session.reply(replies.TOO_MANY_TRANSACTIONS)
    path = command.path
    if command.fault is not None or path is None:
        return session.refuse_fault(command, replies.SENDER_FAULTS)
    parameters: Mapping[str, Value] = command.parameters
    if parameters:
        typed = _typed(session, parameters, session.settings.mail_parameters)
        if isinstance(typed, Reply):
            return session.refuse(typed)
        parameters = typed
    address = Address.of(path)
    if "SMTPUTF8" not in parameters and address.needs_smtputf8:  # RFC 6531 §3.5
        return session.refuse(replies.SENDER_NEEDS_SMTPUTF8)
    transaction = session.candidate = Transaction(address, parameters)
    if session.quarantine or session.dropping:
        transaction.quarantine = session.quarantine
        transaction.dropping = session.dropping
        if session.dropping:
            return mail_answered(session, None)
    try:
        answer = session.handler.mail(session, address, parameters)
    except Exception as exc:  # noqa: BLE001 - R26
        answer = session.raised(exc)
    return session.ask(answer, mail_answered)


def mail_answered(session: ServerSession, answer: Reply | None) -> None:
    """What the handler said to MAIL."""
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
    parameters: Mapping[str, Value] = command.parameters
    if parameters:
        typed = _typed(session, parameters, session.settings.rcpt_parameters)
        if isinstance(typed, Reply):
            return session.refuse(typed)
        parameters = typed
    if (
        len(transaction.recipients) + len(transaction.dropped) >= session.settings.max_recipients
    ):  # RFC 5321 §4.5.3.1.10
        return session.reply(replies.TOO_MANY_RECIPIENTS)
    address = Address.of(path)
    if address.needs_smtputf8 and "SMTPUTF8" not in transaction.parameters:  # RFC 6531 §3.5
        return session.refuse(replies.RECIPIENT_NEEDS_SMTPUTF8)
    if transaction.dropping:
        session.candidate = None
        return recipient_answered(session, None)
    session.candidate = Recipient(address, parameters) if parameters else Recipient(address)
    try:
        answer = session.handler.recipient(session, address, parameters)
    except Exception as exc:  # noqa: BLE001 - R26
        answer = session.raised(exc)
    return session.ask(answer, recipient_answered)


def recipient_answered(session: ServerSession, answer: Reply | None) -> None:
    """What the handler said to RCPT."""
    if answer is None:
        session.write(_RECIPIENT_OK)
    else:
        session.reply(answer)
        if not answer.positive:
            return
    transaction = session.transaction
    assert transaction is not None
    if session.candidate is not None:
        transaction.recipients.append(session.candidate)
    else:
        transaction.dropped = (*transaction.dropped, len(transaction.recipients) + len(transaction.dropped))
    session.enter(State.RCPT)


def _typed(
    session: ServerSession, parameters: Mapping[str, str | None], owned: Mapping[str, Parse]
) -> Mapping[str, Value] | Reply:
    """The typed values, or the first refusal. After HELO there are no extensions, hence no parameters."""
    typed: dict[str, Value] = {}
    session.candidate = typed  # for those that cannot stand beside another
    for keyword, value in parameters.items():
        parse = owned.get(keyword) if session.esmtp else None
        if parse is None:
            return replies.UNKNOWN_PARAMETER  # RFC 5321 §4.1.1.11
        answer = parse(session, value)
        if type(answer) is Reply:
            return answer
        typed[keyword] = answer
    return typed


def data(session: ServerSession, command: Command) -> None:
    """DATA (RFC 5321 §4.1.1.4)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.begin_data()


def data_without_recipients(session: ServerSession, command: Command) -> None:
    """DATA, but every RCPT was refused or none came: 554 (RFC 5321 §3.3, RFC 2920 §3.2), 503 (RFC 2033 §4.2)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.refuse(replies.RECIPIENT_FIRST if session.settings.dialect.per_recipient else replies.NO_RECIPIENTS)


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


HELLO: Final = 255
"""Octets of a name in EHLO that is none."""
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
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
    "LHLO": hello,
    "RSET": rset,
    "NOOP": noop,
    "QUIT": quit_,
}
"""Of the greeting verbs, a server has those of its dialect."""

TABLE: Final[Mapping[State, Mapping[str, Handling]]] = {
    # Nothing may come before the greeting: the session answers 554 and closes without looking (SECURITY R7).
    State.GREETING: {},
    # A transaction needs EHLO, HELO or LHLO first.
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
        "LHLO": hello_between_chunks,
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

HELLO_VERBS: Final = frozenset({"EHLO", "HELO", "LHLO"})

KNOWN: Final[Mapping[str, Reply]] = {
    **dict.fromkeys(("LHLO", "VRFY", "EXPN", "HELP", "BDAT", "STARTTLS", "AUTH", "BURL"), replies.NOT_IMPLEMENTED),
    **dict.fromkeys(("ETRN", "ATRN", "XCLIENT", "XFORWARD"), replies.NOT_IMPLEMENTED),
    "TURN": replies.TURN_INSECURE,  # RFC 5321 appendix F.1
    **dict.fromkeys(("SEND", "SOML", "SAML"), replies.NO_TERMINALS),  # RFC 5321 appendix F.6
}
"""Verbs that exist, but not here unless an extension or the dialect brings them: 502 (RFC 5321 §4.2.4). The rest is
unknown: 500, as EHLO and HELO are to LMTP (RFC 2033 §4.1)."""

RESTARTING: Final = frozenset({"MAIL", "RSET", "STARTTLS", "DATA"} | HELLO_VERBS)
"""Verbs at which the framer's facts about content start anew."""

BEFORE_TLS: Final = frozenset({"EHLO", "LHLO", "NOOP", "STARTTLS", "QUIT"})
"""All that a dialect which demands TLS takes in clear (RFC 3207 §4)."""

BEFORE_AUTHENTICATION: Final = frozenset(
    {"AUTH", "NOOP", "RSET", "QUIT", "STARTTLS", "XCLIENT", "XFORWARD"} | HELLO_VERBS
)
"""All that a dialect which demands authentication takes before (RFC 4954 §6); what TLS and our own front ends need is
not for the client to authenticate first."""


class Dialogue:
    """The table with the verbs of one server's dialect and extensions."""

    __slots__ = ("help_reply", "known", "verbs")

    def __init__(self, hello_verbs: frozenset[str], extra: Mapping[str, Handling]) -> None:
        others = HELLO_VERBS - hello_verbs
        self.verbs: dict[State, dict[str, Handling]] = {
            state: {verb: verbs[verb] for verb in verbs if verb not in others} | (dict(extra) if verbs else {})
            for state, verbs in TABLE.items()
        }
        self.known = frozenset(verb for verbs in self.verbs.values() for verb in verbs)
        self.help_reply = replies.reply(214, "0.0", "Commands: " + " ".join(sorted(self.known))).octets

    def only(self, verbs: frozenset[str], refusal: Reply) -> Dialogue:
        """The same table where every other verb that is known meets a refusal."""

        def refused(session: ServerSession, command: Command) -> None:
            if command.verb != "BDAT":
                return session.refuse(refusal)
            if command.fault is None:
                return session.refuse_chunk(refusal)  # its octets come all the same (SECURITY R5)
            return session.refuse_unknown_chunk(refusal)

        dialogue = Dialogue(frozenset(), {})
        dialogue.known, dialogue.help_reply = self.known, self.help_reply
        shut = dict.fromkeys(self.known - verbs, refused)
        dialogue.verbs = {state: known | shut if known else {} for state, known in self.verbs.items()}
        return dialogue
