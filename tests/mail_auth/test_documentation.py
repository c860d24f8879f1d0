"""The examples in docs/mail-auth.md are complete programs that print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ironpost.mail_auth.signing import ONCE, OTHERS

if TYPE_CHECKING:
    from collections.abc import Iterable

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


@pytest.mark.parametrize(
    ("start", "names"), [("these are signed once more", ONCE), ("these are signed as often", OTHERS)]
)
def test_the_page_has_the_fields_that_are_signed(start: str, names: Iterable[str]) -> None:
    (item,) = re.findall(rf"^- {start}[^:]*: ([^.;]*)", TEXT, re.MULTILINE)
    assert sorted(re.split(r",\s+", item.lower())) == sorted(names)
