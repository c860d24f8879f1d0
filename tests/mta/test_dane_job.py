"""The job that tests whether DANE can authenticate anything."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from ironpost.mta.jobs import JOBS


class Context:
    """The part of a server that the job uses."""

    def __init__(self, obstacle: str, *, dane: bool) -> None:
        self.obstacle = obstacle
        self.dane = dane

    async def dane_obstacle(self) -> str:
        return self.obstacle


@pytest.mark.parametrize(
    ("obstacle", "dane", "result", "events"),
    [
        ("", True, "DANE is used where TLSA records are signed", []),
        ("it is turned off (delivery.dane)", False, "DANE is not used: it is turned off (delivery.dane)", []),
        (
            "the name servers do not validate DNSSEC",
            True,
            "DANE is not used: the name servers do not validate DNSSEC",
            [{"event": "dane-off", "reason": "the name servers do not validate DNSSEC"}],
        ),
    ],
)
def test_it_reports_why_dane_is_not_used(
    obstacle: str, dane: bool, result: str, events: list[dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    (job,) = (each for each in JOBS if each.name == "dane")
    with caplog.at_level(logging.INFO, "ironpost.jobs"):
        assert asyncio.run(job.run(Context(obstacle, dane=dane))) == result  # type: ignore[arg-type]
    assert [json.loads(record.getMessage()) for record in caplog.records] == events
