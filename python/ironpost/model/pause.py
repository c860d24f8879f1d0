"""A pause of long work in the event loop, for code that knows of no event loop."""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator


@coroutine
def pause() -> Generator[None, None, None]:
    """Let the event loop run others first, as `asyncio.sleep(0)` does."""
    yield
