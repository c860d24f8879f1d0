"""Makes `store_kit` importable by the tests beside it, and gives the contract suite its stores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

spec = spec_from_file_location("store_kit", Path(__file__).with_name("store_kit.py"))
assert spec is not None
assert spec.loader is not None
store_kit = module_from_spec(spec)
sys.modules[spec.name] = store_kit
spec.loader.exec_module(store_kit)


@pytest.fixture(params=["memory", "sqlite", "shards"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every store that there is."""
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
