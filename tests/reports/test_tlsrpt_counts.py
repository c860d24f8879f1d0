"""Counting the TLS of connections: days, workers, restarts and limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ironpost.model.keyed_state import MemoryState
from ironpost.model.tls import PolicyType, PublishedPolicy, TlsFailure, TlsOutcome
from ironpost.reports.daily import DAY, DOMAINS, DayOfDomain
from ironpost.reports.tlsrpt.counts import COUNTS, POLICIES, REASONS, TEXT, TlsCounts, summed
from ironpost.reports.tlsrpt.report import Failure, Policy, PolicyResult
from ironpost.telemetry.metrics import Counters

MIDNIGHT = 19_675 * float(DAY)
STS = PublishedPolicy(PolicyType.STS, "a.example", ("version: STSv1", "mode: enforce"), ("*.a.example",))
NONE = PublishedPolicy(PolicyType.NONE, "a.example")
EXPIRED = TlsOutcome(STS, TlsFailure.CERTIFICATE_EXPIRED, "expired", "mx1.a.example", "192.0.2.1", "198.51.100.1")
REASON = Failure("certificate-expired", "198.51.100.1", "mx1.a.example", "192.0.2.1", reason="expired")


class World:
    """The state of a server, and its time."""

    def __init__(self) -> None:
        self.time = MIDNIGHT + 3600
        self.state = MemoryState([COUNTS], lambda: self.time)
        self.metrics = Counters()

    def worker(self, number: int = 0) -> TlsCounts:
        return TlsCounts(self.state, lambda: self.time, worker=number, metrics=self.metrics)


@pytest.fixture
def world() -> World:
    return World()


def only(counts: TlsCounts) -> tuple[DayOfDomain, tuple[PolicyResult, ...]]:
    (day,) = counts.entries.days()
    domain, values = counts.entries.values(day)
    assert domain
    return day, summed(values)


def test_outcomes_are_added_up_by_policy_and_reason(world: World) -> None:
    counts = world.worker()
    for outcome in (TlsOutcome(STS), TlsOutcome(STS), EXPIRED, EXPIRED, replace(EXPIRED, host_ip="192.0.2.2")):
        counts(outcome)
    counts(TlsOutcome(NONE))
    assert not counts.flush()
    assert counts.entries.days() == [], "the day has not ended"
    world.time = MIDNIGHT + DAY
    day, results = only(counts)
    assert day.end == world.time
    assert results == (
        PolicyResult(
            Policy("sts", "a.example", STS.strings, STS.mx),
            2,
            3,
            ((REASON, 2), (REASON._replace(host_ip="192.0.2.2"), 1)),
        ),
        PolicyResult(Policy("no-policy-found", "a.example"), 1, 0),
    )
    assert world.metrics.snapshot()["tls_outcomes"] == {"success": 3, "certificate-expired": 3}


def test_days_end_at_midnight_utc(world: World) -> None:
    counts = world.worker()
    world.time = MIDNIGHT + DAY - 0.001
    counts(TlsOutcome(NONE))
    world.time = MIDNIGHT + DAY
    counts(TlsOutcome(NONE))
    counts(EXPIRED)
    counts.flush()
    first, results = only(counts)
    assert [(each.successes, each.failures) for each in results] == [(1, 0)]
    world.time += DAY
    assert [each.day - first.day for each in counts.entries.days()] == [0, 1]


def test_several_flushes_and_workers_are_added(world: World) -> None:
    workers = [world.worker(number) for number in range(3)]
    for _ in range(2):
        for each in workers:
            each(EXPIRED)
            each(TlsOutcome(STS))
            each.flush()
    world.time += DAY
    for each in workers:
        _, (result,) = only(each)
        assert (result.successes, result.failures, result.details) == (6, 6, ((REASON, 6),))
    day, _ = only(workers[0])
    workers[1].entries.remove(day)
    assert workers[2].entries.days() == []


def test_a_restart_loses_only_what_was_not_flushed(world: World) -> None:
    before = world.worker()
    before(EXPIRED)
    before.flush()
    before(EXPIRED)
    after = world.worker()
    after(EXPIRED)
    after.flush()
    world.time += DAY
    _, (result,) = only(after)
    assert result.failures == 2


def test_a_flush_can_be_divided(world: World) -> None:
    counts = world.worker()
    for number in range(5):
        counts(TlsOutcome(replace(NONE, domain=f"a{number}.example")))
    assert counts.flush(2)
    assert counts.flush(2)
    assert not counts.flush(2)
    world.time += DAY
    assert len(counts.entries.days()) == 5


def test_internationalised_domains_are_counted_by_their_a_labels(world: World) -> None:
    counts = world.worker()
    counts(TlsOutcome(replace(NONE, domain="bücher.example")))
    counts(TlsOutcome(replace(NONE, domain="xn--bcher-kva.example")))
    counts(TlsOutcome(replace(NONE, domain="\u2488.example")))  # has no A-labels
    counts.flush()
    world.time += DAY
    _, (result,) = only(counts)
    assert (result.policy.domain, result.successes) == ("xn--bcher-kva.example", 2)


def test_policies_of_hosts_are_counted_for_the_domain_of_the_recipient(world: World) -> None:
    """RFC 8460 §1.1: with DANE the policy domain is the TLSA base domain."""
    counts = world.worker()
    for host in ("mx1.b.example", "mx2.b.example"):
        policy = PublishedPolicy(PolicyType.TLSA, host, ("3 1 1 00",))
        counts(TlsOutcome(policy, host=host, domain="a.example"))
    counts(TlsOutcome(replace(NONE, domain="bücher.example"), domain="bücher.example"))
    counts.flush()
    world.time += DAY
    found = dict(counts.entries.values(day) for day in counts.entries.days())
    assert {domain: [each.policy.domain for each in summed(values)] for domain, values in found.items()} == {
        "a.example": ["mx1.b.example", "mx2.b.example"],
        "xn--bcher-kva.example": ["xn--bcher-kva.example"],
    }


def test_the_number_of_domains_is_limited(world: World) -> None:
    counts = world.worker()
    for number in range(DOMAINS + 3):
        counts(TlsOutcome(replace(NONE, domain=f"a{number}.example")))
    counts(TlsOutcome(replace(NONE, domain="a0.example")))
    assert world.metrics.snapshot()["tls_outcomes_dropped"] == {"": 3}


def test_the_number_of_policies_is_limited(world: World) -> None:
    counts = world.worker()
    for number in range(POLICIES + 1):
        counts(TlsOutcome(replace(STS, strings=(str(number),))))
    counts.flush()
    counts(TlsOutcome(replace(STS, strings=("later",))))
    counts.flush()
    world.time += DAY
    assert len(only(counts)[1]) == POLICIES
    assert world.metrics.snapshot()["tls_outcomes_dropped"] == {"": 2}


def test_reasons_beyond_the_limit_are_counted_by_their_type(world: World) -> None:
    counts = world.worker()
    for number in range(REASONS + 5):
        counts(replace(EXPIRED, detail=str(number)))
    counts.flush()
    world.time += DAY
    _, (result,) = only(counts)
    assert result.failures == sum(count for _, count in result.details) == REASONS + 5
    assert result.details[-1] == (Failure("certificate-expired"), 5)


def test_r20_texts_are_escaped_and_cut(world: World) -> None:
    counts = world.worker()
    counts(replace(EXPIRED, detail="a\x1b[31m\u202e" + "x" * 9999, host="y" * 9999))
    counts.flush()
    world.time += DAY
    _, (result,) = only(counts)
    ((failure, _),) = result.details
    assert failure.reason.startswith("a\\x1b[31m\\u202ex")
    assert (len(failure.reason), len(failure.host)) == (TEXT, TEXT)


LONG = ".".join(["a" * 63] * 3) + ".example"


def largest(number: int) -> PublishedPolicy:
    """A policy whose form in JSON is as long as possible."""
    return PublishedPolicy(PolicyType.STS, LONG, (f"{number}", *['"' * 63] * 999), ('"' * 63,) * 999)


def test_all_reasons_of_a_domain_with_several_hosts_are_kept(world: World) -> None:
    counts = world.worker()
    for number in range(POLICIES):
        policy = PublishedPolicy(PolicyType.TLSA, "a.example", (f"3 1 1 {number:064x}", f"3 1 1 {number + 99:064x}"))
        for failure in TlsFailure:
            counts(TlsOutcome(policy, failure, "x" * 100, f"mx{number}.a.example", "2001:db8::1", "2001:db8::2"))
    counts.flush()
    world.time += DAY
    _, results = only(counts)
    assert [len(each.details) for each in results] == [len(TlsFailure)] * POLICIES


def test_counts_that_are_too_large_are_kept_without_reasons(world: World) -> None:
    counts = world.worker()
    for number in range(POLICIES):
        for failure in TlsFailure:
            for reason in range(REASONS):
                detail = f"{reason}" + "\\" * 999
                counts(TlsOutcome(largest(number), failure, detail, '"' * 999, "2001:db8::" + "f" * 30, "2001:db8::1"))
    for _ in range(2):
        counts.flush()
        counts(TlsOutcome(largest(0)))
    world.time += DAY
    _, results = only(counts)
    assert [each.failures for each in results] == [REASONS * len(TlsFailure)] * POLICIES
    assert [each.details for each in results] == [()] * POLICIES
    assert results[0].successes == 1
    (usage,) = world.state.usage()
    assert 64 * 1024 < usage.octets < COUNTS.max_value


def test_an_entry_of_another_version_is_replaced(world: World) -> None:
    counts = world.worker()
    counts(EXPIRED)
    counts.flush()
    (key,) = world.state.keys(COUNTS)
    world.state.put(COUNTS, key, b"a.example\n[[1]]", 60.0)
    counts(EXPIRED)
    counts.flush()
    world.time += DAY
    _, (result,) = only(counts)
    assert result.failures == 1
