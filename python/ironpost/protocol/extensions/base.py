"""What one SMTP service extension is (RFC 5321 §2.2), for both sides of the conversation.

An extension is one file in this folder and one line in the registry (`extensions/__init__.py`). It says what the EHLO
reply shows, which parameters and verbs it owns and how they are judged, how much longer it makes command lines, and
what our client does with it. Everything has a default, so a file holds what its RFC adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from ironpost.protocol import replies

if TYPE_CHECKING:
    from ironpost.model import Envelope, Recipient, Reply, Value
    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command

Parse: TypeAlias = "Callable[[ServerSession, str | None], Reply | Value]"
"""Judges one parameter's value as it was sent (None for a keyword without `=`): a Reply refuses the command, anything
else is the typed value. The values that the same command gave before it stand in `session.candidate`."""
Handling: TypeAlias = "Callable[[ServerSession, Command], None]"
"""Handles one command: replies through the session, or asks the handler (`ServerSession.ask`)."""
Parameters: TypeAlias = Mapping[str, "Value"]
"""ESMTP parameters, keyword in upper case, None for one without `=`."""

_NONE: Parameters = MappingProxyType({})


class Offer(NamedTuple):
    """What the EHLO reply depends on: it is made once for each combination, not once for each session."""

    settings: Settings
    secure: bool = False
    """The connection is protected by TLS."""
    authenticated: bool = False
    peer_trusted: bool = False
    """The client is in `Settings.xclient`: a front end of our own."""
    bound: bool = False
    """We know a channel binding of the connection."""
    certified: bool = False
    """The connection itself says who the client is: by a certificate, or as a Unix user."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What our client is about to send: all that an extension needs to know of it."""

    envelope: Envelope
    size: int | None
    """Octets of content as they will be counted by RFC 1870 §3, None if unknown."""
    eight_bit: bool
    """The content holds octets above 127, or may hold them."""
    smtputf8: bool
    """The envelope or the header section needs RFC 6531."""
    now: float = 0.0
    """Seconds since 1970: when MAIL is sent, for what counts time."""
    verified: bool = False
    """The connection is under TLS, and the peer's certificate was verified."""
    authenticated: bool = False
    """The peer knows who we are (RFC 4954)."""


class Extension:
    """One extension; stateless, so one instance serves every session."""

    keyword: ClassVar[str]
    """The EHLO keyword."""
    claimed: ClassVar[bool] = False
    """Queue and delivery must keep what it promises, so it exists only if the keyword is in `Settings.claims`."""
    extra_octets: ClassVar[Mapping[str, int]] = {}
    """Octets that the extension adds to the command line, by verb (RFC 5321 §4.5.3.1.4)."""
    mail_parameters: ClassVar[Mapping[str, Parse]] = {}
    """Parameters of MAIL that the extension owns."""
    rcpt_parameters: ClassVar[Mapping[str, Parse]] = {}
    """Parameters of RCPT that the extension owns."""
    on_request: ClassVar[bool] = False
    """`outgoing` has something to say only of a message with one of `mail_parameters`, and is asked of no other."""
    timed: ClassVar[bool] = False
    """Its line in the EHLO reply changes with the hours (`Settings.hour`)."""
    stored: ClassVar[Mapping[str, Callable[[str], Value]]] = {}
    """How the typed value of a parameter is made of its `str` when an envelope is read from a store; the wire form was
    judged when it came. Needed only where the value is no `str`."""
    verbs: ClassVar[Mapping[str, Handling]] = {}
    """Verbs that it brings; each is called in every state but before the greeting, and judges the order itself."""

    def available(self, settings: Settings) -> bool:
        """Whether such a server has the extension at all; if not, its verbs are 502 and its parameters 555."""
        return not self.claimed or self.keyword in settings.claims

    def advertise(self, offer: Offer) -> str | None:  # noqa: ARG002 - for those that need it
        """The line in the EHLO reply, None if the extension cannot be honoured now. Asked only if `available`."""
        return self.keyword

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:  # noqa: ARG002
        """What our client adds to MAIL, or the reply that says why this next hop cannot take the message.

        `offered` is the peer's EHLO list (keyword in upper case to its parameters), empty after HELO. Called whether
        the peer offers the extension or not: a message that cannot do without it is refused here, before MAIL.
        """
        return _NONE

    def outgoing_recipient(
        self,
        message: Outgoing,  # noqa: ARG002
        recipient: Recipient,  # noqa: ARG002
        offered: Mapping[str, str],  # noqa: ARG002
    ) -> Parameters | Reply:
        """What our client adds to RCPT, or the reply that says why this recipient cannot be served by this next hop.

        Called for a recipient that came with parameters, and for every recipient of a message with BY.
        """
        return _NONE


def typed(parse: Callable[[str], Value]) -> Parse:
    """The judge of a parameter whose value says everything: what `parse` raises about is refused with 501."""

    def judge(session: ServerSession, value: str | None) -> Reply | Value:  # noqa: ARG001 - a Parse
        if value is None:
            return replies.BAD_PARAMETER
        try:
            return parse(value)
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))

    return judge
