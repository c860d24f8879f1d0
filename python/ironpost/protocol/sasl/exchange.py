"""One exchange of one mechanism as a session drives it (RFC 4954 §4): base64, the initial response, the end.

Promises: a peer's octets raise Refused, Malformed or Untrusted and nothing else (SECURITY R22). An empty initial
response is `=`, and a missing one is not empty. A client that ends before the server has proved itself says so.
Refuses: characters outside the alphabet of base64 and padding in the middle (RFC 4954 §4).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost.protocol.sasl.mechanism import Challenge, Granted, Malformed, Question, Untrusted

if TYPE_CHECKING:
    from ironpost.protocol.sasl.mechanism import Circumstances, Credentials, Mechanism


Step: TypeAlias = Challenge | Question | Granted
"""What is next: answer the client, ask the authenticator, or be done."""

MOST_CHALLENGES: Final = 5
"""Challenges that a patient client answers, at most."""

_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")  # RFC 4954 §8


def decode(octets: bytes) -> bytes:
    """What base64 stands for, or `Malformed`."""
    if _BASE64.fullmatch(octets) is None:
        raise Malformed("this is not base64")
    return b64decode(octets)


def initial(argument: bytes) -> bytes:
    """What an initial response stands for: `=` is an empty one (RFC 4954 §4)."""
    return b"" if argument == b"=" else decode(argument)


class ServerExchange:
    """The server's side of one exchange: octets and answers go in, what is next comes out."""

    __slots__ = ("_side", "login", "mechanism")

    def __init__(self, mechanism: Mechanism, circumstances: Circumstances) -> None:
        self.mechanism = mechanism
        self._side = mechanism.server(circumstances)
        self.login = ""
        """The account that was tried last, for the back-off and the log."""

    def start(self, response: bytes | None) -> Step:
        """The first step; `response` is the initial one, if there was any.

        Raises:
            Refused, Malformed: the exchange has failed.
        """
        step = self._step(None)
        if response is None:
            return step
        return self._step(response)  # in place of an answer to the first challenge, which is not sent

    def respond(self, response: bytes) -> Step:
        """The client's response to the challenge that is out. Raises: as `start`."""
        return self._step(response)

    def answer(self, answer: Any) -> Step:
        """The authenticator's answer to the question that is out. Raises: as `start`."""
        return self._step(answer)

    def close(self) -> None:
        """The exchange is given up."""
        self._side.close()

    def _step(self, value: Any) -> Step:
        try:
            step = self._side.send(value)
        except StopIteration as end:
            granted: Granted = end.value
            return granted
        if isinstance(step, Question) and step.login:
            self.login = step.login
        return step


class ClientExchange:
    """The client's side of one exchange."""

    __slots__ = ("_challenges", "_final", "_last", "_side", "first", "mechanism", "patient", "said", "strange")

    def __init__(
        self, mechanism: Mechanism, credentials: Credentials, circumstances: Circumstances, *, patient: bool = False
    ) -> None:
        """Starts it.

        Args:
            mechanism: which.
            credentials: what we have.
            circumstances: what is known of the connection.
            patient: answer any challenge where the mechanism depends on none (`Mechanism.deaf`).

        Raises:
            Untrusted: the mechanism cannot be used on this connection.
        """
        self.mechanism = mechanism
        self._side = mechanism.client(credentials, circumstances)
        self.said = b""
        """The last challenge; of OAUTHBEARER and XOAUTH2, whose only one is an error, the reason."""
        self.patient = patient
        self.strange = False
        """The server's part of the exchange was not what the mechanism has, and was answered all the same."""
        self._challenges = 0
        first, self._final = next(self._side)
        self._last = first
        self.first: bytes | None = None if first is None else b64encode(first) or b"="
        """The initial response as it follows the mechanism's name; None if the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """The line that answers a challenge (the text of a 334 reply), without CRLF.

        Raises:
            Untrusted: the exchange cannot go on; cancel it with `*`.
        """
        patient = self.patient and self.mechanism.deaf
        self._challenges += 1
        try:
            self.said = decode(challenge)
        except Malformed:
            if not patient:
                raise Untrusted("the server's challenge is not base64") from None
            self.said, self.strange = challenge, True
        try:
            self._last, self._final = self._side.send(self.said)
        except StopIteration:
            if not patient or self._challenges > MOST_CHALLENGES:
                raise Untrusted("the server asks for more than the mechanism has") from None
            self.strange = True
        return b64encode(self._last or b"")

    def succeeded(self) -> None:
        """The server says that it is done (235).

        Raises:
            Untrusted: it says so before the exchange is at its end; SCRAM's is that the server has proved itself.
        """
        if not self._final and self.patient and self.mechanism.deaf:
            self.strange = True
        elif not self._final:
            raise Untrusted(f"the server says that {self.mechanism.name} is done before it is")
