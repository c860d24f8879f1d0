"""The mark `@blocking` for hooks that block, such as calls of a database driver; they are run in a thread."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK: Final = "_ironpost_blocking"

F = TypeVar("F", bound="Callable[..., Any]")


def blocking(hook: F) -> F:
    """Mark a hook that blocks, for example on a database or a slow disk, so that it runs in the server's thread pool.

    It may read the session but must not change it.

    Raises:
        TypeError: the hook is an `async def`, which runs on the event loop.
    """
    if inspect.iscoroutinefunction(hook):
        raise TypeError(f"{hook.__qualname__} is an async def; @blocking is for plain functions")
    setattr(hook, _MARK, True)
    return hook


def blocks(hook: object) -> bool:
    """Whether the hook is marked `@blocking`."""
    return getattr(hook, _MARK, False) is True
