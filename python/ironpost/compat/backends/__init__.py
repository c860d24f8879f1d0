"""`ironpost.wire` as the parser under stock aiosmtpd, smtplib and aiosmtplib.

    from ironpost.compat import backends

    backends.install("aiosmtpd")  # before the first connection
    backends.remove("aiosmtpd")

Promises: the libraries stay as they are, with their classes, hooks, limits and replies; `install` replaces only the few
functions in which they read or write content and addresses, for the whole process, and `remove` puts back the original
ones. A connection that is open may keep what it began with. Whatever the wire would read or write differently is left
to the original function.

Refuses: a name that is not in `BACKENDS`, with ValueError; a library that is not installed, with ImportError; a version
of it that lacks one of these functions, with RuntimeError. Then nothing is replaced.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

BACKENDS: Final = ("aiosmtpd", "smtplib", "aiosmtplib")
"""The libraries that `install` knows, each a module of this package with the function `replacements`."""

_MISSING: Final = object()


class Replacement(NamedTuple):
    """One attribute that `install` replaces."""

    owner: Any
    """The class or module that has it."""
    name: str
    value: Any


class Original(NamedTuple):
    """What `remove` puts back."""

    owner: Any
    name: str
    value: Any


_installed: dict[str, list[Original]] = {}


def install(*names: str) -> None:
    """Use `ironpost.wire` under these libraries; one that has it already is left alone.

    Args:
        names: of `BACKENDS`.

    Raises:
        ValueError: a name that is not one of them.
        ImportError: a library that is not installed.
        RuntimeError: a version of a library that lacks what is to be replaced.
    """
    planned = {name: _planned(name) for name in names if name not in _installed}
    for name, replacements in planned.items():
        _installed[name] = [Original(owner, key, vars(owner)[key]) for owner, key, _ in replacements]
        for owner, key, value in replacements:
            setattr(owner, key, value)


def remove(*names: str) -> None:
    """Put back the functions of these libraries; one without our wire is left alone.

    Args:
        names: of `BACKENDS`.

    Raises:
        ValueError: a name that is not one of them.
    """
    for name in names:
        _check(name)
        for owner, key, value in _installed.pop(name, ()):
            setattr(owner, key, value)


def installed() -> tuple[str, ...]:
    """The names of the libraries that use `ironpost.wire` now."""
    return tuple(_installed)


def _planned(name: str) -> list[Replacement]:
    """What is replaced in one library."""
    _check(name)
    replacements: Iterable[Replacement] = import_module(f"{__name__}.{name}").replacements()
    planned = list(replacements)
    for owner, key, _ in planned:
        if vars(owner).get(key, _MISSING) is _MISSING:
            raise RuntimeError(f"this version of {name} has no {owner.__name__}.{key}, which the backend replaces")
    return planned


def _check(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{name!r} has no backend; there are: {', '.join(BACKENDS)}")
