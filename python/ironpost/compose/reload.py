"""Which keys a reload cannot change, and the sentence about a finished reload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ironpost.config.schema import FIXED, FIXED_LISTENER
from ironpost.processes.requests import RequestRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.config import Configuration


def refuse_fixed(old: Configuration, new: Configuration) -> None:
    """Compare the keys that cannot change while the server runs.

    Raises:
        RequestRefused: a value differs.
    """
    fixed = _fixed_differences(old, new)
    if fixed:
        raise RequestRefused(f"a reload cannot change {' and '.join(fixed)}: restart the server for that")


def _fixed_differences(old: Configuration, new: Configuration) -> list[str]:
    """Return the key paths of fixed keys whose values differ."""
    found = [".".join(path) for path in FIXED if _value(new, path) != _value(old, path)]
    if len(new.listener) != len(old.listener):
        return [*found, "the number of listeners"]
    for number, (before, after) in enumerate(zip(old.listener, new.listener, strict=True), 1):
        found += [f"listener[{number}].{key}" for key in FIXED_LISTENER if getattr(before, key) != getattr(after, key)]
    return found


def _value(configuration: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        configuration = getattr(configuration, name)
    return configuration


def outcome(new: Configuration, old: Configuration, news: Sequence[str]) -> str:
    """Return the sentence about a finished reload; `news` are sentences about certificates that were reloaded."""
    if new.hash != old.hash:
        what = f"configuration {new.hash} replaces {old.hash}"
    else:
        files = ["certificates", "accounts"]
        files += ["DKIM keys"] if new.dkim else []
        files += ["secrets of routes"] if any(route.auth is not None for route in new.route) else []
        what = f"configuration unchanged ({new.hash}); {', '.join(files[:-1])} and {files[-1]} reloaded"
    return "; ".join([what, *news])
