"""Messages of one worker that another attempts: claimed once, recorded by their owner, unclaimed when the peer ends."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from store_kit import claim, record, unclaim

from ironpost.model import Address, Envelope, Outcome, Recipient, Reply
from ironpost.processes.bus import WorkerBus
from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import NewMessage, RecipientState, Update
from ironpost.storage.backend import WORKER_ENDED as ENDED
from ironpost.storage.sqlite.forwarding import ForwardingStore
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.shards import lay_out

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from ironpost.processes.requests import RequestHandler

DOMAINS = ("jo.example",)
YES = Outcome.of(Reply(250, "2.0.0", ("Taken",)), "jo [192.0.2.1]")
LATER = Outcome.of(Reply(451, "4.0.0", ("Later",)))
NO = Outcome.of(Reply(550, "5.1.1", ("Nobody",)))
LARGE = b"x" * 200_000


class Crew:
    """Workers with a bus, which can stop answering."""

    def __init__(self, data: Path, workers: int) -> None:
        lay_out(data)
        self.data = data
        self.down: set[int] = set()
        self.woken: list[int] = []
        self.stores = [ForwardingStore.at(data, worker=number, workers=workers, reserve=0) for number in range(workers)]
        self.news = [self._news(number) for number in range(workers)]
        self.commands: list[dict[str, RequestHandler]] = [
            store.join(self.news[number], number, workers, lambda number=number: self.woken.append(number))  # type: ignore[misc]
            for number, store in enumerate(self.stores)
        ]

    def restart(self, number: int) -> None:
        store = ForwardingStore.at(self.data, worker=number, workers=len(self.stores), reserve=0)
        self.stores[number] = store
        self.news[number] = self._news(number)
        self.commands[number] = store.join(
            self.news[number], number, len(self.stores), lambda: self.woken.append(number)
        )

    def _news(self, asking: int) -> WorkerBus:
        async def ask(question: Any) -> Any:
            request = json.loads(json.dumps(question))["request"]  # as over the link
            others = [each for each in range(len(self.stores)) if each != asking and each not in self.down]
            return {"answers": [await self.commands[each][request["do"]](request) for each in others]}

        def tell(note: Any) -> None:
            for number, news in enumerate(self.news):
                if number != asking and number not in self.down:
                    news.deliver(json.loads(json.dumps(note)))

        return WorkerBus(tell, ask)

    async def queue(self, worker: int, name: str, content: bytes = b"Subject: x\r\n\r\n") -> None:
        store = self.stores[worker]
        spool = store.spool()
        if (waiter := spool.write(content)) is not None:
            await waiter
        to = tuple(Recipient(Address.parse(each)) for each in ("a@jo.example", "b@jo.example", "c@al.example"))
        envelope = Envelope(Address.parse("from@sender.example"), to)
        await store.commit(NewMessage(name, envelope, time.time() - 1, b"", spool))
        await unclaim(store, [name])

    async def states(self, worker: int, name: str) -> list[RecipientState]:
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


def updates(name: str, outcome: Outcome, state: RecipientState, *numbers: int) -> list[Update]:
    return [Update(name, number, state, 1, time.time() + 600, outcome) for number in numbers or (0, 1)]


@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\nhi\r\n", LARGE], ids=["small", "large"])
def test_the_owner_claims_and_records_a_forwarded_message(tmp_path: Path, content: bytes) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1", content)
        peer = crew.stores[0]
        assert await peer.waiting(DOMAINS) == ["m1"]
        message = await peer.take("m1", DOMAINS)
        assert message is not None
        assert [each.number for each in message.recipients] == [0, 1]
        assert b"".join([piece async for piece in message.body.pieces()]) == content
        assert await crew.stores[2].take("m1", DOMAINS) is None, "it is claimed for a peer"
        assert [each.number for each in (await claim(crew.stores[1], 10))[0].recipients] == [2]
        await record(peer, updates("m1", YES, RecipientState.DELIVERED))
        assert await crew.states(1, "m1") == [RecipientState.DELIVERED, RecipientState.DELIVERED, RecipientState.QUEUED]
        assert crew.woken == [1]
        assert await peer.waiting(DOMAINS) == []

    among(tmp_path, 3, scenario)


def test_etrn_makes_mail_of_all_workers_due(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        for worker in range(3):
            await crew.queue(worker, f"m{worker}")
        found = await crew.stores[0].waiting(DOMAINS)
        assert sorted(found) == ["m0", "m1", "m2"]
        assert await crew.stores[0].retry(Selection.of(*found)) == 9
        assert sorted(crew.woken) == [1, 2]
        assert await crew.stores[0].retry(EVERYTHING) == 3, "only in its own shards"
        assert await crew.stores[0].waiting(DOMAINS, 2) == found[:2]

    among(tmp_path, 3, scenario)


def test_a_failure_and_its_report_survive_an_owner_that_does_not_answer(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        peer = crew.stores[0]
        assert await peer.take("m1", DOMAINS) is not None

        def report(name: str) -> NewMessage:
            spool = peer.spool()
            spool.write(b"Subject: failed\r\n\r\n")
            envelope = Envelope(Address.parse(""), (Recipient(Address.parse("from@sender.example")),))
            return NewMessage(name, envelope, time.time(), b"", spool)

        crew.down.add(1)
        with pytest.raises(OSError, match="is restarting"):
            await record(peer, updates("m1", NO, RecipientState.FAILED), [report("r1")])
        crew.down.clear()
        await record(peer, updates("m1", NO, RecipientState.FAILED), [report("r2")])
        assert await crew.states(1, "m1") == [RecipientState.FAILED, RecipientState.FAILED, RecipientState.QUEUED]
        assert [message.id for message in await claim(peer, 10)] == ["r1"], "one report, to be sent"

    among(tmp_path, 2, scenario)


def test_a_message_that_an_operator_dropped_meanwhile_is_ignored(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", DOMAINS) is not None
        assert await crew.stores[1].drop(Selection.of("m1")) == 3
        await record(crew.stores[0], updates("m1", LATER, RecipientState.QUEUED))
        assert await crew.stores[1].list() == []
        await crew.queue(1, "m2")
        assert await crew.stores[0].take("m2", DOMAINS) is not None
        await crew.stores[1].drop(Selection.of("m2"))
        crew.stores[1]._forwarded.clear()  # as after its restart
        await record(crew.stores[0], updates("m2", LATER, RecipientState.QUEUED))

    among(tmp_path, 2, scenario)


def test_claims_of_a_peer_end_when_it_unclaims_or_ends(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        for end in (lambda message: crew.stores[0].unclaim([message]), lambda _: _ended(crew)):
            foreign = await crew.stores[0].take("m1", DOMAINS)
            assert foreign is not None
            assert await crew.stores[1].take("m1", DOMAINS) is None
            await end(foreign)
            assert await crew.stores[1].take("m1", DOMAINS) is not None
            await unclaim(crew.stores[1], ["m1"])
        assert await crew.states(1, "m1") == [RecipientState.QUEUED] * 3

    async def _ended(crew: Crew) -> None:
        crew.news[1].deliver({ENDED: 2})
        crew.news[1].deliver({ENDED: 0})
        while crew.stores[1]._forwarded:
            await asyncio.sleep(0)
        crew.stores[0]._foreign.clear()

    among(tmp_path, 3, scenario)


def test_mail_of_the_same_worker_is_not_forwarded(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(0, "m0")
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", DOMAINS) is not None
        own = await crew.stores[0].take("m0", DOMAINS)
        assert own is not None
        assert await crew.stores[0].take("m0", DOMAINS) is None
        assert await crew.stores[0].take("nosuch", DOMAINS) is None
        await record(crew.stores[0], updates("m0", YES, RecipientState.DELIVERED))
        assert await crew.states(0, "m0") == [RecipientState.DELIVERED, RecipientState.DELIVERED, RecipientState.QUEUED]

    among(tmp_path, 2, scenario)


def test_the_result_of_a_forwarded_message_is_recorded_by_a_restarted_owner(
    tmp_path: Path,
) -> None:
    async def run() -> None:
        crew = Crew(tmp_path, 3)
        await crew.queue(2, "m1")
        for store in crew.stores:
            await store.close()
        crew = Crew(tmp_path, 2)  # shard 2 is drained by worker 0
        assert await crew.stores[1].take("m1", DOMAINS) is not None
        await crew.stores[0].close()
        crew.restart(0)
        await record(crew.stores[1], updates("m1", YES, RecipientState.DELIVERED))
        assert await crew.states(0, "m1") == [RecipientState.DELIVERED, RecipientState.DELIVERED, RecipientState.QUEUED]
        for store in crew.stores:
            await store.close()

    asyncio.run(run())


def test_the_end_of_a_peer_ends_only_its_claims(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",)) is not None
        (own,) = await claim(crew.stores[1], 10)
        assert [each.number for each in own.recipients] == [2], "the owner is at work on it"
        crew.news[1].deliver({ENDED: 0})
        (back,) = await claim(crew.stores[1], 10)
        assert [each.number for each in back.recipients] == [0, 1]

    among(tmp_path, 2, scenario)


def test_two_peers_of_one_message_end_their_own_claims(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",)) is not None
        assert await crew.stores[2].take("m1", ("al.example",)) is not None
        await record(crew.stores[2], updates("m1", YES, RecipientState.DELIVERED, 2))
        crew.news[1].deliver({ENDED: 0})
        (back,) = await claim(crew.stores[1], 10)
        assert [each.number for each in back.recipients] == [0, 1]

    among(tmp_path, 3, scenario)


def test_two_customers_at_one_worker_can_share_a_message(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        assert await crew.stores[0].take("m1", ("jo.example",)) is not None
        assert await crew.stores[0].take("m1", ("al.example",)) is not None
        await record(crew.stores[0], updates("m1", YES, RecipientState.DELIVERED, 2))
        await record(crew.stores[0], updates("m1", YES, RecipientState.DELIVERED, 0, 1))
        assert await crew.states(1, "m1") == []

    among(tmp_path, 2, scenario)


def test_a_peer_that_cannot_read_a_message_unclaims_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_directory: Path) -> Reader:
        raise OSError(errno.EIO, "the queue's database: unable to open database file")

    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        with monkeypatch.context() as patched:
            patched.setattr(Reader, "open_readonly", refuse)
            with pytest.raises(OSError, match="unable to open"):
                await crew.stores[0].take("m1", DOMAINS)
        assert await crew.stores[0].take("m1", DOMAINS) is not None

    among(tmp_path, 2, scenario)


def test_f14_a_claim_granted_after_the_timeout_is_ended(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        request = {"do": "forward-take", "id": "m1", "domains": list(DOMAINS), "peer": 0}
        late = {**request, "until": time.monotonic() - 1}
        assert await crew.commands[1]["forward-take"](late) == {"numbers": []}
        assert crew.stores[1]._forwarded == {}
        assert [each.number for each in (await claim(crew.stores[1], 10))[0].recipients] == [0, 1, 2]

    among(tmp_path, 2, scenario)


def test_f14_unclaiming_reaches_an_owner_that_is_late(tmp_path: Path) -> None:
    async def scenario(crew: Crew) -> None:
        await crew.queue(1, "m1")
        foreign = await crew.stores[0].take("m1", DOMAINS)
        assert foreign is not None

        async def nobody(_request: Any) -> Any:
            raise AssertionError("asked")

        crew.news[0]._ask = nobody
        await crew.stores[0].unclaim([foreign])
        assert crew.stores[1]._forwarded == {}

    among(tmp_path, 2, scenario)
