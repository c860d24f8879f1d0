"""Operation `metrics`: the counters and gauges of all processes of a running server."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ironpost.operations.destinations import STATES, state_of, with_mail
from ironpost.operations.operation import EmptyRequest, Operation, Scope
from ironpost.telemetry.metrics import merged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.operations.context import ServingProcess, SupervisorProcess


@dataclass(frozen=True, slots=True)
class Metrics:
    """Values by name and label (`telemetry.metrics`)."""

    counts: dict[str, dict[str, float]]
    gauges: dict[str, dict[str, float]]


async def _metrics(process: ServingProcess, _request: EmptyRequest) -> Metrics:
    usage, resources = process.state_usage(), await process.resource_status()
    now = process.clock.now()
    states = Counter(state_of(each, now) for each in with_mail(process))
    gauges: dict[str, dict[str, float]] = {
        "connections_open": {**process.open_connections()},
        "destinations": {state: states[state] for state in STATES},
        "resources_used": {each.resource: each.used for each in resources},
        "resources_most": {each.resource: each.most for each in resources},
        "resources_short": {each.resource: int(each.short) for each in resources},
        "state_entries": {each.namespace: each.entries for each in usage},
        "state_octets": {each.namespace: each.octets for each in usage},
    }
    return Metrics(process.counts(), gauges)


def _complete(supervisor: SupervisorProcess, metrics: Metrics, silent: Mapping[int, str]) -> Metrics:
    return Metrics(
        merged([metrics.counts, {"worker_restarts": {"": supervisor.restarts}}]),
        merged([metrics.gauges, {"workers_silent": {"": len(silent)}}]),
    )


METRICS: Final = Operation("metrics", EmptyRequest, Metrics, Scope.ALL, _metrics, complete=_complete)
