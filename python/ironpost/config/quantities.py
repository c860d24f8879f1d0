"""Parses values with a unit, and addresses to listen on or to connect to.

Promises: each value can be written in one way only; what parses has one meaning, and is a number that the system can
use.
Refuses: numbers without a unit, fractions, unknown units, values out of range, and paths that are too long for a
socket, with a ValueError that shows a valid example or the limit.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple, TypeAlias

SECONDS: dict[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OCTETS: dict[str, int] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

LONGEST = "36500d"
"""The longest duration; a timer of libuv can hold about as much."""
LARGEST = "1048576GiB"
"""The largest size: a pebibyte. Sums of a few are still within 63 bits."""
MANY = 10**9
"""The highest count, and the highest number of times in a rate."""
SOCKET_OCTETS = 107 if sys.platform == "linux" else 103
"""Maximum length of a Unix socket's path in octets: `sun_path` with its NUL is 108 on Linux, 104 on BSD and macOS
(unix(7))."""

_QUANTITY = re.compile(r"([0-9]+) ?([A-Za-z]*)")


def duration(value: object) -> float:
    """Seconds in `30s`, `5m`, `4h` or `5d`.

    Raises:
        ValueError: if it is anything else.
    """
    return float(_quantity(value, SECONDS, "a duration", "30s", LONGEST))


def size(value: object) -> int:
    """Octets in `512B`, `64KiB`, `25MiB` or `1GiB`.

    Raises:
        ValueError: if it is anything else.
    """
    return _quantity(value, OCTETS, "a size", "25MiB", LARGEST)


def _quantity(value: object, units: dict[str, int], what: str, example: str, most: str) -> int:
    wanted = f'{what} is a whole number with a unit ({", ".join(units)}), like "{example}"'
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        unit = "" if match is None or not match[2] else f'unknown unit "{match[2]}": '
        missing = "no unit: " if isinstance(value, int) or (match is not None and not match[2]) else ""
        raise ValueError(unit + missing + wanted)
    limit = _QUANTITY.fullmatch(most)
    assert limit is not None
    found = _number(match[1], most) * units[match[2]]
    if found > int(limit[1]) * units[limit[2]]:
        raise ValueError(f"maximum: {most}")
    return found


def _number(digits: str, most: str) -> int:
    if len(digits.lstrip("0")) > 18:  # `int` limits the number of digits, with a message about Python
        raise ValueError(f"maximum: {most}")
    return int(digits)


def rate(value: object) -> float:
    """Times a second in `10/s`, `60/m`, `1000/h` or `5000/d`.

    Raises:
        ValueError: if it is anything else.
    """
    match = re.fullmatch(r"([0-9]+)/([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a rate is a whole number, a slash and a unit (s, m, h, d), like "60/m"')
    many = _number(match[1], f"{MANY}/{match[2]}")
    if many > MANY:
        raise ValueError(f"maximum: {MANY}/{match[2]}")
    return many / SECONDS[match[2]]


def percentage(value: object) -> float:
    """The part, from 0 to 0.9, in `0%` to `90%`.

    Raises:
        ValueError: if it is anything else.
    """
    match = re.fullmatch(r"([0-9]{1,2})%", value) if isinstance(value, str) else None
    if match is None or int(match[1]) > 90:
        raise ValueError('a percentage is a whole number from 0 to 90 with its sign, like "20%"')
    return int(match[1]) / 100


def memory(value: object) -> tuple[float, int]:
    """The share of the available memory in `75%`, or the size in `2GiB`; the other is 0.

    Raises:
        ValueError: if it is anything else, or zero.
    """
    share, octets = 0.0, 0
    if isinstance(value, str) and value.endswith("%"):
        share = percentage(value)
    else:
        try:
            octets = size(value)
        except ValueError as error:
            raise ValueError(f'{error}; or a share of the available memory, like "75%"') from None
    if not share and not octets:
        raise ValueError("with no memory no mail would be accepted")
    return share, octets


def quota(value: object) -> tuple[int, float]:
    """Parse a quota: `100/h` is 100 items in 3600 seconds.

    Raises:
        ValueError: if it is not a rate, or is zero.
    """
    found = rate(value)
    if not found:
        raise ValueError("a quota of zero would refuse everything: leave the key out, or give at least 1")
    many, _, unit = str(value).partition("/")
    return int(many), float(SECONDS[unit])


def size_rate(value: object) -> float:
    """Octets a second in `100B/s` or `1KiB/s`.

    Raises:
        ValueError: if it is anything else.
    """
    text, stroke, unit = value.rpartition("/") if isinstance(value, str) else ("", "", "")
    if stroke and unit == "s":
        return float(size(text))
    raise ValueError('a data rate is a size per second, like "100B/s"')


class Endpoint(NamedTuple):
    """A host and a port."""

    host: str
    """A name or an IP address, an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def mode(value: object) -> int:
    """The permissions in `0660`.

    Raises:
        ValueError: if it is anything else.
    """
    if not isinstance(value, str) or re.fullmatch(r"0[0-7]{3}", value) is None:
        raise ValueError('a mode is four octal digits in quotes, like "0660"')
    return int(value, 8)


def endpoint(value: object) -> Endpoint:
    """The endpoint in `127.0.0.1:25`, `[::1]:25` or `mail.example:25`.

    Raises:
        ValueError: if it is anything else, or the port is above 65535.
    """
    match = (
        re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})", value) if isinstance(value, str) else None
    )
    if match is None or int(match[3]) > 65535:
        raise ValueError('an endpoint is a host, a colon and a port, like "127.0.0.1:25" or "[::1]:25"')
    return Endpoint(match[1] or match[2], int(match[3]))


class SocketPath(NamedTuple):
    """A Unix socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


class Inherited(NamedTuple):
    """Sockets that a service manager passes, by their name (LISTEN_FDNAMES)."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


Where: TypeAlias = Endpoint | SocketPath | Inherited
"""An address to listen on."""


def listening(value: object) -> Where:
    """The endpoint in `127.0.0.1:25`, the socket in `unix:/run/ironpost/lmtp.sock`, or the name in `fd:smtp`.

    Raises:
        ValueError: if it is anything else.
    """
    if isinstance(value, str) and value.startswith("fd:"):
        if re.fullmatch(r"fd:[!-9;-~]+", value) is None:
            raise ValueError('an inherited socket has the name that the service manager gives it, like "fd:smtp"')
        return Inherited(value.removeprefix("fd:"))
    if isinstance(value, str) and value.startswith("unix:"):
        return socket_path(value)
    return endpoint(value)


def socket_path(text: str) -> SocketPath:
    """The socket in `unix:/run/ironpost/lmtp.sock`.

    Raises:
        ValueError: the path is empty, too long, or contains NUL.
    """
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise ValueError('a Unix socket is a path, like "unix:/run/ironpost/lmtp.sock"')
    if (octets := len(os.fsencode(path))) > SOCKET_OCTETS:
        raise ValueError(f"this path has {octets} octets; maximum for a Unix socket: {SOCKET_OCTETS}")
    return SocketPath(Path(path))
