"""Verifying SQLite's log, and emptying one whose sync failed. The logs are written by SQLite."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import struct

import pytest

from ironpost.storage.sqlite.recovery import LogIndex, Recovery, extent, verify

FRAME_HEADER = 24


class Database:
    """Create a database in WAL mode with this number of rows in its log; return it with its files open."""

    def __init__(self, path, *, page=4096, rows=10):
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (f"page_size={page}", "journal_mode=WAL", "synchronous=OFF", "wal_autocheckpoint=0"):
            self.connection.execute(f"PRAGMA {pragma}").fetchall()
        self.connection.execute("CREATE TABLE t (x)")
        self.add(rows)
        self.log = os.open(f"{path}-wal", os.O_RDWR)
        self.shm = os.open(f"{path}-shm", os.O_RDWR)
        self.size = FRAME_HEADER + page

    def add(self, rows):
        for _ in range(rows):
            self.connection.execute("INSERT INTO t VALUES (zeroblob(300))")

    @property
    def index(self):
        return LogIndex.read(self.shm)

    def rows_without_log(self, directory):
        """How many are in the database file alone."""
        shutil.copy(self.path, directory / "alone.sqlite3")
        with contextlib.closing(sqlite3.connect(directory / "alone.sqlite3")) as connection:
            try:
                return connection.execute("SELECT count(*) FROM t").fetchone()[0]
            except sqlite3.DatabaseError:
                return 0  # not even the table

    def close(self):
        self.connection.close()
        os.close(self.log)
        os.close(self.shm)


@pytest.fixture
def database(tmp_path):
    with contextlib.closing(Database(tmp_path / "q.sqlite3")) as found:
        yield found


@pytest.mark.parametrize("page", [512, 4096, 65536])
def test_f01_a_valid_log_is_verified_to_its_last_frame(tmp_path, page):
    with contextlib.closing(Database(tmp_path / "q.sqlite3", page=page, rows=20)) as database:
        assert database.index.page == page
        assert database.index.frames == extent(database.shm).frames >= 20
        verify(database.log, database.index)


def test_f01_every_part_of_a_frame_is_covered(database):
    index = database.index
    for number in (1, 5, index.frames):
        start = 32 + (number - 1) * database.size
        for at in (0, 7, 8, 15, 16, 23, 24, 24 + 2000, database.size - 1):
            (octet,) = os.pread(database.log, 1, start + at)
            os.pwrite(database.log, bytes((octet ^ 1,)), start + at)
            with pytest.raises(OSError, match=f"frame {number} of {index.frames}") as caught:
                verify(database.log, index)
            assert caught.value.errno == errno.EBADMSG
            os.pwrite(database.log, bytes((octet,)), start + at)
    verify(database.log, index)


@pytest.mark.parametrize("at", [0, 8, 16, 24, 31])
def test_f01_the_header_is_covered(database, at):
    (octet,) = os.pread(database.log, 1, at)
    os.pwrite(database.log, bytes((octet ^ 0x40,)), at)
    with pytest.raises(OSError, match="header"):
        verify(database.log, database.index)


def test_f01_a_stale_page_is_detected(database):
    """A stale page is an earlier frame at the same place, with valid checksums."""
    index = database.index
    last = 32 + (index.frames - 1) * database.size
    os.pwrite(database.log, os.pread(database.log, database.size, last - database.size), last)
    with pytest.raises(OSError, match="wrong checksum"):
        verify(database.log, index)


@pytest.mark.parametrize("cut", [1, 4096, 4119, 4120, 4121, 10**6])
def test_f01_a_log_that_ends_early_is_damaged(database, cut):
    index = database.index
    os.ftruncate(database.log, max(0, 32 + index.frames * database.size - cut))
    with pytest.raises(OSError, match="damaged") as caught:
        verify(database.log, index)
    assert caught.value.errno == errno.EBADMSG


def test_f01_frames_of_an_earlier_round_after_the_last_one_do_not_matter(database):
    before = database.index.frames
    assert database.connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()[0] == 0
    database.add(1)
    index = database.index
    assert 0 < index.frames < before
    assert os.fstat(database.log).st_size == 32 + before * database.size
    verify(database.log, index)


def test_f01_only_frames_after_the_last_good_sync_are_read(database):
    good = extent(database.shm)
    database.add(5)
    index = database.index
    verify(database.log, index, good)
    os.pwrite(database.log, b"\xff", 32 + database.size - 10)
    verify(database.log, index, good)
    with pytest.raises(OSError, match="frame 1"):
        verify(database.log, index, good._replace(salts=bytes(8)))  # of a log that was started over since
    os.pwrite(database.log, b"\xff", 32 + (good.frames + 1) * database.size - 10)
    with pytest.raises(OSError, match=f"frame {good.frames + 1}"):
        verify(database.log, index, good)


def test_f01_an_unused_log_is_valid(database):
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert database.index.frames == 0
    verify(database.log, database.index)


def big_endian(log, index):
    """Rewrites a log as a machine of the other byte order would have written it."""

    def add(total, data):
        first, second = total
        for even, odd in struct.iter_unpack(">2I", data):
            first = (first + even + second) % 2**32
            second = (second + odd + first) % 2**32
        return first, second

    header = struct.pack(">I", 0x377F0683) + os.pread(log, 20, 4)
    total = add((0, 0), header)
    os.pwrite(log, header + struct.pack(">2I", *total), 0)
    size = FRAME_HEADER + index.page
    for at in range(32, 32 + index.frames * size, size):
        frame = os.pread(log, size, at)
        total = add(add(total, frame[:8]), frame[FRAME_HEADER:])
        os.pwrite(log, struct.pack(">2I", *total), at + 16)


def test_f01_a_log_of_the_other_byte_order_is_read(tmp_path):
    (tmp_path / "there").mkdir()
    with contextlib.closing(Database(tmp_path / "q.sqlite3")) as database:
        index = database.index
        for suffix in ("", "-wal"):
            shutil.copy(f"{database.path}{suffix}", tmp_path / "there")
    path = tmp_path / "there" / "q.sqlite3"
    log = os.open(f"{path}-wal", os.O_RDWR)
    big_endian(log, index)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (10,)  # SQLite takes it for good
        shm = os.open(f"{path}-shm", os.O_RDWR)
        recovered = LogIndex.read(shm)
        assert recovered.frames == index.frames
        assert recovered.checksum != index.checksum
        verify(log, recovered)
        os.pwrite(log, b"\xff", 32 + 5 * database.size - 10)
        with pytest.raises(OSError, match="frame 5"):
            verify(log, recovered)
    os.close(shm)
    os.close(log)


def test_f01_an_index_that_is_being_written_is_refused(tmp_path):
    path = tmp_path / "index"
    path.write_bytes(bytes(12) + b"\1" + bytes(35) + bytes(48))
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(OSError, match="being written") as caught:
        LogIndex.read(descriptor)
    assert caught.value.errno == errno.EAGAIN
    path.write_bytes(bytes(96))
    with pytest.raises(OSError, match="no header") as caught:
        LogIndex.read(descriptor)
    assert caught.value.errno == errno.EBADMSG
    os.close(descriptor)


# -- the whole procedure


def test_f01_recovery_leaves_an_empty_log_and_everything_in_the_database(database, tmp_path):
    assert database.rows_without_log(tmp_path) == 0
    Recovery(str(database.path), database.log).run(10)
    assert os.fstat(database.log).st_size == 0
    assert database.rows_without_log(tmp_path) == 10
    database.add(3)
    assert database.connection.execute("SELECT count(*) FROM t").fetchone() == (13,)
    Recovery(str(database.path), database.log).run(10)
    assert database.rows_without_log(tmp_path) == 13


def test_f01_a_damaged_frame_is_final_and_nothing_is_copied(database, tmp_path):
    os.pwrite(database.log, b"\xff" * 100, 32 + database.size - 100)
    with pytest.raises(OSError, match="frame 1 of") as caught:
        Recovery(str(database.path), database.log).run(3600)
    assert caught.value.errno == errno.EBADMSG
    assert os.fstat(database.log).st_size > 0
    assert database.rows_without_log(tmp_path) == 0


def test_f01_the_error_after_the_timeout_names_a_reader(database):
    with contextlib.closing(sqlite3.connect(database.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM t").fetchall()
        database.add(1)
        with pytest.raises(OSError, match="another program reads") as caught:
            Recovery(str(database.path), database.log).run(0)
        assert caught.value.errno == errno.EBUSY
    Recovery(str(database.path), database.log).run(10)
    assert os.fstat(database.log).st_size == 0


def test_f01_a_sync_that_fails_once_is_tried_again(database, monkeypatch):
    real, failed = os.fdatasync, []

    def once(descriptor):
        if descriptor == database.log and not failed:
            failed.append(descriptor)
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", once)
    Recovery(str(database.path), database.log).run(10)
    assert failed
    assert os.fstat(database.log).st_size == 0


def test_f01_a_database_that_is_not_synced_is_final_and_keeps_its_log(database, monkeypatch):
    real = os.fdatasync

    def broken(descriptor):
        if os.path.samestat(os.fstat(descriptor), database.path.stat()):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="database was not synced") as caught:
        Recovery(str(database.path), database.log).run(3600)
    assert caught.value.errno == errno.ENOTRECOVERABLE
    assert os.fstat(database.log).st_size > 0
