"""What `queue.store` promises, asked of every store."""

from __future__ import annotations

import asyncio
import gc

import pytest
from store_kit import NOW, Clock, content, deferred, delivered, failed, ids, new, opened, put, turns

from ironpost.queue.store import State, StoreFull


def run(kind, path, scenario, **options):
    """Runs `scenario(store)` on a fresh store."""

    async def main():
        async with opened(kind, path / "data", **options) as store:
            return await asyncio.wait_for(scenario(store), 30)

    return asyncio.run(main())


def test_a_committed_message_comes_back_as_it_was_given(kind, tmp_path):
    async def scenario(store):
        given = await new(store, "m1", "a@rcpt.example", '"odd name"@Rcpt.Example', "postmaster")
        kept = await store.commit(given)
        assert (kept.id, kept.envelope, kept.accepted) == ("m1", given.envelope, NOW)
        assert [r.number for r in kept.recipients] == [0, 1, 2]
        assert all(r.state is State.QUEUED and r.attempts == 0 and r.due == NOW for r in kept.recipients)
        assert await content(kept) == b"Received: trace\r\nSubject: x\r\n\r\nhello\r\n"
        assert kept.body.size == len(await content(kept))
        read = await store.get("m1")
        assert (read.id, read.envelope, read.accepted, read.recipients) == (
            kept.id,
            kept.envelope,
            kept.accepted,
            kept.recipients,
        )
        assert [str(r.recipient.address) for r in read.recipients] == [
            "a@rcpt.example",
            '"odd name"@Rcpt.Example',
            "postmaster",
        ]
        assert await content(read) == await content(kept)
        assert await read.body.head(12) == b"Received: tr"

    run(kind, tmp_path, scenario)


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000, 9_000_000])
def test_content_of_any_size_comes_back_octet_for_octet(kind, tmp_path, size):
    octets = bytes(range(256)) * (size // 256 + 1)
    octets = octets[:size]

    async def scenario(store):
        kept = await put(store, "m1", content=octets)
        for message in (kept, await store.get("m1"), (await store.list())[0]):
            pieces = [piece async for piece in message.body.pieces()]
            assert b"".join(pieces) == b"Received: trace\r\n" + octets
            assert max(map(len, pieces)) <= 256 * 1024
            assert message.body.size == size + 17
            assert await message.body.head(100) == (b"Received: trace\r\n" + octets)[:100]
            assert await message.body.head(10) == b"Received: "

    run(kind, tmp_path, scenario)


def test_a_committed_message_is_claimed_until_it_is_recorded(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        assert await store.claim(NOW + 1, 10) == []
        assert await store.next_due() is None
        await store.record([deferred("m1", due=NOW + 600)])
        assert await store.next_due() == NOW + 600
        assert await store.claim(NOW + 599, 10) == []
        (again,) = await store.claim(NOW + 600, 10)
        (recipient,) = again.recipients
        assert (recipient.attempts, recipient.due) == (1, NOW + 600)
        assert recipient.last == "451 4.7.1 Come back"
        assert recipient.remote == "mx.rcpt.example [192.0.2.7]"
        assert await store.claim(NOW + 600, 10) == []

    run(kind, tmp_path, scenario)


def test_recipients_are_claimed_one_by_one(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", "a@rcpt.example", "b@rcpt.example", "c@rcpt.example")
        await store.record([deferred("m1", 1, due=NOW + 10), delivered("m1", 2)])
        (again,) = await store.claim(NOW + 10, 10)
        assert [r.number for r in again.recipients] == [1]
        assert again.envelope == kept.envelope
        await store.record([deferred("m1", 0, due=NOW + 20)])
        assert [[r.number for r in m.recipients] for m in await store.claim(NOW + 30, 10)] == [[0]]

    run(kind, tmp_path, scenario)


def test_a_message_whose_recipients_are_all_final_is_gone(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await store.record([delivered("m1", 0)])
        assert [r.state for r in (await store.get("m1")).recipients] == [State.DELIVERED, State.QUEUED]
        await store.record([failed("m1", 1)])
        assert await store.get("m1") is None
        assert await store.list() == []
        assert await store.next_due() is None

    run(kind, tmp_path, scenario)


def test_a_report_is_committed_with_the_failure_and_due_at_once(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        report = await new(store, "r1", "from@sender.example", sender="", content=b"sorry\r\n", prefix=b"", at=NOW + 5)
        await store.record([failed("m1")], [report])
        assert ids(await store.list()) == ["r1"]
        (claimed,) = await store.claim(NOW + 5, 10)
        assert claimed.envelope.reverse_path.is_null
        assert await content(claimed) == b"sorry\r\n"

    run(kind, tmp_path, scenario)


def test_a_large_report_is_committed_too(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        report = await new(store, "r1", "from@sender.example", sender="", content=b"x" * 100_000, prefix=b"")
        await store.record([failed("m1")], [report])
        (claimed,) = await store.claim(NOW, 10)
        assert await content(claimed) == b"x" * 100_000

    run(kind, tmp_path, scenario)


def test_claims_come_earliest_first_and_no_more_than_asked_for(kind, tmp_path):
    async def scenario(store):
        for number, wait in enumerate((30, 10, 20, 40)):
            await put(store, f"m{number}")
            await store.record([deferred(f"m{number}", due=NOW + wait)])
        assert ids(await store.claim(NOW + 100, 2)) == ["m1", "m2"]
        assert await store.next_due() == NOW + 30
        assert ids(await store.claim(NOW + 100, 2)) == ["m0", "m3"]

    run(kind, tmp_path, scenario)


def test_a_released_claim_is_as_it_was(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        await store.release(["m1", "unknown"])
        assert await store.next_due() == NOW
        (again,) = await store.claim(NOW, 10)
        assert again.recipients[0].attempts == 0

    run(kind, tmp_path, scenario)


def test_retry_makes_queued_recipients_due_now(kind, tmp_path):
    async def scenario(store):
        for name in ("m1", "m2", "m3"):
            await put(store, name, "a@rcpt.example", "b@rcpt.example")
            await store.record([delivered(name, 0), deferred(name, 1, due=NOW + 9000)])
        assert await store.retry(["m2", "unknown"], NOW + 5) == 1
        assert ids(await store.claim(NOW + 5, 10)) == ["m2"]
        assert await store.retry(None, NOW + 6) == 3
        assert ids(await store.claim(NOW + 6, 10)) == ["m1", "m3"]

    run(kind, tmp_path, scenario)


def test_f16_mail_that_was_accepted_while_the_clock_was_ahead_is_not_due_later(kind, tmp_path):
    ahead = NOW + 731 * 86400

    async def scenario(store):
        await put(store, "ahead", at=ahead)
        await put(store, "later", due=NOW + 3600)
        await store.release(["ahead", "later"])
        assert await store.claim(NOW, 10) == []
        assert list(await store.waiting(["rcpt.example"], NOW)) == ["ahead"]
        assert await store.retry(None, NOW) == 1
        assert ids(await store.claim(NOW, 10)) == ["ahead"]
        await store.release(["ahead"])
        assert (await store.take("ahead", ["rcpt.example"], NOW)).id == "ahead"
        assert await store.take("later", ["rcpt.example"], NOW) is None

    run(kind, tmp_path, scenario)


def test_f03_waiting_mail_of_many_domains_is_told_oldest_first_and_once(kind, tmp_path):
    async def scenario(store):
        for number in range(12):
            await put(
                store, f"m{number:02}", f"a@d{number % 5}.example", f"b@d{(number + 1) % 5}.example", "c@d0.example"
            )
        domains = [f"d{number}.example" for number in range(5)]
        assert list(await store.waiting(domains, NOW)) == [f"m{number:02}" for number in range(12)]
        assert list(await store.waiting(domains, NOW, 7)) == [f"m{number:02}" for number in range(7)]
        assert list(await store.waiting(["d3.example", "d3.example"], NOW)) == ["m02", "m03", "m07", "m08"]
        assert list(await store.waiting([], NOW)) == []

    run(kind, tmp_path, scenario)


def test_drop_removes_messages_and_a_late_result_is_harmless(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        await put(store, "m2", content=b"x" * 100_000)
        await put(store, "m3")
        assert await store.drop(["m1", "m2", "unknown"], NOW) == 2
        assert ids(await store.list()) == ["m3"]
        await store.record([delivered("m1")])
        await store.record([deferred("m2")])
        assert ids(await store.list()) == ["m3"]

    run(kind, tmp_path, scenario)


def test_list_is_oldest_first_and_limited(kind, tmp_path):
    async def scenario(store):
        await asyncio.gather(*[store.commit(await new(store, f"m{n}")) for n in range(300)])
        assert ids(await store.list()) == [f"m{n}" for n in range(300)]
        assert ids(await store.list(2)) == ["m0", "m1"]

    run(kind, tmp_path, scenario)


def test_a_thousand_recipients(kind, tmp_path):
    async def scenario(store):
        names = [f"r{n}@rcpt.example" for n in range(1000)]
        await put(store, "m1", *names)
        await store.record([delivered("m1", n) for n in range(999)])
        (message,) = await store.list()
        assert [str(r.recipient.address) for r in message.recipients] == names
        await store.record([delivered("m1", 999)])
        assert await store.list() == []

    run(kind, tmp_path, scenario)


def test_an_identifier_used_twice_is_refused_and_its_neighbours_are_kept(kind, tmp_path):
    async def scenario(store):
        messages = [await new(store, name) for name in ("m1", "m2", "m1", "m3")]
        results = await asyncio.gather(*map(store.commit, messages), return_exceptions=True)
        assert [isinstance(result, ValueError) for result in results] == [False, False, True, False]
        assert ids(await store.list()) == ["m1", "m2", "m3"]

    run(kind, tmp_path, scenario)


def test_a_discarded_spool_leaves_nothing(kind, tmp_path):
    async def scenario(store):
        for size in (10, 200_000):
            spool = store.spool()
            spool.write(b"x" * size)
            spool.discard()
            spool.discard()
        assert await store.list() == []

    run(kind, tmp_path, scenario)
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file() and "bodies" in path.parts] == []


def test_a_size_that_cannot_fit_is_refused_at_once(kind, tmp_path):
    async def scenario(store):
        with pytest.raises(StoreFull):
            store.spool(1 << 60)
        store.spool(1000).discard()

    run(kind, tmp_path, scenario)


def test_r41_values_are_never_sql(kind, tmp_path):
    hostile = "'\";--"

    async def scenario(store):
        await put(store, "m1", f'"{hostile[0]};--"@rcpt.example', content=hostile.encode() + b"\0")
        assert await store.get(hostile) is None
        assert await store.drop([hostile], NOW) == 0
        assert await store.retry([hostile], NOW) == 0
        await store.record([delivered(hostile)])
        await store.release([hostile])
        (message,) = await store.list()
        assert message.envelope.recipients[0].address.local_part == "';--"
        assert (await content(message)).endswith(b"'\";--\0")

    run(kind, tmp_path, scenario)


def test_a_cancelled_caller_leaves_a_message_that_can_be_claimed(kind, tmp_path):
    async def scenario(store):
        commit = asyncio.ensure_future(store.commit(await new(store, "m1")))
        if commit.done():
            return  # nothing to cancel: this store commits at once
        commit.cancel()
        await put(store, "m2")
        await turns()
        assert ids(await store.claim(NOW, 10)) == ["m1"]

    run(kind, tmp_path, scenario)


def test_a_closed_store_refuses(kind, tmp_path):
    async def scenario(store):
        message = await new(store, "m1")
        await store.close()
        await store.close()
        with pytest.raises(OSError, match="closed"):
            await store.commit(message)

    run(kind, tmp_path, scenario)


def test_changes_carry_the_time_of_the_store(kind, tmp_path):
    clock = Clock()

    async def scenario(store):
        await put(store, "m1")
        clock.time = NOW + 77
        await store.record([deferred("m1")])
        assert (await store.get("m1")).recipients[0].changed == NOW + 77

    run(kind, tmp_path, scenario, clock=clock)


# -- parameters


def test_parameters_come_back_as_typed_values(kind, tmp_path):
    async def scenario(store):
        given = await new(store, "m1")
        await store.commit(given)
        read = (await store.get("m1")).envelope
        for kept, sent in (
            (read.parameters, given.envelope.parameters),
            (read.recipients[0].parameters, given.envelope.recipients[0].parameters),
        ):
            assert kept == sent
            assert [type(value) for value in kept.values()] == [type(value) for value in sent.values()]

    run(kind, tmp_path, scenario)


# -- due later, and held


def test_a_message_that_is_due_later_is_not_claimed_before(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", "a@rcpt.example", "b@rcpt.example", due=NOW + 3600)
        assert (kept.accepted, kept.released, [r.due for r in kept.recipients]) == (NOW, NOW + 3600, [NOW + 3600] * 2)
        assert await store.claim(NOW + 3599, 10) == []
        assert await store.next_due() == NOW + 3600
        (claimed,) = await store.claim(NOW + 3600, 10)
        assert [r.number for r in claimed.recipients] == [0, 1]
        assert (claimed.accepted, claimed.released) == (NOW, NOW + 3600)

    run(kind, tmp_path, scenario)


def test_a_time_that_is_over_is_now(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", due=NOW - 5)
        assert (kept.released, kept.recipients[0].due) == (NOW, NOW)
        assert await store.claim(NOW, 10) == []  # it came back claimed

    run(kind, tmp_path, scenario)


def test_an_operator_may_send_early_what_is_due_later(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", due=NOW + 3600)
        assert await store.retry(None, NOW + 1) == 0  # not by "all": it must be named
        assert await store.claim(NOW + 1, 10) == []
        assert await store.retry(["m1"], NOW + 1) == 1
        assert ids(await store.claim(NOW + 1, 10)) == ["m1"]
        await store.release(["m1"])
        assert await store.retry(None, NOW + 3600) == 1

    run(kind, tmp_path, scenario)


def test_a_held_message_waits_until_it_is_resumed(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", "a@rcpt.example", "b@rcpt.example", held=True)
        assert [r.state for r in kept.recipients] == [State.HELD] * 2
        assert await store.next_due() is None
        assert await store.claim(NOW + 10**6, 10) == []
        assert await store.retry(None, NOW + 5) == 0
        assert [r.state for r in (await store.get("m1")).recipients] == [State.HELD] * 2
        assert await store.resume(["m1", "m1", "unknown"], NOW + 9) == 2
        (claimed,) = await store.claim(NOW + 9, 10)
        assert [(r.state, r.due) for r in claimed.recipients] == [(State.QUEUED, NOW)] * 2
        assert (claimed.accepted, claimed.released) == (NOW, NOW + 9)
        assert await store.resume(["m1"], NOW + 10) == 0

    run(kind, tmp_path, scenario)


def test_what_is_held_and_due_later_is_due_later_still_when_it_is_resumed(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", held=True, due=NOW + 3600)
        assert await store.resume(["m1"], NOW + 9) == 1
        assert await store.claim(NOW + 3599, 10) == []
        (claimed,) = await store.claim(NOW + 3600, 10)
        assert claimed.released == NOW + 3600

    run(kind, tmp_path, scenario)


def test_hold_sets_aside_what_is_queued_only(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await store.record([delivered("m1", 0), deferred("m1", 1, due=NOW + 600)])
        assert await store.hold(["m1", "unknown"], NOW + 1) == 1
        assert await store.hold(["m1"], NOW + 2) == 0
        assert [r.state for r in (await store.get("m1")).recipients] == [State.DELIVERED, State.HELD]
        assert await store.claim(NOW + 600, 10) == []
        assert await store.resume(["m1"], NOW + 3) == 1
        assert await store.next_due() == NOW + 600

    run(kind, tmp_path, scenario)


def test_what_is_held_during_its_attempt_stays_held_unless_the_attempt_was_its_last(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", "c@rcpt.example")
        assert await store.hold(["m1"], NOW + 1) == 3
        await store.record([deferred("m1", 0), delivered("m1", 1)])
        message = await store.get("m1")
        assert [r.state for r in message.recipients] == [State.HELD, State.DELIVERED, State.HELD]
        assert message.recipients[0].last == "451 4.7.1 Come back"
        await store.record([delivered("m1", 2)])
        assert [r.state for r in (await store.get("m1")).recipients] == [State.HELD, State.DELIVERED, State.DELIVERED]
        assert await store.resume(["m1"], NOW + 2) == 1
        assert [[r.number for r in m.recipients] for m in await store.claim(NOW + 600, 10)] == [[0]]

    run(kind, tmp_path, scenario)


def test_a_held_message_can_be_dropped(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", held=True, content=b"x" * 100_000)
        assert await store.drop(["m1"], NOW) == 1
        assert await store.list() == []

    run(kind, tmp_path, scenario)


def test_mail_for_a_domain_is_found_and_taken_due_or_not(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@One.example", "b@two.example", '"x@one.example"@other.example')
        await put(store, "m2", "c@one.example")
        await put(store, "m3", "d@sub.one.example", "e@oneXexample.example", "postmaster")
        await put(store, "m4", "f@one.example", due=NOW + 500)
        await put(store, "m5", "g@one.example", held=True)
        assert list(await store.waiting(["one.example"], NOW)) == ["m1", "m2"]
        assert list(await store.waiting(["one.example", "sub.one.example"], NOW)) == ["m1", "m2", "m3"]
        assert list(await store.waiting(["one.example", "two.example"], NOW, 1)) == ["m1"]
        assert list(await store.waiting(["one.example"], NOW + 500)) == ["m1", "m2", "m4"]
        assert list(await store.waiting(["none.example", "example"], NOW)) == []
        # `put` left everything claimed that could be; what fails is due later, and is taken all the same.
        assert await store.take("m1", ["one.example"], NOW) is None
        await store.record([deferred("m1", 0, due=NOW + 900), delivered("m1", 1)])
        await store.record([deferred("m2", 0, due=NOW + 900)])
        taken = await store.take("m1", ["two.example", "one.example"], NOW)
        assert [str(each.recipient.address) for each in taken.recipients] == ["a@One.example"]
        assert await content(taken) == b"Received: trace\r\nSubject: x\r\n\r\nhello\r\n"
        assert await store.take("m1", ["one.example"], NOW) is None
        assert ids(await store.claim(NOW + 1000, 10)) == ["m4", "m2"]  # claimed, so nobody else gets it
        await store.record([delivered("m1", 0)])
        await store.release(["m2"])
        assert (await store.take("m2", ["one.example"], NOW)).id == "m2"
        for gone in ("m4", "m5", "unknown"):
            assert await store.take(gone, ["one.example"], NOW) is None
        assert list(await store.waiting(["one.example"], NOW)) == ["m2"]

    run(kind, tmp_path, scenario)


def test_waiting_mail_of_a_domain_in_utf8_is_found_however_it_is_written(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@BÜCHER.example")
        await put(store, "m2", "a@bÜcher.Example")
        await put(store, "m3", "a@bucher.example")
        await store.release(["m1", "m2", "m3"])
        assert list(await store.waiting(["bücher.example"], NOW)) == ["m1", "m2"]
        taken = await store.take("m1", ["bücher.example"], NOW)
        assert [each.number for each in taken.recipients] == [0]

    run(kind, tmp_path, scenario)


@pytest.mark.parametrize("domain", ["'\";--", "x' OR '1'='1", "%", "a\0b"])
def test_r41_a_domain_is_never_a_part_of_a_statement(kind, tmp_path, domain):
    async def scenario(store):
        await put(store, "m1", "a@one.example")
        await store.waiting([domain], NOW)
        assert await store.take("m1", [domain], NOW) is None
        assert len(await store.list()) == 1

    run(kind, tmp_path, scenario)


def test_a_message_leaves_nothing_to_the_garbage_collector(kind, tmp_path):
    """Its passes hold the event loop, the longer the more connections are open."""

    async def scenario(store):
        await put(store, "m1")
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await put(store, "m2")
            await put(store, "m3", content=b"x" * 200_000)
            await store.record([delivered("m2"), delivered("m3")])
            gc.collect()
            ours = [each for each in gc.garbage if type(each).__module__.startswith("ironpost")]
            assert ours == []
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()

    run(kind, tmp_path, scenario)
