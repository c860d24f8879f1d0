"""Content on its way to the store: policy scans it and removes header fields from it, addresses are rewritten, and
what is stored is hashed to be signed.

Promises: scanners get the header section whole, then the body as it arrives, both as received; the store and the signer
get everything but the removed fields, with rewritten addresses in the others. Only the header section is held, at most
1 MiB (`message.section`).
Addresses of a large header section are rewritten in a thread.
Refuses: content from which fields must be removed but whose header section cannot be parsed to its end, if such a field
may follow; and a large header section that must be rewritten and has no end. `fault` gives the reason.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ironpost.mail_auth.results import NAME, without_forged
from ironpost.message.section import EMPTY, Header, HeaderReader
from ironpost.routing.rewriting import QUICK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ironpost.model.body import Spool
    from ironpost.mta.signing import MessageSigner
    from ironpost.policy.pipeline import Scan


class InspectedSpool:
    """A `model.body.Spool` in front of the spool of the store, for a message that is scanned, changed or signed."""

    __slots__ = ("_passed", "_rewrite", "_services", "_signer", "_strip", "fault", "reader", "scan", "spool")

    def __init__(
        self,
        spool: Spool,
        scan: Scan | None = None,
        strip: frozenset[str] = frozenset(),
        services: frozenset[str] = frozenset(),
        rewrite: Callable[[Header], bytes] | None = None,
        signer: MessageSigner | None = None,
    ) -> None:
        """Create the spool of one message.

        Args:
            spool: the spool of the store.
            scan: see `policy.Policy.scan`.
            strip: see `policy.Check.strip`.
            services: see `policy.Check.services`.
            rewrite: returns the header section with other addresses; None to keep them.
            signer: hashes what is stored; None if the message is not signed.
        """
        self.spool = spool
        """The spool of the store."""
        self.scan = scan
        self._strip = strip
        self._services = services
        self._rewrite = rewrite
        self._signer = signer
        self.reader = HeaderReader()
        """Reads the header section; `reader.header` may be set before the first octets of the section are written."""
        self._passed = False
        """Whether the header section was passed on."""
        self.fault = ""
        """Reason to refuse the content, a sentence for the client; empty if there is none."""

    @property
    def size(self) -> int:
        """Octets written to the store so far."""
        return self.spool.size

    def write(self, piece: bytes) -> Awaitable[None] | None:
        """Append a piece. Nothing is stored before the header section is complete."""
        if self._passed:
            return self._pass(b"", piece)
        reader = self.reader
        body = reader.feed(piece) if reader.header is None else len(reader.header.octets)
        if reader.header is None:
            return None
        header = self._read(reader.header)
        if self._rewrite is not None and len(header.octets) > QUICK:
            return self._begin_later(self._rewrite, header, piece[body:])
        return self._begin(header, self._rewritten(header), piece[body:])

    def finish(self) -> None:
        """End the content: store a header section that no empty line follows."""
        if not self._passed:
            header = self._read(self.reader.finish())
            if self._rewrite is not None and len(header.octets) > QUICK:
                self.fault = self.fault or "Header section is large, and no empty line follows it"
            octets = b"" if self.fault else self._rewritten(header)
            self._begin(header, octets, b"")  # small: no back-pressure is needed

    def discard(self) -> None:
        """Free what is held."""
        self.reader = HeaderReader()
        self.spool.discard()

    def _read(self, header: Header) -> Header:
        """Scan the header section; return it without the fields that are removed, or empty if there is a fault."""
        self._passed = True
        if self.scan is not None:
            self.scan.header(header)
        if not header.starts_with_field:
            return header
        if header.fault and (self._strip or (self._services and self._may_have_results(header))):
            self.fault = header.fault
            return EMPTY
        octets = header.without(*self._strip)
        if octets is not header.octets:
            header = Header(octets)
        if self._services:
            octets = without_forged(header, self._services)
        return header if octets is header.octets else Header(octets)

    def _may_have_results(self, header: Header) -> bool:
        """Whether there may be a field Authentication-Results anywhere in a section that cannot be parsed."""
        return not self.reader.whole or NAME.lower().encode() in header.octets.lower()

    def _rewritten(self, header: Header) -> bytes:
        return header.octets if self._rewrite is None else self._rewrite(header)

    async def _begin_later(self, rewrite: Callable[[Header], bytes], header: Header, body: bytes) -> None:
        if (ready := self._begin(header, await asyncio.to_thread(rewrite, header), body)) is not None:
            await ready

    def _begin(self, header: Header, octets: bytes, body: bytes) -> Awaitable[None] | None:
        """Pass the header section on, as `octets` after it was rewritten, and the first octets of the body."""
        if self._signer is not None and octets:
            self._signer.header(header if octets is header.octets else Header(octets))
        return self._pass(octets, body)

    def _pass(self, header: bytes, body: bytes) -> Awaitable[None] | None:
        if body and self.scan is not None:
            self.scan.body(body)
        if self.fault:
            return None
        if self._signer is not None and body:
            self._signer.body(body)
        octets = header + body
        return self.spool.write(octets) if octets else None
