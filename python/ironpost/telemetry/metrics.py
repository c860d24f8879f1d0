"""Metrics: counters in a dictionary, rendered as Prometheus text on request.

Promises: counting costs a dictionary access and no lock; names and labels are few and fixed, so nothing that a client
sends becomes a time series. Counters of several processes add up (`merged`).
Refuses: a counter that `COUNTERS` does not name, with KeyError.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.routing.route import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prometheus_client import Metric

Counts = dict[str, dict[str, float]]
"""Numbers by counter and label. Plain values, sent between processes as JSON."""


class Counter(NamedTuple):
    """One counter."""

    meaning: str
    label: str = ""
    """Name of its label; empty if it has none."""
    most: int = 0
    """Maximum number of label values; further ones are counted as `OTHER`. 0 for no limit."""
    known: tuple[str, ...] = ()
    """Values of the label that are 0 from the start; others appear when they are first counted."""


class Histogram(NamedTuple):
    """A distribution of values."""

    meaning: str
    bounds: tuple[int, ...]
    """Upper bounds of the buckets, ascending. A last bucket has no bound."""


OTHER: Final = "other"
"""The label of all values beyond the `most` of a counter."""
UNROUTED: Final = "unrouted"
"""The label of recipients whose route cannot be decided."""
SUM: Final = "sum"
"""The key of a histogram's sum, beside its buckets."""
UNBOUNDED: Final = "+Inf"
"""The key of a histogram's last bucket."""
DESTINATIONS: Final = 100
"""Maximum number of destinations with their own label, in each process."""
RULES: Final = 100
"""Maximum number of rules of rewriting with their own label."""

_ROUTES: Final = (*(kind.name.lower() for kind in Kind), UNROUTED)

COUNTERS: Final[dict[str, Counter]] = {
    "connections": Counter("Connections accepted.", "listener"),
    "connections_refused": Counter("Connections refused by a limit or a rule, by limit.", "limit"),
    "accept_failures": Counter("Connections that could not be accepted because descriptors or memory were used up."),
    "sessions_ended": Counter("Sessions ended by a limit, by limit.", "limit"),
    "handshakes": Counter("TLS handshakes, by result.", "result"),
    "proxy_faults": Counter("Connections closed for an invalid PROXY header."),
    "commands": Counter("Commands received, counted when the session ends."),
    "replies": Counter("Replies sent, by class, counted when the session ends.", "class"),
    "leniencies": Counter(
        "Protocol errors that a leniency allowed, by kind.",
        "kind",
        known=("eight_bit", "hello", "mbox_line", "stray_dots", "underscore"),
    ),
    "recipients_refused": Counter("Recipients rejected by policy."),
    "forward_file_failures": Counter(
        "Lookups that failed because of a forward file, by reason.",
        "reason",
        known=("invalid", "unreadable", "unsafe", "unsupported"),
    ),
    "messages": Counter("Messages received in full, by result.", "result"),
    "authentication": Counter("Results of mail authentication, by method and result, like spf=pass.", "result"),
    "octets": Counter("Size of accepted messages in octets."),
    "messages_signed": Counter("Messages signed with DKIM."),
    "callouts": Counter(
        "Questions to next hops whether a recipient exists, by result.",
        "result",
        known=("accepted", "refused", "unknown"),
    ),
    "addresses_rewritten": Counter("Addresses rewritten, by rule.", "rule", RULES, (OTHER,)),
    "logins": Counter("Login attempts, by result.", "result"),
    "recipients_delivered": Counter("Recipients delivered or relayed, by kind of route.", "route", known=_ROUTES),
    "recipients_deferred": Counter("Deferrals of recipients, by kind of route.", "route", known=_ROUTES),
    "recipients_failed": Counter("Recipients that failed or expired, by kind of route.", "route", known=_ROUTES),
    "poison": Counter("Times that a message was held because attempts at it crashed repeatedly."),
    "route_faults": Counter("Attempts that a fault of our route prevented: login, TLS, secret or source address."),
    "recipients_greylisted": Counter("Recipients greylisted by a remote host; consecutive replies count once."),
    "bounces": Counter("Bounces queued."),
    "relay_reports": Counter("Reports queued that mail with a deadline (DELIVERBY) was relayed."),
    "delay_warnings": Counter("Delay warnings queued."),
    "delivery_attempts": Counter(
        "Attempts in which a remote host was contacted, by destination.", "destination", DESTINATIONS, (OTHER,)
    ),
    "outgoing_connections": Counter(
        "Connections established to other hosts, by destination.", "destination", DESTINATIONS, (OTHER,)
    ),
    "outgoing_handshakes": Counter(
        "TLS handshakes with other hosts that were completed, by kind.", "kind", known=("full", "resumed")
    ),
    "http_requests": Counter("Requests to listeners with the role http, by status of the response.", "status"),
    "sts_fetches": Counter("Fetches of MTA-STS policies, by result.", "result"),
    "tls_outcomes": Counter("Results of TLS with other hosts, by result; counted if reports are sent.", "result"),
    "tls_outcomes_dropped": Counter("Results of TLS that are missing from reports because of a limit."),
    "tls_reports": Counter("Reports about TLS, by result.", "result"),
    "dmarc_evaluations_dropped": Counter("Evaluations of DMARC that are missing from reports because of a limit."),
    "dmarc_reports": Counter("Aggregate reports about DMARC, by result.", "result"),
    "dmarc_failure_reports": Counter("Failure reports about DMARC, by result.", "result"),
    "client_tolerances": Counter("Protocol errors of remote servers that the client tolerated.", "tolerance"),
    "hook_failures": Counter("Hooks that raised an exception."),
    "hook_timeouts": Counter("Hooks that exceeded their time limit."),
    "log_lines_dropped": Counter("Log lines dropped because they could not be written."),
    "state_evictions": Counter("Entries of keyed state evicted because their namespace was full.", "namespace"),
    "store_faults": Counter("Messages that the store could not commit, by reason.", "reason"),
    "worker_restarts": Counter("Restarts of worker processes."),
}

GAUGES: Final[dict[str, Counter]] = {
    "workers_silent": Counter("Worker processes that did not answer; their values are missing from all other metrics."),
    "connections_open": Counter("Open connections.", "listener"),
    "destinations": Counter(
        "Destinations with mail in the queue, by state; each worker counts those for which it has mail.",
        "state",
    ),
    "resources_used": Counter(
        "Resident memory in octets, open descriptors, and octets used on the disk, by resource.", "resource"
    ),
    "resources_most": Counter("The use at which a resource becomes short, by resource.", "resource"),
    "resources_short": Counter("Processes that are short of a resource, by resource.", "resource"),
    "queue_messages": Counter("Messages in the queue."),
    "queue_oldest_seconds": Counter("Age of the oldest message in the queue in seconds; 0 if it is empty."),
    "queue_recipients": Counter("Undelivered recipients, by state.", "state"),
    "state_entries": Counter("Entries of keyed state, by namespace; some may have expired.", "namespace"),
    "state_octets": Counter("Size of keyed state in octets, by namespace.", "namespace"),
}
"""Values that are sampled when metrics are read."""

HISTOGRAMS: Final[dict[str, Histogram]] = {
    "queue_seconds": Histogram(
        "Time from acceptance to delivery of each recipient in seconds.",
        (1, 5, 30, 60, 300, 900, 3600, 6 * 3600, 24 * 3600, 3 * 24 * 3600),
    ),
}

PREFIX: Final = "ironpost_"


class Counters:
    """A `model.ports.Metrics` for one process."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counts = {name: dict.fromkeys(about.known, 0) for name, about in COUNTERS.items()}
        self._counts |= {
            name: dict.fromkeys((*map(str, about.bounds), UNBOUNDED, SUM), 0) for name, about in HISTOGRAMS.items()
        }

    def count(self, name: str, label: str = "", amount: int = 1) -> None:
        """Add to a counter.

        Raises:
            KeyError: the counter is unknown.
        """
        counter = self._counts[name]
        if label not in counter and 0 < COUNTERS[name].most <= len(counter):
            label = OTHER
        counter[label] = counter.get(label, 0) + amount

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram.

        Raises:
            KeyError: the histogram is unknown.
        """
        buckets = self._counts[name]
        bound = next((bound for bound in HISTOGRAMS[name].bounds if value <= bound), UNBOUNDED)
        buckets[str(bound)] += 1
        buckets[SUM] += value

    def snapshot(self) -> Counts:
        """Return a copy of all counters."""
        return {name: dict(labels) for name, labels in self._counts.items()}


def merged(several: Iterable[Mapping[str, Mapping[str, float]]]) -> Counts:
    """Return the sums, by counter and label."""
    total: Counts = {}
    for counts in several:
        for name, labels in counts.items():
            into = total.setdefault(name, {})
            for label, amount in labels.items():
                into[label] = into.get(label, 0) + amount
    return total


def exposition(counts: Mapping[str, Mapping[str, float]], gauges: Mapping[str, Mapping[str, float]]) -> str:
    """Format metrics as text for Prometheus.

    Args:
        counts: of the counters; one without a label that was never counted is 0.
        gauges: of `GAUGES`.
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(_Snapshot(counts, gauges))
    return generate_latest(registry).decode()


class _Snapshot:
    """A Prometheus collector of given values."""

    def __init__(self, counts: Mapping[str, Mapping[str, float]], gauges: Mapping[str, Mapping[str, float]]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        """Yield every family with its samples."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

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
        for name, histogram in HISTOGRAMS.items():
            found = self._counts.get(name, {})
            bounds = (*map(str, histogram.bounds), UNBOUNDED)
            cumulative = accumulate(found.get(bound, 0) for bound in bounds)
            distribution = HistogramMetricFamily(PREFIX + name, histogram.meaning)
            distribution.add_metric([], list(zip(bounds, cumulative, strict=True)), found.get(SUM, 0))
            yield distribution
