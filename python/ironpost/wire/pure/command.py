"""Parsing of one command line: its verb, and its argument by the grammar of the verb.

Promises: `read_command` never raises; a line with a fault has its verb and argument too.

Refuses, with a fault in the value: CR, LF or NUL inside the line, a verb that does not consist of letters and digits,
an argument that does not match the grammar of the verb. The argument of an unknown verb is not changed.

Tolerates: spaces and tabs at the end of a structured argument (RFC 5321 §4.1.1), several spaces before a parameter, an
underscore in the domain of HELO, EHLO and LHLO; with `lenient`, what `interface.TOLERATED` names.

Standards: RFC 5321 §2.4 (verbs in any case), §4.1.1, §4.1.2; RFC 2033 §4.1 (LHLO); RFC 3030 §2 (BDAT).
"""

from __future__ import annotations

import re
from typing import Final

from ironpost.wire.interface import Chunk, Command, Fault, WireFault
from ironpost.wire.pure.address import ALPHANUMERIC, Text, read_host
from ironpost.wire.pure.octets import CRLF, SPACE, Octets, as_octets
from ironpost.wire.pure.params import read_parameters
from ironpost.wire.pure.path import OPEN, read_path

BLANKS: Final = b" \t"
CONTROL: Final = re.compile(rb"[\r\n\0]")
CONTROL_FAULTS: Final = {b"\r": "bare-cr", b"\n": "bare-lf", b"\0": "nul"}

GREETINGS: Final = frozenset({"EHLO", "HELO", "LHLO"})
NO_ARGUMENT: Final = frozenset({"DATA", "RSET", "QUIT", "STARTTLS", "TURN"})
STRUCTURED: Final = (
    GREETINGS
    | NO_ARGUMENT
    | {"MAIL", "RCPT", "BDAT", "ETRN", "ATRN", "SEND", "SOML", "SAML", "BURL", "XCLIENT", "XFORWARD"}
)
"""Verbs for which white space after the argument is ignored."""
NEEDS_ARGUMENT: Final = GREETINGS | {
    "MAIL",
    "RCPT",
    "BDAT",
    "AUTH",
    "ETRN",
    "VRFY",
    "EXPN",
    "BURL",
    "XCLIENT",
    "XFORWARD",
}
PATH_KEYWORD: Final = {"MAIL": b"FROM:", "RCPT": b"TO:"}

CHUNK_SIZE: Final = (1 << 63) - 1
CHUNK_SIZE_DIGITS: Final = 20


def parse_command(line: Octets, *, lenient: bool = False) -> Command:
    """Parse one command line, with or without its CRLF (RFC 5321 §4.1.1).

    Args:
        line: the octets of the line.
        lenient: MAIL and RCPT may deviate from the grammar as `TOLERATED` lists.

    Raises:
        WireFault: the first fault, with its offset in the line.
    """
    command = read_command(as_octets(line).removesuffix(CRLF), lenient=lenient)
    if command.fault is not None:
        raise WireFault(*command.fault)
    return command


def read_command(line: bytes, *, lenient: bool = False) -> Command:
    """Parse one command line without its CRLF; a syntax error is reported as its `fault`."""
    control = CONTROL.search(line)
    fault = Fault(CONTROL_FAULTS[control[0]], control.start()) if control else None
    end = 0
    while end < len(line) and line[end] in ALPHANUMERIC:
        end += 1
    # RFC 5321 §4.1.1: white space at the end is tolerated, even if it is only a tab.
    if end == 0 or (line[end : end + 1] not in (b" ", b"") and line[end:].strip(BLANKS)):
        return Command("", b"", fault=fault or Fault("verb-malformed", end))
    verb = line[:end].decode().upper()
    start = end + 1
    line = _without_blanks(line, end) if verb in STRUCTURED else line
    argument = line[start:]
    if fault:
        return Command(verb, argument, fault=fault)
    try:
        return _interpret(verb, line, start, lenient=lenient)
    except WireFault as error:
        return Command(verb, argument, fault=Fault(error.id, error.offset))


def _without_blanks(line: bytes, end: int) -> bytes:
    """Remove the white space after the argument; the verb ends at `end`."""
    return line[:end] + line[end:].rstrip(BLANKS)


def _interpret(verb: str, line: bytes, start: int, *, lenient: bool) -> Command:
    argument = line[start:]
    if verb in NEEDS_ARGUMENT and not argument.strip(BLANKS):
        raise WireFault("argument-missing", start - 1)
    if verb in NO_ARGUMENT and argument:
        raise WireFault("argument-unexpected", start)
    if verb in PATH_KEYWORD:
        return _interpret_envelope(verb, line, start, lenient=lenient)
    if verb in GREETINGS:
        text = Text(line)
        end = read_host(text, start, None, underscore=True)
        return Command(verb, argument, domain=text.slice(start, end))
    if verb == "BDAT":
        return Command(verb, argument, chunk=_read_chunk(argument, start))
    return Command(verb, argument)


def _interpret_envelope(verb: str, line: bytes, start: int, *, lenient: bool) -> Command:
    """Parse the argument of MAIL or RCPT (RFC 5321 §4.1.1.2, §4.1.1.3)."""
    keyword = PATH_KEYWORD[verb]
    at = start + len(keyword)
    if line[start:at].upper() != keyword:
        raise WireFault("path-keyword-missing", start)
    text = Text(line)
    if text.get(at) != OPEN:
        raise WireFault("path-space" if line[at : at + 1] in (b" ", b"\t") else "path-missing", at)
    path, after, tolerated = read_path(text, at, forward=verb == "RCPT", lenient=lenient)
    return Command(verb, line[start:], path=path, parameters=read_parameters(text, after), tolerated=tolerated)


def _read_chunk(argument: bytes, start: int) -> Chunk:
    """Parse `chunk-size [SP "LAST"]`, which is at the offset `start` of the line (RFC 3030 §2)."""
    digits, space, marker = argument.partition(bytes([SPACE]))
    if not digits.isdigit() or len(digits) > CHUNK_SIZE_DIGITS:
        raise WireFault("chunk-size-malformed", start)
    size = int(digits)
    if size > CHUNK_SIZE:
        raise WireFault("chunk-size-too-large", start)
    if space and marker.upper() != b"LAST":
        raise WireFault("chunk-last-malformed", start + len(digits) + 1)
    return Chunk(size, bool(space))
