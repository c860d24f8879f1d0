"""Makes the kits importable by the tests beside them, and runs a test on each event loop."""

from __future__ import annotations

import asyncio
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

for name in ("api_kit", "server_kit"):
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on each event loop that is here."""
    import server_kit

    if request.param not in server_kit.LOOPS:
        pytest.skip("uvloop is not installed")

    def runner(coroutine):
        with asyncio.Runner(loop_factory=server_kit.LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, server_kit.PATIENCE))

    return runner
