"""The registry: adding an SMTP extension is one file in this folder and one line here (RFC 5321 §2.2.2)."""

from __future__ import annotations

import contextlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ironpost.model.reply import Reply
from ironpost.protocol.extensions.atrn import Atrn
from ironpost.protocol.extensions.auth import Auth
from ironpost.protocol.extensions.base import Extension, Handling, Offer, Outgoing, Parameters, Parse
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
from ironpost.protocol.extensions.limits import LimitsAnnounced
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
    from collections.abc import Callable, Iterable, Mapping

    from ironpost.model import Recipient, Value

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
"""In the order of the EHLO reply."""

_STORED: Final[Mapping[str, Callable[[str], Value]]] = {
    keyword: typed for extension in EXTENSIONS for keyword, typed in extension.stored.items()
}
_OWNED: Final = frozenset(key for each in EXTENSIONS for key in (*each.mail_parameters, *each.rcpt_parameters))
"""Every parameter that an extension has."""


@lru_cache(maxsize=8)
def _asked(extensions: tuple[Extension, ...]) -> tuple[tuple[Extension, ...], Mapping[str, Extension]]:
    """Extensions that our client asks about every message, and those that it asks about a parameter, by its keyword."""
    own = [extension for extension in extensions if type(extension).outgoing is not Extension.outgoing]
    always = tuple(extension for extension in own if not extension.on_request)
    return always, {key: each for each in own if each.on_request for key in each.mail_parameters}


def outgoing(
    message: Outgoing, offered: Mapping[str, str], extensions: Iterable[Extension] = EXTENSIONS
) -> Parameters | Reply:
    """The parameters that our client puts on MAIL for this message and this peer, or the first refusal."""
    parameters: dict[str, Value] = {}
    always, on_request = _asked(tuple(extensions))
    asked = message.envelope.parameters
    if asked and not on_request.keys().isdisjoint(asked):
        always += tuple(dict.fromkeys(on_request[keyword] for keyword in asked if keyword in on_request))
    for extension in always:
        answer = extension.outgoing(message, offered)
        if isinstance(answer, Reply):
            return answer
        parameters.update(answer)
    return parameters


def outgoing_recipient(
    message: Outgoing, recipient: Recipient, offered: Mapping[str, str], extensions: Iterable[Extension] = EXTENSIONS
) -> Parameters | Reply:
    """The parameters that our client puts on RCPT for this recipient and this peer, or the first refusal."""
    if not recipient.parameters and "BY" not in message.envelope.parameters:
        return recipient.parameters
    parameters: dict[str, Value] = {}
    for extension in extensions:
        answer = extension.outgoing_recipient(message, recipient, offered)
        if isinstance(answer, Reply):
            return answer
        parameters.update(answer)
    return parameters


def wire_parameters(parameters: Parameters) -> dict[str, str | None]:
    """Typed values as they stand on the wire."""
    return {keyword: None if value is None else str(value) for keyword, value in parameters.items()}


def typed_parameters(wire: Mapping[str, str | None]) -> Parameters:
    """What stood on the wire, or in a store, typed.

    A keyword that no extension knows keeps its text, and so does a value that its extension cannot read: a queue that
    another version wrote is still delivered (SECURITY R25).
    """
    typed: dict[str, Value] = {}
    for keyword, value in wire.items():
        typed[keyword] = value
        if value is not None and keyword in _STORED:
            with contextlib.suppress(ValueError):
                typed[keyword] = _STORED[keyword](value)
    return typed


def checked_parameters(given: Parameters) -> Parameters:
    """What a program asks for: texts are made values, values are left alone.

    Raises:
        ValueError: a text is not what the parameter's standard allows, or no extension has such a parameter; the
            sentence says which and why.
    """
    checked: dict[str, Value] = {}
    for keyword, value in given.items():
        if keyword not in _OWNED:
            raise ValueError(f"{keyword}: there is no such parameter; the parameters are {', '.join(sorted(_OWNED))}")
        checked[keyword] = value
        if isinstance(value, str) and keyword in _STORED:
            try:
                checked[keyword] = _STORED[keyword](value)
            except ValueError as error:
                raise ValueError(f"{keyword}={value}: {error}") from None
    return checked


__all__ = [
    "EXTENSIONS",
    "Extension",
    "Handling",
    "Offer",
    "Outgoing",
    "Parameters",
    "Parse",
    "checked_parameters",
    "outgoing",
    "outgoing_recipient",
    "typed_parameters",
    "wire_parameters",
]
