"""The state table of a server session: when each verb is legal, and the reply if it is not (RFC 5321 §4.1.4).

Promises: every verb that a server knows has an entry in every state between greeting and close. A verb that is out of
sequence, or whose condition is not satisfied, changes nothing, except that it ends a transaction whose content has
begun.

A verb declares its states and conditions (`Verb`). `CommandTable` is computed from the declarations of all verbs of one
server, those of extensions included. `docs/states.md` is generated from it.

Standards: RFC 5321 §3.3, §4.1.4 (order); RFC 3030 §2 (between chunks).
"""

from __future__ import annotations

from enum import Enum, auto
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ironpost.model import Reply
    from ironpost.protocol.server.session import ServerSession
    from ironpost.wire.interface import Command

Handling: TypeAlias = "Callable[[ServerSession, Command], None]"
"""Handles one command: replies through the session, or calls a hook (`ServerSession.consult`)."""
Refuse: TypeAlias = "Callable[[ServerSession, Command, Reply], None]"
"""Refuses one command with a reply."""


class ServerState(Enum):
    """The state of a session. Members are compared by identity."""

    __hash__ = object.__hash__  # the hash of Enum is a Python function, which every change of state would call

    GREETING = auto()
    """Connected; the greeting was not sent yet. The client must not send anything (RFC 5321 §3.1)."""
    READY = auto()
    """Greeted; no EHLO or HELO yet."""
    IDLE = auto()
    """After EHLO or HELO, no transaction."""
    MAIL = auto()
    """A transaction without recipients."""
    RCPT = auto()
    """A transaction with at least one recipient."""
    CONTENT = auto()
    """Content is being received: by DATA, or in chunks, between which other commands are possible."""
    CLOSED = auto()
    """The session has ended: no input is interpreted."""


GREETING: Final = ServerState.GREETING
IDLE: Final = ServerState.IDLE
MAIL: Final = ServerState.MAIL
RCPT: Final = ServerState.RCPT
CONTENT: Final = ServerState.CONTENT
"""Members for the hot path: Python 3.11 takes eight times as long to find one in its class."""

DIALOGUE: Final = (
    ServerState.READY,
    ServerState.IDLE,
    ServerState.MAIL,
    ServerState.RCPT,
    ServerState.CONTENT,
)
"""The states in which commands are interpreted, in their order. To input before the greeting the session replies 554,
and closes without interpreting it (SECURITY R7)."""
ANY: Final = frozenset(DIALOGUE)
"""All states in which commands are interpreted."""
TRANSACTION: Final = frozenset({ServerState.MAIL, ServerState.RCPT})
"""The states of an open transaction whose content has not begun."""


class Condition(NamedTuple):
    """A condition on the session, checked after the state and before the argument."""

    text: str
    """The description in docs/states.md."""
    attribute: str
    """The name of an attribute of `ServerSession`."""
    truth: bool
    """The required truth value of the attribute."""
    refusal: Reply
    """The reply if the condition is not satisfied."""


ESMTP: Final = Condition("after EHLO or LHLO", "esmtp", True, replies.EHLO_FIRST)
UNENCRYPTED: Final = Condition("without TLS", "secure", False, replies.TLS_ALREADY)
AUTHENTICATED: Final = Condition("authenticated", "identity", True, replies.AUTHENTICATION_FIRST)
UNAUTHENTICATED: Final = Condition("not authenticated", "identity", False, replies.AUTH_AGAIN)
FRONT_END: Final = Condition("from a trusted front end", "trusted", True, replies.NOT_ALLOWED)


def refuse(session: ServerSession, command: Command, reply: Reply) -> None:
    """Refuse a command with a reply; the default of `Verb.refuse`."""
    del command
    session.refuse(reply)


_NO_REPLIES: Mapping[ServerState, Reply] = MappingProxyType({})


class Verb(NamedTuple):
    """The declaration of a verb: how it is handled, and when it is legal."""

    handle: Handling
    """Handles the command. Called only in one of `states`, with all of `needs` satisfied; it checks the argument."""
    states: frozenset[ServerState] = ANY
    """The states in which the verb is legal."""
    needs: tuple[Condition, ...] = ()
    """Conditions, in the order in which they are checked."""
    sequence: Mapping[ServerState, Reply] = _NO_REPLIES
    """Replies in states in which the verb is not legal, where they differ from those of `out_of_sequence`."""
    refuse: Refuse = refuse
    """Refuses the command; a verb that is followed by octets must consume them."""
    before_tls: bool = False
    """Legal before TLS even if the dialect requires TLS (RFC 3207 §4)."""
    before_auth: bool = False
    """Legal before authentication even if the dialect requires it (RFC 4954 §6)."""


def out_of_sequence(verb: Verb, state: ServerState) -> Reply | None:
    """Return the reply to a verb in a state in which it is not legal; None if it is legal."""
    if state in verb.states:
        return None
    if state in verb.sequence:
        return verb.sequence[state]
    if state is ServerState.READY:
        return replies.EHLO_FIRST if ESMTP in verb.needs else replies.HELLO_FIRST
    if state is ServerState.IDLE:
        return replies.MAIL_FIRST
    if state in TRANSACTION and ServerState.IDLE in verb.states:
        return replies.IN_TRANSACTION
    return replies.BAD_SEQUENCE


class CommandTable:
    """The verbs of one server in each state, computed from their declarations."""

    __slots__ = ("handlings", "help_reply", "verbs")

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self.verbs = verbs
        self.handlings: Mapping[ServerState, Mapping[str, Handling]] = {
            state: {name: _handling(verb, state) for name, verb in verbs.items()} if state in ANY else {}
            for state in ServerState
        }
        """The function that handles or refuses a verb, by state and verb."""
        self.help_reply = replies.reply(214, "0.0", "Commands: " + " ".join(sorted(verbs))).octets
        """The rendered reply to HELP."""

    def only(self, kept: Callable[[str, Verb], bool], refusal: Reply) -> CommandTable:
        """Return a table with the same verbs, all refused with `refusal` except those that `kept` selects."""
        everywhere = dict.fromkeys(DIALOGUE, refusal)
        return CommandTable(
            {
                name: verb if kept(name, verb) else verb._replace(states=frozenset(), sequence=everywhere)
                for name, verb in self.verbs.items()
            }
        )


def _handling(verb: Verb, state: ServerState) -> Handling:
    reply = out_of_sequence(verb, state)
    if reply is not None:
        return _refusal(verb, state, reply)
    return _guarded(verb, state) if verb.needs else verb.handle


def _refusal(verb: Verb, state: ServerState, reply: Reply) -> Handling:
    def refused(session: ServerSession, command: Command) -> None:
        if state is ServerState.CONTENT:
            session.drop_transaction()
        verb.refuse(session, command, reply)

    return refused


def _guarded(verb: Verb, state: ServerState) -> Handling:
    handle = verb.handle
    checks = tuple((need.attribute, need.truth, _refusal(verb, state, need.refusal)) for need in verb.needs)

    def guarded(session: ServerSession, command: Command) -> None:
        for attribute, truth, refused in checks:
            if bool(getattr(session, attribute)) is not truth:
                return refused(session, command)
        return handle(session, command)

    return guarded
