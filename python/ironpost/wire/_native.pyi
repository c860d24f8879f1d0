"""The native implementation of `ironpost.wire`, and, name for name, of `ironpost.wire.pure`.

stubtest checks the module against this stub as it is, and the pure twin against a copy in which `__new__` (what
a class written in Rust has) reads `__init__`.
"""

from collections.abc import Sequence
from typing import Final, Literal, Self, TypeAlias, final

from ironpost.wire.interface import (
    ClientEvent,
    Command,
    Ehlo,
    HeaderSection,
    Limits,
    Mailbox,
    NewlinePolicy,
    Reply,
    ServerEvent,
)

__all__ = [
    "IMPLEMENTATION",
    "DataDecoder",
    "DataEncoder",
    "ReplyReader",
    "ServerFramer",
    "dot_stuff",
    "dot_unstuff",
    "faults",
    "format_mailbox",
    "format_reply",
    "parse_command",
    "parse_ehlo",
    "parse_mailbox",
    "parse_reply",
    "scan_header",
    "unfold",
    "utf8_addr_xtext_decode",
    "utf8_addr_xtext_encode",
    "xtext_decode",
    "xtext_encode",
]

_Octets: TypeAlias = bytes | bytearray | memoryview

IMPLEMENTATION: Final[Literal["native", "pure"]]

def dot_stuff(data: _Octets) -> bytes: ...
def dot_unstuff(data: _Octets) -> bytes: ...
def faults() -> dict[str, str]: ...
def format_mailbox(mailbox: Mailbox) -> str: ...
def format_reply(code: int, enhanced: str | None, lines: Sequence[str | bytes]) -> bytes: ...
def parse_command(line: _Octets) -> Command: ...
def parse_ehlo(reply: Reply) -> Ehlo: ...
def parse_mailbox(text: str | _Octets) -> Mailbox: ...
def parse_reply(octets: _Octets) -> Reply: ...
def scan_header(data: _Octets, limits: Limits | None = None) -> HeaderSection: ...
def unfold(value: _Octets) -> bytes: ...
def utf8_addr_xtext_decode(text: str) -> str: ...
def utf8_addr_xtext_encode(text: str) -> str: ...
def xtext_decode(text: str | _Octets) -> bytes: ...
def xtext_encode(data: _Octets | str) -> str: ...

@final
class DataDecoder:
    """Transparency off (RFC 5321 §4.5.2), and what was seen of the message so far."""

    def __new__(cls, limits: Limits | None = None, newline: NewlinePolicy = "reject") -> Self: ...
    def feed(self, data: _Octets) -> tuple[bytes, int, bool]:
        """Body octets, octets of `data` consumed, whether the true end was reached. ValueError behind that end."""
    @property
    def size(self) -> int: ...
    @property
    def eight_bit(self) -> bool: ...
    @property
    def nul(self) -> bool: ...
    @property
    def bare_cr(self) -> bool: ...
    @property
    def bare_lf(self) -> bool: ...
    @property
    def longest_line(self) -> int: ...
    @property
    def header_size(self) -> int: ...

@final
class DataEncoder:
    """Transparency on (RFC 5321 §4.5.2)."""

    def __new__(cls, newline: Literal["normalise", "reject"] = "normalise") -> Self: ...
    def feed(self, chunk: _Octets) -> bytes: ...
    def finish(self) -> bytes:
        """The terminator, after a CRLF where the body lacks one."""

@final
class ReplyReader:
    """Replies out of a stream of octets (RFC 5321 §4.2)."""

    def __new__(cls, limits: Limits | None = None) -> Self: ...
    def feed(self, data: _Octets) -> list[ClientEvent]:
        """The replies that are complete by now; a Fault is the last event there will ever be."""
    @property
    def buffered(self) -> int:
        """Octets of an unfinished reply."""

@final
class ServerFramer:
    """Commands, bodies and lines out of a stream of octets."""

    def __new__(cls, limits: Limits | None = None, newline: NewlinePolicy = "reject") -> Self: ...
    def feed(self, data: _Octets) -> list[ServerEvent]: ...
    def resume(self, mode: int) -> list[ServerEvent]:
        """Goes on in a mode after a hold. RuntimeError if not held."""
    @property
    def held(self) -> bool: ...
    @property
    def mode(self) -> int: ...
    @property
    def buffered(self) -> int:
        """Octets fed behind the hold, not yet interpreted."""
