"""ARC against the public suite: `tests/arc-draft-validation-tests.yml` of ValiMail's repository arc_test_suite.

This repository does not contain it. To run it, put that file into the folder `arc_test_suite` of `.peers`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest
import yaml

from ironpost.mail_auth import verify_arc
from ironpost.testing.resolver import StaticResolver

ROOT = Path(__file__).resolve().parents[2]
SUITE = Path(os.environ.get("IRONPOST_PEERS") or ROOT / ".peers") / "arc_test_suite" / "arc-draft-validation-tests.yml"
DIGEST = "629d8a36f685602d2cee08126fae9f00d357141f79c95ecb9d1a61bc5b0c40e4"


@pytest.mark.skipif(not SUITE.is_file(), reason="the public suite of ARC is not here")
def test_all_vectors_of_the_public_suite() -> None:
    octets = SUITE.read_bytes()
    assert hashlib.sha256(octets).hexdigest() == DIGEST
    wrong = []
    count = 0
    for scenario in yaml.safe_load_all(octets):
        resolver = StaticResolver(txt={name: [text.encode()] for name, text in scenario["txt-records"].items()})
        for name, case in scenario["tests"].items():
            count += 1
            message = case["message"].replace("\n", "\r\n").encode()
            answer = asyncio.run(verify_arc(message, resolver=resolver, now=0.0))
            expected = str(case["cv"]).strip().lower() or "fail"  # empty if the last seal says that the chain fails
            if answer.result != expected:
                wrong.append((name, expected, answer))
    assert wrong == []
    assert count == 171
