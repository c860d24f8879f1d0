"""SASL (RFC 4422): authentication. Each mechanism is one file with both sides, and one line in the registry.

    server   extensions/auth.py drives a `ServerExchange`, which calls the `Authenticator`
    client   protocol/client/opening.py drives a `ClientExchange` of the mechanism that `choose` selects

mechanism.py has the interface of a mechanism, exchange.py runs an exchange, backoff.py delays repeated failures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from ironpost.protocol.sasl.cram_md5 import CramMd5
from ironpost.protocol.sasl.exchange import ClientExchange, ServerExchange
from ironpost.protocol.sasl.external import External
from ironpost.protocol.sasl.login import LoginMechanism
from ironpost.protocol.sasl.mechanism import (
    Authenticated,
    AuthenticatorCall,
    Challenge,
    ChannelContext,
    Credentials,
    CredentialsRejected,
    MalformedResponse,
    Mechanism,
    UntrustedServer,
)
from ironpost.protocol.sasl.names import PrepareError, prepare
from ironpost.protocol.sasl.oauth_bearer import OAuthBearer
from ironpost.protocol.sasl.plain import Plain
from ironpost.protocol.sasl.scram import COMMON_BINDINGS, Scram, ScramCredential, ScramPlus
from ironpost.protocol.sasl.xoauth2 import XOAuth2

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

MECHANISMS: Final[tuple[Mechanism, ...]] = (
    External(),
    ScramPlus(),
    Scram(),
    OAuthBearer(),
    XOAuth2(),
    Plain(),
    LoginMechanism(),
    CramMd5(),
)
"""All mechanisms, in the order in which a server lists them and a client prefers them."""
BY_NAME: Final = {mechanism.name: mechanism for mechanism in MECHANISMS}
"""All mechanisms by name."""
BY_DEFAULT: Final = tuple(mechanism.name for mechanism in MECHANISMS if mechanism.name != CramMd5.name)
"""The names of the mechanisms that are used by default."""


class Authenticator(Protocol):
    """Checks credentials. Any of the methods may be missing, and may return an awaitable of its result.

        verify_password(session, login, password) -> str | None     PLAIN, LOGIN: the account's name
        scram(session, login) -> ScramCredential | None             SCRAM-SHA-256 and -PLUS: the stored credential
        shared_secret(session, login) -> str | None                 CRAM-MD5: the account's plaintext secret
        verify_token(session, login, token) -> str | None           OAUTHBEARER (`login` may be empty), XOAUTH2
        external(session, authzid) -> str | None                    EXTERNAL: the user that `session.tls` or
                                                                    `session.peer` authenticates, if it may act as
                                                                    `authzid`, or that is empty
        may_act_as(login, authzid) -> bool                          RFC 4422 §3.4.1; if missing, no account may

    A mechanism is offered only if `mechanisms` names it and the method that it needs exists. If a method raises, or an
    awaitable times out, the reply is 454 4.7.0, so that clients do not discard the password. None is a refusal: the
    reply is the same for an unknown name and a wrong password, and `verify_password` must take as long for both
    (SECURITY R53). Names and passwords are passed in their prepared form (RFC 4013).
    """

    @property
    def mechanisms(self) -> Collection[str]:
        """The names of the mechanisms that may be offered; a plain attribute is sufficient."""
        ...


def choose(
    offered: Iterable[str],
    credentials: Credentials,
    context: ChannelContext,
    allowed: Collection[str] = BY_DEFAULT,
) -> Mechanism | None:
    """Select the mechanism that a client uses: the first of the registry that is offered and usable.

    Servers need not support `tls-server-end-point`, so if that is the only channel binding, a mechanism that needs one
    is chosen last.

    Args:
        offered: the names in the peer's EHLO list, in any case.
        credentials: the client's credentials.
        context: the client's channel bindings.
        allowed: the names of the mechanisms that may be used; whether the connection is under TLS is not considered.

    Returns:
        The mechanism; None if none is usable.
    """
    names = {name.upper() for name in offered}
    last = None
    for mechanism in MECHANISMS:
        if mechanism.name in names and mechanism.name in allowed and mechanism.usable(credentials):
            if not mechanism.binds or any(kind in context.bindings for kind in COMMON_BINDINGS):
                return mechanism
            if context.bindings:
                last = mechanism
    return last


__all__ = [
    "BY_DEFAULT",
    "BY_NAME",
    "MECHANISMS",
    "Authenticated",
    "Authenticator",
    "AuthenticatorCall",
    "Challenge",
    "ChannelContext",
    "ClientExchange",
    "Credentials",
    "CredentialsRejected",
    "MalformedResponse",
    "Mechanism",
    "PrepareError",
    "ScramCredential",
    "ServerExchange",
    "UntrustedServer",
    "choose",
    "prepare",
]
