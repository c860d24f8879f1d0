"""The examples of docs/server-api.md are whole programs that do what is said there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "server-api.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.S)

CATCH_ALL = "('ada@mail.example', ['grace@other.example'], b'Subject: hello\\r\\n\\r\\nworld\\r\\n')\n"
POLICY = """\
550 b'Say your full name'
250
b'localhost...'

550 b'5.7.1 We do not want it'
250 b'2.1.0 Sender OK'
250 b'2.1.5 Recipient OK'
451 b'4.7.1 Greylisted, come back in five minutes'
250 b'2.1.5 Recipient OK'
for ['grace@here.example']
250 b'2.0.0 Message accepted'
"""
LMTP = "452 4.2.2 Mailbox full\n250 2.0.0 Message accepted\n221 2.0.0 Goodbye\n"
TO_FILE = "[('1.eml', 1200016)]\n"
SUBMISSION = """\
530 b'5.7.0 Authentication required'
535
553 b'5.7.1 You may not send as this address'
from ada PLAIN
"""
DATABASE = "[('grace@other.example', 25)] 1\n"


@pytest.mark.parametrize(
    ("number", "output"), list(enumerate([CATCH_ALL, POLICY, LMTP, TO_FILE, SUBMISSION, DATABASE]))
)
def test_an_example_runs_as_it_stands(number: int, output: str) -> None:
    assert len(EXAMPLES) == 6
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    said = done.stdout.decode().replace("\r\n", "\n")
    # What EHLO offers grows; it is no part of the example.
    assert re.sub(r"b'localhost\\n[^']*'", "b'localhost...'", said) == output
