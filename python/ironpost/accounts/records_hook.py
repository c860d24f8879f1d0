"""Mailboxes and aliases that a Python object of the operator knows: a hook with the method `lookup`.

    def lookup(self, key):
        return {"targets": ["jo@other.example"]} if key == "ada@mail.example" else None

Promises: the method returns a mapping with the fields of a record, or None for an unknown address. It may be `async`;
one that is marked `ironpost.blocking` runs in a few threads. An exception, and any other result, is a `DirectoryError`.
Refuses: what `accounts.hook` does.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from ironpost.accounts.hook import HookError, hook_place, load
from ironpost.accounts.records_fields import record_of
from ironpost.model.blocking import blocks
from ironpost.model.text import escape
from ironpost.routing.directory import DirectoryError

if TYPE_CHECKING:
    from ironpost.accounts.record_sources import SourceContext
    from ironpost.routing.records import Record

LOG = logging.getLogger("ironpost.accounts")
METHODS: Final = ("lookup",)
THREADS: Final = 4
"""Number of calls of a method that blocks that run at a time; further ones wait."""


@dataclass(frozen=True, slots=True)
class HookOptions:
    """`[[directory.hook]]`: mailboxes and aliases that a Python object knows."""

    object: Annotated[str, hook_place]
    """In `[[directory.hook]]` ([Directory sources](#directory-sources)): an object with the method `lookup`,
    `file.py:object` or `module:object`, as for `auth.hook`."""

    def open(self, context: SourceContext, /) -> HookRecords:
        """See `accounts.record_sources.SourceOptions`; the hook is loaded."""
        try:
            return HookRecords(load(self.object, context.folder, METHODS), str(self))
        except HookError as error:
            raise ValueError(str(error)) from error

    def __str__(self) -> str:
        return self.object


class HookRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, hook: Any, where: str) -> None:
        """`where` is the source, for reasons and errors."""
        self._hook = hook
        self._where = where
        self._threads = ThreadPoolExecutor(THREADS, "ironpost-directory") if blocks(hook.lookup) else None

    async def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        try:
            found = await self._ask(key)
        except Exception as error:
            LOG.exception("%s: the lookup of %s failed", self._where, key)
            raise DirectoryError(f"{self._where}: {type(error).__name__}: {escape(str(error))}") from error
        if found is None:
            return None
        if not isinstance(found, Mapping):
            raise DirectoryError(f"{self._where}: lookup returned {type(found).__name__}; expected a mapping or None")
        return record_of([found], self._where)

    async def _ask(self, key: str) -> object:
        if self._threads is not None:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._hook.lookup, key)
        found = self._hook.lookup(key)
        return await found if inspect.isawaitable(found) else found
