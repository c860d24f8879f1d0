"""Mail through a real server under kills, storage faults and power cuts: the promise of 250, and of a refusal.

Each test runs torture.py in a separate process, with a fixed seed; a failure names the seed and how to repeat it.
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
    """Run the harness; return its figures and assert that no guarantee was violated."""
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
    assert figures["triggered"]["log sync fails"] >= 1
    assert sum(figures["triggered"].values()) >= 5
    assert figures["restarts"] >= 1


def test_nothing_accepted_is_lost_by_a_power_cut(disk: ModuleType, shim: Any, tmp_path: Path) -> None:
    figures = torture(tmp_path, "--kinds", "disk", "--messages", "80", "--faults", "4", "--cuts", "2")
    assert figures["messages"] == 80
    assert figures["triggered"]["log sync fails, pages lost"] >= 1
    assert figures["cuts"] == 2
    assert figures["checked"] > figures["accepted"] > 40


def check_deliveries(figures: dict[str, Any], first: str = "SIGKILL at 250") -> None:
    """Assert that a delivery round did what it is for. The harness has found no violation."""
    counts = figures["delivery"]["counts"]
    assert counts["delivered"] + counts["bounced"] == counts["recipients"]
    assert min(counts["delivered"], counts["bounced"], counts["deferrals recorded"]) > 5
    assert counts["second copies: kill"] <= counts["in progress at an end"]
    assert figures["triggered"][first] == 1
    assert figures["restarts"] >= 1


def test_each_recipient_is_delivered_or_bounced_once_though_the_server_is_killed(shim: Any, tmp_path: Path) -> None:
    figures = torture(tmp_path, "--kinds", "delivery", "--messages", "60", "--faults", "4")
    check_deliveries(figures)


def test_each_recipient_is_delivered_or_bounced_once_though_a_worker_is_killed(shim: Any, tmp_path: Path) -> None:
    figures = torture(tmp_path, "--kinds", "workers", "--messages", "60", "--faults", "4")
    check_deliveries(figures, "SIGKILL of a worker at 250")


def test_each_recipient_is_delivered_or_bounced_once_after_a_power_cut(
    disk: ModuleType, shim: Any, tmp_path: Path
) -> None:
    figures = torture(tmp_path, "--kinds", "delivery-disk", "--messages", "40", "--faults", "2", "--cuts", "1")
    check_deliveries(figures)
    assert figures["cuts"] == 1


def test_f01_a_failed_sync_of_the_log_loses_no_message_that_is_accepted_later(
    disk: ModuleType, shim: Any, tmp_path: Path
) -> None:
    figures = torture(tmp_path, "--scenario", "failed-sync")
    assert figures["triggered"] == {"log sync fails, pages lost": 1}
    assert figures["checked"] >= 2 * 5
    assert figures["cuts"] == 1


def test_a_server_starts_again_after_a_power_cut_soon_after_its_first_start(
    disk: ModuleType, shim: Any, tmp_path: Path
) -> None:
    assert torture(tmp_path, "--scenario", "first-start")["cuts"] == 1
