"""Counters: what is counted can be read by Prometheus, and every name that the package counts exists."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ironpost.service.metrics import COUNTERS, Counters, exposition, merged

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


def test_a_counter_that_does_not_exist_is_a_fault() -> None:
    with pytest.raises(KeyError):
        Counters().count("conections")


def test_every_name_that_is_counted_exists() -> None:
    counted = {
        argument.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("metrics.count")
        for argument in node.args[:1]
        if isinstance(argument, ast.Constant)
    }
    assert counted <= set(COUNTERS)
