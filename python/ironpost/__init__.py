"""ironpost: SMTP, whole. `wire` parses, `Server` and `Client` speak asyncio, `ironpost serve` is the mail server.

Importing the package loads nothing else of it; a name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironpost.client import Client as Client
    from ironpost.server import BaseHandler as BaseHandler
    from ironpost.server import Server as Server

_LAZY = {
    "BaseHandler": "ironpost.server",
    "Client": "ironpost.client",
    "Server": "ironpost.server",
}
"""Public name to the module that has it."""

__all__ = ["BaseHandler", "Client", "Server"]


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'ironpost' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
