"""The exchange of one SASL mechanism in a session (RFC 4954 §4): base64, the initial response, the end.

Promises: input from the peer raises no other exceptions than CredentialsRejected, MalformedResponse and UntrustedServer
(SECURITY R22). An empty initial response is `=`, which differs from a missing one. A client does not accept success
before the server has proved its identity.
Refuses: characters outside the alphabet of base64, and padding in the middle (RFC 4954 §4).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.protocol.sasl.mechanism import (
    Authenticated,
    AuthenticatorCall,
    Challenge,
    MalformedResponse,
    UntrustedServer,
)

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import ChannelContext, Credentials, Mechanism


Step: TypeAlias = Challenge | AuthenticatorCall | Authenticated
"""The next step: send a challenge, call the authenticator, or finish."""

MOST_CHALLENGES: Final = 5
"""Maximum number of challenges that a patient client responds to."""

_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")  # RFC 4954 §8


def decode(octets: bytes) -> bytes:
    """Decode base64, or raise `MalformedResponse`."""
    if _BASE64.fullmatch(octets) is None:
        raise MalformedResponse("invalid base64")
    return b64decode(octets)


def initial(argument: bytes) -> bytes:
    """Decode an initial response: `=` is an empty one (RFC 4954 §4)."""
    return b"" if argument == b"=" else decode(argument)


class ServerExchange:
    """The server side of one exchange: it gets responses and results, and returns the next step."""

    __slots__ = ("_side", "login", "mechanism")

    def __init__(self, mechanism: Mechanism, context: ChannelContext) -> None:
        self.mechanism = mechanism
        self._side = mechanism.server(context)
        self.login = ""
        """The account of the last call of the authenticator, for the back-off and the log; empty before the first."""

    def start(self, response: bytes | None) -> Step:
        """Return the first step; `response` is the initial response, if there is one.

        Raises:
            CredentialsRejected, MalformedResponse: the exchange has failed.
        """
        step = self._step(None)
        if response is None:
            return step
        return self._step(response)  # instead of a response to the first challenge, which is not sent

    def respond(self, response: bytes) -> Step:
        """Continue with the client's response to the challenge. Raises: as `start`."""
        return self._step(response)

    def answer(self, result: Any) -> Step:
        """Continue with the authenticator's result. Raises: as `start`."""
        return self._step(result)

    def close(self) -> None:
        """Abandon the exchange."""
        self._side.close()

    def _step(self, value: Any) -> Step:
        try:
            step = self._side.send(value)
        except StopIteration as end:
            granted: Authenticated = end.value
            return granted
        if isinstance(step, AuthenticatorCall) and step.login:
            self.login = step.login
        return step


class ClientExchange:
    """The client side of one exchange."""

    __slots__ = (
        "_challenges",
        "_final",
        "_last",
        "_side",
        "deviated",
        "first",
        "last_challenge",
        "mechanism",
        "patient",
    )

    def __init__(
        self, mechanism: Mechanism, credentials: Credentials, context: ChannelContext, *, patient: bool = False
    ) -> None:
        """Start the exchange.

        Args:
            mechanism: the mechanism to use.
            credentials: the client's credentials.
            context: the facts about the connection.
            patient: respond to any challenge if the mechanism does not depend on it (`Mechanism.ignores_challenges`).

        Raises:
            UntrustedServer: the mechanism cannot be used on this connection.
        """
        self.mechanism = mechanism
        self._side = mechanism.client(credentials, context)
        self.last_challenge = b""
        """The last challenge, decoded. With OAUTHBEARER and XOAUTH2 it is the reason of a failure."""
        self.patient = patient
        self.deviated = False
        """The server deviated from the mechanism, which was tolerated."""
        self._challenges = 0
        first, self._final = next(self._side)
        self._last = first
        self.first: bytes | None = None if first is None else b64encode(first) or b"="
        """The encoded initial response; None if the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """Return the response to a challenge (the text of a 334 reply), without CRLF.

        Raises:
            UntrustedServer: the exchange cannot continue; cancel it with `*`.
        """
        patient = self.patient and self.mechanism.ignores_challenges
        self._challenges += 1
        try:
            self.last_challenge = decode(challenge)
        except MalformedResponse:
            if not patient:
                raise UntrustedServer("the server's challenge is not base64") from None
            self.last_challenge, self.deviated = challenge, True
        try:
            self._last, self._final = self._side.send(self.last_challenge)
        except StopIteration:
            if not patient or self._challenges > MOST_CHALLENGES:
                raise UntrustedServer("the server sent more challenges than the mechanism has") from None
            self.deviated = True
        return b64encode(self._last or b"")

    def succeeded(self) -> None:
        """Complete the exchange after the server reported success (235).

        Raises:
            UntrustedServer: the exchange is not complete; with SCRAM, the server has not proved its identity.
        """
        if not self._final and self.patient and self.mechanism.ignores_challenges:
            self.deviated = True
        elif not self._final:
            raise UntrustedServer(f"the server reported success before {self.mechanism.name} was complete")
