"""The header section of a message: where it ends, and its fields.

    reader = HeaderReader()
    for piece in content:
        body = reader.feed(piece)          # offset of the body in this piece; -1: the section has not ended
    header = reader.header or reader.finish()

Promises: one answer for every user of the content, however it is cut into pieces. The section ends at the first empty
line, and is held until then; at most the limit of `wire.Limits.header_octets` (1 MiB) plus one piece is held, and at
most `header_fields` (1,000) fields are read (SECURITY R23).
Refuses: nothing. A line that is not a header field ends the fields, but not the section: see `Header.section`.
Standards: RFC 5322 §2.1 (the empty line), §2.2 (fields), §2.2.3 (folding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

BARE_LINE_END: Final = "Header section holds a bare CR or LF (RFC 5322 section 2.2)"
"""Why a header section is refused, a sentence for the client."""

_EMPTY_LINE: Final = b"\r\n\r\n"


class Header:
    """A header section, with its fields by name, ignoring case (RFC 5322 §1.2.2)."""

    __slots__ = ("_ambiguity", "octets", "section")

    def __init__(self, octets: bytes, limits: wire.Limits | None = None) -> None:
        """`octets`: the section, with or without the empty line after it; what follows that line is ignored."""
        self.octets = octets
        self.section = wire.scan_header(octets, limits)
        """The fields as offsets into `octets`, and the fault, if a line was invalid or a limit reached."""
        self._ambiguity: str | None = None

    @property
    def received(self) -> int:
        """Number of fields named Received: the hops of the message (RFC 5321 §6.3)."""
        return self.section.received

    @property
    def fault(self) -> str:
        """Reason why the fields end before the section does, a sentence for the client; empty if they do not."""
        fault = self.section.fault
        if fault is None:
            return ""
        if fault.id == "header-field-malformed":
            count = len(self.section.fields)
            return f"Line after header field {count} is neither a field nor an empty line (RFC 5322 section 2.2)"
        excess = "has too many fields" if fault.id == "header-too-many-fields" else "is too large"
        return f"Header section {excess}"

    @property
    def ambiguity(self) -> str:
        """Reason why readers could find other fields than these, a sentence; empty if they cannot.

        It is `fault`, or a bare CR or LF, which some take for the end of a line.
        """
        if self._ambiguity is None:  # each signature asks
            self._ambiguity = self.fault or (BARE_LINE_END if self.bare_line_end else "")
        return self._ambiguity

    @property
    def bare_line_end(self) -> bool:
        """Whether there is a CR or LF that is not part of a CRLF; in all of `octets` if there is a fault."""
        end = self.section.end if self.section.fault is None else len(self.octets)
        ends, crs, lfs = (self.octets.count(each, 0, end) for each in (b"\r\n", b"\r", b"\n"))
        return not ends == crs == lfs

    @property
    def starts_with_field(self) -> bool:
        """Whether the content starts with a header field or an empty line, not with other text."""
        fault = self.section.fault
        return fault is None or fault.offset > 0

    def values(self, name: str) -> list[bytes]:
        """The values of all fields of that name in order, unfolded and stripped."""
        wanted = name.lower()
        return self.select(frozenset({wanted})).get(wanted, [])

    def select(self, names: frozenset[str]) -> dict[str, list[bytes]]:
        """The values of all fields of several names, given and returned in lower case, in one pass."""
        found: dict[str, list[bytes]] = {}
        octets = self.octets
        for entry in self.section.fields:
            name = entry.name.lower()
            if name in names:
                value = wire.unfold(octets[entry.value : entry.end]).strip(b" \t\r\n")
                found.setdefault(name, []).append(value)
        return found

    def first(self, name: str) -> bytes | None:
        """The value of the first field of that name, or None."""
        values = self.values(name)
        return values[0] if values else None

    def without(self, *names: str) -> bytes:
        """The octets without the fields of those names."""
        wanted = {name.lower() for name in names}
        return self.without_fields(entry for entry in self.section.fields if entry.name.lower() in wanted)

    def without_fields(self, removed: Iterable[wire.HeaderField]) -> bytes:
        """The octets without these of `section.fields`, in order; if there are none, `octets` itself."""
        kept: list[bytes] = []
        at = 0
        for entry in removed:
            kept.append(self.octets[at : entry.start])
            at = entry.end
        return b"".join((*kept, self.octets[at:])) if at else self.octets


EMPTY: Final = Header(b"")


class HeaderReader:
    """Finds the end of the header section of content that is fed in pieces, and keeps the section."""

    __slots__ = ("_held", "_limits", "header", "whole")

    def __init__(self, limits: wire.Limits = wire.DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._held: bytearray | None = None
        self.header: Header | None = None
        """The section with its empty line, once it has ended."""
        self.whole = True
        """False if the section is longer than the limit: `header` is its start."""

    def feed(self, piece: bytes) -> int:
        """Read the next octets of the content; does nothing once `header` is set.

        Returns:
            The offset in `piece` where the body starts; -1 while the section has not ended.
        """
        if self.header is not None:
            return 0
        held = self._held
        if held is None:
            octets: bytes | bytearray = piece
            before = 0
        else:
            before = len(held)
            held += piece
            octets = held
        end = 2 if octets.startswith(b"\r\n") else _after_empty_line(octets, before - 3)
        if end < 0:
            if len(octets) < self._limits.header_octets + 2:  # the CRLF of the empty line may be the next two octets
                if held is None:
                    self._held = bytearray(piece)
                return -1
            self.whole = False
            end = len(octets)
        self.header = Header(bytes(octets[:end]), self._limits)
        self._held = None
        return end - before

    def finish(self) -> Header:
        """The header section of content that ended, whether its empty line came or not."""
        header = self.header
        if header is None:
            header = self.header = Header(bytes(self._held or b""), self._limits)
            self._held = None
        return header


def split(content: bytes) -> tuple[Header, bytes]:
    """The header section of whole content, with its empty line, and the body."""
    reader = HeaderReader()
    reader.feed(content)
    header = reader.finish()
    return header, content[len(header.octets) :]


def _after_empty_line(octets: bytes | bytearray, start: int) -> int:
    at = octets.find(_EMPTY_LINE, max(0, start))
    return at if at < 0 else at + len(_EMPTY_LINE)
