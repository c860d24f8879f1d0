"""Our replacements under the names of the libraries, for programs that cannot be edited.

    from ironpost.compat import aliases

    aliases.install("smtplib")  # before anything imports smtplib
    import smtplib  # ironpost.compat.smtplib

Promises: `import NAME` gives `ironpost.compat.NAME` from `install` to `remove`; modules that imported NAME before keep
what they have.
Refuses: a name that is not in `ALIASES`, with ValueError. Then nothing is replaced.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

ALIASES: Final = ("smtplib", "aiosmtplib")
"""The libraries that have a replacement."""

_originals: dict[str, ModuleType | None] = {}


def install(*names: str) -> None:
    """Import our replacements under these names.

    Raises:
        ValueError: a name without a replacement.
    """
    for name in names:
        if name not in ALIASES:
            raise ValueError(f"{name!r} has no replacement; there are: {', '.join(ALIASES)}")
    for name in names:
        replacement = import_module(f"ironpost.compat.{name}")
        _originals.setdefault(name, sys.modules.get(name))
        sys.modules[name] = replacement


def remove(*names: str) -> None:
    """Import the libraries under these names again; a name that is not installed is left alone."""
    for name in names:
        if name in _originals:
            original = _originals.pop(name)
            if original is None:
                del sys.modules[name]
            else:
                sys.modules[name] = original
