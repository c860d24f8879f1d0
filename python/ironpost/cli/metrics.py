"""`metrics`: what the running server has counted, and how much waits in its queue."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from ironpost.cli import exits
from ironpost.cli.app import Stop
from ironpost.cli.settings import command, configuration, silent
from ironpost.queue.store import State
from ironpost.service.metrics import exposition
from ironpost.storage.ownership import acting_for
from ironpost.storage.shards import ShardsReader

if TYPE_CHECKING:
    from pathlib import Path


def show(named: Path | None, *, as_json: bool) -> None:
    """Prints the text format of Prometheus, or one JSON value. The queue is counted here, not on the server's loop.

    Workers that do not answer are named on standard error.

    Raises:
        Stop: no server runs, or its queue cannot be read.
    """
    found = configuration(named)
    answer = command(found, {"do": "metrics"})
    try:
        with acting_for(found.data):
            reader = ShardsReader.open_readonly(found.data)
            try:
                tally = reader.tally()
            finally:
                reader.close()
    except OSError as error:
        raise Stop(exits.UNAVAILABLE, f"{found.data}: the queue cannot be read: {error.strerror or error}") from None
    for fault in reader.faults:
        sys.stderr.write(f"ironpost: part of the queue cannot be read: {fault}\n")
    gauges = answer["gauges"] | {
        "queue_messages": {"": tally.messages},
        "queue_recipients": {state.value: tally.recipients.get(state, 0) for state in (State.QUEUED, State.HELD)},
    }
    if as_json:
        sys.stdout.write(json.dumps({**answer, "gauges": gauges}) + "\n")
    else:
        sys.stdout.write(exposition(answer["counts"], gauges))
    for line in silent(answer):
        sys.stderr.write(f"ironpost: {line}\n")
