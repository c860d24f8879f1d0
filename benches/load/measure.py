"""One measurement: messages through one server, how fast, and what they cost each process.

Promises: a figure stands for messages whose replies the driver has checked; of a relay also for messages that the
receiver has counted, one for each message sent. Anything else raises `LoadError` or `CountError`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sources
from contestants import Contestant, CountError, Maildir, Receiver
from sources import Load, LoadError, Sent

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 20
"""Messages of one measurement at least."""
OCTETS = 600_000_000
"""Of one burst at most: what is durable must find room."""
STALL = 60.0
"""Seconds without a delivery after which a relay is given up."""
SETTLED = 1.0
"""Seconds without a delivery after which a relay has delivered what was cut off, too."""


@dataclass(frozen=True)
class Case:
    """What is measured."""

    what: str
    tls: str
    way: str
    size: int

    def __str__(self) -> str:
        return f"{self.what}, {'TLS' if self.tls != 'no' else 'plain'}, {self.way}, {_octets(self.size)}"


@dataclass(frozen=True)
class Figure:
    """One measurement. CPU times are milliseconds a message."""

    case: str
    server: str
    rate: float
    """Messages a second; for a relay, until the last was delivered."""
    cpu: float
    driver_cpu: float
    receiver_cpu: float
    """0 without a receiver."""
    messages: int
    rates: tuple[float, ...] = ()
    """Messages a second in each full interval of a sustained measurement."""


@dataclass(frozen=True)
class Clock:
    """CPU seconds of a server and of its receiver at one moment."""

    server: float
    receiver: float

    @classmethod
    def read(cls, server: Contestant) -> Clock:
        """As of now."""
        return cls(server.cpu(), server.receiver.cpu() if server.receiver else 0.0)


def _octets(size: int) -> str:
    for unit, octets in (("MB", 1_000_000), ("KB", 1000)):
        if size >= octets:
            return f"{size // octets} {unit}"
    return f"{size} B"


def load_of(server: Contestant, case: Case) -> Load:
    """What a driver is to send to a server."""
    port = server.implicit_port if case.tls == "implicit" else server.port
    to = "grace@elsewhere.example" if case.what.startswith(("relay", "sign")) else "grace@localhost"
    file = server.message(case.size) if server.message else None
    return Load(port, case.size, case.way, case.tls, server.connections, to, server.lmtp, file)


def figure(
    server: Contestant, case: Case, sent: Sent, seconds: float, before: Clock, rates: tuple[float, ...] = ()
) -> Figure:
    """The figure of what was sent from that moment until now."""
    after = Clock.read(server)

    def each(spent: float) -> float:
        return spent / sent.messages * 1000

    return Figure(
        str(case), server.name, sent.messages / seconds, each(after.server - before.server), each(sent.cpu),
        each(after.receiver - before.receiver), sent.messages, rates,
    )  # fmt: skip


def await_delivery(
    receiver: Receiver | Maildir, before: int, sent: Sent, look: Callable[[int], None] = lambda count: None
) -> float:
    """Waits until everything that was acknowledged has been delivered, and what was cut off, if it was accepted.

    Args:
        receiver: where it arrives.
        before: how many messages that had counted before.
        sent: what must arrive.
        look: called with the receiver's count until all is there.

    Returns:
        when the last message that was acknowledged had arrived, by `time.perf_counter`.

    Raises:
        CountError: nothing arrived for `STALL` seconds, or more arrived than was sent.
    """
    last, since, done = -1, 0.0, 0.0
    while True:
        count, now = receiver.count - before, time.perf_counter()
        if count != last:
            last, since = count, now
        if not done:
            look(before + count)
            if count >= sent.messages:
                done = now
        if done and (not sent.unknown or now - since > SETTLED):
            break
        if now - since > STALL:
            raise CountError(f"{sent.messages} messages were acknowledged, but only {count} delivered")
        time.sleep(0.01)
    if count > sent.messages + sent.unknown:
        raise CountError(f"{count} messages were delivered, but only {sent.messages + sent.unknown} sent")
    return done


def burst(driver: str, server: Contestant, case: Case, messages: int) -> Figure:
    """A number of messages through one server."""
    delivered = server.receiver.count if server.receiver else 0
    before = Clock.read(server)
    try:
        sent = sources.burst(driver, load_of(server, case), messages)
    except LoadError as error:
        server.unknown += messages
        raise LoadError(f"{server.name}, {case}: {error}") from None
    server.acknowledged += sent.messages
    seconds = sent.seconds
    if server.receiver:
        seconds = await_delivery(server.receiver, delivered, sent) - sent.start
    return figure(server, case, sent, seconds, before)


def calibrate(driver: str, server: Contestant, case: Case, seconds: float) -> tuple[int, float]:
    """Two bursts that warm a server up.

    Returns:
        how many messages a burst of that many seconds has, and how many messages a second the server took.
    """
    most = max(LEAST, OCTETS // case.size)
    count = max(LEAST, min(100, most, 20_000_000 // case.size))
    rate = 0.0
    for _ in range(2):
        rate = burst(driver, server, case, count).rate
        count = max(LEAST, min(most, int(rate * seconds), count * 20))
    return count, rate
