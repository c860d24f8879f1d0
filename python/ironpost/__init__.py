"""A complete SMTP stack: `wire` parses, `Server` and `Client` are for asyncio, `ironpost serve` is the mail server.

Importing the package loads nothing else of it; a name is loaded when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ironpost.client import Client as Client
    from ironpost.model.verdict import Verdict as Verdict
    from ironpost.model.verdict import accept as accept
    from ironpost.model.verdict import defer as defer
    from ironpost.model.verdict import drop as drop
    from ironpost.model.verdict import quarantine as quarantine
    from ironpost.model.verdict import reject as reject
    from ironpost.model.verdict import tarpit as tarpit
    from ironpost.server import BaseHandler as BaseHandler
    from ironpost.server import Server as Server
    from ironpost.server import blocking as blocking

_VERDICT = "ironpost.model.verdict"
_LAZY = {
    "BaseHandler": "ironpost.server",
    "Client": "ironpost.client",
    "Server": "ironpost.server",
    "Verdict": _VERDICT,
    "blocking": "ironpost.server",
    "accept": _VERDICT,
    "defer": _VERDICT,
    "drop": _VERDICT,
    "quarantine": _VERDICT,
    "reject": _VERDICT,
    "tarpit": _VERDICT,
}
"""Public name to the module that has it."""

__version__: str
"""The version of the installed package."""

__all__ = [
    "BaseHandler",
    "Client",
    "Server",
    "Verdict",
    "__version__",
    "accept",
    "blocking",
    "defer",
    "drop",
    "quarantine",
    "reject",
    "tarpit",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # it imports socket, which `wire` alone does not need

        return version("ironpost")
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'ironpost' has no attribute {name!r}")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
