"""The contract of `queue.store`, for every implementation."""

from __future__ import annotations

import asyncio
import gc

import pytest
from store_kit import (
    NOW,
    Clock,
    at,
    claim,
    content,
    deferred,
    delivered,
    failed,
    ids,
    new,
    next_due,
    opened,
    put,
    record,
    turns,
    unclaim,
)

from ironpost.model import Address
from ironpost.model.envelope import REFUSED
from ironpost.model.patterns import AddressPattern
from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.queue.store import UNCLAIMED, LeaseLost, RecipientState, StoreFull


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
        assert all(r.state is RecipientState.QUEUED and r.attempts == 0 and r.due == NOW for r in kept.recipients)
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


def test_the_original_recipient_of_an_alias_is_kept(kind, tmp_path):
    async def scenario(store):
        given = await new(store, "m1", "a@rcpt.example", "b@rcpt.example")
        first, second = given.envelope.recipients
        first = first._replace(original=Address.parse("team@rcpt.example"))
        kept = await store.commit(given._replace(envelope=given.envelope._replace(recipients=(first, second))))
        read = await store.get("m1")
        assert read.envelope == kept.envelope
        assert [r.recipient.original for r in read.recipients] == [Address.parse("team@rcpt.example"), None]

    run(kind, tmp_path, scenario)


def test_f27_addresses_outside_the_grammar_come_back_as_they_were(kind, tmp_path):
    longest = "a" * 59 + ".@" + ".".join(["b" * 63] * 3)
    recipients = ("x..y@b_c.example", ".@rcpt.example", "a.@some_host.example", longest)

    async def scenario(store):
        kept = await store.commit(await new(store, "m1", *recipients, sender=".a..b.@some_host.example"))
        await record(store, [deferred("m1", 0, due=NOW + 10)])
        for read in (await store.get("m1"), *await store.list(), *await claim(at(store, NOW + 10), 10)):
            assert not read.fault
            assert read.envelope == kept.envelope
            assert str(read.envelope.reverse_path) == '".a..b."@some_host.example'
            assert str(read.envelope.recipients[0].address) == '"x..y"@b_c.example'
        assert list(await store.waiting(["b_c.example"])) == ["m1"]

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
        assert await claim(at(store, NOW + 1), 10) == []
        assert await next_due(store) is None
        await record(store, [deferred("m1", due=NOW + 600)])
        assert await next_due(store) == NOW + 600
        assert await claim(at(store, NOW + 599), 10) == []
        (again,) = await claim(at(store, NOW + 600), 10)
        (recipient,) = again.recipients
        assert (recipient.attempts, recipient.due) == (1, NOW + 600)
        assert recipient.last == "451 4.7.1 Come back"
        assert recipient.remote == "mx.rcpt.example [192.0.2.7]"
        assert await claim(at(store, NOW + 600), 10) == []

    run(kind, tmp_path, scenario)


def test_recipients_are_claimed_one_by_one(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", "a@rcpt.example", "b@rcpt.example", "c@rcpt.example")
        await record(store, [deferred("m1", 1, due=NOW + 10), delivered("m1", 2)])
        (again,) = await claim(at(store, NOW + 10), 10)
        assert [r.number for r in again.recipients] == [1]
        assert again.envelope == kept.envelope
        await record(store, [deferred("m1", 0, due=NOW + 20)])
        assert [[r.number for r in m.recipients] for m in await claim(at(store, NOW + 30), 10)] == [[0]]

    run(kind, tmp_path, scenario)


def test_a_message_whose_recipients_are_all_final_is_gone(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await record(store, [delivered("m1", 0)])
        assert [r.state for r in (await store.get("m1")).recipients] == [
            RecipientState.DELIVERED,
            RecipientState.QUEUED,
        ]
        await record(store, [failed("m1", 1)])
        assert await store.get("m1") is None
        assert await store.list() == []
        assert await next_due(store) is None

    run(kind, tmp_path, scenario)


def test_a_report_is_committed_with_the_failure_and_due_at_once(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        report = await new(store, "r1", "from@sender.example", sender="", content=b"sorry\r\n", prefix=b"", at=NOW + 5)
        await record(store, [failed("m1")], [report])
        assert ids(await store.list()) == ["r1"]
        (claimed,) = await claim(at(store, NOW + 5), 10)
        assert claimed.envelope.reverse_path.is_null
        assert await content(claimed) == b"sorry\r\n"

    run(kind, tmp_path, scenario)


def test_a_large_report_is_committed_too(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        report = await new(store, "r1", "from@sender.example", sender="", content=b"x" * 100_000, prefix=b"")
        await record(store, [failed("m1")], [report])
        (claimed,) = await claim(store, 10)
        assert await content(claimed) == b"x" * 100_000

    run(kind, tmp_path, scenario)


def test_claims_come_earliest_first_and_no_more_than_asked_for(kind, tmp_path):
    async def scenario(store):
        for number, wait in enumerate((30, 10, 20, 40)):
            await put(store, f"m{number}")
            await record(store, [deferred(f"m{number}", due=NOW + wait)])
        assert ids(await claim(at(store, NOW + 100), 2)) == ["m1", "m2"]
        assert await next_due(store) == NOW + 30
        assert ids(await claim(at(store, NOW + 100), 2)) == ["m0", "m3"]

    run(kind, tmp_path, scenario)


def test_an_unclaimed_recipient_can_be_claimed_again(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        await unclaim(store, ["m1", "unknown"])
        assert await next_due(store) == NOW
        (again,) = await claim(store, 10)
        assert again.recipients[0].attempts == 0

    run(kind, tmp_path, scenario)


def test_retry_makes_queued_recipients_due_now(kind, tmp_path):
    async def scenario(store):
        for name in ("m1", "m2", "m3"):
            await put(store, name, "a@rcpt.example", "b@rcpt.example")
            await record(store, [delivered(name, 0), deferred(name, 1, due=NOW + 9000)])
        assert await at(store, NOW + 5).retry(Selection.of("m2", "unknown")) == 1
        assert ids(await claim(at(store, NOW + 5), 10)) == ["m2"]
        assert await at(store, NOW + 6).retry(EVERYTHING) == 3
        assert ids(await claim(at(store, NOW + 6), 10)) == ["m1", "m3"]

    run(kind, tmp_path, scenario)


def test_f16_mail_that_was_accepted_while_the_clock_was_ahead_is_not_due_later(kind, tmp_path):
    ahead = NOW + 731 * 86400

    async def scenario(store):
        await put(store, "ahead", at=ahead)
        await put(store, "later", due=NOW + 3600)
        await unclaim(store, ["ahead", "later"])
        assert await claim(store, 10) == []
        assert list(await store.waiting(["rcpt.example"])) == ["ahead"]
        assert await store.retry(EVERYTHING) == 1
        assert ids(await claim(store, 10)) == ["ahead"]
        await unclaim(store, ["ahead"])
        assert (await store.take("ahead", ["rcpt.example"])).id == "ahead"
        assert await store.take("later", ["rcpt.example"]) is None

    run(kind, tmp_path, scenario)


def test_f03_waiting_mail_of_many_domains_is_listed_oldest_first_and_once(kind, tmp_path):
    async def scenario(store):
        for number in range(12):
            await put(
                store, f"m{number:02}", f"a@d{number % 5}.example", f"b@d{(number + 1) % 5}.example", "c@d0.example"
            )
        domains = [f"d{number}.example" for number in range(5)]
        assert list(await store.waiting(domains)) == [f"m{number:02}" for number in range(12)]
        assert list(await store.waiting(domains, 7)) == [f"m{number:02}" for number in range(7)]
        assert list(await store.waiting(["d3.example", "d3.example"])) == ["m02", "m03", "m07", "m08"]
        assert list(await store.waiting([])) == []

    run(kind, tmp_path, scenario)


def test_drop_removes_messages_and_a_late_result_is_harmless(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1")
        await put(store, "m2", content=b"x" * 100_000)
        await put(store, "m3")
        assert await store.drop(Selection.of("m1", "m2", "unknown")) == 2
        assert ids(await store.list()) == ["m3"]
        await record(store, [delivered("m1")])
        await record(store, [deferred("m2")])
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
        await record(store, [delivered("m1", n) for n in range(999)])
        (message,) = await store.list()
        assert [str(r.recipient.address) for r in message.recipients] == names
        await record(store, [delivered("m1", 999)])
        assert await store.list() == []

    run(kind, tmp_path, scenario)


def test_a_duplicate_identifier_fails_alone(kind, tmp_path):
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
        assert await store.drop(Selection.of(hostile)) == 0
        assert await store.retry(Selection.of(hostile)) == 0
        await record(store, [delivered(hostile)])
        await unclaim(store, [hostile])
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
        assert ids(await claim(store, 10)) == ["m1"]

    run(kind, tmp_path, scenario)


def test_a_closed_store_raises(kind, tmp_path):
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
        await record(store, [deferred("m1")])
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
        assert (kept.accepted, kept.not_before, [r.due for r in kept.recipients]) == (NOW, NOW + 3600, [NOW + 3600] * 2)
        assert await claim(at(store, NOW + 3599), 10) == []
        assert await next_due(store) == NOW + 3600
        (claimed,) = await claim(at(store, NOW + 3600), 10)
        assert [r.number for r in claimed.recipients] == [0, 1]
        assert (claimed.accepted, claimed.not_before) == (NOW, NOW + 3600)

    run(kind, tmp_path, scenario)


def test_a_due_time_in_the_past_means_now(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", due=NOW - 5)
        assert (kept.not_before, kept.recipients[0].due) == (NOW, NOW)
        assert await claim(store, 10) == []  # it came back claimed

    run(kind, tmp_path, scenario)


def test_an_operator_can_attempt_a_message_before_its_time(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", due=NOW + 3600)
        assert await at(store, NOW + 1).retry(EVERYTHING) == 0  # not by "all": it must be named
        assert await claim(at(store, NOW + 1), 10) == []
        assert await at(store, NOW + 1).retry(Selection.of("m1")) == 1
        assert ids(await claim(at(store, NOW + 1), 10)) == ["m1"]
        await unclaim(store, ["m1"])
        assert await at(store, NOW + 3600).retry(EVERYTHING) == 1

    run(kind, tmp_path, scenario)


def test_a_held_message_is_not_due_until_it_is_released(kind, tmp_path):
    async def scenario(store):
        kept = await put(store, "m1", "a@rcpt.example", "b@rcpt.example", held="odd")
        assert [(r.state, r.last) for r in kept.recipients] == [(RecipientState.HELD, "odd")] * 2
        assert [r.last for r in (await store.get("m1")).recipients] == ["odd"] * 2
        assert await next_due(store) is None
        assert await claim(at(store, NOW + 10**6), 10) == []
        assert await at(store, NOW + 5).retry(EVERYTHING) == 0
        assert [r.state for r in (await store.get("m1")).recipients] == [RecipientState.HELD] * 2
        assert await at(store, NOW + 9).release(Selection.of("m1", "m1", "unknown")) == 2
        (claimed,) = await claim(at(store, NOW + 9), 10)
        assert [(r.state, r.due) for r in claimed.recipients] == [(RecipientState.QUEUED, NOW)] * 2
        assert (claimed.accepted, claimed.not_before) == (NOW, NOW + 9)
        assert await at(store, NOW + 10).release(Selection.of("m1")) == 0

    run(kind, tmp_path, scenario)


def test_a_release_does_not_make_a_message_due_before_its_time(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", held="odd", due=NOW + 3600)
        assert await at(store, NOW + 9).release(Selection.of("m1")) == 1
        assert await claim(at(store, NOW + 3599), 10) == []
        (claimed,) = await claim(at(store, NOW + 3600), 10)
        assert claimed.not_before == NOW + 3600

    run(kind, tmp_path, scenario)


def test_hold_affects_queued_recipients_only(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await record(store, [delivered("m1", 0), deferred("m1", 1, due=NOW + 600)])
        assert await at(store, NOW + 1).hold(Selection.of("m1", "unknown")) == 1
        assert await at(store, NOW + 2).hold(Selection.of("m1")) == 0
        assert [r.state for r in (await store.get("m1")).recipients] == [RecipientState.DELIVERED, RecipientState.HELD]
        assert await claim(at(store, NOW + 600), 10) == []
        assert await at(store, NOW + 3).release(Selection.of("m1")) == 1
        assert await next_due(store) == NOW + 600

    run(kind, tmp_path, scenario)


def test_a_hold_during_an_attempt_lasts_unless_the_attempt_was_final(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example", "c@rcpt.example")
        assert await at(store, NOW + 1).hold(Selection.of("m1")) == 3
        await record(store, [deferred("m1", 0), delivered("m1", 1)])
        message = await store.get("m1")
        assert [r.state for r in message.recipients] == [
            RecipientState.HELD,
            RecipientState.DELIVERED,
            RecipientState.HELD,
        ]
        assert message.recipients[0].last == "451 4.7.1 Come back"
        await record(store, [delivered("m1", 2)])
        assert [r.state for r in (await store.get("m1")).recipients] == [
            RecipientState.HELD,
            RecipientState.DELIVERED,
            RecipientState.DELIVERED,
        ]
        assert await at(store, NOW + 2).release(Selection.of("m1")) == 1
        assert [[r.number for r in m.recipients] for m in await claim(at(store, NOW + 600), 10)] == [[0]]

    run(kind, tmp_path, scenario)


def test_a_held_message_can_be_dropped(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", held="odd", content=b"x" * 100_000)
        assert await store.drop(Selection.of("m1")) == 1
        assert await store.list() == []

    run(kind, tmp_path, scenario)


def test_mail_for_a_domain_is_found_and_claimed_due_or_not(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@One.example", "b@two.example", '"x@one.example"@other.example')
        await put(store, "m2", "c@one.example")
        await put(store, "m3", "d@sub.one.example", "e@oneXexample.example", "postmaster")
        await put(store, "m4", "f@one.example", due=NOW + 500)
        await put(store, "m5", "g@one.example", held="odd")
        assert list(await at(store, NOW).waiting(["one.example"])) == ["m1", "m2"]
        assert list(await at(store, NOW).waiting(["one.example", "sub.one.example"])) == ["m1", "m2", "m3"]
        assert list(await at(store, NOW).waiting(["one.example", "two.example"], 1)) == ["m1"]
        assert list(await at(store, NOW + 500).waiting(["one.example"])) == ["m1", "m2", "m4"]
        assert list(await at(store, NOW).waiting(["none.example", "example"])) == []
        # `put` left everything claimed that could be; what fails is due later, and is taken all the same.
        assert await at(store, NOW).take("m1", ["one.example"]) is None
        await record(store, [deferred("m1", 0, due=NOW + 900), delivered("m1", 1)])
        await record(store, [deferred("m2", 0, due=NOW + 900)])
        taken = await at(store, NOW).take("m1", ["two.example", "one.example"])
        assert [str(each.recipient.address) for each in taken.recipients] == ["a@One.example"]
        assert await content(taken) == b"Received: trace\r\nSubject: x\r\n\r\nhello\r\n"
        assert await at(store, NOW).take("m1", ["one.example"]) is None
        assert ids(await claim(at(store, NOW + 1000), 10)) == ["m4", "m2"]  # claimed, so nobody else gets it
        await record(store, [delivered("m1", 0)])
        await unclaim(store, ["m2"])
        assert (await at(store, NOW).take("m2", ["one.example"])).id == "m2"
        for gone in ("m4", "m5", "unknown"):
            assert await at(store, NOW).take(gone, ["one.example"]) is None
        assert list(await at(store, NOW).waiting(["one.example"])) == ["m2"]

    run(kind, tmp_path, scenario)


def test_queued_mail_for_a_utf8_domain_is_found_in_both_forms(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@BÜCHER.example")
        await put(store, "m2", "a@bÜcher.Example")
        await put(store, "m3", "a@bucher.example")
        await unclaim(store, ["m1", "m2", "m3"])
        assert list(await store.waiting(["bücher.example"])) == ["m1", "m2"]
        taken = await store.take("m1", ["bücher.example"])
        assert [each.number for each in taken.recipients] == [0]

    run(kind, tmp_path, scenario)


@pytest.mark.parametrize("domain", ["'\";--", "x' OR '1'='1", "%", "a\0b"])
def test_r41_a_domain_is_never_a_part_of_a_statement(kind, tmp_path, domain):
    async def scenario(store):
        await put(store, "m1", "a@one.example")
        await store.waiting([domain])
        assert await store.take("m1", [domain]) is None
        assert len(await store.list()) == 1

    run(kind, tmp_path, scenario)


def test_a_message_leaves_nothing_to_the_garbage_collector(kind, tmp_path):
    """A collection stalls the event loop, the longer the more connections are open."""

    async def scenario(store):
        await put(store, "m1")
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await put(store, "m2")
            await put(store, "m3", content=b"x" * 200_000)
            await record(store, [delivered("m2"), delivered("m3")])
            gc.collect()
            ours = [each for each in gc.garbage if type(each).__module__.startswith("ironpost")]
            assert ours == []
        finally:
            gc.set_debug(0)
            gc.enable()
            gc.garbage.clear()

    run(kind, tmp_path, scenario)


# -- selections


SELECTIONS = [
    (Selection(), {("m1", 0), ("m1", 1), ("m2", 0), ("m3", 0), ("m3", 1)}),
    (Selection(("m1", "m3", "unknown")), {("m1", 0), ("m1", 1), ("m3", 0), ("m3", 1)}),
    (Selection(sender=AddressPattern("A@one.EXAMPLE")), {("m1", 0), ("m1", 1)}),
    (Selection(sender=AddressPattern("one.example")), {("m1", 0), ("m1", 1)}),
    (Selection(sender=AddressPattern("*.one.example")), {("m2", 0)}),
    (Selection(sender=AddressPattern("*")), {("m1", 0), ("m1", 1), ("m2", 0)}),
    (Selection(null_sender=True), {("m3", 0), ("m3", 1)}),
    (Selection(recipient=AddressPattern('"odd name"@rcpt.example')), {("m1", 1)}),
    (Selection(recipient=AddressPattern("RCPT.example")), {("m1", 0), ("m1", 1), ("m3", 0)}),
    (Selection(domain=AddressPattern("*.rcpt.example")), {("m2", 0)}),
    (Selection(domain=AddressPattern("*")), {("m1", 0), ("m1", 1), ("m2", 0), ("m3", 0)}),
    (Selection(state=RecipientState.HELD), {("m2", 0)}),
    (Selection(state=RecipientState.QUEUED, domain=AddressPattern("rcpt.example")), {("m1", 0), ("m1", 1), ("m3", 0)}),
    (Selection(older_than=60.0), {("m1", 0), ("m1", 1), ("m2", 0)}),
    (Selection(("m1",), recipient=AddressPattern("jo@rcpt.example"), older_than=60.0), {("m1", 0)}),
    (Selection(domain=AddressPattern("other.example")), set()),
]


async def put_some(store):
    await put(store, "m1", "Jo@Rcpt.example", '"odd name"@rcpt.example', sender="a@one.example", at=NOW - 100)
    await put(store, "m2", "jo@below.rcpt.example", sender="a@below.one.example", held="odd", at=NOW - 60)
    await put(store, "m3", "jo@rcpt.example", "postmaster", sender="")


@pytest.mark.parametrize(("selection", "expected"), SELECTIONS)
def test_a_selection_is_read_and_changed_alike(kind, tmp_path, selection, expected):
    async def scenario(store):
        await put_some(store)
        await unclaim(store, ["m1", "m2", "m3"])
        found = [(message.id, to.number) for message in await store.select(selection) for to in message.recipients]
        assert found == sorted(expected)
        assert ids(await store.select(selection, 1)) == ids(await store.select(selection))[:1]
        if selection.state is None:
            held = {("m2", 0)}
            assert await store.hold(selection) == len(expected - held)
            assert await store.release(selection) == len(expected)
            assert await store.retry(selection) == len(expected)
        assert await store.drop(selection) == len(expected)
        every = {("m1", 0), ("m1", 1), ("m2", 0), ("m3", 0), ("m3", 1)}
        left = [(message.id, to.number) for message in await store.select(Selection()) for to in message.recipients]
        assert left == sorted(every - expected)
        assert ids(await store.list()) == sorted({message for message, _ in left})

    run(kind, tmp_path, scenario)


def test_a_recipient_that_was_dropped_during_its_attempt_stays_dropped(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@one.example", "b@two.example")
        assert await store.drop(Selection(domain=AddressPattern("one.example"))) == 1
        await record(store, [deferred("m1", 0, due=NOW + 10), deferred("m1", 1, due=NOW + 10)])
        (message,) = await claim(at(store, NOW + 10), 10)
        assert [to.number for to in message.recipients] == [1]

    run(kind, tmp_path, scenario)


def test_selected_recipients_are_claimed_once(kind, tmp_path):
    async def scenario(store):
        await put_some(store)  # m1 and m3 are claimed
        selection = Selection(recipient=AddressPattern("*"))

        async def claimed():
            found = [message async for messages in store.claim_selected(selection) for message in messages]
            return [(message.id, to.number) for message in found for to in message.recipients]

        assert await claimed() == [("m2", 0)], "held, too"
        await unclaim(store, ["m1", "m2", "m3"])
        assert sorted(await claimed()) == [("m1", 0), ("m1", 1), ("m2", 0), ("m3", 0)]
        assert await claimed() == []
        await record(store, [failed("m2", 0)])
        assert ids(await store.list()) == ["m1", "m3"]

    run(kind, tmp_path, scenario)


def test_the_address_of_a_recipient_is_replaced(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "jo@typo.example", "flo@rcpt.example", due=NOW + 60)
        selection = Selection(recipient=AddressPattern("typo.example"))
        ((message,),) = [found async for found in store.claim_selected(selection)]
        await store.redirect(message, Address.parse("Jo@Right.example"))
        for to in (await store.get("m1")).recipients:
            assert (to.number, to.due) in {(0, NOW), (1, NOW + 60)}
        (again,) = await claim(at(store, NOW), 10)
        (to,) = again.recipients
        assert (str(to.recipient.address), str(to.recipient.original)) == ("Jo@Right.example", "jo@typo.example")
        assert again.envelope.recipients[0] == to.recipient
        with pytest.raises(LeaseLost):
            await store.redirect(again._replace(lease=UNCLAIMED), Address.parse("x@right.example"))

    run(kind, tmp_path, scenario)


def test_another_address_is_not_refused_for_what_the_earlier_one_was(kind, tmp_path):
    async def scenario(store):
        fresh = await new(store, "m1", "jo@closed.example", held="odd")
        (to,) = fresh.envelope.recipients
        tagged = to._replace(parameters={**to.parameters, REFUSED: "5.2.1"})
        await store.commit(fresh._replace(envelope=fresh.envelope._replace(recipients=(tagged,))))
        ((message,),) = [found async for found in store.claim_selected(EVERYTHING)]
        assert message.recipients[0].recipient.parameters[REFUSED] == "5.2.1"
        await store.redirect(message, Address.parse("jo@open.example"))
        (changed,) = (await store.get("m1")).recipients
        assert changed.state is RecipientState.HELD
        assert changed.recipient == to.readdressed(changed.recipient.address)
        assert changed.recipient.parameters == to.parameters

    run(kind, tmp_path, scenario)


def test_the_shape_counts_unfinished_recipients_by_domain_and_age(kind, tmp_path):
    async def scenario(store):
        await put_some(store)
        await put(store, "m4", "jo@rcpt.example", at=NOW - 4 * 86400)
        await put(store, "m5", "jo@rcpt.example", "flo@rcpt.example", at=NOW - 3600)
        await record(store, [delivered("m5", 1)])
        assert {domain: list(counts) for domain, counts in (await store.shape()).items()} == {
            "rcpt.example": [3, 0, 1, 0, 0, 0, 1],
            "below.rcpt.example": [1, 0, 0, 0, 0, 0, 0],
            "": [1, 0, 0, 0, 0, 0, 0],
        }

    run(kind, tmp_path, scenario)


async def old(store, before, **options):
    return [message async for messages in store.claim_old(before, **options) for message in messages]


def test_old_messages_are_found_by_time_and_by_whether_their_delay_warning_is_settled(kind, tmp_path):
    async def scenario(store):
        await put(store, "m1", "a@rcpt.example", "b@rcpt.example")
        await record(store, [deferred("m1", 0)._replace(warned=True), deferred("m1", 1)])
        assert await old(store, NOW - 1, unwarned=True) == []
        assert await old(store, NOW + 1, after=NOW, unwarned=True) == []
        (message,) = await old(store, NOW, after=NOW - 1, unwarned=True)
        assert [to.number for to in message.recipients] == [1]
        await record(store, [deferred("m1", 1)._replace(warned=True)])
        assert await old(store, NOW, unwarned=True) == []
        (message,) = await old(store, NOW)
        assert [to.warned for to in message.recipients] == [True, True]
        await record(store, [deferred("m1", 0), deferred("m1", 1)])
        assert [to.warned for to in (await store.get("m1")).recipients] == [True, True]

    run(kind, tmp_path, scenario)


def test_each_old_message_is_found_once_although_its_claim_is_returned(kind, tmp_path):
    async def scenario(store):
        for number in range(250):  # many have the same time
            await store.unclaim([await put(store, f"m{number}", "a@rcpt.example", at=NOW + number // 100)])
        found = []
        async for messages in store.claim_old(NOW + 1):
            assert 0 < len(messages) <= 10
            found += [message.id for message in messages]
            await store.unclaim(messages)
        assert sorted(found) == sorted(f"m{number}" for number in range(200))
        assert len(await old(store, NOW + 2, after=NOW)) == 150

    run(kind, tmp_path, scenario)


def test_old_messages_that_end_or_are_claimed_during_the_search_are_not_found(kind, tmp_path):
    async def scenario(store):
        for number in range(30):
            await store.unclaim([await put(store, f"m{number}", "a@rcpt.example", at=NOW + number)])
        found = []
        async for messages in store.claim_old(NOW + 30):
            if not found:
                assert await store.take("m15", ["rcpt.example"])
                assert await store.drop(Selection.of("m20")) == 1
            found += [message.id for message in messages]
        assert found == [f"m{number}" for number in range(30) if number not in {15, 20}]

    run(kind, tmp_path, scenario)


def test_a_search_for_old_messages_does_not_block_the_event_loop(kind, tmp_path):
    async def scenario(store):
        for number in range(250):
            await put(store, f"m{number}", "a@rcpt.example", at=NOW)
            await record(store, [deferred(f"m{number}")._replace(warned=True)])
        turns = 0

        async def others():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(others())
        assert await old(store, NOW, unwarned=True) == []
        task.cancel()
        assert turns >= (2 if kind in {"sqlite", "shards"} else 0)

    run(kind, tmp_path, scenario)
