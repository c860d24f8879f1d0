"""The contract of `ironpost.wire`: what both implementations accept, return, emit and refuse.

Promises: all results are the values below, immutable named tuples that both implementations create. Incremental
decoders never raise on a peer's bytes: they emit a `Fault` and resynchronise at the next CRLF. Memory is bounded by
`Limits`. Events do not depend on how the input was split, except that content may be split into other pieces.

Refuses: anything outside the grammar of the RFC. A tolerance is a named option and is always reported: `lenient`
accepts mailboxes that exist and that other servers accept, and `Command.tolerated` names the accepted deviations.

Standards: RFC 5321 (§2.3.8 lines, §4.1 commands, §4.2 replies, §4.5.2 transparency, §4.5.3.1 sizes), RFC 3030 (BDAT),
RFC 2034 and RFC 3463 (enhanced status codes), RFC 6531 (SMTPUTF8), RFC 3461 §4 (xtext), RFC 6533 §3
(utf-8-addr-xtext), RFC 5322 §2.2 (header section), RFC 6376 §3.4 (canonical forms of DKIM).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

# ---------------------------------------------------------------------------------------------------------------------
# Limits


class Limits(NamedTuple):
    """Bounds on the memory of one connection, in octets unless stated otherwise."""

    command_line: int = 2048
    """Maximum octets of a command line with its CRLF: 512, plus the additions of extensions (RFC 5321 §4.5.3.1.4)."""
    auth_line: int = 12288
    """Maximum octets of a line in LINE mode with its CRLF (RFC 4954 §4)."""
    held: int = 1 << 20
    """Maximum octets that a held `ServerFramer` stores; beyond it `feed` raises BufferError: stop reading."""
    content: int = (1 << 63) - 1
    """Maximum octets of content that a decoder returns for one message; the rest is counted and checked only."""
    reply_lines: int = 100
    """Maximum number of lines of a reply (SECURITY R18)."""
    reply_octets: int = 65536
    """Maximum octets of a reply, including line ends (SECURITY R18)."""
    header_octets: int = 1 << 20
    """Maximum octets of a header section that `scan_header` reads (SECURITY R23)."""
    header_fields: int = 1000
    """Maximum number of header fields that `scan_header` reads (SECURITY R23)."""


DEFAULT_LIMITS: Final = Limits()
"""The limits that are used if none are given."""

NewlinePolicy: TypeAlias = Literal["reject", "normalise", "accept"]
"""How a bare CR or bare LF in DATA is handled. `reject` and `accept` return the octets unchanged and record that there
was one, so that the session can decide after the true end; `normalise` turns each into CRLF. None of the three ever
ends DATA anywhere but at CRLF.CRLF (RFC 5321 §4.1.1.4)."""

TOLERATED: Final = ("stray_dots", "underscore")
"""The deviations from RFC 5321 §4.1.2 that `lenient` accepts: a dot at the start or the end of an unquoted local part,
or two in a row; and an underscore as a letter of the domain. Stray dots are written as a Quoted-string, which means the
same, so a path with them has at most 254 octets: with the quotes it must not exceed §4.5.3.1.3. Source routes must
follow the grammar."""

# ---------------------------------------------------------------------------------------------------------------------
# Values


class Fault(NamedTuple):
    """A syntax error in a peer's bytes."""

    id: str
    """A key of `FAULTS`."""
    offset: int
    """The offset of the first invalid octet in the line or item, in octets."""


class Mailbox(NamedTuple):
    """A Mailbox of RFC 5321 §4.1.2, without its source route (RFC 5321 appendix C)."""

    local_part: str
    """The local part; a quoted one without its quotes and backslashes (RFC 5321 §4.1.2)."""
    domain: str
    """The domain with its case preserved, or the address literal with its brackets; empty for `<postmaster>` and the
    null path."""


class Chunk(NamedTuple):
    """The argument of BDAT (RFC 3030 §2)."""

    size: int
    """The octets of the chunk."""
    last: bool
    """The argument had LAST."""


class Command(NamedTuple):
    """One command line. A line with a `fault` has its verb and argument too."""

    verb: str
    """The verb in upper case; empty if the line does not start with a verb."""
    argument: bytes
    """The octets after the verb and one space, without CRLF, undecoded."""
    path: Mailbox | None = None
    """The path of MAIL and RCPT. `Mailbox("", "")` is the null reverse-path."""
    parameters: dict[str, str | None] = {}  # noqa: RUF012 - read-only by contract; a NamedTuple default
    """The ESMTP parameters of MAIL and RCPT: keyword in upper case to value, None without `=`. Read-only."""
    domain: str | None = None
    """The domain or address literal of EHLO, HELO and LHLO."""
    chunk: Chunk | None = None
    """The argument of BDAT."""
    fault: Fault | None = None
    """The first syntax error; None if there is none."""
    tolerated: tuple[str, ...] = ()
    """The deviations of the path of MAIL or RCPT that were accepted, in the order of `TOLERATED`."""


class BodyEnd(NamedTuple):
    """The end of DATA, or of one BDAT chunk, with facts about the content of the message up to there."""

    last: bool
    """The message is complete, as it always is after DATA."""
    size: int
    """Octets of content without transparency dots, including octets that were not returned."""
    eight_bit: bool
    """The content contains octets above 127."""
    nul: bool
    """The content contains NUL octets."""
    bare_cr: bool
    """The content contained a CR without LF."""
    bare_lf: bool
    """The content contained an LF without CR."""
    longest_line: int
    """Octets of the longest line, without CRLF."""
    header_size: int
    """Octets of the header section with its last CRLF, without the empty line; -1 if there was no empty line yet."""


class Line(NamedTuple):
    """A line in LINE mode, such as a response of AUTH (RFC 4954 §4)."""

    octets: bytes
    """The line without its CRLF."""


class Reply(NamedTuple):
    """One complete reply (RFC 5321 §4.2)."""

    code: int
    """The reply code."""
    enhanced: str | None
    """The enhanced status code of the first line, if its class agrees with the code (RFC 2034 §4); else None."""
    lines: tuple[bytes, ...]
    """The text of each line, without code, separator, enhanced code (if it equals `enhanced`) and CRLF."""


class Ehlo(NamedTuple):
    """A parsed EHLO reply (RFC 5321 §4.1.1.1)."""

    domain: str
    """The first word of the first line; empty if there is none."""
    extensions: dict[str, str]
    """The extensions: keyword in upper case to its parameters, joined by one space. Malformed lines are skipped."""


class HeaderField(NamedTuple):
    """One header field, by offsets into the scanned octets."""

    name: str
    """The name of the field, with its case preserved."""
    start: int
    """The offset of the name."""
    value: int
    """The offset of the field body: the first octet after the colon."""
    end: int
    """The offset after the last CRLF of the field."""


class HeaderSection(NamedTuple):
    """A scanned header section (RFC 5322 §2.2)."""

    fields: list[HeaderField]
    """The fields, in order."""
    end: int
    """The offset after the last field: that of the empty line, or of the body if there is no empty line."""
    received: int
    """The number of fields with the name Received."""
    fault: Fault | None
    """The fault that ended the section early; None if there is none."""


ServerEvent: TypeAlias = Command | bytes | BodyEnd | Line | Fault
"""An event of `ServerFramer`. `bytes` is a piece of content."""
ClientEvent: TypeAlias = Reply | Fault
"""An event of `ReplyReader`. A Fault is final, because later replies could not be matched to commands."""

# ---------------------------------------------------------------------------------------------------------------------
# Modes of ServerFramer

MODE_COMMAND: Final = 0
"""The framer reads command lines. The octets of BDAT are counted without leaving this mode."""
MODE_DATA: Final = 1
"""The framer reads content with transparency dots until CRLF.CRLF, and then returns to MODE_COMMAND. The first octet of
the content starts a line."""
MODE_LINE: Final = 2
"""The framer reads one `Line`, and then holds again."""
MODE_CLOSED: Final = 3
"""The framer discards all octets."""

HOLD_VERBS: Final = frozenset({"DATA", "AUTH", "STARTTLS", "ATRN", "QUIT"})
"""Verbs after which the meaning of the next octet depends on the reply, so that the framer holds until `resume(mode)`.
It also holds after a BDAT with an invalid size, because the end of its octets is unknown."""
RESET_VERBS: Final = frozenset({"MAIL", "RSET", "EHLO", "HELO", "LHLO", "STARTTLS", "DATA"})
"""Verbs after which a BDAT starts a new message with new facts (RFC 3030 §2, RFC 5321 §4.1.4)."""

# ---------------------------------------------------------------------------------------------------------------------
# Faults

FAULTS: Final[dict[str, str]] = {
    # lines
    "line-too-long": "The line is longer than the limit.",
    "bare-cr": "A CR is not followed by LF; only CRLF ends a line.",
    "bare-lf": "An LF does not follow a CR; only CRLF ends a line.",
    "nul": "The line holds a NUL octet.",
    # commands
    "verb-malformed": "The line does not start with a verb of letters and digits.",
    "argument-missing": "The command needs an argument.",
    "argument-unexpected": "The command takes no argument.",
    "path-keyword-missing": "MAIL needs FROM: and RCPT needs TO: directly after the verb.",
    "path-space": "No space is allowed between the colon and the path.",
    "path-missing": "The path must be enclosed in angle brackets.",
    "path-unclosed": "The path has no closing angle bracket.",
    "path-null": "The null path is allowed only in MAIL.",
    "path-too-long": "The path is longer than 256 octets.",
    "path-trailing": "Something other than a space and parameters follows the path.",
    "route-malformed": "The source route is not a list of @domain ended by a colon.",
    # addresses
    "local-part-empty": "The local part is empty.",
    "local-part-malformed": "The local part holds an octet or a dot where none is allowed.",
    "quoted-string-unclosed": "The quoted local part has no closing quote.",
    "quoted-string-malformed": "The quoted local part holds an octet that cannot be quoted.",
    "at-missing": "The address has no @ and domain.",
    "domain-empty": "The domain is empty.",
    "domain-malformed": "The domain holds an octet, a dot or a hyphen where none is allowed.",
    "label-too-long": "A label of the domain is longer than 63 octets.",
    "domain-too-long": "The domain is longer than 255 octets.",
    "literal-unclosed": "The address literal has no closing bracket.",
    "literal-malformed": "The address literal is neither IPv4, nor IPv6: with an IPv6 address, nor a tagged literal.",
    "utf8-malformed": "The octets are not UTF-8.",
    # parameters
    "parameter-malformed": "A parameter is not KEYWORD or KEYWORD=value.",
    "parameter-value-malformed": "A parameter value is empty or holds a space, a control character or an equals sign.",
    "parameter-duplicate": "A parameter is given twice.",
    # BDAT
    "chunk-size-malformed": "The chunk size is not a decimal number.",
    "chunk-size-too-large": "The chunk size does not fit in 63 bits.",
    "chunk-last-malformed": "Only LAST may follow the chunk size.",
    # replies
    "reply-malformed": "The reply line does not start with three digits from 200 to 599 and a space or hyphen.",
    "reply-codes-differ": "The lines of one reply carry different codes.",
    "reply-too-many-lines": "The reply has more lines than the limit.",
    "reply-too-long": "The reply is longer than the limit.",
    "reply-incomplete": "The reply ends before its last line.",
    "reply-trailing": "Something follows the last line of the reply.",
    "ehlo-refused": "The reply to EHLO is not 250.",
    # encodings
    "xtext-malformed": "The xtext holds an octet that must be encoded, or a broken escape.",
    # header sections
    "header-field-malformed": "The line is neither a field, nor a continuation, nor the empty line.",
    "header-too-large": "The header section is larger than the limit.",
    "header-too-many-fields": "The header section has more fields than the limit.",
}
"""The description of each fault, by its id. `src/fault.rs` contains the same catalogue; a test compares them."""


class WireFault(ValueError):
    """A complete item violates the grammar. Raised by the `parse_*` functions, and by encoders that reject content."""

    def __init__(self, id: str, offset: int) -> None:  # noqa: A002 - the catalogue's word
        super().__init__(id, offset)
        self.id = id
        self.offset = offset

    @property
    def sentence(self) -> str:
        """The description of the fault, from `FAULTS`."""
        return FAULTS[self.id]

    def __str__(self) -> str:
        return f"{self.sentence} (octet {self.offset}, {self.id})"
