"""The interface of an SMTP service extension (RFC 5321 §2.2), for server and client.

An extension is one file in this folder and one line in the registry (`extensions/__init__.py`). It declares its line in
the EHLO reply, its parameters and verbs, the octets that it adds to command lines, the hook of the handler that it
calls, its part in delivery to the next hop, and its fields in logs and reports. Everything has a default, so a file
contains only what its RFC adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Envelope, Recipient, Reply, Value
    from ironpost.protocol.server.extension_state import ExtensionState
    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.protocol.server.states import Verb

Parse: TypeAlias = "Callable[[ServerSession, str | None, dict[str, Value]], Reply | Value]"
"""Parses the value of one parameter.

The arguments are the session, the value as it was sent (None for a keyword without `=`), and the typed values of the
preceding parameters, to which it may add. It returns the typed value, or a Reply to refuse the command."""
LogValue: TypeAlias = "str | int | list[str]"
"""The value of a field in a log record."""
Parameters: TypeAlias = Mapping[str, "Value"]
"""ESMTP parameters: keyword in upper case to typed value, None for a keyword without `=`."""

_NONE: Parameters = MappingProxyType({})


class Offer(NamedTuple):
    """The facts on which the EHLO reply depends; it is rendered once for each combination, not for each session."""

    settings: ServerSettings
    secure: bool = False
    """The connection is protected by TLS."""
    authenticated: bool = False
    """The client has authenticated."""
    peer_trusted: bool = False
    """The client is a trusted front end (`ServerSettings.front_ends`)."""
    bound: bool = False
    """A channel binding of the connection is known."""
    certified: bool = False
    """The connection itself identifies the client: by a certificate, or as a Unix user."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The facts about a message that our client is about to send."""

    envelope: Envelope
    size: int | None
    """Octets of content, counted as in RFC 1870 §3; None if unknown."""
    eight_bit: bool
    """The content contains octets above 127, or may contain them."""
    smtputf8: bool
    """The envelope or the header section needs RFC 6531."""
    now: float = 0.0
    """The time of MAIL, in seconds since 1970."""
    verified: bool = False
    """The connection is under TLS, and the peer's certificate was verified."""
    authenticated: bool = False
    """Our client has authenticated to the peer (RFC 4954)."""


class Extension:
    """The base class of extensions. An instance contains only options and is shared by all sessions; see `state`."""

    keyword: ClassVar[str]
    """The EHLO keyword."""
    claimed: ClassVar[bool] = False
    """Queue and delivery must honour the extension, so it is offered only if its keyword is in
    `ServerSettings.claims`."""
    hook: ClassVar[str] = ""
    """The name of the handler's method that the extension calls; empty if there is none. If the extension is `claimed`,
    handlers claim it by having the method (`ServerSettings.serving`)."""
    state: ClassVar[type[ExtensionState] | None] = None
    """The class of the state that the extension keeps in each session (`ServerSession.state_of`), if any."""
    extra_octets: ClassVar[Mapping[str, int]] = {}
    """Octets that the extension adds to the maximum length of a command line, by verb (RFC 5321 §4.5.3.1.4)."""
    on_request: ClassVar[bool] = False
    """`outgoing` is needed only for messages with one of `mail_parameters`."""
    every_recipient: ClassVar[bool] = False
    """`outgoing_recipient` is needed for every recipient of a message with one of `mail_parameters`."""
    timed: ClassVar[bool] = False
    """The line in the EHLO reply changes every hour (`ServerSettings.hour`)."""
    stored: ClassVar[Mapping[str, Callable[[str], Value]]] = {}
    """Functions that convert the `str` of a typed value back, by parameter, when an envelope is read from a store. They
    are needed only for values that are not a `str`."""

    tag_fields: ClassVar[frozenset[str]] = frozenset()
    """Header fields, in lower case, for which `tags` is called when a message is accepted."""
    queue_parameters: ClassVar[frozenset[str]] = frozenset()
    """Parameters of MAIL that only the queue honours, before an attempt, so they are not passed on."""
    relay_parameters: ClassVar[frozenset[str]] = frozenset()
    """Parameters of MAIL that concern relaying, so they do not concern the mail store that delivers finally."""
    report_parameters: ClassVar[frozenset[str]] = frozenset()
    """Parameters of MAIL that a report about the message also has."""
    headers_only_parameters: ClassVar[frozenset[str]] = frozenset()
    """Parameters of MAIL that make a report return only the header section."""

    @property
    def mail_parameters(self) -> Mapping[str, Parse]:
        """The parameters of MAIL that the extension owns, with their parsers."""
        return {}

    @property
    def rcpt_parameters(self) -> Mapping[str, Parse]:
        """The parameters of RCPT that the extension owns, with their parsers."""
        return {}

    @property
    def verbs(self) -> Mapping[str, Verb]:
        """The verbs that the extension adds, with the states and conditions in which they are legal."""
        return {}

    def available(self, settings: ServerSettings) -> bool:
        """Whether a server with these settings has the extension; if not, its verbs get 502 and its parameters 555."""
        return not self.claimed or self.keyword in settings.claims

    def advertise(self, offer: Offer) -> str | None:  # noqa: ARG002 - for overrides
        """Return the line in the EHLO reply; None if the extension cannot be used now. Called only if `available`."""
        return self.keyword

    def session_fields(self, session: ServerSession) -> Mapping[str, LogValue]:  # noqa: ARG002 - for overrides
        """Return fields for the log record of a session that has ended, name to value."""
        return {}

    def message_fields(self, session: ServerSession) -> Mapping[str, LogValue]:  # noqa: ARG002 - for overrides
        """Return fields for the log record of an accepted message, name to value."""
        return {}

    def not_before(self, parameters: Parameters) -> float | None:  # noqa: ARG002 - for overrides
        """Return the time before which the queue must not attempt delivery, in seconds since 1970; None for at once."""
        return None

    def tags(
        self,
        fields: Mapping[str, Sequence[bytes]],  # noqa: ARG002 - for overrides
        parameters: Parameters,  # noqa: ARG002
    ) -> Parameters:
        """Return what the header section adds to the stored parameters of MAIL; it is not sent on.

        Args:
            fields: values of the header fields of the message that are in `tag_fields`, by name in lower case.
            parameters: the parameters of MAIL.
        """
        return _NONE

    def report_fields(self, parameters: Parameters) -> Mapping[str, str]:  # noqa: ARG002 - for overrides
        """Return per-message fields for a delivery status notification (RFC 3464 §2.2), name to body."""
        return {}

    def requires_tls(self, envelope: Envelope) -> bool:  # noqa: ARG002 - for overrides
        """Whether a message may be sent only under TLS, to a host that proved its identity.

        Args:
            envelope: the envelope of the message, which has one of `mail_parameters`.
        """
        return False

    def next_hop_refusal(
        self,
        envelope: Envelope,  # noqa: ARG002
        offered: Mapping[str, str],  # noqa: ARG002
        *,
        verified: bool,  # noqa: ARG002
    ) -> Reply | None:
        """Return why a connected next hop must not get the message, so that another host is tried; None if it may.

        Args:
            envelope: the envelope of the message, which has one of `mail_parameters`.
            offered: the peer's EHLO list.
            verified: the connection is under TLS, and the peer's certificate was verified.
        """
        return None

    def relay_reported(self, envelope: Envelope, offered: Mapping[str, str], now: float) -> bool:  # noqa: ARG002
        """Whether the sender gets a report that a peer accepted a message, though it is not delivered yet.

        Args:
            envelope: the envelope of the message, which has one of `mail_parameters`.
            offered: the peer's EHLO list.
            now: the time of MAIL, in seconds since 1970.
        """
        return False

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:  # noqa: ARG002
        """Return the parameters that our client adds to MAIL, or a refusal if this next hop cannot get the message.

        It is also called if the peer does not offer the extension, to refuse messages that require it before MAIL.

        Args:
            message: the facts about the message.
            offered: the peer's EHLO list: keyword in upper case to its parameters; empty after HELO.
        """
        return _NONE

    def outgoing_recipient(
        self,
        message: Outgoing,  # noqa: ARG002
        recipient: Recipient,  # noqa: ARG002
        offered: Mapping[str, str],  # noqa: ARG002
    ) -> Parameters | Reply:
        """Return the parameters that our client adds to RCPT, or a refusal if this next hop cannot serve the recipient.

        It is called for recipients with parameters, and if `every_recipient` is set, for all recipients of a message
        with one of `mail_parameters`.
        """
        return _NONE


def typed(parse: Callable[[str], Value]) -> Parse:
    """Create the parser of a parameter that depends only on its value; a ValueError of `parse` is refused with 501."""

    def parser(session: ServerSession, value: str | None, given: dict[str, Value]) -> Reply | Value:  # noqa: ARG001
        if value is None:
            return replies.BAD_PARAMETER
        try:
            return parse(value)
        except ValueError as error:
            return replies.BAD_PARAMETER.because(str(error))

    return parser
