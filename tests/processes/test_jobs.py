"""Scheduled jobs in virtual time: when they run, who runs them, and what a failure costs."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from ironpost.delivery.maildir_files import STALE_SECONDS, remove_stale
from ironpost.delivery.path_template import PathTemplate
from ironpost.mta.jobs import JOBS
from ironpost.processes.jobs import FIRST_SECONDS, Job, JobScheduler, Runs

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOW = 1_700_000_000.0


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.time = NOW
        self.sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self.time

    monotonic = now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sleepers.append((self.time + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self.time + seconds
        await _turns()
        while due := [each for each in self.sleepers if each[0] <= end and not each[1].done()]:
            self.time, future = min(due, key=lambda each: each[0])
            future.set_result(None)
            await _turns()
        self.time = end


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Diary:
    """The context of the examples: what ran when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.entries: list[tuple[str, float]] = []


async def shared(diary: Diary) -> str:
    diary.entries.append(("shared", diary.clock.time - NOW))
    return "2 things done"


async def own(diary: Diary) -> str:
    diary.entries.append(("own", diary.clock.time - NOW))
    if len(diary.entries) < 3:
        raise OSError(28, "No space left on device")
    return "1 thing done"


EXAMPLES: tuple[Job[Any], ...] = (Job("own", 100.0, Runs.EACH, own), Job("shared", 50.0, Runs.ONCE, shared))


def test_jobs_run_at_their_intervals_and_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        clock = Clock()
        diary = Diary(clock)
        scheduler = JobScheduler(EXAMPLES, diary, clock)
        await scheduler.start()
        first = scheduler.status()[0]
        assert (first.last, first.result, first.next) == (None, "", "2023-11-14T22:13:30Z")
        await clock.advance(FIRST_SECONDS + 1)
        assert sorted(diary.entries) == [("own", 10.0), ("shared", 10.0)]
        failed, done = scheduler.status()
        assert (failed.failed, failed.result) == (True, "OSError: [Errno 28] No space left on device")
        assert (done.failed, done.result, done.next) == (False, "2 things done", "2023-11-14T22:14:20Z")
        await clock.advance(110)
        assert [at for name, at in diary.entries if name == "own"] == [10.0, 110.0]
        assert [at for name, at in diary.entries if name == "shared"] == [10.0, 60.0, 110.0]
        assert not scheduler.status()[0].failed
        await scheduler.stop()
        assert '"event":"job-failed","job":"own"' in caplog.text

    asyncio.run(run())


def test_a_shared_job_belongs_to_one_worker() -> None:
    async def run() -> None:
        clock = Clock()
        owners: dict[str, list[int]] = {}
        for worker in range(3):
            scheduler = JobScheduler(EXAMPLES, Diary(clock), clock, worker=worker, workers=3)
            await scheduler.start()
            for job in scheduler.status():
                owners.setdefault(job.name, []).append(job.worker)
            await scheduler.stop()
        assert owners == {"own": [0, 1, 2], "shared": [1]}

    asyncio.run(run())


def test_every_registered_job_has_its_own_name() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)


def test_stale_files_in_tmp_are_removed(tmp_path: Path) -> None:
    template = PathTemplate(f"{tmp_path}/{{domain}}/{{local}}")
    assert remove_stale(template, NOW) == 0
    inbox = tmp_path / "mail.example" / "jo"
    for place in (inbox, inbox / ".news"):
        for part in ("cur", "new", "tmp"):
            (place / part).mkdir(parents=True)
        (place / "tmp" / "in the way").write_bytes(b"x")
        os.utime(place / "tmp" / "in the way", (NOW, NOW))
    tmp = inbox / ".news" / "tmp"
    for name, age in (("old", STALE_SECONDS + 1), ("young", STALE_SECONDS - 1)):
        (tmp / name).write_bytes(b"x")
        os.utime(tmp / name, (NOW - age, NOW - age))
    (tmp / "link").symlink_to(tmp / "old")
    (tmp / "folder").mkdir()
    private = tmp_path / "mail.example" / "flo" / "tmp"
    private.mkdir(parents=True)
    (private / "mine").write_bytes(b"x")
    os.utime(private / "mine", (0, 0))
    assert remove_stale(template, NOW) == 1
    assert sorted(each.name for each in tmp.iterdir()) == ["folder", "in the way", "link", "young"]
    assert (private / "mine").exists()  # its parent is not a Maildir
    assert remove_stale(PathTemplate.fixed(inbox), NOW) == 0
