"""The contract of `queue.store` for submissions with a key, for every implementation."""

from __future__ import annotations

import asyncio

import pytest
from store_kit import NOW, at, delivered, ids, new, opened, record

from ironpost.queue.store import UNCLAIMED, QueuedMessage, Submission, SubmittedBefore


def run(kind, path, scenario):
    """Runs `scenario(store)` on a fresh store."""

    async def main():
        async with opened(kind, path / "data") as store:
            return await asyncio.wait_for(scenario(store), 30)

    return asyncio.run(main())


async def submit(store, identifier, key="key", digest=b"same", login="ada", at=NOW):
    message = await new(store, identifier, at=at)
    envelope = message.envelope._replace(origin=message.envelope.origin._replace(identity=login))
    return await store.commit(message._replace(envelope=envelope, submission=Submission(key, digest)))


def test_a_submission_is_stored_once(kind, tmp_path):
    async def scenario(store):
        first = await submit(store, "m1")
        assert first.lease != UNCLAIMED
        for identifier, digest, same in (("m2", b"same", True), ("m3", b"other", False)):
            with pytest.raises(SubmittedBefore) as before:
                await submit(store, identifier, digest=digest)
            assert (before.value.message, before.value.same) == ("m1", same)
        await submit(store, "m4", "another key")
        await submit(store, "m5", login="bob")
        await record(store, [delivered("m1")])
        with pytest.raises(SubmittedBefore):
            await submit(store, "m6")
        assert await store.find(["m1", "m2", "m3", "m4", "m5", "m6"]) == ["m4", "m5"]

    run(kind, tmp_path, scenario)


def test_a_key_is_kept_for_its_time(kind, tmp_path):
    async def scenario(store):
        await submit(store, "m1")
        with pytest.raises(SubmittedBefore):
            await submit(at(store, NOW + 86_399), "m2")
        await submit(at(store, NOW + 86_401), "m3", at=NOW + 86_401)
        with pytest.raises(SubmittedBefore) as before:
            await submit(store, "m4")
        assert before.value.message == "m3"

    run(kind, tmp_path, scenario)


def test_submissions_with_one_key_at_the_same_time_are_stored_once(kind, tmp_path):
    async def scenario(store):
        found = await asyncio.gather(*(submit(store, f"m{number}") for number in range(20)), return_exceptions=True)
        (stored,) = [each for each in found if not isinstance(each, Exception)]
        repeated = [each for each in found if isinstance(each, SubmittedBefore)]
        assert len(repeated) == 19
        assert {each.message for each in repeated} == {stored.id}
        assert ids(await store.list()) == [stored.id]

    run(kind, tmp_path, scenario)


def test_a_submission_that_could_not_be_stored_may_be_repeated(kind, tmp_path):
    async def scenario(store):
        await submit(store, "m1", "other key")
        with pytest.raises(ValueError, match="cannot be stored"):
            await submit(store, "m1")
        await submit(store, "m2")

    run(kind, tmp_path, scenario)


def test_a_submission_that_is_being_stored_when_the_store_closes_is_acknowledged_or_refused(kind, tmp_path):
    async def scenario(store):
        storing = [asyncio.ensure_future(submit(store, f"m{number}", f"key {number}")) for number in range(10)]
        for _ in range(20):
            await asyncio.sleep(0)
        await store.close()
        found = await asyncio.gather(*storing, return_exceptions=True)
        assert {type(each) for each in found} <= {QueuedMessage, OSError}

    run(kind, tmp_path, scenario)
