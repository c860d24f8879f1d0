"""The contract of `ironpost.wire`: what both implementations accept, return, emit and refuse.

Promises: the values below are the only ones that cross between bytes and Python; they are immutable named tuples,
defined once, here, and built by the Rust core and by the pure twin alike. Incremental decoders never raise on a peer's
bytes: they emit a `Fault` and resynchronise at the next CRLF. Memory is bounded by `Limits`. The events that come out
do not depend on how the input was cut into pieces, except that consecutive body pieces may be cut differently.

Refuses: anything that is not the grammar of the RFC. A tolerance is a named option, never a silent habit.

Standards: RFC 5321 (§2.3.8 lines, §4.1 commands, §4.2 replies, §4.5.2 transparency, §4.5.3.1 sizes), RFC 3030 (BDAT),
RFC 2034 and RFC 3463 (enhanced status codes), RFC 6531 (SMTPUTF8), RFC 3461 §4 (xtext), RFC 6533 §3
(utf-8-addr-xtext), RFC 5322 §2.2 (header section).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

# ---------------------------------------------------------------------------------------------------------------------
# Limits


class Limits(NamedTuple):
    """What one connection may make us hold in memory. All in octets unless said otherwise."""

    command_line: int = 2048
    """A command line with its CRLF. RFC 5321 §4.5.3.1.4 asks for 512 plus what each extension adds."""
    auth_line: int = 12288
    """A line in LINE mode with its CRLF (RFC 4954 §4)."""
    held: int = 1 << 20
    """Octets a held `ServerFramer` stores; feeding more is misuse (the caller must stop reading): BufferError."""
    content: int = (1 << 63) - 1
    """Body octets that a decoder returns for one message; the rest is counted and checked but not returned."""
    reply_lines: int = 100
    """Lines in one reply (SECURITY R18)."""
    reply_octets: int = 65536
    """Octets in one reply, line ends included (SECURITY R18)."""
    header_octets: int = 1 << 20
    """Octets of a header section that `scan_header` reads (SECURITY R23)."""
    header_fields: int = 1000
    """Fields (a count) that `scan_header` reads (SECURITY R23)."""


DEFAULT_LIMITS: Final = Limits()

NewlinePolicy: TypeAlias = Literal["reject", "normalise", "accept"]
"""What a bare CR or bare LF in DATA means. `reject` and `accept` hand the octets on unchanged and record what was
seen, so that the session can refuse after the true end or not; `normalise` turns each into CRLF. None of the three
ever ends DATA anywhere but at CRLF.CRLF (RFC 5321 §4.1.1.4)."""

# ---------------------------------------------------------------------------------------------------------------------
# Values


class Fault(NamedTuple):
    """One way in which a peer's bytes are wrong."""

    id: str
    """A key of `FAULTS`."""
    offset: int
    """Octets from the start of the line (or item) to the first octet that is wrong."""


class Mailbox(NamedTuple):
    """A Mailbox of RFC 5321 §4.1.2, source route dropped (RFC 5321 appendix C)."""

    local_part: str
    """Its meaning: a quoted local part is stored without its quotes and backslashes (RFC 5321 §4.1.2)."""
    domain: str
    """As it was sent, case kept; an address literal with its brackets; empty for `<postmaster>` and the null path."""


class Chunk(NamedTuple):
    """The argument of BDAT (RFC 3030 §2)."""

    size: int
    last: bool


class Command(NamedTuple):
    """One command line. `fault` tells what is wrong with it; verb and argument are there even so."""

    verb: str
    """Upper case, and never longer than the line; empty if the line does not start with a verb."""
    argument: bytes
    """Everything behind the verb and the one space that follows it, without CRLF, undecoded."""
    path: Mailbox | None = None
    """MAIL, RCPT: the path. `Mailbox("", "")` is the null reverse-path."""
    parameters: dict[str, str | None] = {}  # noqa: RUF012 - read-only by contract; a NamedTuple default
    """MAIL, RCPT: ESMTP parameters, keyword in upper case, None for one without `=`. Do not change it."""
    domain: str | None = None
    """EHLO, HELO, LHLO: the domain or address literal."""
    chunk: Chunk | None = None
    """BDAT: size and LAST."""
    fault: Fault | None = None


class BodyEnd(NamedTuple):
    """The end of DATA, or of one BDAT chunk. The facts cover the whole message up to here."""

    last: bool
    """The message is complete (always so for DATA)."""
    size: int
    """Octets of content, un-stuffed, whether returned or not."""
    eight_bit: bool
    nul: bool
    bare_cr: bool
    bare_lf: bool
    longest_line: int
    """Octets, without CRLF."""
    header_size: int
    """Octets of the header section with its last CRLF, without the empty line; -1 while no empty line was seen."""


class Line(NamedTuple):
    """A line in LINE mode, without CRLF (an AUTH response, RFC 4954 §4)."""

    octets: bytes


class Reply(NamedTuple):
    """One complete reply (RFC 5321 §4.2)."""

    code: int
    enhanced: str | None
    """`class.subject.detail` when the first line starts with one whose class agrees with the code (RFC 2034 §4)."""
    lines: tuple[bytes, ...]
    """The text of each line, without code, separator, enhanced code (where it equals `enhanced`) and CRLF."""


class Ehlo(NamedTuple):
    """A parsed EHLO reply (RFC 5321 §4.1.1.1)."""

    domain: str
    """The first word of the first line; empty if there is none."""
    extensions: dict[str, str]
    """Keyword in upper case to its parameters, joined by one space. Malformed lines are skipped."""


class HeaderField(NamedTuple):
    """Where one header field lies in the octets that were scanned."""

    name: str
    """As it stands."""
    start: int
    value: int
    """Offset of the first octet behind the colon."""
    end: int
    """Offset behind the field's last CRLF."""


class HeaderSection(NamedTuple):
    """A scanned header section (RFC 5322 §2.2)."""

    fields: list[HeaderField]
    end: int
    """Offset behind the last field, where the empty line, or else the body, starts."""
    received: int
    """How many of the fields are named Received."""
    fault: Fault | None
    """What ended the section early, if anything did."""


ServerEvent: TypeAlias = Command | bytes | BodyEnd | Line | Fault
"""What `ServerFramer` emits. `bytes` is a piece of body."""
ClientEvent: TypeAlias = Reply | Fault
"""What `ReplyReader` emits. A Fault is final: the connection can never be read in step again."""

# ---------------------------------------------------------------------------------------------------------------------
# Modes of ServerFramer

MODE_COMMAND: Final = 0
"""Command lines. BDAT's octets are counted without leaving this mode."""
MODE_DATA: Final = 1
"""Body with transparency, until CRLF.CRLF; then MODE_COMMAND by itself. Its first octet starts a line."""
MODE_LINE: Final = 2
"""One `Line`, then held again."""
MODE_CLOSED: Final = 3
"""Whatever comes is dropped."""

HOLD_VERBS: Final = frozenset({"DATA", "AUTH", "STARTTLS", "ATRN", "QUIT"})
"""Behind these the meaning of the next octet depends on the answer: the framer holds until `resume(mode)`. It also
holds behind a BDAT whose size cannot be read, because nobody knows where its octets end."""

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
    "path-keyword-missing": "MAIL needs FROM: and RCPT needs TO: directly behind the verb.",
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
"""Every id with the sentence a person reads. `src/fault.rs` holds the same catalogue; a test compares them."""


class WireFault(ValueError):
    """A complete item is not what the grammar says. Raised by the `parse_*` functions and by a refusing encoder."""

    def __init__(self, id: str, offset: int) -> None:  # noqa: A002 - the catalogue's word
        super().__init__(id, offset)
        self.id = id
        self.offset = offset

    @property
    def sentence(self) -> str:
        """What is wrong, for a person."""
        return FAULTS[self.id]

    def __str__(self) -> str:
        return f"{self.sentence} (octet {self.offset}, {self.id})"
