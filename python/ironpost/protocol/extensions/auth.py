"""AUTH: authentication of the client (RFC 4954) by one of the mechanisms of `protocol.sasl`.

Promises: a mechanism is offered, and accepted, only if the authenticator supports it, and without TLS only if the
settings allow that. Every refusal of credentials is 535 5.7.8, whether or not the account exists (SECURITY R53). If the
authenticator raises or times out, or the login is delayed (`ServerSettings.login_limit`), the reply is 454 4.7.0; in
the latter case the authenticator is not called. Nothing that the client sends ends the session or affects another one
(CVE-2025-59028, SECURITY R22). AUTH= in MAIL is trusted only from a client that has authenticated; otherwise it counts
as `<>` (RFC 4954 §5). If a message has it, our client passes it on to hosts to which it has authenticated.

Refuses: AUTH before EHLO, inside a transaction and a second time (503), a mechanism that is not offered (504, or 538 if
only TLS is missing), an initial response for a mechanism in which the server speaks first (501 5.7.0), invalid base64
(501 5.5.2), a line longer than 12,288 octets (500 5.5.6), and an exchange that the client cancels (501).
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
from ironpost.protocol.extensions.base import Extension
from ironpost.protocol.sasl import (
    MECHANISMS,
    Authenticated,
    AuthenticatorCall,
    Challenge,
    ChannelContext,
    CredentialsRejected,
    MalformedResponse,
    ScramCredential,
    ServerExchange,
)
from ironpost.protocol.sasl.exchange import Step, decode, initial
from ironpost.protocol.server.extension_state import ExtensionState, Lifetime
from ironpost.protocol.server.states import ESMTP, UNAUTHENTICATED, ServerState, Verb
from ironpost.protocol.server.transaction import Identity
from ironpost.wire import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from ironpost.model import Value
    from ironpost.protocol.extensions.base import LogValue, Offer, Outgoing, Parameters
    from ironpost.protocol.sasl import Mechanism
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire.interface import Command

LOG = logging.getLogger("ironpost.protocol")

LINE: Final = 12288
"""Maximum octets of a line with a response (RFC 4954 §4), and of the command, which may contain a token."""
_COMMAND: Final = 512
SHOWN: Final = 200
"""Maximum characters of a login name that are logged."""
_LISTED: Final = re.compile(rb"AUTH(?:=| +)([A-Z0-9_ -]*)", re.IGNORECASE)
"""An AUTH line of an EHLO reply, with mechanism names as in RFC 4422 §3.1."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """The value of AUTH= in MAIL: who submitted the message, `<>` if unknown (RFC 4954 §5)."""

    address: Address

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an esmtp-value.

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
"""The submitter is unknown."""


def offered(settings: ServerSettings, *, secure: bool, bound: bool, certified: bool) -> tuple[Mechanism, ...]:
    """Return the mechanisms that a client may use now.

    Args:
        settings: the server's settings.
        secure: the connection is protected by TLS.
        bound: a channel binding of the connection is known.
        certified: the connection itself identifies the client.
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
        # A Unix socket identifies the client without TLS, and no secret is sent.
        and (secure or settings.auth_without_tls or mechanism.by_connection)
        and (settings.nonce is not None or not mechanism.needs_nonce)
    )


def _usable(session: ServerSession, *, secure: bool) -> dict[str, Mechanism]:
    """Return the mechanisms that this client may use, by name, with or without TLS (`secure`)."""
    mechanisms = offered(session.settings, secure=secure, bound=bool(session.bindings), certified=session.certified)
    return {mechanism.name: mechanism for mechanism in mechanisms}


def _auth(session: ServerSession, command: Command) -> None:
    if command.fault is not None:
        return session.refuse_fault(command, replies.FAULT_REPLIES)
    name_octets, _, response = command.argument.strip(b" ").partition(b" ")
    name = name_octets.decode("ascii", "replace").upper()
    usable = _usable(session, secure=session.secure)
    mechanism = usable.get(name)
    if mechanism is None:
        lacks_tls = not session.secure and name in _usable(session, secure=True)
        return session.refuse(replies.AUTH_NEEDS_TLS if lacks_tls else replies.AUTH_UNKNOWN_MECHANISM)
    if response and not mechanism.initial:
        return session.refuse(replies.AUTH_SERVER_FIRST)
    attempt = _Attempt(session, mechanism, offers_binding=any(other.binds for other in usable.values()))
    return attempt.begin(session, response)


class LoginFailures(ExtensionState):
    """The failed logins of a session, for its log record."""

    lifetime = Lifetime.CONNECTION
    count = 0
    """AUTH commands that were refused or delayed; not those that the client cancelled or that failed temporarily."""


class _Attempt:
    """One AUTH command of one session, from the command to its last reply."""

    __slots__ = ("_call", "_counted", "_exchange", "_guess_pending")

    def __init__(self, session: ServerSession, mechanism: Mechanism, *, offers_binding: bool) -> None:
        settings = session.settings
        context = ChannelContext(
            nonce="" if settings.nonce is None else settings.nonce(),
            bindings=session.bindings,
            offers_binding=offers_binding,
            hostname=settings.hostname,
            server_name="" if session.tls is None else session.tls.server_name,
            secret=settings.login_secret,
            iterations=getattr(settings.authenticator, "decoy_iterations", None),
        )
        self._exchange = ServerExchange(mechanism, context)
        self._call: AuthenticatorCall | None = None
        """The last call of the authenticator; None before the first."""
        self._counted = False
        """The failure was reported to `ServerSettings.login_limit`."""
        self._guess_pending = False
        """The client's next line proves the password: with SCRAM this follows the call of the authenticator."""

    def begin(self, session: ServerSession, response: bytes) -> None:
        """Handle the command, with its initial response if it has one."""
        try:
            octets = initial(response) if response else None
        except MalformedResponse as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        return self._advance(session, self._exchange.start, octets)

    def _line(self, session: ServerSession, octets: bytes | Fault) -> None:
        """Handle a line with the client's response."""
        if isinstance(octets, Fault):
            long = octets.id == "line-too-long"
            reply = replies.AUTH_LINE_TOO_LONG if long else replies.FAULT_REPLIES[octets.id]
            return self._fail(session, reply, octets.id)
        if octets == b"*":
            return self._fail(session, replies.AUTH_CANCELLED, "cancelled by the client")
        try:
            response = decode(octets)
        except MalformedResponse as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        if self._guess_pending:
            # Not only at the start of the exchange: many exchanges may start before the first of them makes a guess.
            self._guess_pending = False
            if self._delayed(session, begins=True):
                return None
        return self._advance(session, self._exchange.respond, response)

    def _advance(self, session: ServerSession, advance: Callable[[Any], Step], value: Any) -> None:
        try:
            step = advance(value)
        except MalformedResponse as fault:
            return self._fail(session, replies.AUTH_MALFORMED, fault)
        except CredentialsRejected as reason:
            self._count(session)  # even if the authenticator was not called, because the exchange took resources
            return self._fail(session, replies.AUTH_FAILED, reason)
        if isinstance(step, Challenge):
            session.write(b"334 " + b64encode(step.octets) + b"\r\n")
            return session.read_line(self._line)
        if isinstance(step, AuthenticatorCall):
            return self._consult(session, step)
        return self._succeed(session, step)

    def _consult(self, session: ServerSession, call: AuthenticatorCall) -> None:
        settings = session.settings
        delegation = call.method == "may_act_as"
        self._guess_pending = call.method == "scram"
        if not delegation and self._delayed(session, begins=not self._guess_pending):
            return None
        self._call = call
        method = getattr(settings.authenticator, call.method, None)
        if method is None:  # of the methods that a mechanism calls, only may_act_as may be missing
            return self._returned(session, False)
        try:
            result = method(*call.arguments) if delegation else method(session, *call.arguments)
        except BaseException as exc:  # noqa: BLE001 - R26
            result = session.raised(exc)
        if hasattr(result, "__await__"):
            return session.wait(result, self._returned)
        return self._returned(session, result)

    def _delayed(self, session: ServerSession, *, begins: bool) -> bool:
        """Refuse the login if it is delayed, and return whether it is; `begins` as for `LoginLimit.admit`."""
        limit = session.settings.login_limit
        wait = 0.0 if limit is None else limit.admit(self._account, session.peer.ip, begins=begins)
        if wait <= 0.0:
            return False
        self._log(session, "login-delayed", {"wait": round(wait)})
        self._exchange.close()
        session.state_of(LoginFailures).count += 1
        session.refuse(replies.AUTH_WAIT)
        return True

    def _returned(self, session: ServerSession, result: Any) -> None:
        call = self._call
        assert call is not None
        if not isinstance(result, Reply) and not isinstance(result, _RESULTS[call.method]):
            result = session.raised(TypeError(f"{call.method} returned {type(result).__name__}"))
        if isinstance(result, Reply):  # it raised or timed out
            self._exchange.close()
            return session.reply(replies.AUTH_UNAVAILABLE)
        if result is None and call.method != "scram":
            # Count at once: a client that disconnects before the reply has made its guess. With SCRAM it has not yet,
            # and counting only unknown names would reveal them.
            self._count(session)
        return self._advance(session, self._exchange.answer, result)

    def _succeed(self, session: ServerSession, granted: Authenticated) -> None:
        limit = session.settings.login_limit
        if limit is not None:
            limit.succeeded(self._account, session.peer.ip)
        login = "" if granted.login == granted.name else granted.login
        session.identity = Identity(granted.name, self._exchange.mechanism.name, login)
        session.write(replies.AUTHENTICATED.octets)

    def _fail(self, session: ServerSession, reply: Reply, reason: object) -> None:
        self._exchange.close()
        if self._call is not None:
            self._count(session)
        if reply is not replies.AUTH_CANCELLED:
            session.state_of(LoginFailures).count += 1
        self._log(session, "login-failed", {"reason": str(reason)})
        session.refuse(reply)

    def _log(self, session: ServerSession, event: str, more: dict[str, object]) -> None:
        """Log an event; the login name is truncated, because it is the client's input."""
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
        """The key of the back-off: names that may belong to one account count together."""
        return self._exchange.login.casefold()


_RESULTS: Final[Mapping[str, tuple[type, ...]]] = {
    "verify_password": (str, type(None)),
    "scram": (ScramCredential, type(None)),
    "shared_secret": (str, type(None)),
    "verify_token": (str, type(None)),
    "external": (str, type(None)),
    "may_act_as": (bool,),
}
"""The types that each method of the authenticator may return."""


def listed_mechanisms(lines: Sequence[bytes]) -> str:
    """Return the mechanisms in all AUTH lines of an EHLO reply, in upper case and in order, separated by spaces.

    Some servers send more than one AUTH line, or the form `AUTH=` for old clients.
    """
    names: dict[str, None] = {}
    for line in lines[1:]:
        match = _LISTED.fullmatch(line)
        if match is not None:
            names.update(dict.fromkeys(match[1].decode().upper().split()))
    return " ".join(names)


def _submitter(session: ServerSession, value: str | None, given: dict[str, Value]) -> Submitter | Reply:
    del given
    try:
        text = wire.xtext_decode(value or "")
    except ValueError:
        return replies.BAD_PARAMETER
    if not text:
        return replies.BAD_PARAMETER
    try:
        submitter = Submitter.parse(value or "")
    except ValueError:
        return UNKNOWN  # not a Mailbox, which is not a reason to refuse the mail (RFC 4954 §5)
    return submitter if session.identity is not None else UNKNOWN


class Auth(Extension):
    keyword = "AUTH"
    state = LoginFailures
    extra_octets: ClassVar = {"MAIL": 500, "AUTH": LINE - _COMMAND}  # RFC 4954 §3, §4
    mail_parameters: ClassVar = {"AUTH": _submitter}
    stored: ClassVar = {"AUTH": Submitter.parse}
    verbs: ClassVar = {
        "AUTH": Verb(_auth, frozenset({ServerState.IDLE}), needs=(ESMTP, UNAUTHENTICATED), before_auth=True)
    }

    def session_fields(self, session: ServerSession) -> Mapping[str, LogValue]:
        return {"failed_logins": session.state_of(LoginFailures).count}

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters:
        # RFC 4954 §5 recommends `AUTH=<>` for messages without a submitter. Some servers authenticate us and then
        # reject the parameter, so that no mail could be sent to them, and nothing depends on it.
        submitter = message.envelope.parameters.get("AUTH")
        if submitter is None or not message.authenticated or "AUTH" not in offered:
            return {}
        return {"AUTH": submitter}

    def available(self, settings: ServerSettings) -> bool:
        return settings.authenticator is not None

    def advertise(self, offer: Offer) -> str | None:
        mechanisms = offered(offer.settings, secure=offer.secure, bound=offer.bound, certified=offer.certified)
        return " ".join(("AUTH", *(mechanism.name for mechanism in mechanisms))) if mechanisms else None
