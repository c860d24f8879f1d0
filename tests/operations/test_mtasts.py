"""`mtasts check`: what is found, what is wrong with it, and how the command shows it."""

from __future__ import annotations

import asyncio
import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
import typer
from tests.operations.command_kit import assert_encodable, checked

from ironpost.cli import mtasts
from ironpost.http import HttpError, HttpFailure, HttpResponse
from ironpost.operations.mtasts import CHECK, StsCheck, StsCheckRequest, StsHost, StsResult
from ironpost.operations.operation import OperationError
from ironpost.routing.tls.mta_sts import StsMode, StsPolicy, parse_policy, parse_record
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RECORD = b"v=STSv1; id=2026;"
POLICY = b"version: STSv1\nmode: enforce\nmx: *.a.example\nmax_age: 86400\n"
MX = [(20, "mx2.a.example"), (10, "mx1.a.example")]


class Data:
    """A `DataDirectory` whose DNS and HTTP answer from the test."""

    def __init__(
        self,
        resolver: StaticResolver,
        answer: bytes | HttpError,
        media_type: str,
        sts_policies: Mapping[str, StsPolicy] = MappingProxyType({}),
    ) -> None:
        self.sts_policies = sts_policies
        self._resolver = resolver
        self._answer = answer
        self._media_type = media_type

    def resolver(self) -> StaticResolver:
        return self._resolver

    def http(self, resolver: StaticResolver) -> Data:
        assert resolver is self._resolver
        return self

    async def get(self, url: str, **options: Any) -> HttpResponse:
        assert url == "https://mta-sts.a.example/.well-known/mta-sts.txt"
        if isinstance(self._answer, HttpError):
            raise self._answer
        return HttpResponse(200, {"content-type": self._media_type}, self._answer)


def check(
    answer: bytes | HttpError = POLICY,
    *,
    records: Sequence[bytes] = (RECORD,),
    mx: Sequence[tuple[int, str]] = MX,
    media_type: str = "text/plain",
    failing: Sequence[str] = (),
    configured: StsPolicy | None = None,
) -> StsCheck:
    policies = {} if configured is None else {"a.example": configured}
    resolver = StaticResolver(txt={"_mta-sts.a.example": records}, mx={"a.example": mx}, failing=failing)
    found: StsCheck = asyncio.run(_run(Data(resolver, answer, media_type, policies), "A.example"))
    assert_encodable(found)
    return found


async def _run(data: Any, domain: str) -> StsCheck:
    return await CHECK.run(data, StsCheckRequest(domain))


def test_a_good_policy() -> None:
    found = check()
    assert (found.result, found.domain, found.policy_id, found.problems) == (StsResult.GOOD, "a.example", "2026", ())
    assert found.records == (RECORD.decode(),)
    assert found.policy == tuple(POLICY.decode().splitlines())
    assert found.hosts == (
        StsHost("mx1.a.example", 10, "*.a.example"), StsHost("mx2.a.example", 20, "*.a.example"),
    )  # fmt: skip


def test_a_domain_without_mx_records_is_its_own_host() -> None:
    found = check(POLICY.replace(b"*.a", b"a"), mx=())
    assert (found.result, found.hosts) == (StsResult.GOOD, (StsHost("a.example", None, "a.example"),))


def test_a_domain_without_record_has_no_policy() -> None:
    found = check(records=())
    assert (found.result, found.policy, found.problems) == (StsResult.ABSENT, (), ())
    assert [each.pattern for each in found.hosts] == [None, None]


def test_a_domain_that_does_not_exist_has_no_hosts() -> None:
    found: StsCheck = asyncio.run(_run(Data(StaticResolver(), POLICY, "text/plain"), "b\u00e4nk.example"))
    assert (found.hosts, found.problems) == ((), ("xn--bnk-qla.example does not exist",))


def test_the_mode_none_needs_no_hosts() -> None:
    assert check(b"version: STSv1\nmode: none\nmax_age: 86400\n").result is StsResult.GOOD


@pytest.mark.parametrize(
    ("options", "result", "problem"),
    [
        ({"records": (RECORD, RECORD)}, StsResult.FAULTY, "2 MTA-STS records"),
        ({"records": (b"v=STSv1; id=\xe4\x1b[2J",)}, StsResult.FAULTY, "invalid field"),
        ({"records": (b"v=STSv1 id=2026",)}, StsResult.FAULTY, "_mta-sts.a.example does not start with"),
        ({"answer": b"<html>"}, StsResult.FAULTY, "invalid line"),
        ({"media_type": "text/html"}, StsResult.FAULTY, "not text/plain"),
        (
            {"answer": HttpError(HttpFailure.CERTIFICATE, "https://mta-sts.a.example/", "expired")},
            StsResult.FAULTY,
            "expired",
        ),
        ({"mx": [*MX, (30, "backup.b.example")]}, StsResult.FAULTY, "does not list backup.b.example"),
        ({"mx": [(10, "mx.b.example")]}, StsResult.FAULTY, "all mail is deferred"),
        ({"mx": [(0, "")]}, StsResult.FAULTY, "the null MX"),
        ({"failing": ["_mta-sts.a.example"]}, StsResult.UNKNOWN, "DNS lookup failed"),
        ({"failing": ["a.example"]}, StsResult.UNKNOWN, "DNS lookup failed"),
    ],
)
def test_faults_are_named(options: dict[str, Any], result: StsResult, problem: str) -> None:
    found = check(**options)
    assert found.result is result
    assert problem in "; ".join(found.problems)
    assert "".join(found.records + found.problems).isascii()


OURS = StsPolicy(StsMode.ENFORCE, ("*.a.example",), 86400)


def test_a_policy_that_is_configured_here_is_compared() -> None:
    good = check(OURS.text, records=(OURS.record.encode(),), configured=OURS)
    assert (good.result, good.policy_id, good.problems) == (StsResult.GOOD, OURS.id, ())
    old = check(OURS.text, configured=OURS)
    assert old.problems == (f"the published record is missing or differs; publish: {OURS.record}",)
    other = StsPolicy(StsMode.TESTING, OURS.mx, OURS.max_age)
    assert other.id != OURS.id
    found = check(other.text, records=(OURS.record.encode(),), configured=OURS)
    assert found.problems == ("the policy is not the configured one: was the server reloaded?",)


def test_the_configured_policies_are_shown_with_their_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ironpost.toml"
    file.write_text(
        'hostname = "mx.a.example"\n[[mta_sts]]\ndomains = ["a.example", "b\u00fccher.example"]\n'
        '[[mta_sts]]\ndomains = ["c.example"]\nmode = "none"\nmax_age = "1d"\n'
    )
    mtasts.show(file, as_json=False)
    shown = capsys.readouterr().out
    name, record = shown.splitlines()[0].split(" TXT ")
    assert name == "_mta-sts.a.example"
    policy = StsPolicy(StsMode.TESTING, ("mx.a.example",), 7 * 86400)
    assert parse_record([record.strip('"').encode()]) == policy.id
    assert parse_policy(policy.text) == policy
    assert "https://mta-sts.xn--bcher-kva.example/.well-known/mta-sts.txt\n  version: STSv1\n" in shown
    assert shown.endswith("  version: STSv1\n  mode: none\n  mx: mx.a.example\n  max_age: 86400\n")
    mtasts.show(file, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["policies"]) == 3
    file.write_text("")
    for as_json in (False, True):
        with pytest.raises(typer.Exit) as end:
            mtasts.show(file, as_json=as_json)
        assert end.value.exit_code == 66
    assert capsys.readouterr().out == 'the configuration has no policy ([[mta_sts]])\n{"policies": []}\n'


@pytest.mark.parametrize("domain", ["", "x y.example", "localhost", "[192.0.2.1]", "192.0.2.1"])
def test_other_names_are_refused(domain: str) -> None:
    with pytest.raises(OperationError, match=r"invalid domain|not a domain"):
        asyncio.run(_run(Data(StaticResolver(), b"", ""), domain))


@pytest.mark.parametrize(
    ("options", "code", "last"),
    [
        ({}, 0, "a.example: good"),
        ({"records": ()}, 66, "a.example: no policy"),
        ({"answer": b"x"}, 1, "a.example: faulty"),
        ({"failing": ["a.example"]}, 75, "a.example: unknown"),
        ({"records": (b"v=STSv1; id=\x1b[2J",)}, 1, "a.example: faulty"),
    ],
)
def test_the_command_prints_what_was_found_and_exits_by_result(
    options: dict[str, Any],
    code: int,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = checked(mtasts, check(**options), code, last, monkeypatch, capsys)
    if not code:
        assert "host       mx1.a.example (MX 10), matches *.a.example" in lines
        assert "policy     mode: enforce" in lines
