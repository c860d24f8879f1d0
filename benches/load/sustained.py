"""Minutes instead of bursts: one server at a time, started fresh, alone on the machine, its data deleted afterwards.

Promises: nothing is sent where the disk has no room for it; a measurement that runs the disk low is stopped. The rate
of each interval is kept, so that a server that collapses after some seconds is not hidden by its mean. Every server
is checked in the end: its queue, or the receiver, holds what was acknowledged.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

import sources
from contestants import Contestant, build
from measure import Case, Clock, Figure, await_delivery, calibrate, figure, load_of

INTERVAL = 10.0
"""Seconds over which a rate is taken; a fifth of the whole where that is less."""
WARM_UP = 1.0
"""Seconds of the burst that the rate is estimated from."""
MARGIN = 1.5
"""Octets on the disk for each octet of mail: a log beside the data, and blocks that are not full."""
RESERVE = 2_000_000_000
"""Octets of the disk that always stay free."""


class NoRoomError(Exception):
    """The disk is too small for a measurement; the text says by how much."""


class Pace:
    """Counts taken at even intervals."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._start = 0.0
        self._marks: list[int] = []

    def look(self, count: int) -> None:
        """Takes what the count is now: the first call starts the clock, and each interval needs one or more."""
        if not self._marks:
            self._start = time.monotonic()
            self._marks.append(count)
        while time.monotonic() >= self._start + len(self._marks) * self.interval:
            self._marks.append(count)

    def rates(self) -> tuple[float, ...]:
        """A second, in each full interval."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return tuple((after - before) / self.interval for before, after in pairs)


def sustain(driver: str, name: str, case: Case, seconds: float) -> Figure:
    """One server under one load for that long.

    Raises:
        NoRoomError: the disk has no room for what would be sent.
        CountError: the server or the receiver holds something else than what was acknowledged.
        LoadError: the driver failed.
    """
    with tempfile.TemporaryDirectory(prefix="ironpost-load-") as fresh:
        server = build(case.what, name, Path(fresh))
        try:
            server.start(Path(fresh))
            found = _measure(driver, server, case, seconds, Path(fresh))
        finally:
            server.stop()
        server.check()
    os.sync()  # the next server must not pay for what this one has written
    return found


def _measure(driver: str, server: Contestant, case: Case, seconds: float, folder: Path) -> Figure:
    _, rate = calibrate(driver, server, case, WARM_UP)
    if case.what != "discard":
        _room(case, server.name, rate, seconds, folder)
    receiver = server.receiver
    delivered = receiver.count if receiver else 0
    pace = Pace(min(INTERVAL, seconds / 5))

    def watch(begun: int) -> None:
        if begun:
            pace.look(receiver.count if receiver else begun)
        if shutil.disk_usage(folder).free < RESERVE:
            raise NoRoomError(f"{case}, {server.name}: stopped, less than {RESERVE / 1e9:.0f} GB are free in {folder}")

    before = Clock.read(server)
    sent = sources.sustain(driver, load_of(server, case), seconds, watch)
    server.acknowledged += sent.messages
    server.unknown += sent.unknown
    passed = sent.seconds
    if receiver:
        passed = await_delivery(receiver, delivered, sent, pace.look) - sent.start
    return figure(server, case, sent, passed, before, pace.rates())


def _room(case: Case, name: str, rate: float, seconds: float, folder: Path) -> None:
    needed = rate * seconds * case.size * MARGIN + RESERVE
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoRoomError(
            f"{case}, {name}: {seconds:.0f} s at {rate:,.0f} messages a second may need {needed / 1e9:.0f} GB, but "
            f"{folder.parent} has {free / 1e9:.0f} GB free; choose fewer seconds, or another disk with TMPDIR"
        )
