"""What an import loads, which decides how long it takes. README.md has the times."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = frozenset({"email", "http", "json", "multiprocessing", "sqlite3", "tomllib", "urllib", "uuid", "xml"})
"""Modules of the standard library that take long to load and are needed by neither."""
ASYNCIO = frozenset({"asyncio", "dataclasses", "logging", "socket", "ssl", "subprocess"})
"""Those that a client needs, and the wire does not."""


@pytest.mark.parametrize(
    ("statement", "most", "unwanted"),
    [("import ironpost.wire", 20, HEAVY | ASYNCIO), ("from ironpost import Client", 100, HEAVY)],
)
def test_an_import_loads_little(statement: str, most: int, unwanted: frozenset[str]) -> None:
    program = f"import sys; before = {{*sys.modules}}; {statement}; print(*({{*sys.modules}} - before))"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    modules = done.stdout.split()
    packages = {name.partition(".")[0] for name in modules}
    assert packages & unwanted == set()
    assert packages - sys.stdlib_module_names == {"ironpost"}
    assert sum(name.startswith("ironpost") for name in modules) <= most
