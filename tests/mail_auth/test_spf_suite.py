"""SPF against judges: the public test suite of RFC 7208."""

from __future__ import annotations

import asyncio

from tests.mail_auth import pyspf

from ironpost.mail_auth import check_spf

DEFAULT = "DEFAULT"
"""The explanation that the suite expects where a domain gives none."""


def test_all_vectors_of_the_public_suite_of_rfc_7208() -> None:
    wrong = []
    count = 0
    for scenario in pyspf.scenarios():
        resolver = pyspf.ZoneResolver(scenario["zonedata"])
        for name, case in scenario["tests"].items():
            count += 1
            answer = asyncio.run(
                check_spf(
                    ip=case["host"], helo=case["helo"], sender=case.get("mailfrom") or "", resolver=resolver, now=0.0
                )
            )
            allowed = [case["result"]] if isinstance(case["result"], str) else case["result"]
            explained = case.get("explanation") in {None, answer.explanation or DEFAULT}
            if answer.result not in allowed or not explained:
                wrong.append((name, case["result"], case.get("explanation"), answer))
    assert wrong == []
    assert count == 203
