"""What an operator may do to the queue of a running server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ironpost.model import Address, Envelope, Recipient
from ironpost.queue.store import NewMessage, State
from ironpost.service import queue_commands
from ironpost.service.clock import SystemClock
from ironpost.service.control import ControlError
from ironpost.service.queue_commands import QueueCommands
from ironpost.storage.shards import ShardedStore, lay_out

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def with_queue(
    tmp_path: Path, count: int, scenario: Callable[[QueueCommands, ShardedStore, list[str]], Awaitable[None]]
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
        commands = QueueCommands(store, SystemClock(), lambda: woken.append("woken"))
        async with asyncio.timeout(60):
            await scenario(commands, store, woken)
        await store.close()

    asyncio.run(run())


def test_commands_change_what_they_name(tmp_path: Path) -> None:
    async def scenario(commands: QueueCommands, store: ShardedStore, woken: list[str]) -> None:
        do = commands.offered()
        assert await do["hold"]({"ids": ["m0", "m1"]}) == {"recipients": 2}
        held = await store.get("m1")
        assert held is not None
        assert held.recipients[0].state is State.HELD
        assert woken == []
        assert await do["release"]({"ids": ["m1"]}) == {"recipients": 1}
        assert await do["retry"]({"ids": ["m2", "m2"]}) == {"recipients": 1}
        assert await do["retry"]({}) == {"recipients": 3}
        assert len(woken) == 3
        assert await do["drop"]({"ids": ["m0", "m3"]}) == {"messages": 2}
        assert [message.id for message in await store.list()] == ["m1", "m2"]
        assert await commands.which({"ids": ["m0", "m2", "x"]}) == {"ids": ["m2"]}

    with_queue(tmp_path, 4, scenario)


@pytest.mark.parametrize("name", ["retry", "hold", "release", "drop"])
def test_an_unknown_message_keeps_all_the_others_as_they_are(tmp_path: Path, name: str) -> None:
    async def scenario(commands: QueueCommands, store: ShardedStore, woken: list[str]) -> None:
        before = await store.list()
        with pytest.raises(ControlError, match="no message m7, m8 in the queue; nothing was changed"):
            await commands.offered()[name]({"ids": ["m0", "m7", "m1", "m8"]})
        after = await store.list()
        assert [each.recipients for each in after] == [each.recipients for each in before]
        assert woken == []
        for wrong in ("m0", [], [1], {"m0": 1}):
            with pytest.raises(ControlError, match="must be a list of queue ids"):
                await commands.offered()[name]({"ids": wrong})

    with_queue(tmp_path, 2, scenario)


def test_many_messages_are_changed_in_parts_between_which_the_loop_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_commands, "PART", 10)

    async def scenario(commands: QueueCommands, store: ShardedStore, woken: list[str]) -> None:
        turns = 0
        done = False

        async def others() -> None:
            nonlocal turns
            while not done:
                turns += 1
                await asyncio.sleep(0)

        sessions = asyncio.create_task(others())
        assert await commands.offered()["drop"]({"ids": [f"m{number}" for number in range(300)]}) == {"messages": 300}
        done = True
        await sessions
        assert turns > 60, "once for each part that was looked for, and for each that was dropped"
        assert await store.list() == []

    with_queue(tmp_path, 300, scenario)
