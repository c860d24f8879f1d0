"""Values with a unit, and addresses of hosts, as people write them in a configuration.

Promises: one way to write each; what parses has one meaning.
Refuses: numbers without a unit, fractions, unknown units, with a ValueError whose sentence shows a right example.
"""

from __future__ import annotations

import re
from typing import NamedTuple

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


class Endpoint(NamedTuple):
    """A host and a port."""

    host: str
    """A name or an IP address, an IPv6 address without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


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
