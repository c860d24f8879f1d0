"""`metrics`: print the counters of the running server and the size of its queue."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from ironpost.cli.call import call, call_local, warn
from ironpost.operations.metrics import METRICS
from ironpost.operations.operation import EmptyRequest
from ironpost.operations.queue import LIST, TALLY, ListRequest
from ironpost.telemetry.metrics import exposition

if TYPE_CHECKING:
    from pathlib import Path


def show(file: Path | None, *, as_json: bool) -> None:
    """Print Prometheus text, or one JSON value.

    The queue is counted in this process, so the server is not slowed down. Workers that do not answer are named on
    standard error.

    Raises:
        CommandError: no server runs, or its queue cannot be read.
    """
    answer = call(file, METRICS, EmptyRequest())
    queue = call_local(file, TALLY, EmptyRequest())
    warn([f"part of the queue cannot be read: {fault}" for fault in queue.faults])
    oldest = call_local(file, LIST, ListRequest(limit=1)).messages
    gauges = answer.response.gauges | {
        "queue_messages": {"": queue.messages},
        "queue_oldest_seconds": {"": max(0, round(time.time() - oldest[0].accepted)) if oldest else 0},
        "queue_recipients": queue.recipients,
    }
    if as_json:
        sys.stdout.write(json.dumps({**answer.json, "gauges": gauges}) + "\n")
    else:
        sys.stdout.write(exposition(answer.response.counts, gauges))
    answer.warn_of_silent()
