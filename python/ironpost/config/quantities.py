"""Values with a unit, and addresses to listen on or to connect to, as people write them in a configuration.

Promises: one way to write each; what parses has one meaning.
Refuses: numbers without a unit, fractions, unknown units, with a ValueError whose sentence shows a right example.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, TypeAlias

SECONDS: dict[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
OCTETS: dict[str, int] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

_QUANTITY = re.compile(r"([0-9]+) ?([A-Za-z]*)")


def duration(value: object) -> float:
    """Seconds in `30s`, `5m`, `4h` or `5d`.

    Raises:
        ValueError: if it is anything else.
    """
    return float(_quantity(value, SECONDS, "a duration", "30s"))


def size(value: object) -> int:
    """Octets in `512B`, `64KiB`, `25MiB` or `1GiB`.

    Raises:
        ValueError: if it is anything else.
    """
    return _quantity(value, OCTETS, "a size", "25MiB")


def _quantity(value: object, units: dict[str, int], what: str, example: str) -> int:
    wanted = f'{what} is a whole number with a unit ({", ".join(units)}), like "{example}"'
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        unit = "" if match is None or not match[2] else f'unknown unit "{match[2]}": '
        missing = "no unit: " if isinstance(value, int) or (match is not None and not match[2]) else ""
        raise ValueError(unit + missing + wanted)
    return int(match[1]) * units[match[2]]


def rate(value: object) -> float:
    """Times a second in `10/s`, `60/m`, `1000/h` or `5000/d`.

    Raises:
        ValueError: if it is anything else.
    """
    match = re.fullmatch(r"([0-9]+)/([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError('a rate is a whole number, a stroke and a unit (s, m, h, d), like "60/m"')
    return int(match[1]) / SECONDS[match[2]]


def quota(value: object) -> tuple[int, float]:
    """How many, and in how many seconds: `100/h` is 100 and 3600.

    Raises:
        ValueError: if it is no rate, or one of nothing.
    """
    found = rate(value)
    if not found:
        raise ValueError("a quota of nothing lets nothing through: leave the key out, or give at least 1")
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
    raise ValueError('a data rate is a size for each second, like "100B/s"')


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
    """Sockets that a service manager hands over, by their name (LISTEN_FDNAMES)."""

    name: str

    def __str__(self) -> str:
        return f"fd:{self.name}"


Where: TypeAlias = Endpoint | SocketPath | Inherited
"""Where to listen."""


def listening(value: object) -> Where:
    """The endpoint in `127.0.0.1:25`, the socket in `unix:/run/ironpost/lmtp.sock`, or the name in `fd:smtp`.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(value, str) and value.startswith("fd:"):
        if re.fullmatch(r"fd:[!-9;-~]+", value) is None:
            raise ValueError('an inherited socket is named as the service manager names it, like "fd:smtp"')
        return Inherited(value.removeprefix("fd:"))
    if isinstance(value, str) and value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path or "\0" in path:
            raise ValueError('a Unix socket is a path, like "unix:/run/ironpost/lmtp.sock"')
        return SocketPath(Path(path))
    return endpoint(value)
