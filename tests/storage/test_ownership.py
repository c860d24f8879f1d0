"""Access by root to files in a directory that another user owns."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ironpost.accounts.file import UsersFile
from ironpost.server.self_signed import write_self_signed
from ironpost.storage.lock import DirectoryLock
from ironpost.storage.ownership import acting_for, open_private, replace_private
from ironpost.storage.sqlite.schema import DATABASE, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SERVICE = 64_123
"""An unused user id."""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory that other users can reach."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    folder = base / "data"
    folder.mkdir(0o700)
    yield folder
    shutil.rmtree(base)


@pytest.mark.parametrize("kind", ["symlink", "hardlink", "fifo"])
@pytest.mark.parametrize("name", ["users", "users.lock"])
def test_f20_a_link_or_fifo_in_place_of_a_file_is_not_opened(data: Path, name: str, kind: str) -> None:
    target = data.parent / "target"
    target.write_text("precious\n")
    target.chmod(0o644)
    if kind == "symlink":
        (data / name).symlink_to(target)
    elif kind == "hardlink":
        (data / name).hardlink_to(target)
    else:
        os.mkfifo(data / name)
    before = target.stat()
    with pytest.raises(OSError, match=r"symbolic link|not a regular file|several hard links"):
        UsersFile(data / "users").add("ada", "pencil box")
    after = target.stat()
    assert target.read_text() == "precious\n"
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_f20_a_link_at_the_name_of_the_new_file_is_not_followed(data: Path) -> None:
    target = data.parent / "target"
    target.write_text("precious\n")
    (data / "users.new").symlink_to(target)
    UsersFile(data / "users").add("ada", "pencil box")
    assert target.read_text() == "precious\n"
    assert UsersFile(data / "users").names() == ["ada"]
    assert sorted(path.name for path in data.iterdir()) == ["users", "users.lock", "users.new"]


def test_f20_the_lock_and_the_key_follow_no_link(data: Path) -> None:
    target = data.parent / "target"
    target.write_text("precious\n")
    (data / "lock").symlink_to(target)
    with pytest.raises(OSError, match="symbolic link"):
        DirectoryLock(data)
    (data / f".key.{os.getpid()}").symlink_to(target)
    write_self_signed(data / "certificate", data / "key", ["mx.example"])
    assert target.read_text() == "precious\n"
    assert stat.S_IMODE((data / "key").stat().st_mode) == 0o600


@as_root
def test_f20_root_changes_the_users_file_as_its_directorys_owner(data: Path) -> None:
    os.chown(data, SERVICE, SERVICE)
    UsersFile(data / "users").add("ada", "pencil box")
    for path in data.iterdir():
        assert (path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) == (SERVICE, SERVICE, 0o600)
    assert os.geteuid() == 0


@as_root
def test_f20_root_keeps_the_owner_of_a_file_in_its_own_directory(data: Path) -> None:
    UsersFile(data / "users").add("ada", "pencil box")
    os.chown(data / "users", SERVICE, SERVICE)
    UsersFile(data / "users").add("bob", "pencil box")
    assert (data / "users").stat().st_uid == SERVICE
    assert UsersFile(data / "users").names() == ["ada", "bob"]


@as_root
def test_f20_rights_are_restored_after_an_error(data: Path) -> None:
    os.chown(data, SERVICE, SERVICE)
    groups = os.getgroups()
    seen = []
    with suppress(ValueError), acting_for(data):
        seen.append((os.geteuid(), os.getegid(), os.getgroups()))
        raise ValueError
    assert seen == [(SERVICE, SERVICE, [])]
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)


@as_root
def test_f20_root_does_not_follow_another_users_link_to_a_directory(data: Path) -> None:
    link = data.parent / "link"
    link.symlink_to(data)
    with acting_for(link):
        pass
    os.chown(link, SERVICE, SERVICE, follow_symlinks=False)
    with pytest.raises(OSError, match="does not follow"), acting_for(link):
        pass


@as_root
def test_f20_reading_the_queue_gives_no_file_away(data: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ironpost.cli", *arguments, "-c", str(data.parent / "ironpost.toml")],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    (data.parent / "ironpost.toml").write_text(f'hostname = "mx.example"\ndata = "{data}"\n')
    shard = data / "shards" / "00"
    shard.mkdir(parents=True)
    connect(shard).close()
    target = data.parent / "target"
    target.write_text("precious\n")
    target.chmod(0o600)
    for path in [data, *data.rglob("*")]:
        os.chown(path, SERVICE, SERVICE)
    log = shard / f"{DATABASE}-wal"
    log.unlink(missing_ok=True)
    log.hardlink_to(target)
    command("queue", "list")
    assert target.stat().st_uid == 0


def test_f20_a_replacement_that_fails_leaves_no_file(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with acting_for(data) as folder:
        replace_private("users", b"one", folder)

        def full(_: int) -> None:
            raise OSError("no room")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no room"):
            replace_private("users", b"two", folder)
        os.close(open_private("users", os.O_RDONLY, folder))
    assert [path.name for path in data.iterdir()] == ["users"]
    assert (data / "users").read_bytes() == b"one"
