"""The torture harness for its tests: its modules, which do not form a package, and the compiled shim."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loading import load

if TYPE_CHECKING:
    from types import ModuleType


HERE = Path(__file__).parent
faults_module = load(HERE / "faults.py")
disk_module = load(HERE / "disk.py")
ledger_module = load(HERE / "ledger.py")
load(HERE / "remote.py")
deliveries_module = load(HERE / "delivery_ledger.py")


def skip(reason: str) -> None:
    """Skip the test; fail in CI, where everything that the harness needs is installed."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module of the shim."""
    return faults_module


@pytest.fixture
def shim(tmp_path: Path):
    """A compiled shim with no rule armed."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the shim needs the dynamic linker and the /proc of Linux")
    try:
        return faults_module.Faults(tmp_path)
    except faults_module.BuildError as error:
        skip(f"the shim cannot be compiled: {error}")


@pytest.fixture
def disk(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The module of the disk in user space, where there can be one."""
    if reason := disk_module.unavailable(tmp_path_factory.mktemp("built")):
        skip(reason)
    return disk_module


@pytest.fixture(scope="session")
def accounts() -> ModuleType:
    """The module of the ledger of accepted mail."""
    return ledger_module


@pytest.fixture(scope="session")
def deliveries() -> ModuleType:
    """The module of the ledger of deliveries."""
    return deliveries_module
