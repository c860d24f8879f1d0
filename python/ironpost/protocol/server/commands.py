"""The core commands of a server session (RFC 5321 §4.1.1) and the states in which each is legal.

Promises: each command checks its argument, calls the handler at most once, and replies through the session.
Refuses: TURN, SEND, SOML, SAML and the verbs of extensions that the server does not offer, with 502.

Standards: RFC 5321 §3.3 (transaction), §4.1.1 (commands), §4.1.4 (order), §4.3.2 (codes).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.model import Address, Recipient, Reply
from ironpost.protocol import replies
from ironpost.protocol.server import content
from ironpost.protocol.server.states import MAIL, RCPT, TRANSACTION, ServerState, Verb
from ironpost.protocol.server.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Value
    from ironpost.protocol.dialect import Dialect
    from ironpost.protocol.extensions.base import Parse
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command

# ---------------------------------------------------------------------------------------------------------------------
# Commands are (session, command) -> None; continuations, which get the handler's result, (session, reply) -> None


def hello(session: ServerSession, command: Command) -> None:
    """Handle EHLO, HELO (RFC 5321 §4.1.1.1) or LHLO (RFC 2033 §4.1). A refusal does not change the state (§4.1.4)."""
    if session.state is ServerState.CONTENT:
        session.drop_transaction()  # even if the command is refused: see `drop_transaction`
    domain = command.domain
    if command.fault is not None or domain is None:
        domain = _malformed_name(command.argument) if session.settings.hello == "lenient" else None
        if domain is None:
            return session.refuse_fault(command, replies.FAULT_REPLIES)
        session.tolerate("hello")
    session.proposed_hello = command.verb, domain
    return session.consult("hello", command.verb, domain, then=hello_done)


def _malformed_name(argument: bytes) -> str | None:
    """Decode a HELO name that is not a valid domain; return None if it is empty, too long or has control characters.

    RFC 5321 §4.1.4 does not allow a server to refuse mail because the name is not the client's, and refusing mail does
    not fix programs that do not know their name. Received shows such a name as a comment.
    """
    argument = argument.strip(b" ")
    if not 0 < len(argument) <= MALFORMED_NAME_LENGTH or _CONTROL.search(argument) is not None:
        return None
    return argument.decode("utf-8", "backslashreplace")


def hello_done(session: ServerSession, reply: Reply | None) -> None:
    """Continue EHLO, HELO or LHLO with the handler's reply."""
    if reply is not None and not reply.positive:
        return session.reply(reply)
    verb, session.helo = session.proposed_hello
    session.esmtp = verb != "HELO"
    session.drop_transaction()  # EHLO resets as RSET does (RFC 5321 §4.1.4)
    if reply is not None:
        return session.reply(reply)
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
    """Handle MAIL (RFC 5321 §4.1.1.2)."""
    limit = session.settings.max_transactions
    if limit is not None:
        session.transactions += 1
        if session.transactions > limit:  # RFC 9422 §4.1
            return session.reply(replies.TOO_MANY_TRANSACTIONS)
    path = command.path
    if command.fault is not None or path is None:
        return session.refuse_fault(command, replies.SENDER_FAULTS)
    for name in command.tolerated:
        session.tolerate(name)
    parameters: Mapping[str, Value] = command.parameters
    if parameters:
        typed = _typed(session, parameters, session.settings.mail_parameters)
        if isinstance(typed, Reply):
            return session.refuse(typed)
        parameters = typed
    address = Address.of(path)
    if "SMTPUTF8" not in parameters and address.needs_smtputf8:  # RFC 6531 §3.5
        return session.refuse(replies.SENDER_NEEDS_SMTPUTF8)
    transaction = session.proposed_transaction = Transaction(address, parameters)
    if session.quarantine or session.dropping:
        transaction.quarantine = session.quarantine
        transaction.dropping = session.dropping
        if session.dropping:
            return mail_done(session, None)
    try:  # as `consult` does, inline: this is the hot path
        result = session.handler.mail(session, address, parameters)
    except BaseException as exc:  # noqa: BLE001 - R26
        result = session.raised(exc)
    return session.ask(result, mail_done)


def mail_done(session: ServerSession, reply: Reply | None) -> None:
    """Continue MAIL with the handler's reply."""
    if reply is None:
        session.write(_SENDER_OK)
    else:
        session.reply(reply)
        if not reply.positive:
            return
    session.transaction = session.proposed_transaction
    session.enter(MAIL)


def rcpt(session: ServerSession, command: Command) -> None:
    """Handle RCPT (RFC 5321 §4.1.1.3)."""
    path, transaction = command.path, session.transaction
    if command.fault is not None or path is None:
        return session.refuse_fault(command, replies.RECIPIENT_FAULTS)
    for name in command.tolerated:
        session.tolerate(name)
    assert transaction is not None
    parameters: Mapping[str, Value] = command.parameters
    if parameters:
        typed = _typed(session, parameters, session.settings.rcpt_parameters)
        if isinstance(typed, Reply):
            return session.refuse(typed)
        parameters = typed
    accepted = len(transaction.recipients) + len(transaction.dropped)
    if accepted >= session.settings.max_recipients:  # RFC 5321 §4.5.3.1.10
        return session.reply(replies.TOO_MANY_RECIPIENTS)
    address = Address.of(path)
    if address.needs_smtputf8 and "SMTPUTF8" not in transaction.parameters:  # RFC 6531 §3.5
        return session.refuse(replies.RECIPIENT_NEEDS_SMTPUTF8)
    if transaction.dropping:
        session.proposed_recipient = None
        return rcpt_done(session, None)
    session.proposed_recipient = Recipient(address, parameters) if parameters else Recipient(address)
    try:  # as `consult` does, inline: this is the hot path
        result = session.handler.recipient(session, address, parameters)
    except BaseException as exc:  # noqa: BLE001 - R26
        result = session.raised(exc)
    return session.ask(result, rcpt_done)


def rcpt_done(session: ServerSession, reply: Reply | None) -> None:
    """Continue RCPT with the handler's reply."""
    if reply is None:
        session.write(_RECIPIENT_OK)
    else:
        session.reply(reply)
        if not reply.positive:
            return
    transaction = session.transaction
    assert transaction is not None
    if session.proposed_recipient is not None:
        transaction.recipients.append(session.proposed_recipient)
    else:
        transaction.dropped = (*transaction.dropped, len(transaction.recipients) + len(transaction.dropped))
    session.enter(RCPT)


def _typed(
    session: ServerSession, parameters: Mapping[str, str | None], parsers: Mapping[str, Parse]
) -> Mapping[str, Value] | Reply:
    """Return the typed values, or the first refusal. After HELO there are no extensions, and thus no parameters."""
    typed: dict[str, Value] = {}
    for keyword, text in parameters.items():
        parse = parsers.get(keyword) if session.esmtp else None
        if parse is None:
            return replies.UNKNOWN_PARAMETER  # RFC 5321 §4.1.1.11
        value = parse(session, text, typed)
        if type(value) is Reply:
            return value
        typed[keyword] = value
    return typed


def data(session: ServerSession, command: Command) -> None:
    """Handle DATA (RFC 5321 §4.1.1.4)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return content.begin(session)


def rset(session: ServerSession, command: Command) -> None:
    """Handle RSET (RFC 5321 §4.1.1.5)."""
    if session.state is ServerState.CONTENT:
        session.drop_transaction()  # even if the command is refused: see `drop_transaction`
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if session.state is not ServerState.READY:
        session.drop_transaction()
    return session.write(_RESET)


def noop(session: ServerSession, command: Command) -> None:
    """Handle NOOP; its argument is ignored (RFC 5321 §4.1.1.9)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    return session.write(_NOTHING_DONE)


def quit_(session: ServerSession, command: Command) -> None:
    """Handle QUIT: reply 221, after which no input is interpreted (RFC 5321 §4.1.1.10, SECURITY R7)."""
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    session.write(_GOODBYE)
    session.input_drained = True
    return session.close()


MALFORMED_NAME_LENGTH: Final = 255
"""Maximum octets of a name in EHLO that is not a valid domain, if `ServerSettings.hello` is `lenient`."""
_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_SENDER_OK: Final = replies.SENDER_OK.octets
_RECIPIENT_OK: Final = replies.RECIPIENT_OK.octets
_RESET: Final = replies.RESET.octets
_NOTHING_DONE: Final = replies.NOTHING_DONE.octets
_GOODBYE: Final = replies.GOODBYE.octets

# ---------------------------------------------------------------------------------------------------------------------
# The declarations

_EHLO: Final = Verb(hello, before_tls=True, before_auth=True)

_CORE: Final[Mapping[str, Verb]] = {
    "EHLO": _EHLO,
    "HELO": Verb(hello, before_auth=True),
    "LHLO": _EHLO,
    "MAIL": Verb(mail, frozenset({ServerState.IDLE}), sequence=dict.fromkeys(TRANSACTION, replies.NESTED_MAIL)),
    "RCPT": Verb(rcpt, TRANSACTION),
    # Every RCPT was refused, or none was sent: RFC 5321 §3.3, RFC 2920 §3.2.
    "DATA": Verb(data, frozenset({ServerState.RCPT}), sequence={ServerState.MAIL: replies.NO_RECIPIENTS}),
    "RSET": Verb(rset, before_auth=True),
    "NOOP": Verb(noop, before_tls=True, before_auth=True),
    "QUIT": Verb(quit_, before_tls=True, before_auth=True),
}
_HELLO_VERBS: Final = frozenset({"EHLO", "HELO", "LHLO"})


def core_verbs(dialect: Dialect) -> Mapping[str, Verb]:
    """Return the verbs that a server of this dialect has without extensions."""
    verbs = {name: verb for name, verb in _CORE.items() if name in dialect.hello or name not in _HELLO_VERBS}
    if dialect.per_recipient:  # RFC 2033 §4.2 has 503 where SMTP has 554
        verbs["DATA"] = verbs["DATA"]._replace(sequence={ServerState.MAIL: replies.RECIPIENT_FIRST})
    return verbs


UNSUPPORTED: Final[Mapping[str, Reply]] = {
    "LHLO": replies.NOT_IMPLEMENTED,
    "TURN": replies.TURN_INSECURE,  # RFC 5321 appendix F.1
    **dict.fromkeys(("SEND", "SOML", "SAML"), replies.NO_TERMINALS),  # RFC 5321 appendix F.6
}
"""Replies to standard verbs that no extension implements: 502 (RFC 5321 §4.2.4), as for the verbs of extensions that
the server does not offer. Any other verb is unknown: 500, as are EHLO and HELO under LMTP (RFC 2033 §4.1)."""
