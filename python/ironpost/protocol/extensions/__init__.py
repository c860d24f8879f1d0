"""The registry of SMTP extensions (RFC 5321 §2.2.2): a new one is one file in this folder and one line here.

Promises: other packages use only the functions of this module; no extension is named outside its own file and this one.
Limitations: a verb after which the framer must hold, because the octets after it may not be commands
(`wire.HOLD_VERBS`), also needs an entry in both implementations of `wire`.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.model.reply import Reply
from ironpost.protocol.extensions.atrn import Atrn
from ironpost.protocol.extensions.auth import Auth, listed_mechanisms
from ironpost.protocol.extensions.base import Extension, LogValue, Offer, Outgoing, Parameters, Parse
from ironpost.protocol.extensions.binary_mime import BinaryMime
from ironpost.protocol.extensions.burl import Burl
from ironpost.protocol.extensions.chunking import Chunking
from ironpost.protocol.extensions.deliver_by import DeliverByTime
from ironpost.protocol.extensions.dsn import Dsn
from ironpost.protocol.extensions.eight_bit_mime import EightBitMime
from ironpost.protocol.extensions.enhanced_status_codes import EnhancedStatusCodes
from ironpost.protocol.extensions.etrn import Etrn
from ironpost.protocol.extensions.expn import Expn
from ironpost.protocol.extensions.future_release import FutureRelease
from ironpost.protocol.extensions.help import Help
from ironpost.protocol.extensions.limits import NO_LIMITS, LimitsAnnounced, PeerLimits, peer_limits
from ironpost.protocol.extensions.mt_priority import MtPriority
from ironpost.protocol.extensions.no_soliciting import NoSoliciting
from ironpost.protocol.extensions.pipelining import Pipelining
from ironpost.protocol.extensions.requiretls import RequireTls
from ironpost.protocol.extensions.rrvs import Rrvs
from ironpost.protocol.extensions.size import Size
from ironpost.protocol.extensions.smtputf8 import SmtpUtf8
from ironpost.protocol.extensions.starttls import StartTls
from ironpost.protocol.extensions.vrfy import Vrfy
from ironpost.protocol.extensions.xclient import XClient
from ironpost.protocol.extensions.xforward import XForward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ironpost.model import Envelope, Recipient, Value
    from ironpost.protocol.server.session import ServerSession

EXTENSIONS: Final[tuple[Extension, ...]] = (
    Pipelining(),
    Size(),
    EightBitMime(),
    SmtpUtf8(),
    Chunking(),
    BinaryMime(),
    Burl(),
    EnhancedStatusCodes(),
    StartTls(),
    RequireTls(),
    Dsn(),
    DeliverByTime(),
    FutureRelease(),
    MtPriority(),
    Rrvs(),
    NoSoliciting(),
    LimitsAnnounced(),
    Etrn(),
    Atrn(),
    XClient(),
    XForward(),
    Vrfy(),
    Expn(),
    Auth(),
    Help(),
)
"""The extensions with default options, in the order of the EHLO reply."""

_STORED: Final[Mapping[str, Callable[[str], Value]]] = {
    keyword: typed for extension in EXTENSIONS for keyword, typed in extension.stored.items()
}
_OWNED: Final = frozenset(key for each in EXTENSIONS for key in (*each.mail_parameters, *each.rcpt_parameters))
"""All parameters of MAIL and RCPT."""
TAG_FIELDS: Final = frozenset(name for each in EXTENSIONS for name in each.tag_fields)
"""Header fields, in lower case, that `tags` reads."""
_QUEUE_PARAMETERS: Final = frozenset(key for each in EXTENSIONS for key in each.queue_parameters)
_RELAY_PARAMETERS: Final = frozenset(key for each in EXTENSIONS for key in each.relay_parameters)
_REPORT_PARAMETERS: Final = frozenset(key for each in EXTENSIONS for key in each.report_parameters)
_SESSION_LOGGED: Final = tuple(each for each in EXTENSIONS if type(each).session_fields is not Extension.session_fields)
_MESSAGE_LOGGED: Final = tuple(each for each in EXTENSIONS if type(each).message_fields is not Extension.message_fields)
_HEADERS_ONLY_PARAMETERS: Final = frozenset(key for each in EXTENSIONS for key in each.headers_only_parameters)


def with_options(*configured: Extension) -> tuple[Extension, ...]:
    """Return the registry with these instances instead of the defaults: `with_options(FutureRelease(max_hold=60))`."""
    by_keyword = {extension.keyword: extension for extension in configured}
    return tuple(by_keyword.get(extension.keyword, extension) for extension in EXTENSIONS)


class _Outgoing(NamedTuple):
    """The extensions grouped by the messages for which our client calls their methods."""

    always: tuple[Extension, ...]
    """Extensions whose `outgoing` is called for every message."""
    on_request: Mapping[str, Extension]
    """Extensions whose `outgoing` is called for messages with a parameter of MAIL, by that parameter."""
    every_recipient: frozenset[str]
    """Parameters of MAIL for which `outgoing_recipient` is called even for recipients without parameters."""
    next_hop: Mapping[str, Extension]
    """Extensions whose `next_hop_refusal` is called for messages with a parameter of MAIL, by that parameter."""
    tls: Mapping[str, Extension]
    """Extensions whose `requires_tls` is called for messages with a parameter of MAIL, by that parameter."""
    relay: Mapping[str, Extension]
    """Extensions whose `relay_reported` is called for messages with a parameter of MAIL, by that parameter."""


@lru_cache(maxsize=8)
def _outgoing(extensions: tuple[Extension, ...]) -> _Outgoing:
    own = [extension for extension in extensions if type(extension).outgoing is not Extension.outgoing]
    return _Outgoing(
        tuple(extension for extension in own if not extension.on_request),
        {key: each for each in own if each.on_request for key in each.mail_parameters},
        frozenset(key for each in extensions if each.every_recipient for key in each.mail_parameters),
        {
            key: each
            for each in extensions
            if type(each).next_hop_refusal is not Extension.next_hop_refusal
            for key in each.mail_parameters
        },
        {
            key: each
            for each in extensions
            if type(each).requires_tls is not Extension.requires_tls
            for key in each.mail_parameters
        },
        {
            key: each
            for each in extensions
            if type(each).relay_reported is not Extension.relay_reported
            for key in each.mail_parameters
        },
    )


def outgoing(
    message: Outgoing, offered: Mapping[str, str], extensions: Iterable[Extension] = EXTENSIONS
) -> Parameters | Reply:
    """Return the parameters of MAIL that our client sends for a message to a peer, or the first refusal.

    Args:
        message: the facts about the message.
        offered: the peer's EHLO list.
        extensions: the client's extensions.
    """
    parameters: dict[str, Value] = {}
    grouped = _outgoing(tuple(extensions))
    called, on_request = grouped.always, grouped.on_request
    requested = message.envelope.parameters
    if requested and not on_request.keys().isdisjoint(requested):
        called += tuple(dict.fromkeys(on_request[keyword] for keyword in requested if keyword in on_request))
    for extension in called:
        added = extension.outgoing(message, offered)
        if isinstance(added, Reply):
            return added
        parameters.update(added)
    return parameters


def outgoing_recipient(
    message: Outgoing, recipient: Recipient, offered: Mapping[str, str], extensions: Iterable[Extension] = EXTENSIONS
) -> Parameters | Reply:
    """Return the parameters of RCPT that our client sends for a recipient to a peer, or the first refusal."""
    requested = message.envelope.parameters
    if not recipient.parameters and (
        not requested or _outgoing(tuple(extensions)).every_recipient.isdisjoint(requested)
    ):
        return recipient.parameters
    parameters: dict[str, Value] = {}
    for extension in extensions:
        added = extension.outgoing_recipient(message, recipient, offered)
        if isinstance(added, Reply):
            return added
        parameters.update(added)
    return parameters


def requires_tls(envelope: Envelope, extensions: Iterable[Extension] = EXTENSIONS) -> bool:
    """Whether a message with this envelope may be sent only under TLS, to a host that proved its identity."""
    parameters = envelope.parameters
    if not parameters:
        return False
    by_keyword = _outgoing(tuple(extensions)).tls
    return any(by_keyword[keyword].requires_tls(envelope) for keyword in parameters if keyword in by_keyword)


def relay_reported(
    envelope: Envelope, offered: Mapping[str, str], now: float, extensions: Iterable[Extension] = EXTENSIONS
) -> bool:
    """Whether the sender of a message gets a report that a peer accepted it, though it is not delivered yet.

    Args:
        envelope: of the message.
        offered: the peer's EHLO list.
        now: the time of MAIL, in seconds since 1970.
        extensions: the client's extensions.
    """
    parameters = envelope.parameters
    if not parameters:
        return False
    by_keyword = _outgoing(tuple(extensions)).relay
    return any(by_keyword[key].relay_reported(envelope, offered, now) for key in parameters if key in by_keyword)


def next_hop_refusal(
    envelope: Envelope,
    offered: Mapping[str, str],
    *,
    verified: bool,
    extensions: Iterable[Extension] = EXTENSIONS,
) -> Reply | None:
    """Return why this peer must not get a message with this envelope, so that another host is tried; None if it may.

    Args:
        envelope: of the message.
        offered: the peer's EHLO list.
        verified: the connection is under TLS, and the peer's certificate was verified.
        extensions: the client's extensions.
    """
    parameters = envelope.parameters
    if parameters:
        by_keyword = _outgoing(tuple(extensions)).next_hop
        for keyword in parameters:
            if keyword in by_keyword:
                refusal = by_keyword[keyword].next_hop_refusal(envelope, offered, verified=verified)
                if refusal is not None:
                    return refusal
    return None


def without_queue_parameters(envelope: Envelope) -> Envelope:
    """Return the envelope for an attempt, without the parameters that the queue has already honoured."""
    return _without(_QUEUE_PARAMETERS, envelope)


def without_relay_parameters(envelope: Envelope) -> Envelope:
    """Return the envelope for final delivery on this machine, without the parameters that concern relaying."""
    return _without(_RELAY_PARAMETERS, envelope)


def _without(keywords: frozenset[str], envelope: Envelope) -> Envelope:
    if keywords.isdisjoint(envelope.parameters):
        return envelope
    kept = {keyword: value for keyword, value in envelope.parameters.items() if keyword not in keywords}
    return envelope._replace(parameters=kept)


def not_before(parameters: Parameters) -> float | None:
    """Return the time before which a message with these parameters of MAIL must not be attempted; None for at once.

    The time is in seconds since 1970.
    """
    if not parameters:
        return None
    times = (extension.not_before(parameters) for extension in EXTENSIONS)
    return max((time for time in times if time is not None), default=None)


def tags(fields: Mapping[str, Sequence[bytes]], parameters: Parameters) -> Parameters:
    """Return what the header fields of a message, by name in lower case, add to its stored parameters of MAIL."""
    return {
        keyword: value
        for extension in EXTENSIONS
        if not extension.tag_fields.isdisjoint(fields)
        for keyword, value in extension.tags(fields, parameters).items()
    }


def report_parameters(parameters: Parameters) -> Parameters:
    """Select the parameters of MAIL that a report about the message also has."""
    return {keyword: value for keyword, value in parameters.items() if keyword in _REPORT_PARAMETERS}


def report_fields(parameters: Parameters) -> dict[str, str]:
    """Return the per-message fields of a delivery status notification, name to body, in the order of the registry."""
    return {name: body for extension in EXTENSIONS for name, body in extension.report_fields(parameters).items()}


def headers_only(parameters: Parameters) -> bool:
    """Whether an extension requires that reports return only the header section."""
    return not _HEADERS_ONLY_PARAMETERS.isdisjoint(parameters)


def session_fields(session: ServerSession) -> dict[str, LogValue]:
    """Return the fields of extensions in the log record of a session that has ended, name to value."""
    return {name: value for extension in _SESSION_LOGGED for name, value in extension.session_fields(session).items()}


def message_fields(session: ServerSession) -> dict[str, LogValue]:
    """Return the fields of extensions in the log record of a message, at the end of its transaction, name to value."""
    return {name: value for extension in _MESSAGE_LOGGED for name, value in extension.message_fields(session).items()}


def wire_parameters(parameters: Parameters) -> dict[str, str | None]:
    """Render typed values in the form in which they are sent and stored."""
    return {keyword: None if value is None else str(value) for keyword, value in parameters.items()}


def typed_parameters(wire: Mapping[str, str | None]) -> Parameters:
    """Convert parameters from the form in which they are sent and stored to typed values.

    A keyword that no extension knows keeps its text, and so does a value that its extension cannot parse, so that a
    queue written by another version can still be delivered (SECURITY R25).
    """
    typed: dict[str, Value] = {}
    for keyword, value in wire.items():
        typed[keyword] = value
        if value is not None and keyword in _STORED:
            with contextlib.suppress(ValueError):
                typed[keyword] = _STORED[keyword](value)
    return typed


def checked_parameters(given: Parameters) -> Parameters:
    """Check and type parameters that a program passes; values that are typed already are not changed.

    Raises:
        ValueError: a parameter is unknown, or its value is invalid; the text names both.
    """
    checked: dict[str, Value] = {}
    for keyword, value in given.items():
        if keyword not in _OWNED:
            raise ValueError(f"unknown parameter {keyword}; expected one of {', '.join(sorted(_OWNED))}")
        checked[keyword] = value
        if isinstance(value, str) and keyword in _STORED:
            try:
                checked[keyword] = _STORED[keyword](value)
            except ValueError as error:
                raise ValueError(f"{keyword}={value}: {error}") from None
    return checked


__all__ = [
    "EXTENSIONS",
    "NO_LIMITS",
    "TAG_FIELDS",
    "Extension",
    "LogValue",
    "Offer",
    "Outgoing",
    "Parameters",
    "Parse",
    "PeerLimits",
    "checked_parameters",
    "headers_only",
    "listed_mechanisms",
    "message_fields",
    "next_hop_refusal",
    "not_before",
    "outgoing",
    "outgoing_recipient",
    "peer_limits",
    "relay_reported",
    "report_fields",
    "report_parameters",
    "requires_tls",
    "session_fields",
    "tags",
    "typed_parameters",
    "wire_parameters",
    "with_options",
    "without_queue_parameters",
    "without_relay_parameters",
]
