"""The examples in docs/server-api.md are complete programs with the documented output."""

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
550 b'EHLO name is not fully qualified'
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
OVERRIDES = """\
250 b'Working on it\\nDone'
500 b'5.5.2 Syntax error (path-space)'
250 b'2.0.0 OK'
"""
DATABASE = "[('grace@other.example', 25)] 1\n"


@pytest.mark.parametrize(
    ("number", "output"), list(enumerate([CATCH_ALL, POLICY, LMTP, TO_FILE, SUBMISSION, OVERRIDES, DATABASE]))
)
def test_an_example_runs_and_prints_what_is_expected(number: int, output: str) -> None:
    assert len(EXAMPLES) == 7
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")
    said = done.stdout.decode().replace("\r\n", "\n")
    # The list of extensions grows; the example does not depend on it.
    assert re.sub(r"b'localhost\\n[^']*'", "b'localhost...'", said) == output
