"""AUTH: the client says who it is (RFC 4954), by one of the mechanisms of `protocol.sasl`.

Promises: a mechanism is offered, and accepted, only if the authenticator has what it needs, and without TLS only if the
settings say so. Every refusal of credentials reads 535 5.7.8, whoever was tried (SECURITY R53); an authenticator that
raises or is late is 454 4.7.0, and so is a login that has to wait (`Settings.login_limit`), for which no authenticator
is asked. Whatever the client sends, the session lives, and no other notices (CVE-2025-59028, SECURITY R22).
AUTH= in MAIL is believed only of a client that has authenticated; else it counts as `<>` (RFC 4954 §5). Our client
passes it on to hosts that it has authenticated to, if the message came with it.

Refuses: AUTH before EHLO, inside a transaction and for a second time (503), a mechanism that is not offered (504, or
538 where it is only TLS that is missing), an initial response where the server speaks first (501 5.7.0), what is not
base64 (501 5.5.2), a line longer than 12,288 octets (500 5.5.6), and an exchange that the client gives up (501).
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ironpost import wire
from ironpost.model import NULL, Address, Reply
from ironpost.protocol import replies
from ironpost.protocol.commands import State
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.sasl import (
    MECHANISMS,
    Challenge,
    Circumstances,
    Granted,
    Malformed,
    Question,
    Refused,
    ScramCredential,
    ServerExchange,
)
from ironpost.protocol.sasl.exchange import Step, decode, initial
from ironpost.protocol.transaction import Identity
from ironpost.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ironpost.protocol.extensions.base import Offer, Outgoing, Parameters
    from ironpost.protocol.sasl import Mechanism
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command

LOG = logging.getLogger("ironpost.protocol")

LINE: Final = 12288
"""Octets of a line that carries a response (RFC 4954 §4). The command takes as much, because tokens come with it."""
_COMMAND: Final = 512
SHOWN: Final = 200
"""Characters of a login name that the log shows."""
_LISTED: Final = re.compile(rb"AUTH(?:=| +)([A-Z0-9_ -]*)", re.IGNORECASE)
"""An AUTH line of an EHLO reply; names of mechanisms are those of RFC 4422 §3.1."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """The value of AUTH= in MAIL: who submitted the message, `<>` if nobody says (RFC 4954 §5)."""

    address: Address

    @classmethod
    def parse(cls, text: str) -> Self:
        """The value in an esmtp-value.

        Raises:
            ValueError: it is neither `<>` nor the xtext of a Mailbox.
        """
        decoded = wire.xtext_decode(text).decode()
        if decoded == "<>":
            return cls(NULL)
        address = Address.parse(decoded)
        if not address.domain:
            raise ValueError("not a Mailbox")
        return cls(address)

    def __str__(self) -> str:
        return "<>" if self.address.is_null else wire.xtext_encode(str(self.address))


UNKNOWN: Final = Submitter(NULL)
"""Nobody says who submitted the message."""


def offered(settings: Settings, *, secure: bool, bound: bool, certified: bool) -> tuple[Mechanism, ...]:
    """The mechanisms that a client may use now.

    Args:
        settings: the server's.
        secure: the connection is protected by TLS.
        bound: the server knows a channel binding of the connection.
        certified: the connection itself says who the client is.
    """
    authenticator = settings.authenticator
    if authenticator is None:
        return ()
    return tuple(
        mechanism
        for mechanism in MECHANISMS
        if mechanism.name in authenticator.mechanisms
        and hasattr(authenticator, mechanism.needs)
        and (bound or not mechanism.binds)
        and (certified or not mechanism.by_connection)
        # A Unix socket says who the client is without TLS, and nothing secret is sent then.
        and (secure or settings.auth_in_clear or mechanism.by_connection)
        and (settings.nonce is not None or not mechanism.chance)
    )


def _usable(session: ServerSession, *, secure: bool) -> dict[str, Mechanism]:
    """What this client may use, by name; `secure`: if TLS protected it."""
    found = offered(session.settings, secure=secure, bound=bool(session.bindings), certified=session.certified)
    return {mechanism.name: mechanism for mechanism in found}


def _auth(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    if session.state is State.CONTENT:
        session.drop_transaction()  # see commands.interrupted
        return session.refuse(replies.BAD_SEQUENCE)
    if session.transaction is not None:
        return session.refuse(replies.IN_TRANSACTION)
    if session.state is not State.IDLE or not session.esmtp:
        return session.refuse(replies.EHLO_FIRST)
    if session.identity is not None:
        return session.refuse(replies.AUTH_AGAIN)
    word, _, response = command.argument.strip(b" ").partition(b" ")
    name = word.decode("ascii", "replace").upper()
    usable = _usable(session, secure=session.secure)
    mechanism = usable.get(name)
    if mechanism is None:
        lacks_tls = not session.secure and name in _usable(session, secure=True)
        return session.refuse(replies.AUTH_NEEDS_TLS if lacks_tls else replies.AUTH_UNKNOWN_MECHANISM)
    if response and not mechanism.initial:
        return session.refuse(replies.AUTH_SERVER_FIRST)
    attempt = _Attempt(session, mechanism, offers_binding=any(other.binds for other in usable.values()))
    return attempt.begin(session, response)


class _Attempt:
    """One AUTH command of one session, from the command to its last reply."""

    __slots__ = ("_counted", "_exchange", "_guesses", "_question")

    def __init__(self, session: ServerSession, mechanism: Mechanism, *, offers_binding: bool) -> None:
        settings = session.settings
        circumstances = Circumstances(
            nonce="" if settings.nonce is None else settings.nonce(),
            bindings=session.bindings,
            offers_binding=offers_binding,
            hostname=settings.hostname,
            server_name="" if session.tls is None else session.tls.server_name,
            secret=settings.login_secret,
            iterations=getattr(settings.authenticator, "decoy_iterations", None),
        )
        self._exchange = ServerExchange(mechanism, circumstances)
        self._question: Question | None = None
        """What the authenticator was asked last."""
        self._counted = False
        """That the login failed was told to `Settings.login_limit`."""
        self._guesses = False
        """The client's next line is the guess: with SCRAM it comes behind the question."""

    def begin(self, session: ServerSession, response: bytes) -> None:
        """The command, with its initial response if it has one."""
        try:
            octets = initial(response) if response else None
        except Malformed as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        return self._advance(session, self._exchange.start, octets)

    def _line(self, session: ServerSession, octets: bytes | Fault) -> None:
        """The client's response."""
        if isinstance(octets, Fault):
            long = octets.id == "line-too-long"
            reply = replies.AUTH_LINE_TOO_LONG if long else replies.FAULT_REPLIES[octets.id]
            return self._fail(session, reply, octets.id)
        if octets == b"*":
            return self._fail(session, replies.AUTH_CANCELLED, "the client gave up")
        try:
            response = decode(octets)
        except Malformed as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        if self._guesses:
            # Not when the exchange began: many may have, before the first of them guessed.
            self._guesses = False
            if self._waits(session, begins=True):
                return None
        return self._advance(session, self._exchange.respond, response)

    def _advance(self, session: ServerSession, advance: Callable[[Any], Step], value: Any) -> None:
        try:
            step = advance(value)
        except Malformed as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        except Refused as reason:
            self._count(session)  # also what was refused before anybody was asked: it cost us something
            return self._fail(session, replies.AUTH_FAILED, reason)
        if isinstance(step, Challenge):
            session.write(b"334 " + b64encode(step.octets) + b"\r\n")
            return session.read_line(self._line)
        if isinstance(step, Question):
            return self._ask(session, step)
        return self._succeed(session, step)

    def _ask(self, session: ServerSession, question: Question) -> None:
        settings = session.settings
        delegation = question.method == "may_act_as"
        self._guesses = question.method == "scram"
        if not delegation and self._waits(session, begins=not self._guesses):
            return None
        self._question = question
        method = getattr(settings.authenticator, question.method, None)
        if method is None:  # of the methods that a mechanism asks for, only this one may be missing
            return self._answered(session, False)
        try:
            answer = method(*question.arguments) if delegation else method(session, *question.arguments)
        except Exception as exc:  # noqa: BLE001 - R26: whatever an authenticator raises, the session goes on
            answer = session.raised(exc)
        if hasattr(answer, "__await__"):
            return session.wait(answer, self._answered)
        return self._answered(session, answer)

    def _waits(self, session: ServerSession, *, begins: bool) -> bool:
        """Whether the client has to wait, and was told so; `begins`: if not, what comes now is a guess."""
        limit = session.settings.login_limit
        wait = 0.0 if limit is None else limit.admit(self._account, session.peer.ip, begins=begins)
        if wait <= 0.0:
            return False
        self._tell(session, "login-delayed", {"wait": round(wait)})
        self._exchange.close()
        session.failed_logins += 1
        session.refuse(replies.AUTH_WAIT)
        return True

    def _answered(self, session: ServerSession, answer: Any) -> None:
        question = self._question
        assert question is not None
        if not isinstance(answer, Reply) and not isinstance(answer, _ANSWERS[question.method]):
            answer = session.raised(TypeError(f"{question.method} answered {type(answer).__name__}"))
        if isinstance(answer, Reply):  # it raised, or was late
            self._exchange.close()
            return session.reply(replies.AUTH_UNAVAILABLE)
        if answer is None and question.method != "scram":
            # Now: a client that leaves before the end has guessed all the same. With SCRAM it has not guessed yet, and
            # to count unknown names alone would tell them from the others.
            self._count(session)
        return self._advance(session, self._exchange.answer, answer)

    def _succeed(self, session: ServerSession, granted: Granted) -> None:
        limit = session.settings.login_limit
        if limit is not None:
            limit.succeeded(self._account, session.peer.ip)
        login = "" if granted.login == granted.name else granted.login
        session.identity = Identity(granted.name, self._exchange.mechanism.name, login)
        session.write(replies.AUTHENTICATED.octets)

    def _fail(self, session: ServerSession, reply: Reply, reason: object) -> None:
        self._exchange.close()
        if self._question is not None:
            self._count(session)
        if reply is not replies.AUTH_CANCELLED:
            session.failed_logins += 1
        self._tell(session, "login-failed", {"reason": str(reason)})
        session.refuse(reply)

    def _tell(self, session: ServerSession, event: str, more: dict[str, object]) -> None:
        """Writes an event into the log; what the client gave is cut, so that no line grows with it."""
        fields = {
            "session": session.id,
            "ip": session.peer.ip,
            "mechanism": self._exchange.mechanism.name,
            "account": self._account[:SHOWN],
            **more,
        }
        LOG.info("%s: %a", event, fields, extra={"event": event, "fields": fields})

    def _count(self, session: ServerSession) -> None:
        limit = session.settings.login_limit
        if limit is not None and not self._counted:
            limit.failed(self._account, session.peer.ip)
        self._counted = True

    @property
    def _account(self) -> str:
        """What the back-off counts: names that may be one account's count together."""
        return self._exchange.login.casefold()


_ANSWERS: Final[Mapping[str, tuple[type, ...]]] = {
    "verify_password": (str, type(None)),
    "scram": (ScramCredential, type(None)),
    "shared_secret": (str, type(None)),
    "verify_token": (str, type(None)),
    "external": (str, type(None)),
    "may_act_as": (bool,),
}
"""What each method may answer."""


def listed(lines: Sequence[bytes]) -> str:
    """The mechanisms in the lines of an EHLO reply, in upper case and in order, wherever they stand.

    Some servers have more than one AUTH line, or the form `AUTH=` that old clients knew.
    """
    names: dict[str, None] = {}
    for line in lines[1:]:
        found = _LISTED.fullmatch(line)
        if found is not None:
            names.update(dict.fromkeys(found[1].decode().upper().split()))
    return " ".join(names)


def _submitter(session: ServerSession, value: str | None) -> Submitter | Reply:
    try:
        text = wire.xtext_decode(value or "")
    except ValueError:
        return replies.BAD_PARAMETER
    if not text:
        return replies.BAD_PARAMETER
    try:
        submitter = Submitter.parse(value or "")
    except ValueError:
        return UNKNOWN  # a name that is no address says nothing to us, and costs no mail (RFC 4954 §5)
    return submitter if session.identity is not None else UNKNOWN


class Auth(Extension):
    keyword = "AUTH"
    extra_octets: ClassVar = {"MAIL": 500, "AUTH": LINE - _COMMAND}  # RFC 4954 §3, §4
    mail_parameters: ClassVar = {"AUTH": _submitter}
    stored: ClassVar = {"AUTH": Submitter.parse}
    verbs: ClassVar = {"AUTH": _auth}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters:
        # RFC 4954 §5 wants `AUTH=<>` also where nobody asked for it. Servers that log us in and then reject the
        # parameter take no mail at all with it, and nothing depends on it.
        submitter = message.envelope.parameters.get("AUTH")
        if submitter is None or not message.authenticated or "AUTH" not in offered:
            return {}
        return {"AUTH": submitter}

    def available(self, settings: Settings) -> bool:
        return settings.authenticator is not None

    def advertise(self, offer: Offer) -> str | None:
        mechanisms = offered(offer.settings, secure=offer.secure, bound=offer.bound, certified=offer.certified)
        return " ".join(("AUTH", *(mechanism.name for mechanism in mechanisms))) if mechanisms else None
