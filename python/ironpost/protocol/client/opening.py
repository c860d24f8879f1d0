"""The opening of a client session: STARTTLS and AUTH between the greeting and the first transaction.

Promises: passwords are sent only under TLS, unless the caller explicitly allows otherwise. Credentials imply TLS: if a
peer does not offer it, or refuses it, the session ends without authentication (SECURITY R13). Octets after the reply to
STARTTLS end the session (R10), and nothing received before TLS is used after it (R12). If the mechanism authenticates
the server, the session continues only if the server has proved its identity.

Refuses: to continue with less security than `Security` demands; the session closes, and `reason` names what is missing.
After a failed handshake the caller decides whether to connect again without TLS.

Standards: RFC 3207 §4, §4.1, §4.2 and §6; RFC 4954 §4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ironpost.model import Reply
from ironpost.model.tls import TlsFailure, TlsLevel, Verification
from ironpost.protocol import replies
from ironpost.protocol.client.states import ClientStep
from ironpost.protocol.client.tolerance import Tolerance
from ironpost.protocol.sasl import BY_DEFAULT, ChannelContext, ClientExchange, Credentials, UntrustedServer, choose

if TYPE_CHECKING:
    from collections.abc import Collection

    from ironpost import wire
    from ironpost.protocol.client.session import ClientSession

StartTls: TypeAlias = Literal["never", "may", "must"]
"""Whether STARTTLS is used; see `Security.starttls`."""

_MECHANISM_REFUSED: Final = frozenset({500, 501, 502, 503, 504, 534, 538})
"""Reply codes that refuse the mechanism or the command, so that another mechanism may work (RFC 4954 §6). 535 is not
one of them: the same password would count as another wrong guess."""

COMMAND: Final = 512
"""Maximum octets of a command line with CRLF; a longer initial response is sent after a challenge (RFC 4954 §4)."""


@dataclass(frozen=True, slots=True)
class Security:
    """The security that a client demands of a connection."""

    starttls: StartTls = "never"
    """Whether STARTTLS is used on connections that begin unencrypted. With `may`, the session continues unencrypted if
    the peer does not offer STARTTLS, or refuses it with a reply; a failed handshake ends the session."""
    credentials: Credentials | None = None
    """The credentials to authenticate with. With them STARTTLS is required, unless `without_tls` is set."""
    without_tls: bool = False
    """Authenticate even without TLS."""
    mechanisms: Collection[str] = BY_DEFAULT
    """The names of the allowed mechanisms."""
    level: TlsLevel = TlsLevel.NONE
    """The lowest acceptable level of a connection under TLS. A lower one ends the session with QUIT (RFC 3207 §4.1)."""

    @property
    def needs_tls(self) -> bool:
        """Whether TLS is required."""
        return self.starttls == "must" or (self.credentials is not None and not self.without_tls)

    @property
    def tries_tls(self) -> bool:
        """Whether STARTTLS is used if offered."""
        return self.starttls == "may" or self.needs_tls


NOTHING: Final = Security()
"""Neither TLS nor authentication."""


def proceed(session: ClientSession) -> None:
    """Continue after the reply to EHLO or HELO: with STARTTLS, AUTH, or the first transaction."""
    security = session.security
    if session.secure and session.tls.level < security.level:
        session.distrust(replies.PEER_NOT_VERIFIED.because(session.tls.reason))
        return
    if not session.secure and security.tries_tls and not session.starttls_refused:
        if "STARTTLS" in session.offered:
            session.command(ClientStep.STARTTLS, b"STARTTLS\r\n")
            return
        session.tls = Verification(TlsLevel.NONE, "the host does not offer STARTTLS", TlsFailure.STARTTLS_NOT_SUPPORTED)
        if security.needs_tls:
            session.distrust(replies.PEER_LACKS_STARTTLS)
            return
    if security.credentials is None:
        session.become_ready()
    elif session.secure or security.without_tls:
        _authenticate(session, security.credentials)
    else:
        session.distrust(replies.PEER_LACKS_STARTTLS)


def starttls_accepted(session: ClientSession, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
    """Wait for the handshake after 220 (RFC 3207 §4)."""
    session.await_handshake()


def starttls_refused(session: ClientSession, reply: wire.Reply, _step: ClientStep, _number: int) -> None:
    """Continue after 454 or another refusal as if STARTTLS were not offered."""
    refusal = Reply.of(reply)
    session.tls = Verification(
        TlsLevel.NONE, f"the host refused STARTTLS: {refusal}", TlsFailure.STARTTLS_NOT_SUPPORTED
    )
    if session.security.needs_tls:
        session.distrust(refusal)
    else:
        session.starttls_refused = True
        proceed(session)


def _authenticate(session: ClientSession, credentials: Credentials, last: wire.Reply | None = None) -> None:
    """Use the best mechanism that was not rejected yet; `last` is the reply that rejected the previous one."""
    offered = session.offered.get("AUTH", "").upper().split()
    context = ChannelContext(
        nonce=session.nonce,
        bindings=session.bindings,
        offers_binding=any(name.endswith("-PLUS") for name in offered),
        hostname=session.domain,
    )
    allowed = [name for name in session.security.mechanisms if name not in session.rejected]
    mechanism = choose(offered, credentials, context, allowed)
    if mechanism is None and session.rejected:
        assert last is not None, "mechanisms are rejected by replies"
        session.refused(last, ClientStep.AUTH, 0)
        return
    if mechanism is None:
        session.distrust(
            replies.PEER_LACKS_MECHANISM.because(f"offered: {' '.join(offered) or 'none'}"), ClientStep.AUTH
        )
        return
    try:
        exchange = ClientExchange(mechanism, credentials, context, patient=session.patient)
    except UntrustedServer as reason:
        session.distrust(_untrusted(reason), ClientStep.AUTH)
        return
    session.exchange = exchange
    line = f"AUTH {mechanism.name}".encode()
    first = exchange.first
    if first is not None and len(line) + 1 + len(first) + 2 <= COMMAND:
        line += b" " + first
    else:
        session.held_response = first
    session.command(ClientStep.AUTH, line + b"\r\n")


def auth_challenged(session: ClientSession, reply: wire.Reply, _step: ClientStep, _number: int) -> None:
    """Respond to a challenge, 334 or any 3yz (RFC 5321 §4.3.2), or cancel the exchange."""
    exchange, held = session.exchange, session.held_response
    assert exchange is not None
    session.held_response = None
    if session.untrusted is not None:
        session.distrust(session.untrusted, ClientStep.AUTH)  # the exchange was cancelled
        return
    challenge = reply.lines[0] if reply.lines else b""
    if held is not None:  # an empty challenge: send the initial response
        response = b"" if held == b"=" else held
    else:
        try:
            response = exchange.respond(challenge)
        except UntrustedServer as reason:
            session.untrusted = _untrusted(reason)
            response = b"*"  # RFC 4954 §4
    session.command(ClientStep.AUTH, response + b"\r\n")


def auth_accepted(session: ClientSession, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
    """Continue after 235; if the exchange is not complete, end the session."""
    exchange, session.exchange = session.exchange, None
    assert exchange is not None
    if session.untrusted is not None:
        session.distrust(session.untrusted, ClientStep.AUTH)  # the exchange was cancelled
        return
    try:
        exchange.succeeded()
    except UntrustedServer as reason:
        session.distrust(_untrusted(reason), ClientStep.AUTH)
        return
    if exchange.deviated:
        session.tolerates(Tolerance.CHALLENGES)  # counts the use
    session.authenticated = True
    session.become_ready()


def auth_refused(session: ClientSession, reply: wire.Reply, step: ClientStep, number: int) -> None:
    """Try another mechanism after 4yz or 5yz, or end the session if the credentials or the server are the cause."""
    exchange, credentials = session.exchange, session.security.credentials
    if session.untrusted is not None:
        session.distrust(session.untrusted, ClientStep.AUTH)
    elif reply.code in _MECHANISM_REFUSED and exchange is not None and credentials is not None:
        session.rejected.add(exchange.mechanism.name)
        _authenticate(session, credentials, reply)
    else:
        session.refused(reply, step, number)


def _untrusted(reason: object) -> Reply:
    return replies.PEER_UNTRUSTED.because(str(reason))
