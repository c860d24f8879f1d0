"""The suite sees what is wrong: a server that is right passes every MUST, and for each way of being wrong the cases
fail that are about it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace

import pytest

from ironpost.conform import CaseOutcome, Profile, Target, Unusable, exit_code, run, talk

broken = sys.modules["conform_broken"]
MX = Target("127.0.0.1", 1, timeout=2.0)
LMTP = Target("127.0.0.1", 1, Profile.LMTP, timeout=2.0)
TLS = Target("localhost", 1, insecure=True, timeout=2.0)


@pytest.mark.parametrize("target", [MX, LMTP], ids=["mx", "lmtp"])
def test_a_right_server_passes(against_scripted, target):
    results = against_scripted(target, lmtp=target is LMTP)
    broken = {name: result.why for name, result in results.items() if result.wrong}
    assert broken == {}
    assert exit_code(results.values()) == 0
    assert sum(result.outcome is CaseOutcome.PASS for result in results.values()) > 350


def test_a_right_server_passes_with_tls_and_auth(against_scripted, context):
    results = against_scripted(TLS, patterns=["starttls", "auth"], context=context, auth=True)
    assert {name: result.why for name, result in results.items() if result.wrong} == {}
    assert sum(result.outcome is CaseOutcome.PASS for result in results.values()) > 20


async def outcomes(row, certificate, **options):
    """Run the cases of a row; return their outcomes by name. A flawed server gets a shorter timeout."""
    async with broken.served(broken.STAGES[row.stage], certificate, **options) as (target, found):
        if options:
            target = replace(target, timeout=broken.IMPATIENT)
        results = await run(target, found, row.cases(), parallel=8)
    return {result.case.id: (result.outcome, result.why) for result in results}


@pytest.mark.parametrize("flaw", broken.ROWS)
def test_f80_a_flaw_is_seen(certificate, monkeypatch, flaw):
    monkeypatch.setattr(talk, "SETTLED", 0.0)  # the scripted server stores before it answers
    row = broken.ROWS[flaw]

    async def scenario():
        right = await outcomes(row, certificate)
        assert {name: why for name, why in right.items() if why[0] is not CaseOutcome.PASS} == {}
        wrong = await outcomes(row, certificate, **row.options)
        assert {name: why for name, why in wrong.items() if why[0] not in {CaseOutcome.FAIL, CaseOutcome.WARN}} == {}

    asyncio.run(asyncio.wait_for(scenario(), 240))


def test_every_flaw_is_tried(flaws):
    tried = set().union(*(row.options.get("flaws", ()) for row in broken.ROWS.values()))
    assert flaws - tried == {"ends replies with LF"}


def test_replies_that_end_with_lf_leave_nothing_to_test(against_scripted):
    with pytest.raises(Unusable, match="no session"):
        against_scripted(MX, {"ends replies with LF"}, ["session"])


def test_a_certificate_that_is_not_trusted_makes_no_judgement(against_scripted, context):
    flaw = {"executes what stands after STARTTLS"}
    results = against_scripted(
        replace(TLS, insecure=False), flaw, ["rfc3207-6-*", "rfc3207-4-handshake"], context=context
    )
    assert {result.outcome for result in results.values()} == {CaseOutcome.NOT_APPLICABLE}
    assert "--insecure" in results["rfc3207-4-handshake"].why
    with pytest.raises(Unusable, match="--insecure"):
        against_scripted(replace(TLS, insecure=False, starttls=True), (), ["session"], context=context)
