"""Files that commands read whole: a message, or a report."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Final, TypeVar

from ironpost.cli import exits
from ironpost.cli.app import CommandError
from ironpost.model.text import error_text, escape
from ironpost.reports.received import ReportError

if TYPE_CHECKING:
    from collections.abc import Callable

STANDARD_INPUT: Final = "-"
MESSAGE_LIMIT: Final = 256 << 20
"""Octets of a message that is read."""
REPORT_LIMIT: Final = 32 << 20
"""Octets of a file with a report: the largest report, in base64."""

Report = TypeVar("Report")


def names_file(argument: str) -> bool:
    """Return whether an argument that names a file or a domain names a file.

    It is if it is `-`, has a slash, which no domain has, or is the name of anything but a directory.
    """
    if argument == STANDARD_INPUT or "/" in argument:
        return True
    try:
        return not S_ISDIR(Path(argument).stat().st_mode)
    except OSError:
        return False


def read_file(file: str, most: int) -> bytes:
    """Read a file, or standard input (`-`): at most one octet more than `most`.

    Raises:
        CommandError: it cannot be read.
    """
    try:
        with sys.stdin.buffer if file == STANDARD_INPUT else Path(file).open("rb") as opened:
            return opened.read(most + 1)
    except OSError as error:
        raise CommandError(exits.NO_INPUT, f"{file}: {error_text(error)}") from None


def read_message(file: str) -> bytes:
    """Read a message; its line ends become CRLF.

    Raises:
        CommandError: it cannot be read, or is longer than `MESSAGE_LIMIT`.
    """
    octets = read_file(file, MESSAGE_LIMIT)
    if len(octets) > MESSAGE_LIMIT:
        raise CommandError(exits.NO_INPUT, f"{file}: more than {MESSAGE_LIMIT} octets")
    return re.sub(rb"\r?\n", b"\r\n", octets)


def read_report(file: str, parse: Callable[[bytes], Report]) -> Report:
    """Read a report.

    Args:
        file: the path.
        parse: returns the report, or raises `ReportError`.

    Raises:
        CommandError: the file cannot be read, or has no valid report.
    """
    octets = read_file(file, REPORT_LIMIT)
    try:
        if len(octets) > REPORT_LIMIT:
            raise ReportError(f"more than {REPORT_LIMIT} octets")
        return parse(octets)
    except ReportError as error:
        raise CommandError(exits.NOT_CONFORMING, f"{file}: {escape(str(error))}") from None
