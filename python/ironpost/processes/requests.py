"""Requests between processes and from the command line: the handler type, and the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

RequestHandler: TypeAlias = "Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]"
"""Handles a request and returns the fields of the answer. `RequestRefused` is sent back as text."""


class RequestRefused(Exception):
    """A request cannot be carried out. The text is for the person who made it."""


class RequestTimedOut(RequestRefused):
    """No answer arrived in time, or the process that should answer is not running. A retry may succeed."""
