"""Signing messages with DKIM (RFC 6376).

    fields = sign(message, keys=[key], now=now)      # to be put before the message

Promises: all keys sign one hash of the body, so a second key costs one more signature. The fields of `ONCE` are signed
once more than they occur, so that none can be added (SECURITY R49), except those of `ADDED_LATER` to a message
without them. The fields of `OTHERS` are signed as often as they occur: they cannot be changed, but more can be added.
Other fields are not signed. The header section and the body are signed in relaxed form, and the body always as a whole.
Refuses: a header section that cannot be read to its end, with `ValueError`; `verify_dkim` does not accept it either.
Standards: RFC 6376 §3.5 (tags), §5.4 (fields to sign), §8.15 (fields that are added); RFC 6409 §8 (what relays
add); RFC 8058 §4 (List-Unsubscribe).
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth.dkim import NAME
from ironpost.mail_auth.signature import BodyHashes, SignedFields
from ironpost.message.header import field
from ironpost.message.section import split

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ironpost.mail_auth.keys import Key
    from ironpost.message.section import Header

ONCE: Final = (
    "from",
    "sender",
    "reply-to",
    "subject",
    "date",
    "to",
    "cc",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
)
"""Fields that occur at most once. They are signed once more than they occur."""
ADDED_LATER: Final = frozenset({"date", "message-id", "sender"})
"""Those of them that relays (RFC 6409 §8.1 to §8.3) and mailing lists add: a message without them is signed without."""
OTHERS: Final = frozenset(
    {
        "resent-date",
        "resent-from",
        "resent-sender",
        "resent-to",
        "resent-cc",
        "resent-message-id",
        "content-id",
        "content-description",
        "auto-submitted",
        "list-id",
        "list-help",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "list-subscribe",
        "list-post",
        "list-owner",
        "list-archive",
    }
)
"""Fields that are signed as often as they occur; lists, and those who resend a message, add some of them."""
CHUNK: Final = 72
"""Characters of the tag `b` in a line."""


class Signer:
    """Signs one message that is read in pieces."""

    def __init__(self, keys: Sequence[Key], *, now: float) -> None:
        """Prepare for one message.

        Args:
            keys: each makes one signature, in this order.
            now: the time of the signatures, in seconds since the epoch.
        """
        self._keys = keys
        self._time = int(now)
        self._names: list[str] = []
        self._fields = sha256()
        self._bodies = BodyHashes()
        self._body = self._bodies.add(relaxed=True)

    def header(self, *parts: Header) -> None:
        """Read the header section, before or after the body; if it is in parts, the upper ones first.

        Raises:
            ValueError: it has a line that is not a field, or exceeds a limit.
        """
        for part in parts:
            if part.fault:
                raise ValueError(part.fault)
        listed = [SignedFields(part) for part in parts]
        names = dict.fromkeys(name for fields in listed for name in fields.by_name)
        once = [name for name in ONCE if name in names or name not in ADDED_LATER]
        others = [name for name in names if name in OTHERS]
        # Of several fields of a name the last is signed first (RFC 6376 §5.4.2).
        signed = [
            (name, fields.canonical(entry, relaxed=True))
            for name in (*once, *others)
            for fields in reversed(listed)
            for entry in reversed(fields.named(name))
        ]
        self._names = [*[name for name, _ in signed], *once]
        self._fields = sha256(b"".join([octets for _, octets in signed]))

    def body(self, piece: bytes) -> None:
        """Read the next octets of the body."""
        self._bodies.feed(piece)

    def finish(self) -> bytes:
        """The fields DKIM-Signature, each with its CRLF, to be put before the message."""
        self._bodies.finish()
        body_hash = b64encode(self._body.digest()).decode()
        return b"".join(self._signature(key, body_hash) for key in self._keys)

    def _signature(self, key: Key, body_hash: str) -> bytes:
        tokens = [
            "v=1;",
            f"a={key.algorithm};",
            "c=relaxed/relaxed;",
            f"d={key.domain};",
            f"s={key.selector};",
            f"t={self._time};",
            *f"h={': '.join(self._names)};".split(),
            f"bh={body_hash};",
        ]
        hashed = self._fields.copy()
        # The relaxed form of the field: between tokens there is one space, even where the line is folded.
        hashed.update(" ".join((f"{NAME.lower()}:{tokens[0]}", *tokens[1:], "b=")).encode())
        signature = b64encode(key.sign(hashed.digest())).decode()
        chunks = [signature[at : at + CHUNK] for at in range(0, len(signature), CHUNK)]
        return field(NAME, [*tokens, f"b={chunks[0]}", *chunks[1:]])


def sign(message: bytes, keys: Iterable[Key], now: float) -> bytes:
    """Sign a message.

    Args:
        message: a message whose lines end in CRLF; it must not be changed after this.
        keys: each makes one signature.
        now: the time of the signatures, in seconds since the epoch.

    Returns:
        The fields DKIM-Signature, each with its CRLF, to be put before the message.

    Raises:
        ValueError: the header section has a line that is not a field, or exceeds a limit.
    """
    signer = Signer(tuple(keys), now=now)
    header, body = split(message)
    signer.header(header)
    signer.body(body)
    return signer.finish()
