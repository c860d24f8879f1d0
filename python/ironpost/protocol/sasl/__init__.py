"""SASL (RFC 4422): who the other side is. Each mechanism is one file with both sides, and one line in the registry.

    server   extensions/auth.py drives a `ServerExchange`, which asks the `Authenticator`
    client   protocol/client.py drives a `ClientExchange` of the mechanism that `choose` finds

What a mechanism is stands in mechanism.py, how an exchange runs in exchange.py, and who has to wait in backoff.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ironpost.protocol.sasl.cram_md5 import CramMd5
from ironpost.protocol.sasl.exchange import ClientExchange, ServerExchange
from ironpost.protocol.sasl.external import External
from ironpost.protocol.sasl.login import Login
from ironpost.protocol.sasl.mechanism import (
    Challenge,
    Circumstances,
    Credentials,
    Granted,
    Malformed,
    Mechanism,
    Question,
    Refused,
    Untrusted,
)
from ironpost.protocol.sasl.names import PrepareError, prepare
from ironpost.protocol.sasl.oauth_bearer import OAuthBearer
from ironpost.protocol.sasl.plain import Plain
from ironpost.protocol.sasl.scram import COMMON_BINDINGS, Scram, ScramCredential, ScramPlus
from ironpost.protocol.sasl.xoauth2 import XOAuth2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Iterable

    from ironpost.protocol.server import ServerSession

MECHANISMS: Final[tuple[Mechanism, ...]] = (
    External(),
    ScramPlus(),
    Scram(),
    OAuthBearer(),
    XOAuth2(),
    Plain(),
    Login(),
    CramMd5(),
)
"""In the order in which a server lists them and a client prefers them."""
BY_NAME: Final = {mechanism.name: mechanism for mechanism in MECHANISMS}
BY_DEFAULT: Final = tuple(mechanism.name for mechanism in MECHANISMS if mechanism.name != CramMd5.name)
"""What is used where nobody says otherwise."""


class Authenticator(Protocol):
    """Knows the users. Each method below may be missing, and may return an awaitable of what it says.

    A mechanism is offered only if `mechanisms` names it and the method that it needs is there. A method that raises, or
    an awaitable that is late, makes the reply 454 4.7.0, which no client takes for a wrong password. None is a refusal:
    the mechanisms see to it that an unknown name reads the same as a wrong password, and `verify_password` has to see
    to it that it takes as long (SECURITY R53). Names and passwords arrive prepared (RFC 4013).
    """

    @property
    def mechanisms(self) -> Collection[str]:
        """Names of those that may be offered; an attribute will do."""
        ...


class VerifiesPasswords(Authenticator, Protocol):
    """PLAIN and LOGIN."""

    def verify_password(self, session: ServerSession, login: str, password: str) -> str | Awaitable[str | None] | None:
        """The account's name if the password is right."""
        ...


class HoldsScram(Authenticator, Protocol):
    """SCRAM-SHA-256 and SCRAM-SHA-256-PLUS."""

    def scram(self, session: ServerSession, login: str) -> ScramCredential | Awaitable[ScramCredential | None] | None:
        """What is stored for the account."""
        ...


class HoldsSecrets(Authenticator, Protocol):
    """CRAM-MD5."""

    def shared_secret(self, session: ServerSession, login: str) -> str | Awaitable[str | None] | None:
        """The account's secret in clear."""
        ...


class VerifiesTokens(Authenticator, Protocol):
    """OAUTHBEARER and XOAUTH2."""

    def verify_token(self, session: ServerSession, login: str, token: str) -> str | Awaitable[str | None] | None:
        """The account's name if the bearer token is good for it. `login` may be empty with OAUTHBEARER."""
        ...


class KnowsConnections(Authenticator, Protocol):
    """EXTERNAL."""

    def external(self, session: ServerSession, authzid: str) -> str | Awaitable[str | None] | None:
        """Whom `session.tls` or `session.peer` authenticates, if that one may act as `authzid`, or it is empty."""
        ...


class Delegates(Authenticator, Protocol):
    """Accounts that may act as others (RFC 4422 §3.4.1). Without this method none may."""

    def may_act_as(self, login: str, authzid: str) -> bool | Awaitable[bool]:
        """`login`, which has proved itself, may act as `authzid`."""
        ...


def choose(
    offered: Iterable[str],
    credentials: Credentials,
    circumstances: Circumstances,
    allowed: Collection[str] = BY_DEFAULT,
) -> Mechanism | None:
    """The mechanism that a client uses: the first of the registry that the server offers and that can be used here.

    A server need not know `tls-server-end-point`, so with that alone one that binds to the channel is the last choice.

    Args:
        offered: names in the peer's EHLO list, in any case.
        credentials: what the client has.
        circumstances: its channel bindings.
        allowed: names of those that may be used; in clear only those that do not show the password, or none.
    """
    names = {name.upper() for name in offered}
    last = None
    for mechanism in MECHANISMS:
        if mechanism.name in names and mechanism.name in allowed and mechanism.usable(credentials):
            if not mechanism.binds or any(kind in circumstances.bindings for kind in COMMON_BINDINGS):
                return mechanism
            if circumstances.bindings:
                last = mechanism
    return last


__all__ = [
    "BY_DEFAULT",
    "BY_NAME",
    "MECHANISMS",
    "Authenticator",
    "Challenge",
    "Circumstances",
    "ClientExchange",
    "Credentials",
    "Granted",
    "Malformed",
    "Mechanism",
    "PrepareError",
    "Question",
    "Refused",
    "ScramCredential",
    "ServerExchange",
    "Untrusted",
    "choose",
    "prepare",
]
