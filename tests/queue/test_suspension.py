"""Suspended destinations, as they are kept."""

from __future__ import annotations

import pytest

from ironpost.model.keyed_state import MemoryState
from ironpost.queue.suspension import SUSPENDED, UNLIMITED, Suspension, Suspensions


def test_a_suspension_lasts_until_its_time_or_until_it_is_removed() -> None:
    now = 1000.0
    suspensions = Suspensions(MemoryState((SUSPENDED,), lambda: now), lambda: now)
    assert suspensions.put("a.example", 60.0, "moving; \u00fc") == ("a.example", 1060.0, "moving; \u00fc")
    suspensions.put("b.example", None, "")
    assert suspensions.all() == {
        "a.example": Suspension("a.example", 1060.0, "moving; \u00fc"),
        "b.example": Suspension("b.example", None, ""),
    }
    now += 60
    assert list(suspensions.all()) == ["b.example"]
    now += UNLIMITED / 2
    assert suspensions.remove("b.example")
    assert not suspensions.remove("b.example")
    assert suspensions.all() == {}
    with pytest.raises(ValueError, match="suspended: a value of"):
        suspensions.put("a.example", 60.0, "x" * 2000)
