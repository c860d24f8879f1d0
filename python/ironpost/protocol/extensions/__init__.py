"""The registry: adding an SMTP extension is one file in this folder and one line here (RFC 5321 §2.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.reply import Reply
from ironpost.protocol.extensions.base import Check, Extension, Handling, Outgoing, Parameters
from ironpost.protocol.extensions.chunking import Chunking
from ironpost.protocol.extensions.eight_bit_mime import EightBitMime
from ironpost.protocol.extensions.enhanced_status_codes import EnhancedStatusCodes
from ironpost.protocol.extensions.help import Help
from ironpost.protocol.extensions.pipelining import Pipelining
from ironpost.protocol.extensions.size import Size
from ironpost.protocol.extensions.smtputf8 import SmtpUtf8
from ironpost.protocol.extensions.vrfy import Vrfy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

EXTENSIONS: Final[tuple[Extension, ...]] = (
    Pipelining(),
    Size(),
    EightBitMime(),
    SmtpUtf8(),
    Chunking(),
    EnhancedStatusCodes(),
    Vrfy(),
    Help(),
)
"""In the order of the EHLO reply."""


def outgoing(
    message: Outgoing, offered: Mapping[str, str], extensions: Iterable[Extension] = EXTENSIONS
) -> Parameters | Reply:
    """The parameters that our client puts on MAIL for this message and this peer, or the first refusal."""
    parameters: dict[str, str | None] = {}
    for extension in extensions:
        answer = extension.outgoing(message, offered)
        if isinstance(answer, Reply):
            return answer
        parameters.update(answer)
    return parameters


__all__ = ["EXTENSIONS", "Check", "Extension", "Handling", "Outgoing", "Parameters", "outgoing"]
