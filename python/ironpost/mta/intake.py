"""Content on its way from a session into the store.

Promises: the header section is available without reading the store; nothing else is held. `From ` lines above a message
are removed; submitted content is normalised (`message.submission`).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ironpost.message.mbox import SeparatorLines
from ironpost.message.section import BARE_LINE_END, EMPTY, HeaderReader
from ironpost.message.submission import SubmittedHeader
from ironpost.queue.store import Submission

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.model import Envelope
    from ironpost.model.body import Spool


class Content:
    """A `model.body.Spool` that wraps the spool of the store."""

    __slots__ = ("_reader", "_reads", "_separators", "header", "spool")

    fault = ""
    """Reason to refuse the content, a sentence for the client; empty if there is none."""

    def __init__(self, spool: Spool, reader: HeaderReader | None = None) -> None:
        """`reader`: that of an `InspectedSpool` which is the spool, so that the header section is read once."""
        self.spool = spool
        self._separators = SeparatorLines()
        self._reader = reader or HeaderReader()
        self._reads = reader is None
        self.header = EMPTY
        """The header section, after the repairs of submission, before policy removes fields; set by `finish`."""

    @property
    def size(self) -> int:
        """Octets written so far."""
        return self.spool.size

    @property
    def separators(self) -> int:
        """Number of `From ` lines that were removed from the top."""
        return self._separators.removed

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Append a piece; a returned awaitable is back-pressure (`Spool.write`)."""
        ready = self._separators.feed(piece)
        return self._append(ready) if ready else None

    def _append(self, piece: bytes) -> Awaitable[None] | None:
        if self._reads and self._reader.header is None:
            self._reader.feed(piece)
        return self.spool.write(piece)

    def bare_in_header(self) -> str:
        """Return the reason to refuse content because of bare CR or LF in its header section; empty if there is none.

        They are sent as CRLF, so text after one in the header section would become a field that no check has seen: they
        are allowed in the body only.
        """
        if not self._reader.whole or self.header.bare_line_end:
            return BARE_LINE_END
        return ""

    def finish(self) -> None:
        """End the content."""
        rest = self._separators.finish()
        if rest:
            self._append(rest)  # small, so no back-pressure is needed
        self._end_header()

    def _end_header(self) -> None:
        self.header = self._reader.finish()

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: ARG002, A002 - for submission
        """Header fields to put between Received and the content."""
        return b""

    def submission(self, envelope: Envelope) -> Submission | None:  # noqa: ARG002 - for submission
        """Return the identity of a submission with a key, given its envelope; None without a key."""
        return None

    def discard(self) -> None:
        """Free what is held."""
        self._reader = HeaderReader()
        self.header = EMPTY
        self.spool.discard()


class SubmittedContent(Content):
    """Content that a mail client submits: its header section is normalised (RFC 6409 §8)."""

    __slots__ = ("_digest", "_submitted")

    def __init__(self, spool: Spool, reader: HeaderReader | None = None, *, keyed: bool = False) -> None:
        """`reader`: see `Content`. `keyed`: the message may have an Idempotency-Key."""
        super().__init__(spool, reader)
        self._submitted = SubmittedHeader(keyed=keyed)
        self._digest: hashlib._Hash | None = None
        """Of the octets that were stored, if there is a key."""

    @property
    def fault(self) -> str:  # type: ignore[override] # computed here
        """Reason to refuse the header section; empty if there is none."""
        return self._submitted.fault

    def _append(self, piece: bytes) -> Awaitable[None] | None:
        """Append the part of the piece that is not held back."""
        ready = self._submitted.feed(piece)
        if not ready:
            return None
        if self._reader.header is None:
            self._reader.header = self._submitted.header
        return self._store(ready)

    def _store(self, octets: bytes) -> Awaitable[None] | None:
        if self._submitted.key:
            if self._digest is None:
                self._digest = hashlib.sha256()
            self._digest.update(octets)
        return self.spool.write(octets)

    def _end_header(self) -> None:
        """Store a header section without a body."""
        rest = self._submitted.finish()
        if rest:
            self._store(rest)  # small, so no back-pressure is needed
        self.header = self._submitted.header

    def additions(self, *, now: float, id: str, host: str) -> bytes:  # noqa: A002 - see `SubmittedHeader`
        """Date and Message-ID where they are missing."""
        return self._submitted.additions(now=now, id=id, host=host)

    def submission(self, envelope: Envelope) -> Submission | None:
        """The Idempotency-Key, with a digest of the envelope's addresses and of the content without that field."""
        if self._digest is None:
            return None
        addresses = (envelope.reverse_path, *(recipient.address for recipient in envelope.recipients))
        whole = self._digest.digest() + "\0".join(map(str, addresses)).encode()
        return Submission(self._submitted.key, hashlib.sha256(whole).digest())
