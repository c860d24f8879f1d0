"""Loads a hook of the operator, such as an authenticator: an object in a Python file or module.

    accounts.py:authenticator       a file, relative to the directory of the configuration file
    accounts.ldap:authenticator     an installed module, or one on PYTHONPATH

Promises: nothing is loaded from the working directory, which any user may own. Each error is one sentence that names
the hook. Methods may be `async`; methods that block are marked `ironpost.server.blocking`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType


class HookError(Exception):
    """The hook cannot be loaded; the text gives the reason."""


def hook_place(text: str) -> str:
    """Refuse what is not `file.py:attribute` or `module:attribute`.

    Raises:
        ValueError: it is neither.
    """
    where, _, attribute = text.rpartition(":")
    if not where or not attribute.isidentifier():
        raise ValueError('a hook is an object in a file or a module, like "accounts.py:authenticator"')
    return text


def load(place: str, base: Path, methods: Sequence[str]) -> object:
    """Load the object that `place` names.

    Args:
        place: `file.py:attribute` or `module:attribute`.
        base: the directory that relative paths start from.
        methods: the methods of which it must have one.

    Raises:
        HookError: it does not exist, its code raises, or it has none of the methods.
    """
    where, _, attribute = place.rpartition(":")
    if where.endswith(".py") and not (base / where).is_file():
        raise HookError(f"{place}: file not found: {base / where}")
    try:
        module = _file(base / where) if where.endswith(".py") else importlib.import_module(where)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too: the file must not end the server
        raise HookError(f"{place}: {type(error).__name__}: {error}") from error
    found: object = getattr(module, attribute, None)
    if found is None:
        raise HookError(f"{place}: {where} has no {attribute}")
    if not any(callable(getattr(found, method, None)) for method in methods) or isinstance(found, type):
        raise HookError(f"{place}: expected an object with the method {' or '.join(methods)}")
    return found


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # its name ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
