"""The contract of `queue.store` for priorities and deadlines, for every implementation."""

from __future__ import annotations

import asyncio

from store_kit import NOW, at, deferred, delivered, failed, ids, new, opened, record

from ironpost.model.parameters import DeliverBy
from ironpost.queue.store import UNCLAIMED, RecipientState, Update


def run(kind, path, scenario):
    """Runs `scenario(store)` on a fresh store."""

    async def main():
        async with opened(kind, path / "data") as store:
            return await asyncio.wait_for(scenario(store), 30)

    return asyncio.run(main())


def test_mail_of_each_priority_is_a_queue_of_its_own(kind, tmp_path):
    async def scenario(store):
        for number, priority in enumerate((0, 5, None, 5, -9)):
            message = await new(store, f"m{number}", at=NOW + number)
            given = {} if priority is None else {"MT-PRIORITY": priority}
            message = message._replace(envelope=message.envelope._replace(parameters=given))
            await store.unclaim([await store.commit(message)])
        at(store, NOW + 60)
        found = sorted([queue async for queue in store.queues()])
        assert found == [
            ("rcpt.example", "", -9, NOW + 4),
            ("rcpt.example", "", 0, NOW),
            ("rcpt.example", "", 5, NOW + 1),
        ]
        urgent, left = await store.claim("rcpt.example", "", 5, 10)
        assert (ids(urgent), left) == (["m1", "m3"], None)
        assert [message.envelope.priority for message in urgent] == [5, 5]
        usual, left = await store.claim("rcpt.example", "", 0, 1)
        assert (ids(usual), left) == (["m0"], NOW + 2)
        await record(store, [deferred("m0", due=NOW + 600), deferred("m1", due=NOW + 600)])
        assert await store.claim("rcpt.example", "", 5, 10) == ([], NOW + 600)
        assert ids((await store.claim("rcpt.example", "", -9, 10)).messages) == ["m4"]
        assert (await store.claim("rcpt.example", "", 1, 10)) == ([], None)

    run(kind, tmp_path, scenario)


def test_recipients_are_claimed_at_their_deadline(kind, tmp_path):
    async def scenario(store):
        for number, (by, recipients) in enumerate((("60;R", 2), ("30;N", 1), ("90;N", 1), ("-5;N", 1), (None, 1))):
            names = [f"r{each}@rcpt.example" for each in range(recipients)]
            message = await new(store, f"m{number}", *names)
            given = {} if by is None else {"BY": DeliverBy.parse_seconds(by, NOW)}
            message = message._replace(envelope=message.envelope._replace(parameters=given))
            kept = await store.commit(message)
            expected = None if number >= 3 else NOW + int(by.split(";")[0])
            assert {to.deadline for to in kept.recipients} == {expected}
            assert {to.deadline for to in (await store.get(kept.id)).recipients} == {expected}
        assert await store.claim_late(10) == ([], NOW + 30)
        at(store, NOW + 60)
        assert await store.claim_late(10) == ([], NOW + 90), "all are claimed"
        await record(store, [deferred("m0", 0), deferred("m1", 0), delivered("m2", 0), deferred("m3", 0)])
        (late,), following = await store.claim_late(1)
        assert (late.id, following) == ("m1", None)
        assert late.lease != UNCLAIMED
        (late,), following = await store.claim_late(10)
        assert (late.id, [to.number for to in late.recipients], following) == ("m0", [0], None)
        await record(store, [Update("m1", 0, RecipientState.QUEUED, 1, NOW + 600, late=True), failed("m0", 0)])
        (to,) = (await store.get("m1")).recipients
        assert to.deadline is None
        await record(store, [deferred("m0", 1)])
        ((late,), _) = await store.claim_late(10)
        assert [to.number for to in late.recipients] == [1]

    run(kind, tmp_path, scenario)


def test_a_deadline_can_be_put_off(kind, tmp_path):
    async def scenario(store):
        message = await new(store, "m1", "a@rcpt.example", "b@rcpt.example")
        given = {"BY": DeliverBy.parse_seconds("60;R", NOW)}
        await store.commit(message._replace(envelope=message.envelope._replace(parameters=given)))
        at(store, NOW + 60)
        await record(
            store, [Update("m1", 0, RecipientState.QUEUED, 1, NOW + 300, put_off=NOW + 600), deferred("m1", 1)]
        )
        (late,), following = await store.claim_late(10)
        assert ([to.number for to in late.recipients], following) == ([1], NOW + 600)
        assert [to.deadline for to in (await store.get("m1")).recipients] == [NOW + 600, NOW + 60]
        at(store, NOW + 600)
        ((late,), _) = await store.claim_late(10)
        assert [to.number for to in late.recipients] == [0]

    run(kind, tmp_path, scenario)
