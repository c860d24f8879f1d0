"""An unreadable message affects no other: it is held, shown with the reason, and can be dropped (R25)."""

from __future__ import annotations

import asyncio
import errno
import logging
import sqlite3

import pytest
from store_kit import NOW, at, claim, ids, next_due, opened, put, unclaim

from ironpost.queue.selection import Selection
from ironpost.queue.store import RecipientState, StoreFull
from ironpost.storage.sqlite import shards
from ironpost.storage.sqlite.faults import store_faults
from ironpost.storage.sqlite.rows import Reader
from ironpost.storage.sqlite.schema import DATABASE
from ironpost.storage.sqlite.shards import ShardsReader
from ironpost.storage.sqlite.store import SqliteStore

NOT_UTF8 = "CAST(x'ff40' AS TEXT)"
BROKEN = {
    "reverse-path": "UPDATE message SET reverse_path='no mailbox' WHERE id='bad'",
    "reverse-path of another type": "UPDATE message SET reverse_path=x'00' WHERE id='bad'",
    "reverse-path not in UTF-8": f"UPDATE message SET reverse_path={NOT_UTF8} WHERE id='bad'",
    "parameters": "UPDATE message SET parameters=x'00' WHERE id='bad'",
    "origin": "UPDATE message SET origin='{' WHERE id='bad'",
    "origin of another shape": "UPDATE message SET origin='[1, 2]' WHERE id='bad'",
    "accepted": "UPDATE message SET accepted='yesterday' WHERE id='bad'",
    "released": "UPDATE message SET released=-5 WHERE id='bad'",
    "size": "UPDATE message SET size='large' WHERE id='bad'",
    "file": "UPDATE message SET file=x'00' WHERE id='bad'",
    "recipient": "UPDATE recipient SET address='no mailbox' WHERE message=2 AND number=1",
    "no recipient": "UPDATE recipient SET address='' WHERE message=2 AND number=0",
    "recipient not in UTF-8": f"UPDATE recipient SET address={NOT_UTF8} WHERE message=2 AND number=0",
    "parameters of a recipient": "UPDATE recipient SET parameters=x'00' WHERE message=2 AND number=1",
    "state": "UPDATE recipient SET state=9 WHERE message=2 AND number=1",
    "due": "UPDATE recipient SET due='soon' WHERE message=2",
    "due beyond all time": "UPDATE recipient SET due=9223372036854775807 WHERE message=2",
    "attempts": "UPDATE recipient SET attempts='many' WHERE message=2 AND number=0",
    "remote": "UPDATE recipient SET remote=x'00' WHERE message=2 AND number=0",
}


async def three(store):
    """Messages 1 to 3 in the order of their due times, of which the second will be bad."""
    await put(store, "first")
    await put(store, "bad", "a@rcpt.example", "b@rcpt.example")
    await put(store, "last")
    await unclaim(store, ["first", "bad", "last"])


def run(path, scenario):
    async def main():
        async with opened("sqlite", path) as store:
            await asyncio.wait_for(scenario(store), 60)

    asyncio.run(main())


@pytest.mark.parametrize("statement", BROKEN.values(), ids=BROKEN)
def test_f04_r25_an_unreadable_message_is_held_and_the_others_continue(tmp_path, caplog, statement):
    async def scenario(store):
        await three(store)
        store._writer.execute(statement)
        assert ids(await store.list()) == ["first", "bad", "last"]
        assert {message.id: bool(message.fault) for message in await store.list()}["bad"]
        assert sorted(ids(await claim(store, 10))) == ["first", "last"]
        assert await claim(store, 10) == []
        assert await next_due(store) is None
        (told,) = [each for each in caplog.records if getattr(each, "event", "") == "unreadable"]
        assert told.levelno == logging.ERROR
        assert (told.fields["id"], told.fields["seq"]) == ("bad", 2)
        rows = store._writer.execute("SELECT state, CAST(last AS TEXT) FROM recipient WHERE message=2").fetchall()
        assert {state for state, _ in rows} <= {4, 9}
        assert any(last.startswith("unreadable: ") for _, last in rows)
        kinds = store._writer.execute("SELECT DISTINCT kind FROM event WHERE message='bad'").fetchall()
        assert kinds == [("accepted",), ("unreadable",)]
        bad = await store.get("bad")
        assert bad.fault.startswith("unreadable: ")
        assert {each.state for each in bad.recipients} == {RecipientState.HELD}
        # Neither a customer who fetches its mail nor an operator is in the way of it.
        assert await store.take("bad", ["rcpt.example"]) is None
        assert await store.waiting(["rcpt.example"]) == ("first", "last")
        reader = Reader.open_readonly(tmp_path)
        assert ids(await reader.list()) == ["first", "bad", "last"]
        assert (await reader.get("bad")).fault == bad.fault
        reader.close()
        assert await store.release(Selection.of("bad")) >= 1
        assert await claim(store, 10) == [], "held once more, and no loop of it"
        await store.drop(Selection.of("bad"))
        assert await store.get("bad") is None
        assert ids(await store.list()) == ["first", "last"]

    run(tmp_path, scenario)
    run(tmp_path, lambda store: claim(store, 10))


def test_f04_what_can_be_read_of_an_unreadable_message_is_shown(tmp_path):
    async def scenario(store):
        await three(store)
        store._writer.execute(f"UPDATE recipient SET address={NOT_UTF8} WHERE message=2 AND number=1")
        bad = await store.get("bad")
        assert str(bad.envelope.reverse_path) == "from@sender.example"
        assert [str(each.recipient.address) for each in bad.recipients] == ["a@rcpt.example", "\\xff@"]
        assert bad.accepted == NOW
        assert bad.envelope.parameters["SIZE"] == 1234
        assert bad.envelope.origin.ip == "192.0.2.1"

    run(tmp_path, scenario)


def test_f04_recipients_whose_message_is_gone_are_held(tmp_path):
    async def scenario(store):
        await three(store)
        store._writer.execute("DELETE FROM message WHERE id='bad'")
        assert ids(await claim(store, 10)) == ["first", "last"]
        assert await next_due(store) is None

    run(tmp_path, scenario)


def test_f04_an_unreadable_message_is_held_when_a_customer_fetches_it(tmp_path):
    async def scenario(store):
        await three(store)
        store._writer.execute("UPDATE message SET origin='{' WHERE id='bad'")
        assert await store.take("bad", ["rcpt.example"]) is None
        assert {each.state for each in (await store.get("bad")).recipients} == {RecipientState.HELD}

    run(tmp_path, scenario)


def test_f04_a_message_that_cannot_be_held_is_skipped(tmp_path, monkeypatch, caplog):
    async def scenario(store):
        await three(store)
        store._writer.execute("UPDATE message SET origin='{' WHERE id='bad'")

        def refuse(*_):
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(store._changes, "_hold_unreadable", refuse)
        assert ids(await claim(store, 10)) == ["first", "last"]
        assert await claim(store, 10) == []
        assert await next_due(store) is None
        assert "cannot be held" in caplog.text

    run(tmp_path, scenario)


def test_f04_damaged_pages_affect_only_their_messages(tmp_path):
    origin = "x" * 30_000  # on separate pages

    async def fill(store):
        await three(store)
        store._writer.execute("UPDATE message SET origin=? WHERE id='bad'", (f'["{origin}", "", "", "", ""]',))

    run(tmp_path, fill)
    database = tmp_path / DATABASE
    data = bytearray(database.read_bytes())
    for page in range(0, len(data), 4096):
        if data[page + 100 : page + 200] == b"x" * 100:
            data[page : page + 4] = b"\xff\xff\xff\x00"  # the page that would follow
    database.write_bytes(data)

    async def scenario(store):
        assert [bool(message.fault) for message in await store.list()] == [False, True, False]
        assert (await store.list())[1].id == "bad"
        assert ids(await claim(store, 10)) == ["first", "last"]
        assert await next_due(store) is None

    run(tmp_path, scenario)


def test_f04_errors_of_sqlite_are_errors_of_the_store(tmp_path):
    async def scenario(store):
        await three(store)
        store._writer.execute("ALTER TABLE recipient RENAME TO elsewhere")
        for question in (
            lambda: claim(store, 10),
            lambda: store.claim("rcpt.example", "", -3, 10),
            lambda: anext(store.claim_old(NOW)),
            store.list,
            lambda: store.get("first"),
            lambda: store.waiting(["rcpt.example"]),
            lambda: store.take("first", ["rcpt.example"]),
        ):
            with pytest.raises(OSError, match="no such table") as caught:
                await question()
            assert caught.value.errno == errno.EIO
        store._writer.execute("ALTER TABLE elsewhere RENAME TO recipient")

    run(tmp_path, scenario)


def test_f04_a_full_disk_while_reading_raises_store_full(tmp_path):
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    with pytest.raises(StoreFull), store_faults(tmp_path):
        raise full


def test_f04_an_unreadable_shard_does_not_stop_the_others(tmp_path, monkeypatch, caplog):
    async def scenario():
        for number in (0, 1):
            directory = tmp_path / "shards" / f"0{number}"
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            shard = SqliteStore.at(directory, now=lambda: NOW, reserve=0)
            await put(shard, f"m{number}")
            await shard.close()
        async with opened("shards", tmp_path) as store:
            broken = store._others[0]

            async def fail(*_):
                raise OSError(errno.EIO, "the queue's database: disk I/O error")

            working, broken.claim = broken.claim, fail
            messages, due = await at(store, NOW).claim("rcpt.example", "", -3, 10)
            assert ids(messages) == ["m0"]
            assert due == NOW + shards.FAULT_SECONDS
            assert await at(store, NOW + 1).claim("rcpt.example", "", -3, 10) == ([], NOW + shards.FAULT_SECONDS)
            assert [each.event for each in caplog.records if hasattr(each, "event")] == ["store-fault"]
            broken.claim = working
            assert ids(await claim(at(store, NOW + shards.FAULT_SECONDS), 10)) == ["m1"]

    asyncio.run(scenario())


def test_f04_late_mail_is_claimed_although_as_many_messages_as_fit_cannot_be_read(tmp_path):
    async def scenario(store):
        await three(store)
        store._writer.execute("UPDATE recipient SET deadline=message")
        store._writer.execute("UPDATE message SET origin='{' WHERE id IN ('first', 'bad')")
        assert ids((await store.claim_late(1)).messages) == ["last"]
        assert (await store.claim_late(1)).messages == []

    run(tmp_path, scenario)


def test_f04_an_unreadable_shard_is_reported_by_searches_and_asked_again_for_late_mail(tmp_path):
    async def scenario():
        for number in (0, 1):
            directory = tmp_path / "shards" / f"0{number}"
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            shard = SqliteStore.at(directory, now=lambda: NOW, reserve=0)
            await put(shard, f"m{number}")
            shard._writer.execute("UPDATE recipient SET deadline=1")
            await shard.close()
        async with opened("shards", tmp_path) as store:
            broken = store._others[0]

            async def fail():
                raise OSError(errno.EIO, "the queue's database: disk I/O error")

            steady, broken._steady = broken._steady, fail
            found = []

            async def search():
                async for messages in store.claim_old(NOW):
                    found.extend(ids(messages))
                    await store.unclaim(messages)

            for _ in ("it fails", "it rests"):
                with pytest.raises(OSError, match="shards/01"):
                    await search()
            assert found == ["m0", "m0"]
            at(store, NOW + shards.FAULT_SECONDS)
            following = NOW + 2 * shards.FAULT_SECONDS
            messages, due = await store.claim_late(10)
            assert (ids(messages), due) == (["m0"], following)
            broken._steady = steady
            assert await store.claim_late(10) == ([], following), "it rests"
            at(store, following)
            assert ids((await store.claim_late(10)).messages) == ["m1"]

    asyncio.run(scenario())


def test_f04_a_reader_names_the_shards_that_it_cannot_read(tmp_path):
    async def scenario():
        async with opened("shards", tmp_path) as store:
            await put(store, "m0")
            other = tmp_path / "shards" / "01"
            other.mkdir()
            (other / DATABASE).write_bytes(b"not a database at all" * 1000)
            reader = ShardsReader.open_readonly(tmp_path)
            assert ids(await reader.list()) == ["m0"]
            assert (await reader.get("m0")).id == "m0"
            assert (await reader.tally()).messages == 1
            (fault,) = reader.faults
            assert "shards/01" in fault
            reader.close()
            other.joinpath(DATABASE).unlink()

    asyncio.run(scenario())
