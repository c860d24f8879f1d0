"""The examples in docs/mail-auth.md are complete programs that print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "mail-auth.md").read_text()


EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXT, re.S)


def test_each_example_has_an_output() -> None:
    assert len(EXAMPLES) == TEXT.count("```python\n")


@pytest.mark.parametrize(("program", "output"), EXAMPLES)
def test_an_example_runs_and_prints_what_the_page_says(program: str, output: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output
