"""Metrics of delivery: outcomes by kind of route, time in the queue, attempts by destination.

Promises: an attempt is counted for its destination only if a remote host was contacted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model import Disposition
from ironpost.mta.recorder import since
from ironpost.routing.route import destination_label
from ironpost.telemetry.metrics import UNROUTED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model.ports import Metrics
    from ironpost.mta.recorder import Result
    from ironpost.queue.store import QueuedMessage
    from ironpost.routing.route import Route

_COUNTERS: Final = {
    Disposition.DELIVERED: "recipients_delivered",
    Disposition.DEFERRED: "recipients_deferred",
    Disposition.FAILED: "recipients_failed",
}


def count_results(
    metrics: Metrics, message: QueuedMessage, route: Route | None, results: Sequence[Result], now: float
) -> None:
    """Count the recorded outcomes of recipients at one destination; `now` in seconds since 1970."""
    kind = UNROUTED if route is None else route.kind.name.lower()
    asked = False
    for _, outcome in results:
        asked |= outcome.asked
        if (counter := _COUNTERS.get(outcome.disposition)) is not None:
            metrics.count(counter, kind)
        if outcome.disposition is Disposition.DELIVERED:
            metrics.observe("queue_seconds", max(0.0, now - since(message)))
    if route is not None and asked:
        domain = results[0][0].recipient.address.key
        metrics.count("delivery_attempts", destination_label(route, domain))
