"""`dmarc check`: what is found, what is wrong with it, and how the command shows it."""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from tests.operations.command_kit import assert_encodable, checked

from ironpost.cli import dmarc
from ironpost.operations.dmarc import CHECK, DmarcCheck, DmarcCheckRequest, DmarcCheckResult
from ironpost.operations.operation import OperationError
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORD = "v=DMARC1; p=reject; sp=quarantine; rua=mailto:a@a.example; ruf=mailto:b@a.example"


class Data:
    """A `DataDirectory` whose DNS answers from the test."""

    def __init__(self, resolver: StaticResolver) -> None:
        self._resolver = resolver

    def resolver(self) -> StaticResolver:
        return self._resolver


def check(
    domain: str, *records: str, failing: str = "", more: Mapping[str, list[bytes]] = MappingProxyType({})
) -> DmarcCheck:
    """Check a domain while a.example has these records, and other names `more`."""
    txt = {"_dmarc.a.example": [each.encode() for each in records], **more}
    resolver = StaticResolver(txt=txt, addresses={"b.a.example": []}, failing=[failing])
    found: DmarcCheck = asyncio.run(_run(Data(resolver), domain))
    assert_encodable(found)
    return found


async def _run(data: Any, domain: str) -> DmarcCheck:
    return await CHECK.run(data, DmarcCheckRequest(domain))


def test_a_domain_with_a_record() -> None:
    found = check("A.example.", RECORD)
    assert (found.result, found.domain, found.organization) == (DmarcCheckResult.GOOD, "a.example", "a.example")
    assert (found.record, found.policy, found.policy_domain) == (RECORD, "reject", "a.example")
    assert (found.aggregate, found.failure) == (("mailto:a@a.example",), ("mailto:b@a.example",))


def test_a_subdomain_has_the_policy_for_subdomains() -> None:
    found = check("b.a.example", RECORD)
    assert (found.result, found.policy, found.policy_domain) == (DmarcCheckResult.GOOD, "quarantine", "a.example")


def test_a_domain_without_a_record() -> None:
    assert check("c.example", RECORD).result is DmarcCheckResult.ABSENT
    assert check("a.example", "v=spf1 -all").result is DmarcCheckResult.ABSENT


@pytest.mark.parametrize("tag", ["rua", "ruf"])
def test_an_address_in_another_organization_must_have_agreed(tag: str) -> None:
    record = f"v=DMARC1; p=reject; {tag}=mailto:a@a.example,mailto:x@other.example"
    found = check("b.a.example", record)
    name = "a.example._report._dmarc.other.example"
    assert found.result is DmarcCheckResult.FAULTY
    assert found.problems == (f'{tag}: x@other.example gets no reports unless {name} has the TXT record "v=DMARC1"',)
    assert check("b.a.example", record, more={name: [b"v=DMARC1"]}).result is DmarcCheckResult.GOOD
    assert check("a.example", record, failing=name).result is DmarcCheckResult.UNKNOWN


def test_removed_tags_are_noted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = check("a.example", f"{RECORD}; pct=50; ri=3600")
    lines = checked(dmarc, found, 0, "a.example: good", monkeypatch, capsys)
    noted = [line.split()[3] for line in lines if line.startswith("note ")]
    assert noted == ["pct", "ri"]


def test_several_records_of_a_domain_above_are_a_problem() -> None:
    found = check("b.a.example", RECORD, RECORD)
    assert found.result is DmarcCheckResult.FAULTY
    assert found.problems == ("2 DMARC records at _dmarc.a.example; none of them counts",)


@pytest.mark.parametrize(
    ("records", "failing", "result", "problem"),
    [
        ([RECORD, RECORD], "", DmarcCheckResult.FAULTY, "2 DMARC records at _dmarc.a.example"),
        (["v=DMARC1 p=reject"], "", DmarcCheckResult.FAULTY, '_dmarc.a.example does not start with "v=DMARC1;"'),
        (["p=reject; v=DMARC1"], "", DmarcCheckResult.FAULTY, '_dmarc.a.example does not start with "v=DMARC1;"'),
        (["v=DMARC1; p=reject; adkim=x"], "", DmarcCheckResult.FAULTY, "the tag adkim"),
        (["v=DMARC1; p=\x1b[2J"], "", DmarcCheckResult.FAULTY, "DMARC is not applied"),
        ([RECORD], "_dmarc.a.example", DmarcCheckResult.UNKNOWN, "DNS lookup failed"),
    ],
)
def test_problems_are_named(
    records: list[str],
    failing: str,
    result: DmarcCheckResult,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = check("a.example", *records, failing=failing)
    assert found.result is result
    assert any(problem in each for each in found.problems)
    code = 75 if result is DmarcCheckResult.UNKNOWN else 1
    lines = checked(dmarc, found, code, f"a.example: {result.value}", monkeypatch, capsys)
    assert any(line.startswith("problem    ") for line in lines)


@pytest.mark.parametrize("records", [(RECORD,), ()])
def test_the_command_shows_the_record(
    records: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check("a.example", *records)
    code = 0 if records else 66
    lines = checked(dmarc, found, code, f"a.example: {found.result.value}", monkeypatch, capsys)
    assert ("policy     reject, published by a.example" in lines) == bool(records)


@pytest.mark.parametrize("domain", ["", "a..example", "x y.example", "x" * 64])
def test_an_invalid_domain_is_refused(domain: str) -> None:
    with pytest.raises(OperationError):
        check(domain)
