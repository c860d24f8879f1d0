"""ARC against the public suite of ValiMail, arc_test_suite, which the source of Debian's libmail-dkim-perl contains.

This repository does not contain it. The edition of that package is not the last one, which differs in these tests:

- `ams_fields_a_sha1` and `as_fields_a_sha1`: rsa-sha1 is not valid any more (RFC 8301 §3.1);
- `ams_fields_c_na`: a signature without the tag `c` is valid;
- `as_fields_h_present`, a seal with the tag `h`, is new; `test_arc.py` has such a seal.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import yaml
from tests.loading import load

from ironpost.mail_auth import verify_arc
from ironpost.testing.resolver import StaticResolver

peers = load(Path(__file__).parents[1] / "interop" / "peers.py")

LAST_EDITION = {"ams_fields_a_sha1": "fail", "as_fields_a_sha1": "fail", "ams_fields_c_na": "pass"}
"""What the last edition expects where it differs."""


@pytest.fixture(scope="module")
def suite() -> Path:
    """The path of the suite; the test is skipped if it cannot be fetched, or fails if CI is set."""
    try:
        return Path(peers.find_source("arc_test_suite"))
    except peers.AbsentError as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(reason))


def test_all_vectors_of_the_public_suite(suite: Path) -> None:
    wrong = []
    count = 0
    for scenario in yaml.safe_load_all(suite.read_bytes()):
        resolver = StaticResolver(txt={name: [text.encode()] for name, text in scenario["txt-records"].items()})
        for name, case in scenario["tests"].items():
            count += 1
            message = case["message"].replace("\n", "\r\n").encode()
            answer = asyncio.run(verify_arc(message, resolver=resolver, now=0.0))
            status = str(case["cv"]).strip().lower() or "fail"  # empty if the last seal says that the chain fails
            expected = LAST_EDITION.get(name, status)
            if answer.result != expected:
                wrong.append((name, expected, answer))
    assert wrong == []
    assert count == 170
