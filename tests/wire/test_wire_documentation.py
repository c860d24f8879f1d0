"""The examples in docs/wire.md are complete programs that print what the page says, with either wire."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("implementation", ["native", "pure"])
@pytest.mark.parametrize(("program", "output"), EXAMPLES, ids=re.findall(r"## (.*)", TEXT))
def test_an_example_prints_what_the_page_says(program: str, output: str, implementation: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "IRONPOST_WIRE": implementation},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", output)


def test_every_example_is_run() -> None:
    assert len(EXAMPLES) == TEXT.count("```python") == len(re.findall(r"^## ", TEXT, re.MULTILINE))
