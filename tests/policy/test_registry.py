"""What every check in the registry must be, and what happens if one is not."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

import ironpost.policy.checks
from ironpost.config.policies import policy_section
from ironpost.policy import Check, Facts, PolicyStage
from ironpost.policy.checks import CHECKS
from ironpost.policy.checks.reverse_dns import ReverseDns


def test_the_names_of_checks_are_unique() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("check", CHECKS)
def test_a_check_runs_at_some_stage_or_scans_and_has_default_options(check: type[Check]) -> None:
    methods = ["scanner", "services", *(stage.value for stage in PolicyStage)]
    assert any(getattr(check, name) is not getattr(Check, name) for name in methods)
    assert check.Options.__dataclass_params__.frozen
    assert check.Options() == check.Options()


def test_two_checks_that_declare_one_key_are_refused() -> None:
    class Another(Check):
        name = "another"

        @dataclasses.dataclass(frozen=True)
        class Options:
            reverse_dns: bool = False

    with pytest.raises(ValueError, match=r"Another.Options: the key reverse_dns is already declared"):
        policy_section((ReverseDns, Another))


FILES = sorted(Path(ironpost.policy.checks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_check_only_reads_facts(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "facts":
            assert isinstance(node.ctx, ast.Load), f"line {node.lineno} writes facts.{node.attr}"
            assert node.attr not in {"begin", "keep"}


@dataclasses.dataclass(frozen=True)
class Found:
    number: int


def test_a_result_is_valid_until_its_stage_starts_again() -> None:
    stages = list(PolicyStage)
    for found, stage in enumerate(stages):
        for later, started in enumerate(stages):
            facts = Facts()
            assert facts.result(Found) is None
            facts.keep(stage, Found(found))
            assert facts.result(Found) == Found(found)
            facts.begin(started)
            assert facts.result(Found) == (Found(found) if later > found else None)


def test_a_later_result_replaces_an_earlier_one_of_its_type() -> None:
    facts = Facts()
    facts.keep(PolicyStage.CONNECT, Found(1))
    facts.keep(PolicyStage.MAIL, Found(2))
    assert facts.result(Found) == Found(2)
