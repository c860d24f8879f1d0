"""The disk in user space: the result of a power cut, and failed writes that stay lost although later syncs succeed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(__file__).resolve().parent
WRITER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
for number in range(5):
    os.pwrite(descriptor, bytes([65 + number]) * 4096, number * 4096)
    try:
        os.fdatasync(descriptor)
        print("ok")
    except OSError as error:
        print(error.errno)
print(os.pread(descriptor, 20480, 0)[::4096].decode())
"""
SCRIPT = f"""
import json, os, random, subprocess, sys
from pathlib import Path
sys.path.insert(0, {str(HERE)!r})
import faults
from disk import Cut, Disk
folder = Path(sys.argv[1])
shim = faults.Faults(folder)
disk = Disk(folder, shim)
try:
    rule = shim.arm(faults.Fault("lose", faults.SYNC, "*/log", faults.LOSE, skip=2, amount=1))
    said = subprocess.run([sys.executable, "-I", "-S", "-c", {WRITER!r}, str(disk.path / "log")],
                          env={{**os.environ, **shim.environment()}}, capture_output=True, text=True).stdout.split()
finally:
    disk.close()
found = []
for _, path in disk.cuts([Cut(n, "dropped") for n in range(0, shim.records + 1, 2)], random.Random(1)):
    log = path / "log"
    found.append(log.read_bytes()[::4096].decode() if log.exists() else "")
print(json.dumps([said, shim.fired(rule), shim.result(rule), shim.refused, found]))
"""


def test_a_failed_write_is_lost_although_later_syncs_succeed(disk: ModuleType, tmp_path: Path) -> None:
    done = subprocess.run(
        disk.enclosed([sys.executable, "-c", SCRIPT, str(tmp_path)]), capture_output=True, text=True, timeout=120,
        env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, fired, result, refused, found = json.loads(done.stdout)
    # The kernel reports the error once, keeps returning the written data, and never writes it.
    assert said == ["ok", "ok", "5", "ok", "ok", "ABCDE"]
    assert (fired, result, refused) == (1, 5, 1)
    states = [state for at, state in enumerate(found) if at == 0 or state != found[at - 1]]
    assert states == ["", "A", "AB", "AB\0D", "AB\0DE"]


def test_unflushed_writes_are_dropped_kept_or_partly_reordered(disk: ModuleType) -> None:
    records: list[Any] = [(1, 4096 * n, 4096, 100 * n) for n in range(50)]
    assert disk.tail(records, "dropped", random.Random(1)) == []
    assert disk.tail(records, "kept", random.Random(1)) == records
    some = disk.tail(records, "partly kept", random.Random(1))
    assert some == disk.tail(records, "partly kept", random.Random(1))
    assert some != disk.tail(records, "partly kept", random.Random(2))
    assert some != sorted(some)
    assert 0 < sum(length for _, _, length, _ in some) < 50 * 4096
    assert any(length < 4096 for _, _, length, _ in some)
    for _, offset, length, at in some:
        assert (offset % 512, length % 512) == (0, 0)
        assert at == 100 * (offset // 4096) + offset % 4096
