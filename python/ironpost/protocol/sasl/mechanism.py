"""What one SASL mechanism is (RFC 4422 §3), for both sides, without I/O.

A side of a mechanism is a generator: it yields what is to be sent or asked, receives what came, and returns who
authenticated. So each file reads as its RFC does, from top to bottom, and there is no state that could be wrong.

    server yields   Challenge   bytes for the client; receives its response
                    Question    for the authenticator; receives the answer
    server returns  Granted, or raises Refused (the credentials) or Malformed (the message)
    client yields   Response; receives the next challenge. The first one is the initial response, without octets if
                    the server speaks first. It raises Untrusted when the server is not what it should be

Promises: whatever a peer sends, a server's side raises Refused or Malformed and nothing else (SECURITY R22). A reason
is for the log; the peer reads the same words for every refusal (SECURITY R53).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

from ironpost.protocol.sasl.names import NAME, PrepareError, prepare

_NO_BINDINGS: Final[Mapping[str, bytes]] = MappingProxyType({})


class Refused(Exception):
    """The credentials do not hold. The text is for the log."""


class Malformed(Exception):
    """A response that is none of this mechanism. The text is for the log."""


class Untrusted(Exception):
    """What a server said, or did not say, means that a client must not go on. The text is for a person."""


class Challenge(NamedTuple):
    """What the client is to answer."""

    octets: bytes = b""


class Question(NamedTuple):
    """What the authenticator is to answer."""

    method: str
    """Of the authenticator."""
    login: str
    """The account that is being tried, for the back-off; empty if none is named."""
    arguments: tuple[Any, ...]
    """Behind the session."""


class Response(NamedTuple):
    """What answers a challenge."""

    octets: bytes | None
    final: bool = False
    """Behind this one, and not before, the server may say that it is done."""


SERVER_FIRST: Final = Response(None)
"""The client waits for a challenge."""


class Granted(NamedTuple):
    """Who authenticated."""

    name: str
    """The authorization identity: who the client acts as."""
    login: str
    """The authentication identity: whose credentials these were."""


ServerSide: TypeAlias = Generator[Challenge | Question, Any, Granted]
ClientSide: TypeAlias = Generator[Response, bytes, None]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a mechanism may know of the connection."""

    nonce: str = ""
    """Fresh and not to be guessed, printable ASCII without a comma."""
    bindings: Mapping[str, bytes] = field(default_factory=lambda: _NO_BINDINGS)
    """Channel bindings that this side has, type to data (RFC 5056)."""
    offers_binding: bool = False
    """The server offers a mechanism that binds to the channel: a server of itself, a client of its peer."""
    hostname: str = "localhost"
    """The server's name."""
    server_name: str = ""
    """The name that the client asked TLS for (RFC 6066), if any; server side only."""
    secret: bytes = b""
    """Keys the salts that unknown users are shown; server side only."""
    iterations: int | None = None
    """Of SCRAM that unknown users are shown; None for those of credentials that we make. Server side only."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client logs in with. What is secret does not show in `repr`.

    Raises:
        PrepareError: a name or the password holds what RFC 4013 prohibits, a control character for instance.
    """

    login: str = ""
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    """An OAuth 2.0 bearer token."""
    authzid: str = ""
    """Whom to act as, if not `login`."""
    certificate: bool = False
    """The connection authenticates us: by a client certificate, or as a Unix user."""
    host: str = ""
    """The server that was asked for (RFC 7628 §3.1)."""
    port: int = 0

    def __post_init__(self) -> None:
        for word in (self.login, self.password, self.token, self.authzid, self.host):
            prepare(word or "", CREDENTIAL)


CREDENTIAL: Final = 1 << 16
"""Octets of anything that our client authenticates with; tokens are long."""


class Mechanism:
    """One mechanism; stateless, so one instance serves every session."""

    name: ClassVar[str]
    needs: ClassVar[str]
    """The method of the authenticator without which it cannot be offered."""
    initial: ClassVar[bool] = True
    """An initial response is allowed (RFC 4954 §4)."""
    binds: ClassVar[bool] = False
    """It binds to the channel, so it is offered only where there is a channel binding."""
    by_connection: ClassVar[bool] = False
    """The connection itself authenticates: a client certificate, or a Unix socket."""
    chance: ClassVar[bool] = False
    """It needs a nonce."""
    deaf: ClassVar[bool] = False
    """What a client says depends on no challenge, so one that is malformed, or comes once more, can be answered."""

    def server(self, circumstances: Circumstances) -> ServerSide:
        """The server's side."""
        raise NotImplementedError

    def usable(self, credentials: Credentials) -> bool:
        """A client that has these credentials can use it."""
        raise NotImplementedError

    def client(self, credentials: Credentials, circumstances: Circumstances) -> ClientSide:
        """The client's side."""
        raise NotImplementedError


def text(octets: bytes) -> str:
    """UTF-8, or `Malformed`."""
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise Malformed("the response is not UTF-8") from None


def prepared(name: str, limit: int = NAME) -> str:
    """A user's name or password as it is compared (RFC 4954 §4), or `Refused`. `limit`: in octets."""
    try:
        form = prepare(name, limit)
    except PrepareError as fault:
        raise Refused(f"in a name or password: {fault}") from None
    if name and not form:
        raise Refused("nothing is left of a name or password when it is prepared")
    return form


def typed(octets: bytes, limit: int = NAME) -> str:
    """As `prepared`, of octets that somebody's program sent: what is not UTF-8 is a wrong password and no syntax error,
    so that the program asks again (RFC 4616 §2)."""
    try:
        return prepared(octets.decode(), limit)
    except UnicodeDecodeError:
        raise Refused("a name or password is not UTF-8") from None


def acting(login: str, authzid: str) -> Generator[Question, Any, Granted]:
    """`login` has proved itself, and asks to act as `authzid` (RFC 4422 §3.4.1); empty is as itself."""
    if not authzid or authzid == login:
        return Granted(login, login)
    allowed = yield Question("may_act_as", "", (login, authzid))
    if allowed is not True:
        raise Refused(f"{login!a} may not act as {authzid!a}")
    return Granted(authzid, login)
