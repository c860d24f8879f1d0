"""`metrics`: what the running server has counted, and how much waits in its queue."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ironpost.cli.settings import command, configuration
from ironpost.queue.store import State
from ironpost.service.metrics import exposition
from ironpost.storage.shards import ShardsReader

if TYPE_CHECKING:
    from pathlib import Path


def show(named: Path | None) -> None:
    """Prints the text format of Prometheus. The queue is counted here, so that the server's loop does not wait."""
    found = configuration(named)
    answer = command(found, {"do": "metrics"})
    reader = ShardsReader.open_readonly(found.data)
    try:
        tally = reader.tally()
    finally:
        reader.close()
    gauges = answer["gauges"] | {
        "queue_messages": {"": tally.messages},
        "queue_recipients": {state.value: tally.recipients.get(state, 0) for state in (State.QUEUED, State.HELD)},
    }
    sys.stdout.write(exposition(answer["counts"], gauges))
