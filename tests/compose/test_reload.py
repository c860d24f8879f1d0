"""The sentence about a finished reload."""

from __future__ import annotations

import pytest

from ironpost.compose.reload import outcome
from ironpost.config import parse

LOGIN = '[[route]]\nsmart_host = ["192.0.2.9:587"]\n[route.auth]\nuser = "jo"\npassword = "env:P"\n'


@pytest.mark.parametrize(
    ("text", "files"), [("", "certificates and accounts"), (LOGIN, "certificates, accounts and secrets of routes")]
)
def test_a_reload_says_which_files_were_read_again(text: str, files: str) -> None:
    same = parse(text)
    assert outcome(same, same, ["news"]) == f"configuration unchanged ({same.hash}); {files} reloaded; news"
