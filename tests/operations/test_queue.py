"""Changes to the queue of a running server."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Address, Envelope, Recipient
from ironpost.mta.queue_requests import Retried
from ironpost.operations import queue as module
from ironpost.operations.dispatch import worker_handlers
from ironpost.operations.operation import OperationError
from ironpost.processes.requests import RequestRefused
from ironpost.queue.store import NewMessage, RecipientState
from ironpost.routing.route import Routes
from ironpost.storage.sqlite.shards import ShardedStore, lay_out
from ironpost.testing.directory import TableDirectory

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ironpost.processes.requests import RequestHandler
    from ironpost.queue.selection import Selection

    Handlers = dict[str, RequestHandler]

DIRECTORY = TableDirectory(
    ["d.example"],
    mailboxes=["jo@d.example"],
    aliases={"keep@d.example": ["keep@d.example", "far@slow.example"], "team@d.example": ["jo@d.example"]},
    failing=["far@slow.example"],
)


class Process:
    """The part of a serving process that changes to the queue need."""

    def __init__(self, store: ShardedStore, woken: list[str]) -> None:
        self.queue = store
        self.runner = self.requests = self
        """Nothing waits in memory."""
        self.wake_queue = lambda: woken.append("woken")
        self.routes = Routes(DIRECTORY)

    async def recall(self, selection: Selection) -> None:
        """Nothing to give back."""

    async def redirect(self, selection: Selection, _address: Address) -> int:
        """One recipient of each message has another address now."""
        assert selection.ids is not None
        return len(selection.ids)

    async def retry(self, selection: Selection) -> Retried:
        """Nothing is down or suspended."""
        count = await self.queue.retry(selection)
        self.wake_queue()
        return Retried(count, (), 0)


def with_queue(
    tmp_path: Path, count: int, scenario: Callable[[Handlers, ShardedStore, list[str]], Awaitable[None]]
) -> None:
    """Messages `m0`, `m1` and so on; and a list that grows when the queue runner is woken."""

    async def run() -> None:
        lay_out(tmp_path)
        store = ShardedStore.at(tmp_path, reserve=0)
        envelope = Envelope(Address.parse("a@b.example"), (Recipient(Address.parse("c@d.example")),))
        pending = []
        for number in range(count):
            spool = store.spool()
            spool.write(b"Subject: x\r\n\r\n")
            pending.append(store.commit(NewMessage(f"m{number}", envelope, 1.7e9, b"", spool)))
        for each in pending:
            await each
        woken: list[str] = []
        commands = worker_handlers(Process(store, woken))  # type: ignore[arg-type] # what changes need of a process
        async with asyncio.timeout(60):
            await scenario(commands, store, woken)
        await store.close()

    asyncio.run(run())


def test_commands_change_what_they_name(tmp_path: Path) -> None:
    async def scenario(commands: Handlers, store: ShardedStore, woken: list[str]) -> None:
        do = commands
        assert await do["hold"]({"ids": ["m0", "m1"]}) == {"recipients": 2}
        held = await store.get("m1")
        assert held is not None
        assert held.recipients[0].state is RecipientState.HELD
        assert woken == []
        assert await do["release"]({"ids": ["m1"]}) == {"recipients": 1}
        assert await do["retry"]({"ids": ["m2", "m2"]}) == {"recipients": 1, "suspended": [], "early": 0}
        assert (await do["retry"]({"all": True}))["recipients"] == 3
        assert len(woken) == 3
        assert await do["drop"]({"ids": ["m0", "m3"]}) == {"recipients": 2}
        assert [message.id for message in await store.list()] == ["m1", "m2"]
        assert await commands["known"]({"ids": ["m0", "m2", "x"]}) == {"ids": ["m2"]}

    with_queue(tmp_path, 4, scenario)


def test_a_selection_is_changed_and_an_unbounded_one_must_be_asked_for(tmp_path: Path) -> None:
    async def scenario(do: Handlers, store: ShardedStore, woken: list[str]) -> None:
        assert await do["hold"]({"from": "b.example", "to": "*"}) == {"recipients": 3}
        assert await do["release"]({"ids": ["m0", "m1"], "domain": "d.example"}) == {"recipients": 2}
        assert await do["drop"]({"state": "held", "older_than": "1h"}) == {"recipients": 1}
        assert await do["drop"]({"from": "<>"}) == {"recipients": 0}
        for request, sentence in (
            ({}, "give message IDs or criteria, or --all alone"),
            ({"all": True, "domain": "d.example"}, "give message IDs or criteria, or --all alone"),
            ({"from": "two words"}, "invalid sender two words: "),
            ({"domain": "a b.example"}, 'invalid domain a b.example: invalid character " " in the domain (offset 1)'),
            ({"domain": "a@d.example"}, "invalid domain a@d.example: write mail.example"),
            ({"state": "lost"}, "invalid state lost: write queued or held"),
            ({"older_than": "3"}, "invalid age 3: no unit: "),
        ):
            with pytest.raises(RequestRefused, match=f"^{re.escape(sentence)}"):
                await do["drop"](request)
        assert [message.id for message in await store.list()] == ["m0", "m1"]

    with_queue(tmp_path, 3, scenario)


def test_an_edited_address_is_looked_up_without_its_targets(tmp_path: Path) -> None:
    async def scenario(do: Handlers, store: ShardedStore, woken: list[str]) -> None:
        for new, why in {
            "typo@d.example": "typo@d.example takes no mail: 550 5.1.1 ",
            "team@d.example": "team@d.example is an alias, which is not expanded again",
            "far@slow.example": "far@slow.example: cannot look up far@slow.example",
        }.items():
            with pytest.raises(OperationError, match=f"^{re.escape(why)}"):
                await do["edit"]({"ids": ["m0"], "old": "c@d.example", "new": new})
        edited = await do["edit"]({"ids": ["m0"], "old": "c@d.example", "new": "keep@d.example"})
        assert edited == {"recipients": 1}, "a target of the alias cannot be looked up, but is not asked for"

    with_queue(tmp_path, 1, scenario)


@pytest.mark.parametrize("name", ["retry", "hold", "release", "drop"])
def test_an_unknown_message_keeps_all_the_others_as_they_are(tmp_path: Path, name: str) -> None:
    async def scenario(commands: Handlers, store: ShardedStore, woken: list[str]) -> None:
        before = await store.list()
        with pytest.raises(RequestRefused, match="nothing was changed: no message m7, m8 in the queue; "):
            await commands[name]({"ids": ["m0", "m7", "m1", "m8"]})
        after = await store.list()
        assert [each.recipients for each in after] == [each.recipients for each in before]
        assert woken == []
        for wrong in ("m0", [], [1], {"m0": 1}):
            with pytest.raises(RequestRefused, match=r'^invalid request: "ids" (must be a list of strings|is empty)$'):
                await commands[name]({"ids": wrong})

    with_queue(tmp_path, 2, scenario)


def test_many_messages_are_changed_in_steps_between_which_the_loop_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 10)

    async def scenario(commands: Handlers, store: ShardedStore, woken: list[str]) -> None:
        turns = 0
        done = False

        async def others() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        sessions = asyncio.create_task(others())
        assert await commands["drop"]({"ids": [f"m{number}" for number in range(300)]}) == {"recipients": 300}
        done = True
        await sessions
        assert turns > 60, "once for each part that was looked for, and for each that was dropped"
        assert await store.list() == []

    with_queue(tmp_path, 300, scenario)
