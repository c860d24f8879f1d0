"""The example in docs/mail-auth.md is a complete program that prints what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "mail-auth.md").read_text()


def test_the_example_runs_and_prints_what_the_page_says() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    (output,) = re.findall(r"```text\n(.*?)```", TEXT, re.S)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == output
