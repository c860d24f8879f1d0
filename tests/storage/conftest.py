"""Makes `store_kit` importable by the tests beside it, and gives the contract suite its stores."""

from __future__ import annotations

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
