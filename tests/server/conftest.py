"""Make the kits importable by the tests in this directory, and run tests on each event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.loading import load

for name in ("api_kit", "server_kit"):
    load(Path(__file__).with_name(f"{name}.py"))


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Run a coroutine on each available event loop."""
    import server_kit

    if request.param not in server_kit.LOOPS:
        pytest.skip("uvloop is not installed")

    def runner(coroutine):
        with asyncio.Runner(loop_factory=server_kit.LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(coroutine, server_kit.PATIENCE))

    return runner
