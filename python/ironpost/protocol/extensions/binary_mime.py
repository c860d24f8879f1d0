"""BINARYMIME: content of arbitrary octets, in counted chunks only (RFC 3030 §3).

Claimed: every octet must arrive unchanged at the recipient or the next hop. BINARYMIME is a value of 8BITMIME's
parameter BODY, so `eight_bit_mime` imports this module. Such content is not text: NUL, bare CR and LF and long lines
have no meaning in it, and DATA, whose end is found in the octets, cannot carry it: 503, and the transaction is over. It
is neither sent to a next hop without the extension nor converted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ironpost.model import BodyType
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply
    from ironpost.protocol.extensions.base import Parameters
    from ironpost.protocol.server.settings import ServerSettings


def accepted(settings: ServerSettings) -> bool:
    """Whether a server with these settings accepts BODY=BINARYMIME."""
    return BinaryMime.keyword in settings.keywords


def outgoing(offered: Mapping[str, str]) -> Parameters | Reply:
    """Return the parameters that our client adds for binary content, or the refusal."""
    if "BINARYMIME" in offered and "CHUNKING" in offered:
        return {"BODY": BodyType.BINARY}
    return replies.PEER_LACKS_BINARY


class BinaryMime(Extension):
    keyword = "BINARYMIME"
    claimed = True
    extra_octets: ClassVar = {"MAIL": 16}  # RFC 3030 §3 (8)
