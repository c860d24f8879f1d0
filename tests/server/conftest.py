"""Makes `api_kit` importable by the tests beside it."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("api_kit", Path(__file__).with_name("api_kit.py"))
assert spec is not None
assert spec.loader is not None
api_kit = module_from_spec(spec)
sys.modules[spec.name] = api_kit
spec.loader.exec_module(api_kit)
