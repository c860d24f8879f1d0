"""Metrics: counters in a dictionary, shown in the text format of Prometheus when somebody asks.

Promises: counting costs a dictionary access and no lock; names and labels are few and fixed, so nothing that a client
sends becomes a time series. Counters of several processes add up (`merged`).
Refuses: a counter that `COUNTERS` does not name, with KeyError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric

Counts = dict[str, dict[str, int]]
"""Counter to label to number. Plain values, so that processes can tell each other."""


class Counter(NamedTuple):
    """One counter."""

    meaning: str
    label: str = ""
    """What its label says; empty if it has none."""


COUNTERS: Final[dict[str, Counter]] = {
    "connections": Counter("Connections taken in.", "listener"),
    "connections_refused": Counter("Connections that a limit or a rule refused.", "limit"),
    "sessions_ended": Counter("Sessions that a limit ended.", "limit"),
    "handshakes": Counter("TLS handshakes.", "result"),
    "proxy_faults": Counter("Connections with a PROXY header that is none."),
    "commands": Counter("Commands of sessions that have ended."),
    "replies": Counter("Replies to them, by their class.", "class"),
    "leniencies": Counter("What only a leniency let pass.", "kind"),
    "recipients_refused": Counter("Recipients that policy refused."),
    "messages": Counter("Messages whose end was reached, by what became of them.", "result"),
    "octets": Counter("Octets of content in messages that were accepted."),
    "logins": Counter("Attempts to log in.", "result"),
    "client_tolerances": Counter("Protocol errors of servers that our client tolerated.", "tolerance"),
    "hook_failures": Counter("Hooks that raised."),
    "hook_timeouts": Counter("Hooks that took too long."),
    "log_lines_dropped": Counter("Lines of the log that were dropped because nobody read them."),
    "storage_faults": Counter("Messages that the store could not take.", "reason"),
    "worker_restarts": Counter("Times that a worker process was started again."),
}

GAUGES: Final[dict[str, Counter]] = {
    "workers_silent": Counter("Worker processes that did not answer: their numbers are missing from the others."),
    "connections_open": Counter("Connections that are open.", "listener"),
    "queue_messages": Counter("Messages that wait in the queue."),
    "queue_recipients": Counter("Recipients of these that are not done, by their state.", "state"),
}
"""What has a value only at the moment somebody asks."""

PREFIX: Final = "ironpost_"


class Counters:
    """A `model.ports.Metrics` for one process."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counts = {name: {} for name in COUNTERS}

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Adds to a counter.

        Raises:
            KeyError: there is none of that name.
        """
        counter = self._counts[name]
        counter[label] = counter.get(label, 0) + amount

    def snapshot(self) -> Counts:
        """All counters as they stand."""
        return {name: dict(labels) for name, labels in self._counts.items()}


def merged(several: Iterable[Mapping[str, Mapping[str, int]]]) -> Counts:
    """The sums, counter by counter and label by label."""
    total: Counts = {}
    for counts in several:
        for name, labels in counts.items():
            into = total.setdefault(name, {})
            for label, amount in labels.items():
                into[label] = into.get(label, 0) + amount
    return total


def exposition(counts: Mapping[str, Mapping[str, int]], gauges: Mapping[str, Mapping[str, int]]) -> str:
    """The text that Prometheus reads.

    Args:
        counts: of the counters; one without a label that was never counted stands as 0.
        gauges: of `GAUGES`.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Snapshot(counts, gauges))
    return generate_latest(registry).decode()


class _Snapshot:
    """A collector of values that are known."""

    def __init__(self, counts: Mapping[str, Mapping[str, int]], gauges: Mapping[str, Mapping[str, int]]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Every family with its samples."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for known, values, family in (
            (COUNTERS, self._counts, CounterMetricFamily),
            (GAUGES, self._gauges, GaugeMetricFamily),
        ):
            for name, about in known.items():
                metric = family(PREFIX + name, about.meaning, labels=[about.label] if about.label else [])
                labels = values.get(name, {})
                for label in sorted(labels) if about.label else [""]:
                    metric.add_metric([label] if about.label else [], labels.get(label, 0))
                yield metric
