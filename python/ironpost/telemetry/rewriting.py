"""The record and the counts of addresses that were rewritten in one message."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model.ports import Metrics
    from ironpost.routing.rewriting import Rewritten

SHOWN: Final = 20
"""Addresses in one record; a header section may have thousands."""


def log_rewritten(
    logger: logging.Logger,
    metrics: Metrics,
    message: str,
    changes: Sequence[Rewritten],
    session: str | None = None,
) -> None:
    """Count the changes by rule and log them as one event `rewritten`; nothing without changes.

    Args:
        logger: of the part that made them.
        metrics: the counters.
        message: the queue id.
        changes: what was replaced.
        session: the session in which the message arrived; None for a delivery.
    """
    if not changes:
        return
    for rule, times in Counter(rule for each in changes for rule in each.rules).items():
        metrics.count("addresses_rewritten", rule, times)
    shown = list(dict.fromkeys(map(str, changes)))[:SHOWN]
    record(logger, "rewritten", logging.INFO, id=message, session=session, addresses=len(changes), changes=shown)
