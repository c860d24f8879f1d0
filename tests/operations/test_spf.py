"""`spf check`: the result, and how the command shows it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.operations.command_kit import assert_encodable, checked

from ironpost.cli import spf
from ironpost.mail_auth import SpfResult
from ironpost.operations.operation import OperationError
from ironpost.operations.spf import CHECK, SpfCheck, SpfCheckRequest
from ironpost.testing.resolver import StaticResolver

RECORDS = {
    "a.example": [b"v=spf1 a:mx.a.example -all exp=why.a.example"],
    "why.a.example": [b"%{i} is not ours"],
    "mx.a.example": [b"v=spf1 a -all"],
    "bad.example": [b"v=spf1 ip4:x"],
    "typo.example": [b"other", b"v=spf1,a"],
    "slow.example": [b"v=spf1 a:fails.example"],
}


class Data:
    """A `DataDirectory` whose DNS answers from the test."""

    def resolver(self) -> StaticResolver:
        return StaticResolver(txt=RECORDS, addresses={"mx.a.example": ["192.0.2.1"]}, failing=["fails.example"])


def check(ip: str, sender: str, helo: str = "") -> SpfCheck:
    found: SpfCheck = asyncio.run(_run(Data(), SpfCheckRequest(ip, sender, helo)))
    assert_encodable(found)
    return found


async def _run(data: Any, request: SpfCheckRequest) -> SpfCheck:
    return await CHECK.run(data, request)


@pytest.mark.parametrize("sender", ["jo@a.example", "<jo@a.example>", "a.example"])
def test_an_allowed_client(sender: str) -> None:
    found = check("192.0.2.1", sender)
    assert (found.result, found.domain, found.identity) == (SpfResult.PASS, "a.example", "mailfrom")
    assert (found.lookups, found.queries) == (1, 2)


def test_a_client_that_is_not_allowed() -> None:
    found = check("192.0.2.2", "jo@a.example")
    assert (found.result, found.explanation) == (SpfResult.FAIL, "192.0.2.2 is not ours")


def test_a_record_that_does_not_start_with_its_version_is_a_problem() -> None:
    found = check("192.0.2.1", "jo@typo.example")
    problem = 'a TXT record at typo.example does not start with "v=spf1 ", so it does not count'
    assert (found.result, found.problems) == (SpfResult.NONE, (problem,))
    assert check("192.0.2.1", "jo@why.a.example").problems == ()


def test_the_null_reverse_path_is_checked_by_the_name_in_ehlo() -> None:
    found = check("192.0.2.1", "", "mx.a.example")
    assert (found.result, found.identity) == (SpfResult.PASS, "helo")


@pytest.mark.parametrize("arguments", [("x", "jo@a.example"), ("192.0.2.1", "")])
def test_what_cannot_be_checked_is_refused(arguments: tuple[str, str]) -> None:
    with pytest.raises(OperationError):
        check(*arguments)


@pytest.mark.parametrize(
    ("ip", "sender", "code"),
    [
        ("192.0.2.1", "jo@a.example", 0),
        ("192.0.2.2", "jo@a.example", 1),
        ("192.0.2.1", "jo@bad.example", 1),
        ("192.0.2.1", "jo@none.example", 66),
        ("192.0.2.1", "jo@slow.example", 75),
    ],
)
def test_the_command_shows_the_result(
    ip: str, sender: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(ip, sender)
    last = f"{found.domain} (mailfrom): {found.result.value}"
    lines = checked(spf, found, code, last, monkeypatch, capsys)
    assert lines[0] == f"reason     {found.reason}"
    assert ("explained  192.0.2.2 is not ours" in lines) == (found.result is SpfResult.FAIL)
