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
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ALIASES: Final = ("smtplib", "aiosmtplib", "aiosmtpd")
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
        for module, replacement in _modules(name):
            _originals.setdefault(module, sys.modules.get(module))
            sys.modules[module] = replacement


def remove(*names: str) -> None:
    """Import the libraries under these names again; a name that is not installed is left alone."""
    for module in [each for each in _originals if each.partition(".")[0] in names]:
        original = _originals.pop(module)
        if original is None:
            del sys.modules[module]
        else:
            sys.modules[module] = original


def _modules(name: str) -> Iterator[tuple[str, ModuleType]]:
    """The modules of a library by their names there, and our replacements of them."""
    package = import_module(f"ironpost.compat.{name}")
    yield name, package
    for _, module, _ in iter_modules(getattr(package, "__path__", [])):
        if module != "__main__":
            yield f"{name}.{module}", import_module(f"{package.__name__}.{module}")
