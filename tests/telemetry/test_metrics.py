"""Counters: what is counted can be read by Prometheus, and every name that the package counts exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ironpost.telemetry.metrics import COUNTERS, DESTINATIONS, HISTOGRAMS, Counters, exposition, merged

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "ironpost"


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_was_counted_is_shown() -> None:
    counters = Counters()
    counters.count("logins", "refused")
    counters.count("logins", "refused", 2)
    counters.count("hook_failures")
    found = samples(exposition(counters.snapshot(), {"connections_open": {"mx": 7}}))
    assert found["ironpost_logins_total", "refused"] == 3
    assert found["ironpost_hook_failures_total", ""] == 1
    assert found["ironpost_hook_timeouts_total", ""] == 0
    assert found["ironpost_connections_open", "mx"] == 7


def test_the_counters_of_several_processes_add_up() -> None:
    one, other = Counters(), Counters()
    one.count("replies", "2yz", 5)
    other.count("replies", "2yz", 3)
    other.count("replies", "5yz")
    total = merged([one.snapshot(), other.snapshot()])
    assert total["replies"] == {"2yz": 8, "5yz": 1}


def test_delivery_is_counted_from_zero() -> None:
    found = samples(exposition(Counters().snapshot(), {}))
    for name in ("recipients_delivered", "recipients_deferred", "recipients_failed"):
        for kind in ("local", "smart_host", "mx", "on_demand"):
            assert found[f"ironpost_{name}_total", kind] == 0
    assert found["ironpost_bounces_total", ""] == 0
    assert found["ironpost_delivery_attempts_total", "other"] == 0
    assert found["ironpost_queue_seconds_count", ""] == 0


def test_a_histogram_of_several_processes_adds_up() -> None:
    one, other = Counters(), Counters()
    one.observe("queue_seconds", 0.5)
    other.observe("queue_seconds", 4.25)
    other.observe("queue_seconds", 10.0**7)
    text = exposition(merged([one.snapshot(), other.snapshot()]), {})
    found = samples(text)
    assert found["ironpost_queue_seconds_bucket", "1"] == 1
    assert found["ironpost_queue_seconds_bucket", "5"] == 2
    assert found["ironpost_queue_seconds_bucket", "+Inf"] == found["ironpost_queue_seconds_count", ""] == 3
    assert found["ironpost_queue_seconds_sum", ""] == 10.0**7 + 4.75


def test_destinations_have_few_labels() -> None:
    counters = Counters()
    for number in range(1000):
        counters.count("delivery_attempts", f"d{number}.example")
    counters.count("delivery_attempts", "d0.example")
    found = counters.snapshot()["delivery_attempts"]
    assert len(found) == DESTINATIONS
    assert sum(found.values()) == 1001
    assert (found["d0.example"], found["other"]) == (2, 1000 - (DESTINATIONS - 1))


def test_a_counter_that_does_not_exist_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Counters().count("conections")


def test_every_name_that_is_counted_exists() -> None:
    counted = {
        argument.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("metrics.count", "metrics.observe"))
        for argument in node.args[:1]
        if isinstance(argument, ast.Constant)
    }
    assert counted <= set(COUNTERS) | set(HISTOGRAMS)
