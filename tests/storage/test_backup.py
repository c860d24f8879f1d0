"""Backups of a data directory: what is in them, while it changes and when something fails; and restoring them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pwd
import random
import shutil
import socket
import sqlite3
import stat
import zlib
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from store_kit import NOW, Clock, content, delivered, put, record, shards_of, unclaim

from ironpost.queue.store import RecipientState, StoreUnusable
from ironpost.storage import BACKENDS, manifest
from ironpost.storage.backend import StoreOptions
from ironpost.storage.backup import back_up, create_target
from ironpost.storage.bodies import RECORD_BODY, SMALL_BODY
from ironpost.storage.bodies import store as bodies_store
from ironpost.storage.lock import RESTORING, DirectoryInUse, DirectoryLock, refuse_unfinished
from ironpost.storage.manifest import MANIFEST, BackupDamaged
from ironpost.storage.restore import restore
from ironpost.storage.sqlite import copying
from ironpost.storage.sqlite import sync as sqlite_sync
from ironpost.storage.sqlite.schema import DATABASE
from ironpost.storage.sqlite.shards import ShardedStore, lay_out
from ironpost.storage.sqlite.verify import verify

PREFIX = b"Received: trace\r\n"
BODIES = {
    "row": b"in the row\r\n" * 10,
    "record": random.Random(1).randbytes(SMALL_BODY + 5000),
    "record2": random.Random(2).randbytes(300_000),
    "file": random.Random(3).randbytes(RECORD_BODY + 1),
}
SQLITE = BACKENDS["sqlite"]()
OPTIONS = StoreOptions(Clock(), 0, 1 << 20, 86400.0, 1 << 20, 86400.0)


@asynccontextmanager
async def opened(data):
    """The store of a server with one process."""
    data.mkdir(exist_ok=True)
    lay_out(data)
    store = ShardedStore.at(data, now=Clock(), reserve=0)
    try:
        yield store
    finally:
        await store.close()


async def filled(store, names=tuple(BODIES)):
    for name in names:
        await put(store, name, content=BODIES[name])
    await unclaim(store, names)


async def backup_of(data, target, *, mail=False):
    create_target(target, data)
    return await back_up(data, target, SQLITE, NOW, mail=mail)


async def restored(backup, data, *, release=False):
    return await restore(backup, data, SQLITE, OPTIONS, release=release)


async def contents(data):
    """The content of every message, read by another store."""
    async with opened(data) as store:
        return {message.id: await content(message) for message in await store.list()}


async def damages(data):
    return [found.sentence for found in [each async for each in verify(data)][:-1]]


@pytest.fixture
def made(tmp_path):
    """A backup with every kind of body."""

    async def make():
        async with opened(tmp_path / "data") as store:
            await filled(store)
            await backup_of(tmp_path / "data", tmp_path / "backup")

    asyncio.run(make())
    return tmp_path / "backup"


# -- what is copied


def test_every_message_is_restored_with_its_body(made, tmp_path):
    async def main():
        result = await restored(made, tmp_path / "new", release=True)
        assert (result.messages, result.held, result.time) == (4, 0, "2023-11-14T22:13:20Z")
        assert await damages(tmp_path / "new") == []
        assert await contents(tmp_path / "new") == {name: PREFIX + body for name, body in BODIES.items()}

    asyncio.run(main())


def test_a_segment_has_only_the_bodies_of_queued_messages(tmp_path):
    async def main():
        async with opened(tmp_path / "data") as store:
            await filled(store)
            await record(store, [delivered("record")])
            await backup_of(tmp_path / "data", tmp_path / "backup")
        (segment,) = (tmp_path / "backup" / "shards" / "00" / "segments").iterdir()
        found = segment.read_bytes()
        assert BODIES["record2"] in found
        assert not found[: SMALL_BODY + 5000].strip(b"\0")

    asyncio.run(main())


@pytest.mark.parametrize("name", ["record", "file"])
def test_a_message_that_is_delivered_meanwhile_is_not_in_the_backup(tmp_path, monkeypatch, name):
    async def main():
        async with opened(tmp_path / "data") as store:
            await filled(store)
            real = copying._copy_body

            async def delivered_first(body, target, place):
                if await store.get(name) is not None:
                    await record(store, [delivered(name)])
                    bodies = shards_of(store)[0]._bodies
                    await bodies.segments.reclaim()
                    while bodies.busy:
                        await asyncio.sleep(0)
                await real(body, target, place)

            monkeypatch.setattr(copying, "_copy_body", delivered_first)
            made = await backup_of(tmp_path / "data", tmp_path / "backup")
            assert (made.queue.messages, made.queue.finished, made.queue.damage) == (3, 1, [])
        await restored(tmp_path / "backup", tmp_path / "new")
        assert await damages(tmp_path / "new") == []
        assert set(await contents(tmp_path / "new")) == BODIES.keys() - {name}

    asyncio.run(main())


@pytest.mark.parametrize("punches", [True, False], ids=["holes", "moves"])
def test_backups_under_a_random_load_are_complete(tmp_path, monkeypatch, punches):
    monkeypatch.setattr(bodies_store, "SEGMENT", 1 << 20)
    if not punches:

        def refused(*_):
            future = asyncio.get_running_loop().create_future()
            future.set_exception(OSError(errno.EOPNOTSUPP, "no holes here"))
            return future

        monkeypatch.setattr(sqlite_sync.Syncer, "punch", refused)
    chance = random.Random(12)
    data = tmp_path / "data"
    checksums = {}
    gone = set()

    async def load(store, turns, start):
        for turn in range(start, start + turns):
            names = [f"m{turn}x{number}" for number in range(8)]
            bodies = {name: chance.randbytes(chance.randrange(SMALL_BODY // 2, 300_000)) for name in names}
            checksums.update((name, zlib.crc32(PREFIX + body)) for name, body in bodies.items())
            await asyncio.gather(*[put(store, name, content=body) for name, body in bodies.items()])
            await unclaim(store, names)
            leaving = chance.sample(sorted(checksums.keys() - gone), k=8)
            gone.update(leaving)
            await asyncio.gather(*[record(store, [delivered(name)]) for name in leaving])

    async def main():
        async with opened(data) as store:
            await load(store, 4, 0)
            for number in range(3):
                before = checksums.keys() - gone
                target = tmp_path / f"backup{number}"
                backup = asyncio.create_task(asyncio.to_thread(asyncio.run, backup_of(data, target)))
                turn = 100 * number + 4
                while not backup.done():
                    await load(store, 1, turn)
                    turn += 1
                assert (await backup).queue.damage == []
                new = tmp_path / f"new{number}"
                await restored(target, new)
                assert await damages(new) == []
                found = await contents(new)
                assert before <= found.keys() | gone
                assert {name: zlib.crc32(body) for name, body in found.items()}.items() <= checksums.items()

    asyncio.run(main())


def test_other_files_are_copied_and_maildirs_only_if_asked(tmp_path):
    data = tmp_path / "data"

    async def main():
        async with opened(data) as store:
            await filled(store, ["row"])
            (data / "users").write_text("jo hash\n")
            (data / "keys" / "dkim").mkdir(parents=True)
            (data / "keys" / "dkim" / "one.pem").write_text("key")
            (data / "link").symlink_to("users")
            for name in ("cur", "new", "tmp"):
                (data / "mail" / "jo" / name).mkdir(parents=True)
            (data / "mail" / "jo" / "cur" / "1:2,S").write_text("read")
            with socket.socket(socket.AF_UNIX) as control, closing(sqlite3.connect(data / "accounts")) as accounts:
                folder = os.open(data, os.O_RDONLY)
                control.bind(f"/proc/self/fd/{folder}/control.sock")
                os.close(folder)
                accounts.execute("PRAGMA journal_mode=WAL")
                accounts.execute("CREATE TABLE account AS SELECT 'jo' AS name")
                accounts.commit()
                made = await backup_of(data, tmp_path / "backup")
                await backup_of(data, tmp_path / "with mail", mail=True)
        assert made.left_out == [data / "link"]
        assert set(made.manifest.files) == {
            "accounts", "keys/dkim/one.pem", "shards/00/queue.sqlite3", "shards/count", "users",
        }  # fmt: skip
        for path in (tmp_path / "backup").rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
        await restored(tmp_path / "with mail", tmp_path / "new")
        with closing(sqlite3.connect(tmp_path / "new" / "accounts")) as accounts:
            assert accounts.execute("SELECT name FROM account").fetchall() == [("jo",)]
        assert (tmp_path / "new" / "keys" / "dkim" / "one.pem").read_text() == "key"
        assert (tmp_path / "new" / "mail" / "jo" / "cur" / "1:2,S").read_text() == "read"
        assert (tmp_path / "new" / "mail" / "jo" / "new").is_dir()

    asyncio.run(main())


# -- what fails


def test_a_damaged_body_is_reported_and_its_message_stays_in_the_backup(tmp_path):
    async def main():
        async with opened(tmp_path / "data") as store:
            await filled(store)
            (segment,) = (tmp_path / "data" / "shards" / "00" / "segments").iterdir()
            with segment.open("r+b") as file:
                file.seek(100)
                file.write(b"\0\0\0\0")
            made = await backup_of(tmp_path / "data", tmp_path / "backup")
        assert [(each.message, each.sentence) for each in made.queue.damage] == [
            ("record", "the body at octet 0 has another checksum")
        ]
        result = await restored(tmp_path / "backup", tmp_path / "new")
        assert (result.messages, len(await damages(tmp_path / "new"))) == (4, 1)

    asyncio.run(main())


def test_a_damaged_database_is_refused(tmp_path):
    async def main():
        async with opened(tmp_path / "data") as store:
            await filled(store, ["row"])
        path = tmp_path / "data" / "shards" / "00" / "queue.sqlite3"
        octets = bytearray(path.read_bytes())
        octets[4096 * 2 : 4096 * 4] = bytes(8192)
        path.write_bytes(octets)
        with pytest.raises(OSError, match=r"database is damaged|malformed"):
            await backup_of(tmp_path / "data", tmp_path / "backup")
        assert list((tmp_path / "backup").iterdir()) == []

    asyncio.run(main())


def test_a_directory_that_is_not_empty_or_in_the_data_directory_is_refused(made, tmp_path):
    with pytest.raises(OSError, match="not empty"):
        create_target(made, tmp_path / "data")
    with pytest.raises(OSError, match="in the data directory"):
        create_target(tmp_path / "data" / "backup", tmp_path / "data")
    with pytest.raises(FileNotFoundError):
        create_target(tmp_path / "no" / "such", tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act for another user")
def test_r47_a_backup_that_root_makes_belongs_to_the_owner_of_the_data_directory(tmp_path):
    nobody = pwd.getpwnam("nobody")
    data, backup = tmp_path / "data", tmp_path / "backup"
    data.mkdir()
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    create_target(backup, data)
    assert (backup.stat().st_uid, stat.S_IMODE(backup.stat().st_mode)) == (nobody.pw_uid, 0o700)
    os.chown(backup, 0, 0)
    with pytest.raises(PermissionError, match="let this command create it"):
        create_target(backup, data)


def test_a_queue_in_memory_has_no_backup(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "backup").mkdir()
    with pytest.raises(StoreUnusable, match="kept in memory"):
        asyncio.run(back_up(tmp_path / "data", tmp_path / "backup", BACKENDS["memory"](), NOW, mail=False))


# -- restoring


def test_queued_recipients_are_held_and_can_be_released(made, tmp_path):
    async def main():
        result = await restored(made, tmp_path / "new")
        assert (result.messages, result.held) == (4, 4)
        async with opened(tmp_path / "new") as store:
            states = {to.state for message in await store.list() for to in message.recipients}
            assert states == {RecipientState.HELD}

    asyncio.run(main())


def test_every_changed_file_is_found(made, tmp_path):
    names = list(manifest.read(made).files)
    assert len(names) >= 4
    for number, name in enumerate(names):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(made, copy)
        octets = bytearray((copy / name).read_bytes())
        octets[len(octets) // 2] ^= 1
        (copy / name).write_bytes(octets)
        with pytest.raises(BackupDamaged, match="was changed") as raised:
            asyncio.run(restored(copy, tmp_path / "new"))
        assert raised.value.filename == str(copy / name)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]
        (copy / name).unlink()
        with pytest.raises(BackupDamaged, match="missing"):
            asyncio.run(restored(copy, tmp_path / "new"))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda values: values.update(format=2), StoreUnusable),
        (lambda values: values.pop("format"), BackupDamaged),
        (lambda values: values["files"].update({"../users": {"size": 0, "sha256": ""}}), BackupDamaged),
        (lambda values: values["directories"].append("/etc"), BackupDamaged),
        (lambda values: values.update(files=[]), BackupDamaged),
    ],
)
def test_a_manifest_of_another_version_or_with_other_contents_is_refused(made, tmp_path, change, error):
    values = json.loads((made / MANIFEST).read_text())
    change(values)
    (made / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(error):
        asyncio.run(restored(made, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_backup_without_a_manifest_is_refused(made, tmp_path):
    (made / MANIFEST).unlink()
    with pytest.raises(FileNotFoundError, match=f"it has no {MANIFEST}"):
        asyncio.run(restored(made, tmp_path / "new"))


def test_a_queue_of_an_older_version_is_migrated(tmp_path):
    shard = tmp_path / "backup" / "shards" / "00"
    (shard / "bodies" / "ab").mkdir(parents=True)
    (shard / "bodies" / "ab" / "cdef").write_bytes(BODIES["record"])
    (shard.parent / "count").write_text("64\n")
    with closing(sqlite3.connect(shard / DATABASE)) as database:
        database.executescript(Path(__file__).with_name("version_2.sql").read_text())
    manifest.write(tmp_path / "backup", NOW)
    result = asyncio.run(restored(tmp_path / "backup", tmp_path / "new"))
    assert (result.messages, result.held) == (1, 1)


def test_a_queue_of_a_newer_version_is_refused(made, tmp_path):
    with closing(sqlite3.connect(made / "shards" / "00" / "queue.sqlite3")) as database:
        database.execute("PRAGMA user_version=1000")
    (made / MANIFEST).unlink()
    manifest.write(made, NOW)
    with pytest.raises(StoreUnusable, match="a newer ironpost wrote it"):
        asyncio.run(restored(made, tmp_path / "new"))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]


def test_a_data_directory_that_is_in_use_or_not_empty_is_refused(made, tmp_path):
    lock = DirectoryLock(tmp_path / "new")
    with pytest.raises(DirectoryInUse):
        asyncio.run(restored(made, tmp_path / "new"))
    lock.release()
    (tmp_path / "new" / "users").write_text("jo hash\n")
    with pytest.raises(OSError, match="not empty, there is users"):
        asyncio.run(restored(made, tmp_path / "new"))
    assert (tmp_path / "new" / "users").exists()


@pytest.mark.parametrize("moved", [0, 1])
def test_no_server_starts_after_an_interrupted_restore_and_another_completes_it(made, tmp_path, monkeypatch, moved):
    class Killed(BaseException):
        pass

    new, real = tmp_path / "new", type(tmp_path).rename
    left = moved

    def rename(path, target):
        nonlocal left
        if path.parent.name != RESTORING:
            return real(path, target)
        if not left:
            raise Killed
        left -= 1
        return real(path, target)

    (made / "users").write_text("jo hash\n")
    (made / MANIFEST).unlink()
    manifest.write(made, NOW)
    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "rename", rename)
        with pytest.raises(Killed):
            asyncio.run(restored(made, new))
    with pytest.raises(OSError, match="a restore was interrupted"):
        refuse_unfinished(new)
    assert asyncio.run(restored(made, new)).messages == 4
    refuse_unfinished(new)
    assert set(asyncio.run(contents(new))) == BODIES.keys()
