"""Paths of mailboxes from addresses: `/srv/mail/{domain}/{local}`.

Promises: a placeholder becomes part of one path component, which an address can neither leave nor hide: in the form in
which the directory compares it, lower-case letters, digits and `-_+=.@` stay, and any other octet of UTF-8 is written
`%XX`, as is a dot at the beginning (SECURITY R42). Two addresses share a path only if they are one to the directory. A
template without placeholders is one path for all addresses.
Refuses: unknown placeholders, with a ValueError that names it; addresses whose component is longer than 255 octets,
with `PathError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from ironpost.routing.mail_directory import folded

if TYPE_CHECKING:
    from ironpost.model import Address

COMPONENT_OCTETS: Final = 255
"""Maximum octets of a path component (NAME_MAX of the usual file systems)."""
PLACEHOLDERS: Final = ("domain", "local", "address")

_PLAIN: Final = re.compile(r"[a-z0-9_+=@-][a-z0-9_+=@.-]*")
_KEPT: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_+=.@")
_EMPTY: Final = "%"
"""The component of an empty local part; no other text is encoded like this."""


class PathError(ValueError):
    """An address has no path."""


class _Part(NamedTuple):
    """Literal text, and the placeholder after it, or None at the end."""

    text: str
    placeholder: str | None


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path with placeholders: `{domain}`, `{local}` (the local part) and `{address}`; `{{` and `}}` are braces."""

    text: str
    base: Path = field(init=False, repr=False, compare=False)
    """The directory that must exist: what is above the first placeholder, or above the path if there is none."""
    single: Path | None = field(init=False, repr=False, compare=False)
    """The path, if it is the same for all addresses."""
    _parts: tuple[_Part, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.text or "\0" in self.text:
            raise ValueError("expected a path, such as /srv/mail/{domain}/{local}")
        try:
            parsed = [(literal, _name(*rest)) for literal, *rest in Formatter().parse(self.text)]
        except ValueError as error:
            raise ValueError(f'"{self.text}" is not a path template: {error}; write a brace as {{{{ or }}}}') from None
        parts = tuple(_Part(*each) for each in parsed)
        for part in parts:
            if part.placeholder is not None and part.placeholder not in PLACEHOLDERS:
                raise ValueError(
                    f'"{self.text}": {{{part.placeholder}}} is not known;'
                    f" expected {' or '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
                )
        varies = any(part.placeholder for part in parts)
        first = parts[0].text
        put = object.__setattr__
        put(self, "_parts", parts)
        put(self, "single", None if varies else Path("".join(part.text for part in parts)))
        # The part of the first literal that is a whole directory; `x` as the last component is not one.
        put(self, "base", Path(first + "x").parent if varies else Path(first).parent)

    @classmethod
    def fixed(cls, path: Path) -> Self:
        """The template that is one path for all addresses."""
        return cls(str(path).replace("{", "{{").replace("}", "}}"))

    def path(self, address: Address, host: str) -> Path:
        """The path of an address; `host` is the domain of `<postmaster>` without one.

        Raises:
            PathError: a component would be longer than `COMPONENT_OCTETS`.
        """
        if self.single is not None:
            return self.single
        local, domain = component(address.local_part), component(address.key or host)
        values = {"local": local, "domain": domain, "address": f"{local}@{domain}"}
        path = Path("".join(part.text + values.get(part.placeholder or "", "") for part in self._parts))
        for name in path.parts:
            if len(name.encode()) > COMPONENT_OCTETS:
                raise PathError(f"{address} has no path: {name[:20]}... is longer than {COMPONENT_OCTETS} octets")
        return path

    def pattern(self) -> str:
        """The part below `base` with `*` for each placeholder, as `Path.glob` reads it."""
        whole = "".join(f"{_literal(part.text)}{'*' if part.placeholder else ''}" for part in self._parts)
        below = str(Path(whole).relative_to(_literal(str(self.base))))
        return re.sub(r"\*+", "*", below)  # `**` would be any depth

    def __str__(self) -> str:
        return self.text


def _name(name: str | None, options: str | None, conversion: str | None) -> str | None:
    """The placeholder as it was written."""
    if name is None:
        return None
    return name + (f"!{conversion}" if conversion else "") + (f":{options}" if options else "")


def component(text: str) -> str:
    """Encode a text as part of a path component; see the module's promises."""
    name = folded(text)
    if _PLAIN.fullmatch(name) is not None:
        return name
    octets = name.encode()
    return (
        "".join(
            chr(octet) if octet in _KEPT and not (at == 0 and octet == ord(".")) else f"%{octet:02X}"
            for at, octet in enumerate(octets)
        )
        or _EMPTY
    )


def _literal(text: str) -> str:
    """`text` as a glob pattern that matches only itself."""
    return re.sub(r"([*?[])", r"[\1]", text)
