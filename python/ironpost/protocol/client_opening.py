"""How a client session becomes ready: STARTTLS and AUTH between the greeting and the first transaction.

Promises: a password, or anything that shows it, goes out only under TLS, unless the caller allows it in clear by name;
who gives credentials wants TLS, so a peer that does not offer it, or refuses it, is left without a word about who we
are (SECURITY R13). Octets behind the reply to STARTTLS end the session (R10), and nothing that was said in clear
counts under TLS (R12). A mechanism in which the server proves itself is believed only if it did.

Refuses: to go on with less than `Security` asks for; the session closes, and `reason` says what was missing.

Standards: RFC 3207 §4, §4.2 and §6; RFC 4954 §4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ironpost.model import Reply
from ironpost.protocol import replies
from ironpost.protocol.client_tolerance import Tolerance
from ironpost.protocol.client_transaction import Step
from ironpost.protocol.sasl import BY_DEFAULT, Circumstances, ClientExchange, Credentials, Untrusted, choose

if TYPE_CHECKING:
    from collections.abc import Collection

    from ironpost import wire
    from ironpost.protocol.client import ClientSession

StartTls: TypeAlias = Literal["never", "may", "must"]

_NOT_THIS_WAY: Final = frozenset({500, 501, 502, 503, 504, 534, 538})
"""Refusals of AUTH that are about the mechanism or the dialogue, so another mechanism may work (RFC 4954 §6). 535 is
not one of them: the same password would be counted as another wrong guess."""

COMMAND: Final = 512
"""Octets of a command line with CRLF; a longer initial response waits for the server's turn (RFC 4954 §4)."""


@dataclass(frozen=True, slots=True)
class Security:
    """What a client asks of a connection before it uses it."""

    starttls: StartTls = "never"
    """Of a connection that began in clear. `may` goes on in clear with a peer that does not offer it."""
    credentials: Credentials | None = None
    """Log in with these; then STARTTLS is a must, unless `in_clear`."""
    in_clear: bool = False
    """Log in also where there is no TLS."""
    mechanisms: Collection[str] = BY_DEFAULT
    """Names of the mechanisms that may be used."""

    @property
    def needs_tls(self) -> bool:
        """Nothing is done without it."""
        return self.starttls == "must" or (self.credentials is not None and not self.in_clear)

    @property
    def tries_tls(self) -> bool:
        """It is used where it is offered."""
        return self.starttls == "may" or self.needs_tls


NOTHING: Final = Security()
"""Plain connections, nobody logs in."""


def proceed(session: ClientSession) -> None:
    """Behind the reply to EHLO or HELO: what is still to be done, or ready."""
    security = session.security
    if not session.secure and security.tries_tls and not session.tls_refused:
        if "STARTTLS" in session.offered:
            session.say(Step.STARTTLS, b"STARTTLS\r\n")
            return
        if security.needs_tls:
            session.forsake(replies.PEER_LACKS_STARTTLS)
            return
    if security.credentials is None:
        session.become_ready()
    elif session.secure or security.in_clear:
        _log_in(session, security.credentials)
    else:
        session.forsake(replies.PEER_LACKS_STARTTLS)


def tls_agreed(session: ClientSession, _reply: wire.Reply, _step: Step, _number: int) -> None:
    """220: the handshake is next, and nothing else (RFC 3207 §4)."""
    session.await_handshake()


def tls_refused(session: ClientSession, reply: wire.Reply, _step: Step, _number: int) -> None:
    """454, or another refusal: the peer is as one that does not offer it."""
    if session.security.needs_tls:
        session.forsake(Reply.of(reply))
    else:
        session.tls_refused = True
        proceed(session)


def _log_in(session: ClientSession, credentials: Credentials, last: wire.Reply | None = None) -> None:
    """By the best mechanism that was not rejected yet; `last` is the reply that rejected one."""
    offered = session.offered.get("AUTH", "").upper().split()
    circumstances = Circumstances(
        nonce=session.nonce,
        bindings=session.bindings,
        offers_binding=any(name.endswith("-PLUS") for name in offered),
        hostname=session.domain,
    )
    allowed = [name for name in session.security.mechanisms if name not in session.rejected]
    mechanism = choose(offered, credentials, circumstances, allowed)
    if mechanism is None and session.rejected:
        assert last is not None, "a mechanism is rejected by a reply"
        session.turned_away(last, Step.AUTH, 0)
        return
    if mechanism is None:
        session.forsake(replies.PEER_LACKS_MECHANISM.because(f"it offers {' '.join(offered) or 'none'}"))
        return
    try:
        exchange = ClientExchange(mechanism, credentials, circumstances, patient=session.patient)
    except Untrusted as reason:
        session.forsake(_untrusted(reason))
        return
    session.exchange = exchange
    line = f"AUTH {mechanism.name}".encode()
    first = exchange.first
    if first is not None and len(line) + 1 + len(first) + 2 <= COMMAND:
        line += b" " + first
    else:
        session.held_response = first
    session.say(Step.AUTH, line + b"\r\n")


def challenged(session: ClientSession, reply: wire.Reply, _step: Step, _number: int) -> None:
    """334, or any 3yz (RFC 5321 §4.3.2): the mechanism answers, or gives up."""
    exchange, held = session.exchange, session.held_response
    assert exchange is not None
    session.held_response = None
    if session.doubt is not None:
        session.forsake(session.doubt)  # it was told that we gave up
        return
    challenge = reply.lines[0] if reply.lines else b""
    if held is not None:  # an empty challenge asks for the initial response
        response = b"" if held == b"=" else held
    else:
        try:
            response = exchange.respond(challenge)
        except Untrusted as reason:
            session.doubt = _untrusted(reason)
            response = b"*"  # RFC 4954 §4
    session.say(Step.AUTH, response + b"\r\n")


def logged_in(session: ClientSession, _reply: wire.Reply, _step: Step, _number: int) -> None:
    """235: done, if the mechanism thinks so too."""
    exchange, session.exchange = session.exchange, None
    assert exchange is not None
    if session.doubt is not None:
        session.forsake(session.doubt)  # it was told that we gave up
        return
    try:
        exchange.succeeded()
    except Untrusted as reason:
        session.forsake(_untrusted(reason))
        return
    if exchange.strange:
        session.tolerates(Tolerance.CHALLENGES)  # only to count it: it was allowed
    session.authenticated = True
    session.become_ready()


def login_refused(session: ClientSession, reply: wire.Reply, step: Step, number: int) -> None:
    """4yz or 5yz: the credentials do not hold, cannot be checked now, or this is not the way to show them."""
    exchange, credentials = session.exchange, session.security.credentials
    if session.doubt is not None:
        session.forsake(session.doubt)
    elif reply.code in _NOT_THIS_WAY and exchange is not None and credentials is not None:
        session.rejected.add(exchange.mechanism.name)
        _log_in(session, credentials, reply)
    else:
        session.turned_away(reply, step, number)


def _untrusted(reason: object) -> Reply:
    return replies.PEER_UNTRUSTED.because(str(reason))
