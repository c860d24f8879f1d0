"""Makes `store_kit` importable by the tests beside it, and gives the contract suite its stores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.loading import load

store_kit = load(Path(__file__).with_name("store_kit.py"))


@pytest.fixture(params=["memory", "leased", "sqlite", "shards"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every implementation of `queue.store.Store`."""
    return str(request.param)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`failing_sync.c`, compiled."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs LD_PRELOAD and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "failing_sync.so"
    source = Path(__file__).with_name("failing_sync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def failing(shim: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control file of the shim, for processes started from here on."""
    control = tmp_path_factory.mktemp("control") / "control"
    control.write_text("none 0\n")
    monkeypatch.setenv("LD_PRELOAD", str(shim))
    monkeypatch.setenv("FAILING_SYNC", str(control))
    return control
