"""The shim intercepts the relevant calls: those of SQLite, of CPython and of the server's child processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def run(shim: Any, code: str, *arguments: str, flags: tuple[str, ...] = ("-I", "-S")) -> tuple[int, str]:
    """Run the code in a new interpreter, as the server starts its children: exit code, and what it printed."""
    done = subprocess.run(
        [sys.executable, *flags, "-c", code, *arguments], env={**os.environ, **shim.environment()},
        capture_output=True, text=True, start_new_session=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout.strip() + done.stderr[-500:]


SYNCS = """
import os, sys
d = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
for call in (os.fdatasync, os.fsync, os.fdatasync):
    try:
        call(d)
    except OSError as error:
        print(call.__name__, error.errno)
"""


def test_the_nth_sync_of_a_path_fails_and_no_other(shim: Any, faults: ModuleType, tmp_path: Path) -> None:
    rule = shim.arm(faults.Fault("sync", faults.SYNC, "*/queue-wal", faults.FAIL, errno.EIO, skip=1))
    assert run(shim, SYNCS, str(tmp_path / "other")) == (0, "")
    assert run(shim, SYNCS, str(tmp_path / "queue-wal")) == (0, f"fsync {errno.EIO}")
    assert run(shim, SYNCS, str(tmp_path / "queue-wal")) == (0, "")
    assert shim.fired(rule) == 1


SQLITE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("PRAGMA synchronous=FULL")
db.execute("CREATE TABLE IF NOT EXISTS t (x)")
print("ready", flush=True)
try:
    db.execute("INSERT INTO t VALUES (zeroblob(100000))")
    print("inserted", db.execute("SELECT count(*) FROM t").fetchone()[0])
except sqlite3.Error as error:
    print(error.sqlite_errorname)
sys.stdout.flush()
os._exit(0)
"""


def test_the_shim_is_between_sqlite_and_the_disk(shim: Any, faults: ModuleType, tmp_path: Path) -> None:
    database = str(tmp_path / "q.sqlite3")
    assert run(shim, SQLITE, database) == (0, "ready\ninserted 1")
    # An open log is synced when it restarts from its beginning; closing copied it into the database.
    shim.arm(faults.Fault("full", faults.WRITE, "*-wal", faults.FAIL, errno.ENOSPC))
    assert run(shim, SQLITE, database) == (0, "ready\nSQLITE_FULL")
    rule = shim.arm(faults.Fault("sync", faults.SYNC, "*-wal", faults.FAIL, errno.EIO))
    assert run(shim, SQLITE, database) == (0, "ready\nSQLITE_IOERR_FSYNC")
    assert shim.fired(rule) == 1
    # SQLite continues after a short write.
    rule = shim.arm(faults.Fault("short", faults.WRITE, "*-wal", faults.SHORTEN, skip=5))
    assert run(shim, SQLITE, database)[1].startswith("ready\ninserted")
    assert shim.fired(rule) == 1


@pytest.mark.parametrize("action", ["KILL_BEFORE", "KILL_AFTER", "TEAR"])
def test_a_process_is_killed_in_the_middle_of_a_call(
    shim: Any, faults: ModuleType, tmp_path: Path, action: str
) -> None:
    log = tmp_path / "log"
    code = "import os, sys; d = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600); os.write(d, bytes(1000)); print(1)"
    shim.arm(faults.Fault("death", faults.WRITE, "*/log", getattr(faults, action), amount=300))
    assert run(shim, code, str(log)) == (-signal.SIGKILL, "")
    assert log.stat().st_size == {"KILL_BEFORE": 0, "KILL_AFTER": 1000, "TEAR": 300}[action]


def test_a_kill_ends_the_whole_server_or_only_the_calling_process(
    shim: Any, faults: ModuleType, tmp_path: Path
) -> None:
    code = f"""
import subprocess, sys
child = subprocess.run([sys.executable, "-I", "-S", "-c", {SYNCS!r}, sys.argv[1]])
print(child.returncode)
"""
    shim.arm(faults.Fault("child", faults.SYNC, "*/file", faults.KILL_BEFORE, group=False))
    assert run(shim, code, str(tmp_path / "file")) == (0, str(-signal.SIGKILL))
    shim.arm(faults.Fault("all", faults.SYNC, "*/file", faults.KILL_BEFORE))
    assert run(shim, code, str(tmp_path / "file")) == (-signal.SIGKILL, "")


def test_a_fault_can_be_armed_while_the_process_runs(shim: Any, faults: ModuleType, tmp_path: Path) -> None:
    code = f"import sys; sys.stdin.readline(); exec({SYNCS!r})"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path / "f")], env={**os.environ, **shim.environment()},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as victim:  # fmt: skip
        shim.arm(faults.Fault("late", faults.SYNC, "*/f", faults.FAIL, errno.ENOSPC, times=2))
        assert victim.communicate("go\n", timeout=60)[0] == f"fdatasync {errno.ENOSPC}\nfsync {errno.ENOSPC}\n"
