"""The differential fuzzer, for a moment: some cases that are always the same, and some that never are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.loading import load

if TYPE_CHECKING:
    from types import ModuleType

FUZZER = Path(__file__).resolve().parents[1] / "fuzz" / "differential.py"
CASES = 4000


@pytest.fixture(scope="module")
def differential() -> ModuleType:
    return load(FUZZER)


def compare_many(differential: ModuleType, twins: tuple[ModuleType, ModuleType], first: int = 0) -> None:
    for seed in range(first, first + CASES):
        differential.compare(twins, seed)


def test_native_and_pure_agree(differential: ModuleType, twins: tuple[ModuleType, ModuleType]) -> None:
    compare_many(differential, twins)


def test_native_and_pure_agree_on_new_cases(differential: ModuleType, twins: tuple[ModuleType, ModuleType]) -> None:
    first = random.SystemRandom().randrange(1 << 40)
    compare_many(differential, twins, first)


def test_the_fuzzer_sees_a_difference(
    differential: ModuleType, twins: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ironpost.wire.pure.address.LABEL_OCTETS", 62)
    with pytest.raises(AssertionError, match="seed"):
        compare_many(differential, twins)


def test_every_fault_is_met(differential: ModuleType, twins: tuple[ModuleType, ModuleType]) -> None:
    pure = twins[1]
    missing = set(pure.faults())

    def look(value: object) -> None:
        if isinstance(value, str):
            missing.discard(value)
        elif isinstance(value, (tuple, list)):
            for part in value:
                look(part)

    for seed in range(20 * CASES):
        if not missing:
            return
        look(list(differential.TARGETS[seed % len(differential.TARGETS)](pure, random.Random(seed))))
    assert missing == set()
