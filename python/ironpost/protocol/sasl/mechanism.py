"""The interface of a SASL mechanism (RFC 4422 §3), for both sides, without I/O.

Promises: for any input, a server side raises no other exceptions than CredentialsRejected and MalformedResponse
(SECURITY R22). Reasons are for the log; the peer gets the same reply for every refusal (SECURITY R53).

Each side of a mechanism is a generator: it yields what to send or which method to call, receives the response or
result, and returns the authenticated identity. So each file follows the steps of its RFC in order, without explicit
state.

    server yields   Challenge          octets for the client; receives its response
                    AuthenticatorCall  for the authenticator; receives the result
    server returns  Authenticated, or raises CredentialsRejected or MalformedResponse
    client yields   Response; receives the next challenge. The first one is the initial response, without octets if
                    the server speaks first. It raises UntrustedServer if the server deviates from the mechanism
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from ironpost.protocol.sasl.names import NAME, PrepareError, prepare

_NO_BINDINGS: Final[Mapping[str, bytes]] = MappingProxyType({})


class CredentialsRejected(Exception):
    """The credentials are not valid. The text is for the log."""


class MalformedResponse(Exception):
    """A response does not follow the mechanism. The text is for the log."""


class UntrustedServer(Exception):
    """The server did not follow the mechanism, so the client must not continue. The text is for the user."""


class Challenge(NamedTuple):
    """A challenge for the client."""

    octets: bytes = b""
    """The challenge, not encoded in base64."""


class AuthenticatorCall(NamedTuple):
    """A call of the authenticator."""

    method: str
    """The name of the method."""
    login: str
    """The account, for the back-off; empty if none is named."""
    arguments: tuple[Any, ...]
    """The arguments after the session."""


class Response(NamedTuple):
    """The response to a challenge."""

    octets: bytes | None
    """The response, not encoded in base64; None to wait for a challenge first."""
    final: bool = False
    """The server may report success after this response, and not before."""


SERVER_FIRST: Final = Response(None)
"""The first response of a mechanism in which the server speaks first."""


class Authenticated(NamedTuple):
    """The authenticated identity."""

    name: str
    """The authorization identity: the user that the client acts as."""
    login: str
    """The authentication identity: the user whose credentials were checked."""


ServerSide: TypeAlias = Generator[Challenge | AuthenticatorCall, Any, Authenticated]
"""The server side of an exchange."""
ClientSide: TypeAlias = Generator[Response, bytes, None]
"""The client side of an exchange."""


@dataclass(frozen=True, slots=True)
class ChannelContext:
    """The facts about the connection that a mechanism may use."""

    nonce: str = ""
    """A fresh, unpredictable string of printable ASCII without a comma."""
    bindings: Mapping[str, bytes] = field(default_factory=lambda: _NO_BINDINGS)
    """The channel bindings, type to data (RFC 5056)."""
    offers_binding: bool = False
    """The server offers a mechanism that binds to the channel."""
    hostname: str = "localhost"
    """The server's name."""
    server_name: str = ""
    """The server name that the client requested in TLS (RFC 6066), if any; server side only."""
    secret: bytes = b""
    """The key of the salts shown for unknown users; server side only."""
    iterations: int | None = None
    """The SCRAM iteration count shown for unknown users; None for the default. Server side only."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of a client. Secrets do not appear in `repr`.

    Raises:
        PrepareError: a name or the password contains a character that RFC 4013 prohibits, such as a control character.
    """

    login: str = ""
    """The name of the user."""
    password: str | None = field(default=None, repr=False)
    """The password; None if there is none."""
    token: str | None = field(default=None, repr=False)
    """An OAuth 2.0 bearer token; None if there is none."""
    authzid: str = ""
    """The user to act as; empty for `login`."""
    certificate: bool = False
    """The connection itself authenticates the client: by a client certificate, or as a Unix user."""
    host: str = ""
    """The server's host name as configured (RFC 7628 §3.1)."""
    port: int = 0
    """The server's port; 0 if unknown (RFC 7628 §3.1)."""

    def __post_init__(self) -> None:
        for text in (self.login, self.password, self.token, self.authzid, self.host):
            prepare(text or "", CREDENTIAL)


CREDENTIAL: Final = 1 << 16
"""Maximum octets of each of a client's credentials, which allows for long tokens."""


class Mechanism:
    """The base class of mechanisms; an instance has no state and is shared by all sessions."""

    name: ClassVar[str]
    """The registered name (RFC 4422 §3.1)."""
    needs: ClassVar[str]
    """The method of the authenticator that it requires."""
    initial: ClassVar[bool] = True
    """An initial response is allowed (RFC 4954 §4)."""
    binds: ClassVar[bool] = False
    """The mechanism uses channel binding, so it is offered only if a channel binding is known."""
    by_connection: ClassVar[bool] = False
    """The connection itself authenticates the client, by a certificate or as a Unix user."""
    needs_nonce: ClassVar[bool] = False
    """The mechanism needs `ChannelContext.nonce`."""
    ignores_challenges: ClassVar[bool] = False
    """The client's responses do not depend on challenges, so malformed or repeated ones can be tolerated."""

    def server(self, context: ChannelContext) -> ServerSide:
        """Start the server side."""
        raise NotImplementedError

    def usable(self, credentials: Credentials) -> bool:
        """Whether a client with these credentials can use the mechanism."""
        raise NotImplementedError

    def client(self, credentials: Credentials, context: ChannelContext) -> ClientSide:
        """Start the client side."""
        raise NotImplementedError


def text(octets: bytes) -> str:
    """Decode UTF-8, or raise `MalformedResponse`."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise MalformedResponse("the response is not UTF-8") from None


def prepared(name: str, limit: int = NAME) -> str:
    """Prepare a name or password for comparison (RFC 4954 §4), or raise `CredentialsRejected`; `limit` in octets."""
    try:
        form = prepare(name, limit)
    except PrepareError as fault:
        raise CredentialsRejected(f"invalid name or password: {fault}") from None
    if name and not form:
        raise CredentialsRejected("invalid name or password: empty after preparation")
    return form


def typed(octets: bytes, limit: int = NAME) -> str:
    """Decode and prepare a name or password that a user typed; `limit` in octets.

    Invalid UTF-8 counts as a wrong password, not as a syntax error, so that the client asks its user again (RFC 4616
    §2). It raises `CredentialsRejected`.
    """
    try:
        return prepared(octets.decode(), limit)
    except UnicodeDecodeError:
        raise CredentialsRejected("invalid name or password: not UTF-8") from None


def acting(login: str, authzid: str) -> Generator[AuthenticatorCall, Any, Authenticated]:
    """Authorize the authenticated user `login` to act as `authzid`, or as itself if that is empty (RFC 4422 §3.4.1)."""
    if not authzid or authzid == login:
        return Authenticated(login, login)
    allowed = yield AuthenticatorCall("may_act_as", "", (login, authzid))
    if allowed is not True:
        raise CredentialsRejected(f"{login!a} may not act as {authzid!a}")
    return Authenticated(authzid, login)
