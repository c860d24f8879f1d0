"""The fuzzer of mail authentication, for a moment: some cases that are always the same, and some that never are."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from tests.loading import load

if TYPE_CHECKING:
    from types import ModuleType

FUZZER = Path(__file__).resolve().parents[1] / "fuzz" / "mail_auth.py"
CASES = 600


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    return load(FUZZER, "mail_auth_fuzzer")


def run_many(fuzzer: ModuleType, first: int = 0) -> None:
    for seed in range(first, first + CASES):
        fuzzer.run(seed)


def test_r22_hostile_domains_have_a_result(fuzzer: ModuleType) -> None:
    run_many(fuzzer)


def test_r22_hostile_domains_have_a_result_in_new_cases(fuzzer: ModuleType) -> None:
    run_many(fuzzer, random.SystemRandom().randrange(1 << 40))


def test_the_fuzzer_sees_what_raises(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(value: str, **_: Any) -> str:
        return quote(value)

    monkeypatch.setattr("ironpost.mail_auth.spf_macros.quote", strict)
    with pytest.raises(UnicodeEncodeError) as caught:
        run_many(fuzzer)
    assert caught.value.__notes__[-1].startswith("seed ")


def test_answers_of_every_kind_occur(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    for name in ("of_spf", "of_dkim", "of_arc", "of_dmarc"):
        write = getattr(fuzzer, name)

        def noted(answer: Any, *more: Any, write: Any = write) -> Any:
            result = write(answer, *more)
            seen.add(str(result))
            return result

        monkeypatch.setattr(fuzzer, name, noted)
    run_many(fuzzer)
    spf = {"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"}
    assert {f"spf={each}" for each in spf} <= seen
    assert {"dkim=neutral", "arc=none", "arc=fail", "dmarc=none", "dmarc=fail", "dmarc=temperror"} <= seen
