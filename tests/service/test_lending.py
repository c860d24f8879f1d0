"""Messages of one worker that another attempts: claimed once, recorded by their owner, given back by the dead."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.model import Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.queue.store import NewMessage, State, Update
from ironpost.service.lending import ENDED, LendingStore, packed, unpacked
from ironpost.service.news import News
from ironpost.storage.shards import lay_out
from ironpost.storage.sqlite_rows import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ironpost.service.control import Command

DOMAINS = ("jo.example",)
YES = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "jo [192.0.2.1]")
LATER = Outcome.of(Reply(451, "4.0.0", ("Later",)))
NO = Outcome.of(Reply(550, "5.1.1", ("Nobody",)))
LARGE = b"x" * 200_000


class Crew:
    """Workers that can ask each other, and be down."""

    def __init__(self, data: Path, workers: int) -> None:
        lay_out(data)
        self.data = data
        self.down: set[int] = set()
        self.woken: list[int] = []
        self.stores = [LendingStore.at(data, worker=number, workers=workers, reserve=0) for number in range(workers)]
        self.news = [self._news(number) for number in range(workers)]
        self.commands: list[dict[str, Command]] = [
            store.join(self.news[number], number, workers, lambda number=number: self.woken.append(number))  # type: ignore[misc]
            for number, store in enumerate(self.stores)
        ]

    def restart(self, number: int) -> None:
        store = LendingStore.at(self.data, worker=number, workers=len(self.stores), reserve=0)
        self.stores[number] = store
        self.news[number] = self._news(number)
        self.commands[number] = store.join(
            self.news[number], number, len(self.stores), lambda: self.woken.append(number)
        )

    def _news(self, asking: int) -> News:
        async def ask(question: Any) -> Any:
            request = json.loads(json.dumps(question))["request"]  # as over the link
            others = [each for each in range(len(self.stores)) if each != asking and each not in self.down]
            return {"answers": [await self.commands[each][request["do"]](request) for each in others]}

        def tell(note: Any) -> None:
            for number, news in enumerate(self.news):
                if number != asking and number not in self.down:
                    news.heard(json.loads(json.dumps(note)))

        return News(tell, ask)

    async def queue(self, worker: int, name: str, content: bytes = b"Subject: x\r\n\r\n") -> None:
        store = self.stores[worker]
        spool = store.spool()
        if (behind := spool.write(content)) is not None:
            await behind
        to = tuple(Recipient(Address.parse(each)) for each in ("a@jo.example", "b@jo.example", "c@al.example"))
        envelope = Envelope(Address.parse("from@sender.example"), to)
        await store.commit(NewMessage(name, envelope, time.time() - 1, b"", spool))
        await store.release([name])

    async def states(self, worker: int, name: str) -> list[State]:
        message = await self.stores[worker].get(name)
        return [] if message is None else [each.state for each in message.recipients]


def among(tmp_path: Path, workers: int, scenario: Callable[[Crew], Awaitable[None]]) -> None:
    async def run() -> None:
        crew = Crew(tmp_path, workers)
        async with asyncio.timeout(30):
            await scenario(crew)
        for store in crew.stores:
            await store.close()

    asyncio.run(run())


def updates(name: str, outcome: Outcome, state: State, *numbers: int) -> list[Update]:
    return [Update(name, number, state, 1, time.time() + 600, outcome) for number in numbers or (0, 1)]


@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\nhi\r\n", LARGE], ids=["small", "large"])
def test_what_is_lent_is_claimed_read_and_recorded_by_its_owner(tmp_path: Path, content: bytes) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1", content)
        borrower = crew.stores[0]
        assert await borrower.waiting(DOMAINS, time.time()) == ["m1"]
        message = await borrower.take("m1", DOMAINS, time.time())
        assert message is not None
        assert [each.number for each in message.recipients] == [0, 1]
        assert b"".join([piece async for piece in message.body.pieces()]) == content
        assert await crew.stores[2].take("m1", DOMAINS, time.time()) is None, "it is lent"
        assert [each.number for each in (await crew.stores[1].claim(time.time(), 10))[0].recipients] == [2]
        await borrower.record(updates("m1", YES, State.DELIVERED))
        assert await crew.states(1, "m1") == [State.DELIVERED, State.DELIVERED, State.QUEUED]
        assert crew.woken == [1]
        assert await borrower.waiting(DOMAINS, time.time()) == []

    among(tmp_path, 3, scenario)


def test_etrn_makes_due_what_any_worker_has(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        for worker in range(3):
            await crew.queue(worker, f"m{worker}")
        found = await crew.stores[0].waiting(DOMAINS, time.time())
        assert sorted(found) == ["m0", "m1", "m2"]
        assert await crew.stores[0].retry(found, time.time()) == 9
        assert sorted(crew.woken) == [1, 2]
        assert await crew.stores[0].retry(None, time.time()) == 3, "all of its own"
        assert await crew.stores[0].waiting(DOMAINS, time.time(), 2) == found[:2]

    among(tmp_path, 3, scenario)


def test_a_failure_and_its_report_survive_an_owner_that_is_away(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        borrower = crew.stores[0]
        assert await borrower.take("m1", DOMAINS, time.time()) is not None

        def report(name: str) -> NewMessage:
            spool = borrower.spool()
            spool.write(b"Subject: failed\r\n\r\n")
            envelope = Envelope(Address.parse(""), (Recipient(Address.parse("from@sender.example")),))
            return NewMessage(name, envelope, time.time(), b"", spool)

        crew.down.add(1)
        with pytest.raises(OSError, match="is being started again"):
            await borrower.record(updates("m1", NO, State.FAILED), [report("r1")])
        crew.down.clear()
        await borrower.record(updates("m1", NO, State.FAILED), [report("r2")])
        assert await crew.states(1, "m1") == [State.FAILED, State.FAILED, State.QUEUED]
        assert [message.id for message in await borrower.claim(time.time(), 10)] == ["r1"], "one report, to be sent"

    among(tmp_path, 2, scenario)


def test_a_message_that_an_operator_dropped_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", DOMAINS, time.time()) is not None
        assert await crew.stores[1].drop(["m1"], time.time()) == 1
        await crew.stores[0].record(updates("m1", LATER, State.QUEUED))
        assert await crew.stores[1].list() == []
        await crew.queue(1, "m2")
        assert await crew.stores[0].take("m2", DOMAINS, time.time()) is not None
        await crew.stores[1].drop(["m2"], time.time())
        crew.stores[1]._lent.clear()  # as after its restart
        await crew.stores[0].record(updates("m2", LATER, State.QUEUED))

    among(tmp_path, 2, scenario)


def test_what_a_borrower_had_is_there_again_when_it_gives_it_back_or_ends(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        for end in (lambda: crew.stores[0].release(["m1"]), lambda: _ended(crew)):
            assert await crew.stores[0].take("m1", DOMAINS, time.time()) is not None
            assert await crew.stores[1].take("m1", DOMAINS, time.time()) is None
            await end()
            assert await crew.stores[1].take("m1", DOMAINS, time.time()) is not None
            await crew.stores[1].release(["m1"])
        assert await crew.states(1, "m1") == [State.QUEUED] * 3

    async def _ended(crew: Crew) -> None:
        crew.news[1].heard({ENDED: 2})
        crew.news[1].heard({ENDED: 0})
        while crew.stores[1]._lent:
            await asyncio.sleep(0)
        crew.stores[0]._borrowed.clear()

    among(tmp_path, 3, scenario)


def test_the_own_mail_of_a_worker_is_as_ever(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(0, "m0")
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", DOMAINS, time.time()) is not None
        own = await crew.stores[0].take("m0", DOMAINS, time.time())
        assert own is not None
        assert await crew.stores[0].take("m0", DOMAINS, time.time()) is None
        assert await crew.stores[0].take("nosuch", DOMAINS, time.time()) is None
        await crew.stores[0].record(updates("m0", YES, State.DELIVERED))
        assert await crew.states(0, "m0") == [State.DELIVERED, State.DELIVERED, State.QUEUED]

    among(tmp_path, 2, scenario)


@pytest.mark.parametrize("state", list(State))
def test_an_update_crosses_whole(state: State) -> None:
    reply = Reply(451, "4.7.1", ("Later", 'with "quotes" and ü'), "only for the log")
    outcome = Outcome(Disposition.DEFERRED, reply, "mx.example [192.0.2.1]", asked=True, ours=True)
    for update in (Update("m1", 3, state, 7, 1.25, outcome), Update("m1", 3, state, 7, 1.25)):
        back = unpacked(json.loads(json.dumps(packed(update))))
        assert back == update
        assert repr(back) == repr(update), "with what comparing leaves out"
    assert len(dataclasses.fields(Outcome)) == 5
    assert len(dataclasses.fields(Reply)) == 5


def test_what_becomes_of_a_borrowed_message_is_recorded_in_a_drained_shard_of_an_owner_that_began_anew(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        crew = Crew(tmp_path, 3)
        await crew.queue(2, "m1")
        for store in crew.stores:
            await store.close()
        crew = Crew(tmp_path, 2)  # shard 2 is drained by worker 0
        assert await crew.stores[1].take("m1", DOMAINS, time.time()) is not None
        await crew.stores[0].close()
        crew.restart(0)
        await crew.stores[1].record(updates("m1", YES, State.DELIVERED))
        assert await crew.states(0, "m1") == [State.DELIVERED, State.DELIVERED, State.QUEUED]
        for store in crew.stores:
            await store.close()

    asyncio.run(run())


def test_what_a_dead_borrower_gives_back_is_what_it_had_and_no_more(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",), time.time()) is not None
        (own,) = await crew.stores[1].claim(time.time(), 10)
        assert [each.number for each in own.recipients] == [2], "the owner is at work on it"
        crew.news[1].heard({ENDED: 0})
        (back,) = await crew.stores[1].claim(time.time(), 10)
        assert [each.number for each in back.recipients] == [0, 1]

    among(tmp_path, 2, scenario)


def test_two_borrowers_of_one_message_give_back_each_its_own(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",), time.time()) is not None
        assert await crew.stores[2].take("m1", ("al.example",), time.time()) is not None
        await crew.stores[2].record(updates("m1", YES, State.DELIVERED, 2))
        crew.news[1].heard({ENDED: 0})
        (back,) = await crew.stores[1].claim(time.time(), 10)
        assert [each.number for each in back.recipients] == [0, 1]

    among(tmp_path, 3, scenario)


def test_two_customers_at_one_worker_may_have_one_message(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",), time.time()) is not None
        assert await crew.stores[0].take("m1", ("al.example",), time.time()) is not None
        await crew.stores[0].record(updates("m1", YES, State.DELIVERED, 2))
        await crew.stores[0].record(updates("m1", YES, State.DELIVERED, 0, 1))
        assert await crew.states(1, "m1") == []

    among(tmp_path, 2, scenario)


def test_a_borrower_that_cannot_read_gives_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_directory: Path) -> Reader:
        raise OSError(errno.EIO, "the queue's database: unable to open database file")

    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "open_readonly", refuse)
            with pytest.raises(OSError, match="unable to open"):
                await crew.stores[0].take("m1", DOMAINS, time.time())
        assert await crew.stores[0].take("m1", DOMAINS, time.time()) is not None

    among(tmp_path, 2, scenario)


def test_f14_what_is_lent_too_late_for_the_borrower_stays_with_its_owner(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        request = {"do": "lending-take", "id": "m1", "domains": list(DOMAINS), "now": time.time(), "borrower": 0}
        late = {**request, "until": time.monotonic() - 1}
        assert await crew.commands[1]["lending-take"](late) == {"numbers": []}
        assert crew.stores[1]._lent == {}
        assert [each.number for each in (await crew.stores[1].claim(time.time(), 10))[0].recipients] == [0, 1, 2]

    among(tmp_path, 2, scenario)


def test_f14_what_is_given_back_is_told_so_that_a_late_owner_hears_of_it(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", DOMAINS, time.time()) is not None

        async def nobody(_request: Any) -> Any:
            raise AssertionError("asked")

        crew.news[0]._ask = nobody
        await crew.stores[0].release(["m1"])
        assert crew.stores[1]._lent == {}

    among(tmp_path, 2, scenario)
