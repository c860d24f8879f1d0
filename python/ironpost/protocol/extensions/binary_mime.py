"""BINARYMIME: content of any octets, in counted chunks only (RFC 3030 §3).

Claimed: every octet must arrive as it was sent, at the recipient or the next hop. It is a value of 8BITMIME's parameter
BODY, so `eight_bit_mime` asks here. Content that came so is no text: NUL, bare CR and LF, long lines mean nothing in
it, and DATA, whose end is found in the octets, cannot carry it: 503, and the transaction is over. To a next hop without
the extension it is not sent, and not converted.
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
    from ironpost.protocol.settings import Settings


def taken(settings: Settings) -> bool:
    """Whether such a server takes BODY=BINARYMIME."""
    return BinaryMime.keyword in settings.keywords


def outgoing(offered: Mapping[str, str]) -> Parameters | Reply:
    """What our client says of binary content."""
    if "BINARYMIME" in offered and "CHUNKING" in offered:
        return {"BODY": BodyType.BINARY}
    return replies.PEER_LACKS_BINARY


class BinaryMime(Extension):
    keyword = "BINARYMIME"
    claimed = True
    extra_octets: ClassVar = {"MAIL": 16}  # RFC 3030 §3 (8)
