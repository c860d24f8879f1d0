"""Permanent refusals of the next hop become a bounce to the sender; a bounce is never bounced."""

from __future__ import annotations

import asyncio
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = b"Message-ID: <first@here.example>\r\nSubject: x\r\n\r\nthe text\r\n"


def test_a_5yz_of_the_next_hop_becomes_a_bounce_in_the_senders_mailbox(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            here.next_hop.refusals = ["550 5.1.1 nobody here of that name"]
            await here.submit("flo@here.example", "jo@next.example", CONTENT)
            await here.queue_empty()
            (stored,) = here.delivered()
            assert here.next_hop.taken == []
            return stored

    stored = asyncio.run(scenario())
    assert stored.startswith(b"Return-Path: <>\n")
    report = message_from_bytes(stored, policy=policy.default)
    assert report["To"] == "flo@here.example"
    assert report["From"].addresses[0].addr_spec == "MAILER-DAEMON@mx.here.example"
    assert report["In-Reply-To"] == "<first@here.example>"
    assert report.get_content_type() == "multipart/report"
    _, status, returned = report.get_payload()
    about, recipient = status.get_payload()
    assert about["Reporting-MTA"] == "dns; mx.here.example"
    assert recipient["Final-Recipient"] == "rfc822; jo@next.example"
    assert recipient["Action"] == "failed"
    assert recipient["Status"] == "5.1.1"
    assert recipient["Diagnostic-Code"] == "smtp; 550 5.1.1 nobody here of that name"
    assert returned.get_payload()[0]["Subject"] == "x"


def test_delivered_recipients_are_not_in_the_bounce(system: Callable) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            here.next_hop.refusals = ["550 5.1.1 no"]
            await here.submit("flo@here.example", ["bad@next.example", "good@next.example", "mo@here.example"], CONTENT)
            await here.queue_empty()
            assert [recipients for _, recipients, _ in here.next_hop.taken] == [["good@next.example"]]
            (report,) = [each for each in here.delivered() if each.startswith(b"Return-Path: <>\n")]
            assert len(here.delivered()) == 2
            return report

    report = asyncio.run(scenario())
    assert report.count(b"Final-Recipient:") == 1
    assert b"Final-Recipient: rfc822; bad@next.example\n" in report


def test_a_null_reverse_path_gets_no_bounce(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            here.next_hop.refusals = ["550 5.1.1 no"]
            await here.submit("", "jo@next.example", CONTENT)
            await here.queue_empty()
            assert here.next_hop.asked == 1
            assert here.delivered() == []

    asyncio.run(scenario())


def test_a_refused_bounce_is_not_bounced(system: Callable) -> None:
    async def scenario() -> None:
        async with system() as here:
            here.next_hop.refusals = ["550 5.1.1 no such recipient", "550 5.1.1 nor such a sender"]
            await here.submit("sender@next.example", "jo@next.example", CONTENT)
            await here.queue_empty()
            assert here.next_hop.asked == 2
            assert here.next_hop.taken == []
            assert here.delivered() == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("domain", "status"), [("nowhere.example", "5.1.2"), ("null.example", "5.1.10")], ids=["NXDOMAIN", "null MX"]
)
def test_mail_to_a_null_mx_domain_is_bounced_at_once(system: Callable, domain: str, status: str) -> None:
    async def scenario() -> bytes:
        async with system() as here:
            await here.submit("flo@here.example", f"jo@{domain}", CONTENT)
            await here.queue_empty()
            (stored,) = here.delivered()
            return stored

    assert f"\nStatus: {status}\n".encode() in asyncio.run(scenario())
