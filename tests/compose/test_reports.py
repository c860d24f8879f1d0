"""Counts for reports over a restart of the server, and what a configuration without reports costs."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from tests.mta.runner_kit import Chance, VirtualClock
from tests.reports.dmarc_kit import PASSED

from ironpost.compose.keyed_state import prepare_state, shared_state
from ironpost.compose.reports import DOMAINS_AT_ONCE, Counting, ReportSenders, dmarc_recorder
from ironpost.config import parse
from ironpost.model.tls import PolicyType, PublishedPolicy, TlsOutcome
from ironpost.reports.daily import DAY
from ironpost.reports.dmarc import counts as dmarc_counts
from ironpost.reports.tlsrpt import counts as tls_counts
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from pathlib import Path

ON = parse('[tlsrpt]\ncontact = "tls@ours.example"\n[dmarc_reports]\ncontact = "dmarc@ours.example"\n')
FAILURES = parse('[dmarc_reports]\ncontact = "dmarc@ours.example"\nfailures = true\n')


def outcome(domain: str = "a.example") -> TlsOutcome:
    return TlsOutcome(PublishedPolicy(PolicyType.NONE, domain))


def test_counts_survive_a_restart(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def life(connections: int) -> list[int]:
        """One life of a server: it starts, counts connections and stops; the successes of the days before."""
        state = shared_state(tmp_path, clock, Counters(), None)
        counting = Counting(ON, state.memory, clock, Counters(), 0)
        await state.start()
        await counting.start()
        counts = counting.tls
        assert counts is not None
        for _ in range(connections):
            counts(outcome())
        found = [tls_counts.summed(counts.entries.values(day)[1])[0].successes for day in counts.entries.days()]
        await counting.stop()
        await state.stop()
        return found

    tmp_path.chmod(0o700)
    prepare_state(tmp_path)
    assert asyncio.run(life(2)) == []
    assert asyncio.run(life(3)) == []
    clock.time += DAY
    assert asyncio.run(life(0)) == [5]


def test_evaluations_survive_a_restart(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def life(evaluations: int, *, store: bool) -> list[int]:
        """One life of a server: it starts, counts evaluations and stops; the messages of the days before."""
        state = shared_state(tmp_path, clock, Counters(), None)
        counting = Counting(ON, state.memory, clock, Counters(), 0)
        await state.start()
        counts = counting.dmarc
        assert counts is not None
        for _ in range(evaluations):
            counts(PASSED)
        if store:
            await counting.store()
        found = [sum(dmarc_counts.summed(counts.entries.values(day)[1]).rows.values()) for day in counts.entries.days()]
        await counting.stop()
        await state.stop()
        return found

    tmp_path.chmod(0o700)
    prepare_state(tmp_path)
    assert asyncio.run(life(2, store=True)) == []
    assert asyncio.run(life(3, store=False)) == []
    clock.time += DAY
    assert asyncio.run(life(0, store=True)) == [5]


def test_many_domains_are_stored_in_several_iterations(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def main() -> None:
        state = shared_state(tmp_path, clock, Counters(), None)
        counting = Counting(ON, state.memory, clock, Counters(), 0)
        counts = counting.tls
        assert counts is not None
        for number in range(2 * DOMAINS_AT_ONCE + 1):
            counts(outcome(f"a{number}.example"))
        stored = asyncio.ensure_future(counting.store())
        await asyncio.sleep(0)
        assert not stored.done()
        await stored
        clock.time += DAY
        assert len(counts.entries.days()) == 2 * DOMAINS_AT_ONCE + 1

    asyncio.run(main())


def test_counts_of_dmarc_are_added_up_in_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    threads: list[str] = []
    summed = dmarc_counts.Counted.summed

    def watched(self: dmarc_counts.Counted) -> dmarc_counts.Summed:
        threads.append(threading.current_thread().name)
        if len(threads) == 2:
            raise RuntimeError("a bug")
        return summed(self)

    async def main() -> None:
        state = shared_state(tmp_path, clock, Counters(), None)
        counts = (counting := Counting(ON, state.memory, clock, Counters(), 0)).dmarc
        assert counts is not None
        for number in range(3):
            counts(replace(PASSED, answer=replace(PASSED.answer, policy_domain=f"a{number}.example")))
        with pytest.raises(RuntimeError, match="a bug"):
            await counting.store()
        assert counts.waiting == 2, "an error loses no counts"
        await counting.store()
        assert counts.waiting == 0
        assert len(threads) == 4
        assert threading.main_thread().name not in threads
        clock.time += DAY
        assert len(counts.entries.days()) == 3

    monkeypatch.setattr(dmarc_counts.Counted, "summed", watched)
    asyncio.run(main())


def test_failures_are_reported_beside_the_counts_if_that_is_on(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def main() -> None:
        state = shared_state(tmp_path, clock, Counters(), None).memory
        for text, failures in ((ON, False), (FAILURES, True)):
            counting = Counting(text, state, clock, Counters(), 0)
            ports: dict[str, Any] = dict.fromkeys(("agents", "store", "runner", "signing"), Mock())
            senders = ReportSenders(
                text, counting, state, host="mx", clock=clock, random=Chance(), metrics=Counters(), share=None, **ports
            )
            assert (senders.failures is not None) == failures
            recorder, counts = dmarc_recorder(counting, senders), counting.dmarc
            assert recorder is not None
            assert counts is not None
            recorder(PASSED)
            assert counts.waiting == 1
            await senders.stop()

    asyncio.run(main())


def test_all_reports_have_the_same_seconds_when_the_server_stops(tmp_path: Path) -> None:
    clock = VirtualClock()

    class Sender:
        """One whose reports take long."""

        async def stop(self) -> None:
            await all_stopping.wait()

    async def main() -> None:
        nonlocal all_stopping
        all_stopping = asyncio.Barrier(3)
        state = shared_state(tmp_path, clock, Counters(), None).memory
        ports: dict[str, Any] = dict.fromkeys(("agents", "store", "runner", "signing"), Mock())
        senders: Any = ReportSenders(
            parse(""), Counting(parse(""), state, clock, Counters(), 0), state,
            host="mx", clock=clock, random=Chance(), metrics=Counters(), share=None, **ports,
        )  # fmt: skip
        await senders.stop()  # those of a server that sends none
        senders.tls, senders.dmarc, senders.failures = Sender(), Sender(), Sender()
        stopping = asyncio.ensure_future(senders.stop())
        for _ in range(10):
            await asyncio.sleep(0)
        assert stopping.done()

    all_stopping: asyncio.Barrier
    asyncio.run(main())


def test_without_a_contact_nothing_is_counted(tmp_path: Path) -> None:
    clock = VirtualClock()

    async def main() -> None:
        counting = Counting(parse(""), shared_state(tmp_path, clock, Counters(), None).memory, clock, Counters(), 0)
        assert counting.tls is None
        assert counting.dmarc is None
        await counting.store()
        await counting.stop()

    asyncio.run(main())
