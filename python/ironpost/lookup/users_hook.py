"""The operator's own authenticator: an object in a Python file or module.

    accounts.py:authenticator       the file, beside the configuration or by its path
    accounts.ldap:authenticator     the module, wherever Python finds it

Promises: whatever is wrong is one sentence that names the hook. Methods may be `async`; one that blocks is marked
`ironpost.server.blocking`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from ironpost.lookup.users import METHODS

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


class HookError(Exception):
    """The hook cannot be had; the text says why."""


def load(place: str, base: Path) -> object:
    """The object that `place` names.

    Args:
        place: `file.py:attribute` or `module:attribute`.
        base: the directory that relative paths are meant from.

    Raises:
        HookError: there is none, its code raises, or it has none of the methods.
    """
    where, _, attribute = place.rpartition(":")
    try:
        module = _file(base / where) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise HookError(f"{place}: {type(error).__name__}: {error}") from error
    found: object = getattr(module, attribute, None)
    if found is None:
        raise HookError(f"{place}: {where} has no {attribute}")
    if not any(callable(getattr(found, method, None)) for method in METHODS) or isinstance(found, type):
        raise HookError(f"{place}: this is no authenticator: an object with one of {', '.join(METHODS)}")
    return found


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
