"""Signs mail with DKIM: which messages, and with which keys.

Promises: only mail of authenticated and trusted clients and of this system is signed; the keys are those of the
author's domain, or of the nearest domain above it that has some. Mail of a login is signed if its author is in the
domain of the reverse-path, which the login may use, or in that of the login: who has a mailbox in one domain must not
get signatures for the authors of another, above or below it. The content is hashed while it is stored, after everything
that changes it, and is not read again. A reload replaces the keys.
Refuses: to sign a message without exactly one author's domain, with a header section that cannot be read to its end, or
with line endings that would be changed when it is sent. It is stored unsigned.
Standards: RFC 6376 §5 (signing), RFC 9989 §4.4 (the author's domain).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ironpost.mail_auth.dmarc import author_domain
from ironpost.mail_auth.names import normalised
from ironpost.mail_auth.signing import Signer
from ironpost.message.section import EMPTY, Header, split
from ironpost.model import NULL, Envelope, Origin
from ironpost.model.network import LOOPBACK
from ironpost.model.ports import Uncounted
from ironpost.wire import DEFAULT_LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ironpost.mail_auth.keys import Key
    from ironpost.model.network import Network
    from ironpost.model.ports import Metrics


class Signatures(NamedTuple):
    """The signatures of one message."""

    fields: bytes = b""
    """The fields DKIM-Signature, each with its CRLF; empty if the message is not signed."""
    keys: tuple[str, ...] = ()
    """The names of the keys' records, for the log."""


class Signing:
    """The keys of the server."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        """Sign nothing until `use` gives it keys."""
        self._metrics = metrics or Uncounted()
        self._keys: dict[str, list[Key]] = {}
        self._trusted: tuple[Network, ...] = LOOPBACK

    def use(self, keys: Iterable[Key], trusted: tuple[Network, ...]) -> None:
        """Sign with these keys from now on, if there are any; `trusted` are the networks of trusted clients."""
        self._keys, self._trusted = {}, trusted
        for key in keys:
            self._keys.setdefault(key.domain, []).append(key)

    @property
    def active(self) -> bool:
        """Whether there is a key."""
        return bool(self._keys)

    def begin(self, origin: Origin, now: float) -> MessageSigner | None:
        """Begin a message; return None if mail of this origin is not signed. `now` is in seconds since 1970."""
        return MessageSigner(self, now) if self.active and origin.is_own(self._trusted) else None

    def signed(self, content: bytes, now: float) -> bytes:
        """A message that this system has written, with its signatures.

        Args:
            content: the message.
            now: seconds since 1970.
        """
        origin = Origin()
        signer = self.begin(origin, now)
        if signer is None:
            return content
        header, body = split(content)
        signer.header(header)
        signer.body(body)
        return signer.finish(b"", Envelope(NULL, (), origin=origin)).fields + content

    def keys_for(self, domain: str) -> Sequence[Key]:
        """The keys of a domain, or of the nearest one above it that has some."""
        while domain:
            if keys := self._keys.get(domain):
                return keys
            domain = domain.partition(".")[2]
        return ()

    def count(self) -> None:
        """Count a message that was signed."""
        self._metrics.count("messages_signed")


class MessageSigner:
    """Signs one message, whose content is fed as it is stored."""

    __slots__ = ("_author", "_header", "_keys", "_now", "_signer", "_signing")

    def __init__(self, signing: Signing, now: float) -> None:
        """Use `Signing.begin`."""
        self._signing = signing
        self._now = now
        self._header = EMPTY
        self._author = ""
        """The author's domain, in A-labels and lower case."""
        self._keys: Sequence[Key] = ()
        self._signer: Signer | None = None
        """None if the message is not signed."""

    def header(self, header: Header) -> None:
        """Read the header section; call this once, before `body`."""
        if header.fault:
            return
        with suppress(ValueError):  # there is no author to sign for
            self._author = author_domain(header)
            self._keys = self._signing.keys_for(self._author)
        if self._keys:
            self._header = header
            self._signer = Signer(self._keys, now=self._now)

    def body(self, piece: bytes) -> None:
        """Hash a piece of the body."""
        if self._signer is not None:
            self._signer.body(piece)

    def cancel(self) -> None:
        """Leave the message unsigned."""
        self._signer = None

    def finish(self, added: bytes, envelope: Envelope) -> Signatures:
        """Sign the message at its end.

        Args:
            added: fields that are put above the header section, and are signed with it.
            envelope: that of the message, with the reverse-path as it is stored.
        """
        signer = self._signer
        if signer is None or not _may_write_as(self._author, envelope):
            return Signatures()
        above, header = Header(added), self._header
        fields, octets = len(above.section.fields) + len(header.section.fields), len(added) + header.section.end
        if fields > DEFAULT_LIMITS.header_fields or octets > DEFAULT_LIMITS.header_octets:
            return Signatures()  # verifiers might not read all fields
        signer.header(above, header)
        self._signing.count()
        return Signatures(signer.finish(), tuple(key.name for key in self._keys))


def _may_write_as(author: str, envelope: Envelope) -> bool:
    """Whether the client may write as authors of a domain, as far as its login and its sender show that."""
    login = envelope.origin.identity
    return not login or author in map(_domain_of, (str(envelope.reverse_path), login))


def _domain_of(address: str) -> str:
    """The domain of an address, in A-labels and lower case; empty if it has none."""
    _, at, domain = address.rpartition("@")
    with suppress(ValueError):
        return normalised(domain) if at else ""
    return ""
