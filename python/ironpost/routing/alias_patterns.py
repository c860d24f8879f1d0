"""Aliases of all addresses that match a regular expression.

Promises: an expression is compared with a whole address as `key_of` writes it, without regard to the case of ASCII
letters. Groups are filled into the local part of a target as text: quotes, `@` or spaces in an address change neither
the domain of a target nor the number of targets (SECURITY R42).
Refuses: an expression that could take too long for an address, because Python's engine tries every way to match; one
with references, lookaround or atomic groups, whose time is not estimated; a target with a group that does not exist.
"""

from __future__ import annotations

import math
import re
from re import _constants as sre  # type: ignore[attr-defined] # has no stubs
from re import _parser as parser  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any, Final

from ironpost.model.address import MAILBOX_OCTETS, Address
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FLAGS: Final = re.ASCII | re.IGNORECASE
MAX_TEXT: Final = 500
"""Maximum length of an expression, in characters."""
MAX_WAYS: Final = 1_000_000
"""Maximum number of ways to match the longest address: about 50 ms."""
_GROUP: Final = re.compile(r"\{(\w+)\}")
_PLAIN: Final = frozenset({sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN, sre.AT})


class AliasPattern:
    """An alias of all addresses that match."""

    __slots__ = ("_expression", "_targets", "_where")

    def __init__(self, text: str, targets: Sequence[Address], where: str) -> None:
        """Compile the expression.

        Args:
            text: the regular expression.
            targets: where mail goes; `{1}` or `{name}` in a local part is replaced by that group.
            where: its name in reasons.

        Raises:
            ValueError: the expression or a target is refused.
        """
        self._expression = compiled(text)
        for target in targets:
            for name in _GROUP.findall(target.local_part):
                if not _has_group(self._expression, name):
                    raise ValueError(f"{target}: the pattern has no group {name}")
        self._targets = tuple(targets)
        self._where = f"{where} ({text})"

    def record(self, key: str) -> Record | None:
        """Return the alias of an address; None if it does not match, or a target would not be a valid address."""
        match = self._expression.fullmatch(key)
        if match is None:
            return None
        try:
            return Record(self._where, tuple(_filled(target, match) for target in self._targets))
        except ValueError:
            return None


def compiled(text: str) -> re.Pattern[str]:
    """Compile a regular expression for addresses.

    Raises:
        ValueError: it is not valid, or could take too long.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"the pattern has more than {MAX_TEXT} characters")
    try:
        expression = re.compile(text, FLAGS)
        ways = _ways(parser.parse(text, FLAGS))
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"invalid regular expression: {error}") from None
    if ways > MAX_WAYS:
        raise ValueError("the pattern could take too long: write at most two of * and +, and none inside another")
    return expression


def _ways(items: Iterable[tuple[Any, Any]]) -> float:
    """At most how many ways an expression has to match the longest address; above `MAX_WAYS` not exactly."""
    return min(math.prod(_ways_of(kind, value) for kind, value in items), 2 * MAX_WAYS)


def _ways_of(kind: Any, value: Any) -> float:
    if kind in _PLAIN:
        return 1
    if kind is sre.SUBPATTERN:
        return _ways(value[3])
    if kind is sre.BRANCH:
        return sum(map(_ways, value[1]))
    if kind in {sre.MAX_REPEAT, sre.MIN_REPEAT}:
        least, most, body = value
        most = min(most, MAILBOX_OCTETS)
        each = _ways(body)
        if each > 1 and most > math.log(MAX_WAYS, 2):
            return math.inf
        return float(max(1, most - least + 1) * each**most)
    raise ValueError(f"the pattern uses {str(kind).lower().replace('_', ' ')}, which is not supported")


def _has_group(expression: re.Pattern[str], name: str) -> bool:
    return 1 <= int(name) <= expression.groups if name.isdigit() else name in expression.groupindex


def _filled(target: Address, match: re.Match[str]) -> Address:
    """A target with the groups in place of their references.

    Raises:
        ValueError: it is not a valid address.
    """

    def text(reference: re.Match[str]) -> str:
        name = reference[1]
        return match[int(name) if name.isdigit() else name] or ""

    local_part = _GROUP.sub(text, target.local_part)
    if local_part == target.local_part:
        return target
    if not local_part:
        raise ValueError("an empty local part")
    return Address(local_part, target.domain)
