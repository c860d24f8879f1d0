"""The torture harness for its tests: its modules, which are no package, and the compiled shim."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def _loaded(name: str) -> ModuleType:
    """A module of this folder, under the name by which the others here import it."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


faults_module = _loaded("faults")
disk_module = _loaded("disk")
ledger_module = _loaded("ledger")


def skip(reason: str) -> None:
    """Skips, but not in CI: there everything that the harness needs is installed."""
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
    """The module of the ledger."""
    return ledger_module
