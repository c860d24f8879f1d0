"""Upkeep of one shard: removes overdue history and submission keys, and frees pages, in small transactions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ironpost.storage.sqlite.history import TEND_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.storage.sqlite.commit import GroupCommit
    from ironpost.storage.sqlite.history import History
    from ironpost.storage.sqlite.submissions import ShardSubmissions


class Upkeep:
    """Removes overdue history and keys, and frees pages of one shard."""

    def __init__(self, history: History, submissions: ShardSubmissions, commits: GroupCommit) -> None:
        self._history = history
        self._submissions = submissions
        self._commits = commits
        self.stopped = False
        """Set when the store is being closed."""

    def due(self) -> bool:
        """Whether there is overdue history, an overdue key or a free page to return."""
        return self._history.overdue() or self._submissions.overdue() or self._history.spare_pages() > 0

    async def tend(self) -> None:
        """Remove all overdue history and keys, and return all spare pages.

        Raises:
            OSError: the database cannot be written.
        """
        while not self.stopped and self._history.overdue():
            await self._write(partial(self._history.prune, TEND_EVENTS))
        while not self.stopped and self._submissions.overdue():
            await self._write(self._submissions.prune)
        while not self.stopped and self._history.spare_pages():
            await self._write(self._history.give_back)

    async def _write(self, action: Callable[[], int]) -> None:
        job = self._commits.job()
        job.action = action
        await self._commits.submit(job)
