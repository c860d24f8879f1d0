"""Mail through a real server under kills, storage faults and power cuts: the promise of 250, and of a refusal.

Each test runs torture.py in a process of its own, with a fixed seed; a failure names the seed and where to look again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

SEED = "5321"
PROGRAM = Path(__file__).resolve().with_name("torture.py")
GUARD_SECONDS = 600


def torture(folder: Path, *arguments: str) -> dict[str, Any]:
    """The figures of a run, which broke no promise."""
    figures = folder / "figures.json"
    command = [sys.executable, str(PROGRAM), "--seeds", SEED, "--json", str(figures), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=GUARD_SECONDS, env={**os.environ, "TMPDIR": str(folder)},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    found: dict[str, Any] = json.loads(figures.read_text())
    return found


def test_nothing_accepted_is_lost_and_nothing_refused_is_delivered(shim: Any, tmp_path: Path) -> None:
    figures = torture(tmp_path, "--kinds", "plain", "--messages", "120", "--faults", "8")
    assert figures["messages"] == 120
    assert figures["accepted"] > 50
    assert figures["met"]["log sync fails"] >= 1
    assert sum(figures["met"].values()) >= 5
    assert figures["restarts"] >= 1


def test_nothing_accepted_is_lost_by_a_power_cut(disk: ModuleType, shim: Any, tmp_path: Path) -> None:
    figures = torture(tmp_path, "--kinds", "disk", "--messages", "80", "--faults", "4", "--cuts", "2")
    assert figures["messages"] == 80
    assert figures["met"]["log sync fails, pages lost"] >= 1
    assert figures["cuts"] == 2
    assert figures["checked"] > figures["accepted"] > 40


def test_f01_a_failed_sync_of_the_log_loses_no_message_that_is_accepted_later(
    disk: ModuleType, shim: Any, tmp_path: Path
) -> None:
    figures = torture(tmp_path, "--scenario", "failed-sync")
    assert figures["met"] == {"log sync fails, pages lost": 1}
    assert figures["checked"] >= 2 * 5
    assert figures["cuts"] == 1


def test_a_server_starts_again_after_a_power_cut_soon_after_its_first_start(
    disk: ModuleType, shim: Any, tmp_path: Path
) -> None:
    assert torture(tmp_path, "--scenario", "first-start")["cuts"] == 1
