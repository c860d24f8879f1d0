"""The incremental decoder of a server: splits a stream of octets into commands, content and lines.

Promises: never raises on a peer's bytes, but emits a fault with its offset and continues at the next CRLF; holds until
`resume` where the meaning of the next octet depends on the reply; counts the octets of BDAT and never interprets them.

Refuses: misuse of the interface, with an exception.

Standards: RFC 5321 §2.3.8, §4.1.1.4, §4.5.2; RFC 3030 §2 (BDAT); RFC 2920 §3.1 (pipelining).
"""

from __future__ import annotations

from typing import Final

from ironpost.wire.interface import (
    HOLD_VERBS,
    MODE_CLOSED,
    MODE_COMMAND,
    MODE_DATA,
    MODE_LINE,
    RESET_VERBS,
    BodyEnd,
    Fault,
    Limits,
    Line,
    NewlinePolicy,
    ServerEvent,
)
from ironpost.wire.pure.command import read_command
from ironpost.wire.pure.data import DataDecoder, Facts, as_newline_policy
from ironpost.wire.pure.line import LineReader
from ironpost.wire.pure.octets import Octets, as_limits, as_octets

MODES: Final = frozenset({MODE_COMMAND, MODE_DATA, MODE_LINE, MODE_CLOSED})
WINDOW: Final = 16384
"""Maximum octets that `resume` reads at a time."""


class Chunks:
    """Counts the octets of the chunks of one message, and collects facts about them (RFC 3030 §2)."""

    def __init__(self, content: int) -> None:
        self._content = content
        self.left = 0
        """Octets of the current chunk that were not received yet."""
        self._last = False
        self.reset()

    def reset(self) -> None:
        """Start a new message."""
        self._facts = Facts()
        self._room = self._content

    def begin(self, size: int, *, last: bool) -> None:
        """Start a chunk of `size` octets."""
        self.left = size
        self._last = last

    def take(self, octets: bytes) -> bytes:
        """Count octets of the chunk; return those within the limit on content."""
        self.left -= len(octets)
        self._facts.observe(octets)
        octets = octets[: self._room]
        self._room -= len(octets)
        return octets

    def end(self) -> BodyEnd:
        """End the chunk; return its event."""
        last = self._last
        if last:
            self._facts.finish()
        end = body_end(self._facts, last=last)
        if last:
            self.reset()
        return end


def body_end(facts: Facts | DataDecoder, *, last: bool) -> BodyEnd:
    """Create the event with the facts about content."""
    return BodyEnd(
        last,
        facts.size,
        facts.eight_bit,
        facts.nul,
        facts.bare_cr,
        facts.bare_lf,
        facts.longest_line,
        facts.header_size,
    )


class ServerFramer:
    """Split what a client sends into commands, content and lines (RFC 5321 §4.1.1, RFC 3030 §2).

    Args:
        limits: lengths of lines, octets stored while held, content returned.
        newline: the policy for a bare CR or LF in DATA; the octets of BDAT are returned unchanged.
        lenient: MAIL and RCPT may deviate from the grammar as `TOLERATED` lists.
        chunking: octets follow BDAT; False in a server that does not offer CHUNKING, where BDAT is an unknown command.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        newline: NewlinePolicy = "reject",
        *,
        lenient: bool = False,
        chunking: bool = True,
    ) -> None:
        self._limits = as_limits(limits)
        self._lenient = lenient
        self._chunking = chunking
        self._newline = as_newline_policy(newline)
        self._mode = MODE_COMMAND
        self._held = False
        self._pending = bytearray()
        self._lines = LineReader()
        self._chunks = Chunks(self._limits.content)
        self._chunk_open = False
        self._data = DataDecoder(self._limits, self._newline)

    @property
    def held(self) -> bool:
        """Whether the framer waits for `resume`."""
        return self._held

    @property
    def mode(self) -> int:
        """One of the MODE constants: how octets are read, or were read until the hold."""
        return self._mode

    @property
    def buffered(self) -> int:
        """Octets fed after the hold and not yet read."""
        return len(self._pending)

    def feed(self, data: Octets) -> list[ServerEvent]:
        """The events in `data` up to a hold; the octets after it are stored.

        Raises:
            BufferError: while held, if more than `Limits.held` octets would be stored; `data` is not stored.
        """
        octets = as_octets(data)
        events: list[ServerEvent] = []
        if not self._held:
            consumed = self._read(octets, events)
            self._pending += octets[consumed:]
        elif len(self._pending) + len(octets) <= self._limits.held:
            self._pending += octets
        else:
            raise BufferError(f"the framer is held and stores at most {self._limits.held} octets; stop reading")
        return events

    def resume(self, mode: int) -> list[ServerEvent]:
        """End a hold, and read what was stored up to the next one.

        Args:
            mode: how to read on, one of the MODE constants.

        Raises:
            RuntimeError: if the framer is not held.
            ValueError: if the mode does not exist.
        """
        if mode not in MODES:
            raise ValueError(f"{mode!r} is not a mode of ServerFramer")
        if not self._held:
            raise RuntimeError("the framer is not held")
        self._held = False
        self._mode = mode
        if mode == MODE_DATA:
            self._data = DataDecoder(self._limits, self._newline)
            self._chunks.reset()
        events: list[ServerEvent] = []
        while self._pending and not self._held:
            # In windows: a peer that pipelines thousands of DATA must not make each hold copy all pending octets.
            consumed = self._read(bytes(self._pending[:WINDOW]), events)
            del self._pending[:consumed]
        return events

    def _read(self, octets: bytes, events: list[ServerEvent]) -> int:
        """Read up to a hold; return the number of octets consumed."""
        at = 0
        while at < len(octets) and not self._held:
            if self._mode == MODE_CLOSED:
                return len(octets)
            if self._chunk_open:
                at = self._read_chunk(octets, at, events)
            elif self._mode == MODE_DATA and not self._lines.dropping:
                at = self._read_data(octets, at, events)
            else:
                at = self._read_line(octets, at, events)
        return at

    def _read_line(self, octets: bytes, at: int, events: list[ServerEvent]) -> int:
        in_line_mode = self._mode == MODE_LINE
        limit = self._limits.auth_line if in_line_mode else self._limits.command_line
        at, line = self._lines.take(octets, at, limit)
        if line is None:
            return at
        if isinstance(line, Fault):
            events.append(line)
            self._held = in_line_mode
        elif in_line_mode:
            events.append(Line(line))
            self._held = True
        else:
            self._read_command(line, events)
        return at

    def _read_command(self, line: bytes, events: list[ServerEvent]) -> None:
        command = read_command(line, lenient=self._lenient)
        events.append(command)
        if command.verb in RESET_VERBS:
            self._chunks.reset()
        if command.verb == "BDAT" and not self._chunking:
            return
        if command.chunk is not None:
            self._chunks.begin(command.chunk.size, last=command.chunk.last)
            self._chunk_open = True
            self._end_chunk(events)
        else:
            self._held = command.verb in HOLD_VERBS or command.verb == "BDAT"

    def _read_chunk(self, octets: bytes, at: int, events: list[ServerEvent]) -> int:
        end = min(len(octets), at + self._chunks.left)
        if piece := self._chunks.take(octets[at:end]):
            events.append(piece)
        self._end_chunk(events)
        return end

    def _end_chunk(self, events: list[ServerEvent]) -> None:
        if self._chunks.left == 0:
            events.append(self._chunks.end())
            self._chunk_open = False

    def _read_data(self, octets: bytes, at: int, events: list[ServerEvent]) -> int:
        body, consumed, finished = self._data.feed(octets[at:])
        if body:
            events.append(body)
        if finished:
            events.append(body_end(self._data, last=True))
            self._mode = MODE_COMMAND
        return at + consumed
