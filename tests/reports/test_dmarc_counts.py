"""Adding up evaluations of DMARC: rows, days, workers, restarts and limits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.reports.dmarc_kit import FAILED, MIDNIGHT, PASSED, POLICY, RECORD

from ironpost.mail_auth import DmarcAnswer, DmarcPolicy, DmarcResult, Override, OverrideType
from ironpost.mail_auth.dmarc_record import parse_record
from ironpost.model import NULL, Address
from ironpost.model.keyed_state import MemoryState
from ironpost.reports.daily import DAY
from ironpost.reports.dmarc import counts as module
from ironpost.reports.dmarc.counts import (
    CLIENT_DETAILED,
    CLIENT_ROWS,
    COUNTS,
    DETAILED,
    ROWS,
    SIGNATURES,
    DmarcCounts,
    DomainCounts,
    summed,
)
from ironpost.reports.dmarc.report import DkimResult, Reason, Row, SpfResult
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from ironpost.mail_auth import DmarcEvaluation


class World:
    """The state of a server, and its time."""

    def __init__(self) -> None:
        self.time = MIDNIGHT + 3600
        self.state = MemoryState([COUNTS], lambda: self.time)
        self.metrics = Counters()

    def worker(self, number: int = 0) -> DmarcCounts:
        return DmarcCounts(self.state, lambda: self.time, worker=number, metrics=self.metrics)

    def count(self, *evaluations: DmarcEvaluation, worker: int = 0) -> None:
        counts = self.worker(worker)
        for each in evaluations:
            counts(each)
        counts.flush()

    @property
    def dropped(self) -> float:
        return self.metrics.snapshot()["dmarc_evaluations_dropped"].get("", 0)

    def only(self) -> DomainCounts:
        """The counts of the one domain, on the next day."""
        self.time += DAY
        counts = self.worker()
        (day,) = counts.entries.days()
        return summed(counts.entries.values(day)[1])


@pytest.fixture
def world() -> World:
    return World()


def answered(evaluation: DmarcEvaluation, **changes: object) -> DmarcEvaluation:
    return replace(evaluation, answer=replace(evaluation.answer, **changes))


def test_equal_evaluations_are_one_row(world: World) -> None:
    world.count(PASSED, FAILED, PASSED)
    counts = world.only()
    assert counts.policy == POLICY
    assert counts.rows == {
        Row(
            "192.0.2.1",
            "pass",
            "fail",
            "pass",
            (),
            "a.example",
            "a.example",
            (DkimResult("a.example", "s1", "fail"),),
            (SpfResult("a.example", "pass"),),
        ): 2,
        Row(
            "192.0.2.1",
            "reject",
            "fail",
            "fail",
            (),
            "a.example",
            "a.example",
            (DkimResult("a.example", "s1", "fail"),),
            (SpfResult("a.example", "fail"),),
        ): 1,
    }


@pytest.mark.parametrize(
    ("evaluation", "disposition", "reasons"),
    [
        (PASSED, "pass", ()),
        (answered(PASSED, record=replace(RECORD, policy=DmarcPolicy.NONE)), "none", ()),
        (answered(PASSED, author="x.a.example", record=replace(RECORD, subdomains=DmarcPolicy.NONE)), "none", ()),
        (FAILED, "reject", ()),
        (replace(FAILED, disposition=DmarcPolicy.NONE), "none", (Reason("local_policy"),)),
        (
            replace(
                FAILED,
                disposition=DmarcPolicy.NONE,
                overrides=(Override(OverrideType.TRUSTED_FORWARDER, "arc=pass of lists.example"),),
            ),
            "none",
            (Reason("trusted_forwarder", "arc=pass of lists.example"),),
        ),
        (
            answered(
                replace(FAILED, disposition=DmarcPolicy.QUARANTINE),
                policy=DmarcPolicy.QUARANTINE,
                record=replace(RECORD, testing=True),
            ),
            "quarantine",
            (Reason("policy_test_mode"),),
        ),
    ],
)
def test_the_disposition_and_its_reasons(
    world: World, evaluation: DmarcEvaluation, disposition: str, reasons: tuple[Reason, ...]
) -> None:
    world.count(evaluation)
    (row,) = world.only().rows
    assert (row.disposition, row.reasons) == (disposition, reasons)


def test_null_senders_mapped_addresses_and_messages_without_spf(world: World) -> None:
    world.count(replace(PASSED, ip="::ffff:192.0.2.9", reverse_path=NULL, spf=None))
    (row,) = world.only().rows
    assert (row.ip, row.sender, row.spf_results) == ("192.0.2.9", "", ())


@pytest.mark.parametrize(
    "evaluation",
    [
        replace(PASSED, answer=DmarcAnswer(DmarcResult.NONE, "no record applies", "a.example")),
        replace(PASSED, answer=DmarcAnswer(DmarcResult.PERMERROR, "no author")),
        answered(PASSED, result=DmarcResult.TEMPERROR),
        answered(PASSED, record=parse_record(b"v=DMARC1; p=reject")),
        answered(PASSED, policy_domain="example"),
        answered(PASSED, policy_domain="a!b.example"),
        answered(PASSED, policy_domain="../a.example"),
    ],
)
def test_what_nobody_can_report_is_not_counted(world: World, evaluation: DmarcEvaluation) -> None:
    world.count(evaluation)
    world.time += DAY
    assert world.worker().entries.days() == []


def test_days_and_workers(world: World) -> None:
    for worker in range(3):
        world.count(PASSED, worker=worker)
    world.count(PASSED, worker=1)  # a new object is a restarted worker
    assert world.worker().entries.days() == [], "the day has not ended"
    world.time += DAY
    world.count(FAILED)
    world.time += DAY
    counts = world.worker()
    first, second = counts.entries.days()
    assert (first.start, second.day) == (MIDNIGHT, first.day + 1)
    assert list(summed(counts.entries.values(first)[1]).rows.values()) == [4]
    counts.entries.remove(first)
    assert world.worker().entries.days() == [second]


def test_the_last_policy_of_a_day_is_reported(world: World) -> None:
    changed = answered(PASSED, record=replace(RECORD, policy=DmarcPolicy.QUARANTINE))
    world.count(PASSED, worker=1)
    world.time += 1
    world.count(changed, worker=0)
    world.time += 1
    counts = world.only()
    assert counts.policy.policy == "quarantine"


def test_what_was_taken_can_be_put_back(world: World) -> None:
    counts = world.worker()
    for number in range(3):
        counts(answered(PASSED, policy_domain=f"a{number}.example"))
    taken = counts.take()
    assert taken is not None
    assert (taken.day.domain, counts.waiting) == ("a0.example", 2), "the one that has waited longest"
    counts(answered(PASSED, policy_domain="a0.example"))
    counts.put_back(taken)
    assert counts.waiting == 3
    counts.flush()
    assert counts.waiting == 0
    world.time += DAY
    days = counts.entries.days()
    assert sorted(sum(summed(counts.entries.values(day)[1]).rows.values()) for day in days) == [1, 1, 2]


def test_r23_a_flood_of_senders_hides_no_client(world: World) -> None:
    flood = [
        replace(FAILED, ip=f"192.0.2.{number % 10}", reverse_path=Address("x", f"{number}.b.example"))
        for number in range(DETAILED + 100)
    ]
    world.count(*flood, replace(PASSED, ip="192.0.2.77"))
    counts = world.only()
    assert sum(counts.rows.values()) == DETAILED + 101
    assert counts.dropped == 0
    assert [(count, row.sender) for row, count in counts.rows.items() if row.ip == "192.0.2.77"] == [(1, None)]


@pytest.mark.parametrize("ip", ["192.0.2.1", "2001:db8::{:x}"])
def test_r23_a_flood_of_authors_hides_no_client(world: World, ip: str) -> None:
    flood = [
        replace(answered(FAILED, author=f"{number}.a.example"), ip=ip.format(number))
        for number in range(CLIENT_ROWS + 10)
    ]
    world.count(*flood[: CLIENT_ROWS // 2])
    world.count(*flood[CLIENT_ROWS // 2 :], replace(PASSED, ip="2001:db8:0:1::"))
    assert world.dropped == 10
    counts = world.only()
    assert (len(counts.rows), counts.dropped) == (CLIENT_ROWS + 1, 10)
    assert sum(row.sender is not None for row in counts.rows) == CLIENT_DETAILED + 1


def test_r23_rows_are_limited(world: World) -> None:
    world.count(*(replace(FAILED, ip=f"2001:db8:0:{number:x}::1") for number in range(ROWS + 7)))
    assert world.dropped == 7
    counts = world.only()
    assert (len(counts.rows), counts.dropped) == (ROWS, 7)


def test_r23_the_rows_of_all_domains_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OPEN_ROWS", 3)
    counts = world.worker()
    for number in range(5):
        counts(answered(PASSED, policy_domain=f"a{number}.example"))
    assert world.dropped == 2
    counts.flush()
    counts(answered(PASSED, policy_domain="later.example"))
    assert world.dropped == 2, "a flush makes room"


def test_r23_domains_are_limited(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DOMAINS", 2)
    counts = world.worker()
    for number in range(3):
        counts(answered(PASSED, policy_domain=f"a{number}.example"))
    assert world.dropped == 1


def test_r23_texts_are_limited_and_counts_always_fit(world: World) -> None:
    long = "\u20ac" * 3000
    signatures = tuple(
        replace(FAILED.dkim[0], domain=f"{number}{long}", selector=long) for number in range(SIGNATURES + 2)
    )
    override = Override(OverrideType.OTHER, long)
    world.count(
        *(
            replace(FAILED, ip=f"2001:db8:0:{number:x}::1", dkim=signatures, overrides=(override,))
            for number in range(ROWS)
        )
    )
    counts = world.only()
    assert sum(counts.rows.values()) == ROWS, "counted without details"
    assert {row.dkim_results for row in counts.rows} == {()}


@pytest.mark.parametrize("value", [b"", b"a.example", b"a.example\n[]", b'a.example\n[["a"],0,0,[[5,1]]]', b"\xff\n1"])
def test_r25_an_entry_of_another_version_counts_as_absent(world: World, value: bytes) -> None:
    world.count(PASSED)
    (key,) = world.state.keys(COUNTS)
    world.state.put(COUNTS, key, value, DAY)
    world.count(FAILED)
    assert list(world.only().rows.values()) == [1]
