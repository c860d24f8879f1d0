"""Incoming mail, and the effect of policy checks at each stage."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest
from tests.mail_auth.signed import key, signed
from tests.mta.test_inbound import LOCAL, MESSAGE, Talk
from tests.policy.policy_kit import check_at

from ironpost.mail_auth import MethodResult, results_field
from ironpost.model.verdict import Verdict, drop, quarantine
from ironpost.policy import NEUTRAL, Check, Context, Finding, PolicyStage, Ports
from ironpost.policy.check import NoOptions, Scanner
from ironpost.policy.checks.dkim import Dkim
from ironpost.policy.checks.forged_results import ForgedResults
from ironpost.policy.checks.reverse_dns import ConfirmedName
from ironpost.policy.context import LocalSystem
from ironpost.policy.options import Enforcement
from ironpost.processes.clock import SystemClock
from ironpost.protocol import replies
from ironpost.protocol.server.transaction import Identity
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from ironpost.policy import Facts


class Looks:
    """A check that returns a coroutine, and records what it saw."""

    def __init__(self, stage: PolicyStage, verdict: Verdict | None = NEUTRAL, error: Exception | None = None) -> None:
        self.check = check_at(stage, self.judge, "looks")
        self.verdict = verdict
        self.error = error
        self.seen: list[tuple[str, str, int, bytes]] = []

    async def judge(self, facts: Facts) -> Finding:
        self.seen.append((facts.ip, facts.helo, facts.size, b"" if facts.header is None else facts.header.octets))
        if self.error is not None:
            raise self.error
        return Finding(self.verdict, "looked")


@pytest.mark.parametrize("stage", list(PolicyStage))
def test_an_async_check_can_refuse_at_every_stage(stage: PolicyStage) -> None:
    async def run() -> None:
        talk = Talk(Looks(stage, Verdict.refuse(replies.reply(550, "7.1", "Not you"))).check)
        # The greeting and replies to EHLO have no enhanced code (RFC 2034 §4); a refusal as greeting is 554.
        refusal = {PolicyStage.CONNECT: "554 Not you", PolicyStage.HELLO: "550 Not you"}.get(stage, "550 5.7.1 Not you")
        said = await talk.settle()
        for line in ("EHLO a.example", "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA", MESSAGE.encode()):
            said += talk.say(line)
            said += await talk.settle()
            if refusal in said:
                break
        assert refusal in said
        assert talk.store.asked == []
        assert all(spool.discarded for spool in talk.store.spools)

    asyncio.run(run())


def test_a_content_check_sees_the_header_section_only() -> None:
    async def run() -> None:
        looks = Looks(PolicyStage.CONTENT)
        talk = Talk(looks.check)
        await talk.settle()
        talk.start()
        content = b"Subject: x\r\n\r\n" + (b"a" * 998 + b"\r\n") * 200
        for at in range(0, len(content), 4096):
            talk.say(content[at : at + 4096])
        talk.say(b".\r\n")
        settled = asyncio.create_task(talk.settle())
        while not talk.store.asked:
            await asyncio.sleep(0)
        talk.store.finish()
        assert (await settled).startswith("250 ")
        assert looks.seen == [(LOCAL, "a.example", len(content), b"Subject: x\r\n\r\n")]
        assert talk.store.spools[0].octets == content
        assert talk.session.extra.facts.header is None

    asyncio.run(run())


def test_r26_a_check_that_raises_is_451_and_the_content_is_discarded() -> None:
    async def run() -> None:
        talk = Talk(Looks(PolicyStage.CONTENT, error=RuntimeError("bug")).check)
        await talk.settle()
        talk.start()
        talk.say(MESSAGE.encode())
        assert (await talk.settle()).startswith("451 4.3.0 ")
        assert talk.store.spools[0].discarded
        assert talk.say("NOOP").startswith("250 ")

    asyncio.run(run())


def says(verdict: Verdict) -> Check:
    """A content check with one verdict."""
    return check_at(PolicyStage.CONTENT, lambda facts: Finding(verdict, "so it is"), "says")


def test_dropped_mail_gets_the_usual_reply_and_is_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        talk = Talk(says(drop("abuse")))
        talk.start()
        assert talk.say(MESSAGE.encode()) == "250 2.0.0 Queued as Q1\r\n"
        assert talk.store.asked == []
        assert talk.store.spools[0].discarded
        assert talk.metrics.snapshot()["messages"] == {"dropped": 1}

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        asyncio.run(run())
    (dropped,) = (json.loads(each.getMessage()) for each in caplog.records)
    assert (dropped["event"], dropped["action"], dropped["reasons"]) == ("policy", "drop", ["says: so it is"])


def test_quarantined_mail_is_stored_and_held_with_its_reasons() -> None:
    async def run() -> None:
        suspect = check_at(PolicyStage.MAIL, lambda facts: Finding(quarantine("strange"), "not known"), "suspect")
        talk = Talk(suspect, says(quarantine("odd")))
        talk.start()
        talk.say(MESSAGE.encode())
        ((message, _),) = talk.store.asked
        assert message.held == "strange; odd"
        assert message.findings == "suspect: not known; says: so it is"
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


def test_the_reasons_for_one_message_are_not_those_of_the_next() -> None:
    """What is noted, such as an override of DMARC, is in the history of its message only."""
    opinions = iter([Finding(reason="accepted as mailing_list", noted=True), Finding(reason="pass"), Finding()])

    async def run() -> None:
        known = check_at(PolicyStage.HELLO, lambda facts: Finding(reason="a strange name", noted=True), "name")
        talk = Talk(known, check_at(PolicyStage.CONTENT, lambda facts: next(opinions), "dmarc"))
        talk.say("EHLO a.example")
        for number in range(3):
            talk.say("MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
            talk.say(MESSAGE.encode())
            talk.store.finish(number)
            await talk.settle()
        expected = ["name: a strange name; dmarc: accepted as mailing_list", *["name: a strange name"] * 2]
        assert [message.findings for message, _ in talk.store.asked] == expected

    asyncio.run(run())


class Changes(Check):
    """Adds a field and removes another, once."""

    name = "changes"

    def __init__(self) -> None:
        super().__init__(NoOptions(), Context())
        self._transactions = 0

    def mail(self, facts: Facts) -> Finding:
        self._transactions += 1
        return Finding(fields=(b"Policy-Says: fine\r\n",)) if self._transactions == 1 else Finding()

    def strip(self, facts: Facts) -> frozenset[str]:
        return frozenset({"subject"}) if self._transactions == 1 else frozenset()


@pytest.mark.parametrize("role", ["mx", "submission"])
def test_policy_changes_the_header_section_of_one_message_only(role: str) -> None:
    """For a submitted message, after its header section was completed."""

    async def run() -> None:
        talk = Talk(Changes(), role=role)
        content = "From: jo@example.org\r\nBcc: x@example.org\r\nSubject: x\r\n\r\nSubject: y\r\n.\r\n"
        for number, added in enumerate((b"Policy-Says: fine\r\nReceived: ", b"Received: ")):
            talk.say("EHLO a.example", "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
            talk.say(content.encode())
            message, _ = talk.store.asked[number]
            assert message.prefix.startswith(added)
            assert message.content is talk.store.spools[number]
            expected = content.removesuffix(".\r\n")
            if role == "submission":
                expected = expected.replace("Bcc: x@example.org\r\n", "")
            if number == 0:
                expected = expected.replace("Subject: x\r\n", "")
            assert talk.store.spools[number].octets.decode() == expected
            talk.store.finish(number)
            assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


def test_r23_content_is_refused_if_a_field_to_remove_may_hide_in_it() -> None:
    async def run() -> None:
        talk = Talk(Changes())
        talk.start()
        assert talk.say(b"A: b\r\nnot a field\r\nSubject: x\r\n\r\n.\r\n").startswith("554 5.6.0 ")
        assert talk.store.asked == []
        assert talk.store.spools[0].discarded
        assert talk.say("NOOP").startswith("250 ")

    asyncio.run(run())


def test_a_message_has_one_field_for_all_results_of_mail_authentication(caplog: pytest.LogCaptureFixture) -> None:
    spf = MethodResult("spf", "pass", (("smtp.mailfrom", "a.example"),), "why")
    dmarc = MethodResult("dmarc", "fail", (("header.from", "b.example"),))
    checks = [
        check_at(PolicyStage.MAIL, lambda facts: Finding(authentication=(spf,)), "spf"),
        check_at(PolicyStage.CONTENT, lambda facts: Finding(authentication=(dmarc,)), "dmarc"),
    ]

    async def run() -> None:
        talk = Talk(*checks)
        for number in range(2):
            talk.say(*([] if number else ["EHLO a.example"]), "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
            talk.say(MESSAGE.encode())
            message, _ = talk.store.asked[number]
            assert message.prefix.startswith(results_field("mx.example", [spf, dmarc]) + b"Received: ")
            assert message.prefix.count(b"Authentication-Results") == 1
            assert message.findings == "spf=pass smtp.mailfrom=a.example; dmarc=fail header.from=b.example"
            talk.store.finish(number)
            await talk.settle()
        assert talk.metrics.snapshot()["authentication"] == {"spf=pass": 2, "dmarc=fail": 2}

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        asyncio.run(run())
    accepted = [json.loads(each.getMessage()) for each in caplog.records]
    expected = ["spf=pass smtp.mailfrom=a.example", "dmarc=fail header.from=b.example"]
    assert [each["authentication"] for each in accepted] == [expected, expected]


def test_r50_a_signature_is_verified_before_fields_that_it_covers_are_removed() -> None:
    names = "from:subject:authentication-results"
    content = b"Authentication-Results: other.example; spf=pass\r\nFrom: jo@a.example\r\nSubject: x\r\n\r\nx\r\n"
    message = signed(content, h=names)
    ports = Ports(SystemClock(), StaticResolver(txt={key().name: [key().record.encode()]}))
    dkim = Dkim(Dkim.Options(Enforcement.RECORD), Context(ports=ports))

    async def run() -> None:
        talk = Talk(dkim, ip="192.0.2.9")
        talk.start()
        talk.say(message + b".\r\n")
        settled = asyncio.create_task(talk.settle())
        while not talk.store.asked:
            await asyncio.sleep(0)
        ((stored, _),) = talk.store.asked
        assert stored.findings.startswith("dkim=pass header.d=a.example")
        assert b"other.example" in message
        assert b"other.example" not in talk.store.spools[0].octets
        talk.store.finish()
        assert (await settled).startswith("250 ")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("ip", "login", "remains"),
    [
        ("192.0.2.9", "", False),
        ("192.0.2.9", "jo@example.org", False),
        ("127.0.0.1", "jo@example.org", False),
        ("127.0.0.1", "", True),
        ("", "", False),
    ],
)
@pytest.mark.parametrize("role", ["mx", "submission"])
def test_r48_no_client_writes_results_in_our_name(ip: str, login: str, remains: bool, role: str) -> None:
    forged = "Authentication-Results: mx.example; dkim=pass header.d=bank.example\r\n"
    others = "Authentication-Results: other.example; dkim=pass\r\n"
    check = ForgedResults(NoOptions(), Context(LocalSystem(name="mx.example")))

    async def run() -> None:
        talk = Talk(check, ip=ip, role=role)
        talk.session.identity = Identity(login, "PLAIN") if login else None
        talk.start(mail="MAIL FROM:<jo@example.org>")
        talk.say(f"From: jo@example.org\r\n{forged}{others}\r\nx\r\n.\r\n".encode())
        ((message, _),) = talk.store.asked
        stored = (message.prefix + talk.store.spools[0].octets).decode()
        assert others in stored
        assert (forged in stored) == remains

    asyncio.run(run())


class Fails(Check):
    """A check whose scanner fails at one of its methods."""

    name = "fails"

    def __init__(self, method: str) -> None:
        super().__init__(NoOptions(), Context())
        self._method = method

    def scanner(self, facts: Facts) -> Scanner:
        if self._method == "scanner":
            raise RuntimeError("bug")
        scanner = Scanner()

        def fail(*args: object) -> None:
            raise RuntimeError("bug")

        setattr(scanner, self._method, fail)
        return scanner


@pytest.mark.parametrize("method", ["scanner", "header", "body", "finish"])
def test_r26_a_scanner_that_raises_is_451_and_the_content_is_discarded(method: str) -> None:
    async def run() -> None:
        talk = Talk(Fails(method))
        said = talk.start() + talk.say(MESSAGE.encode()) + await talk.settle()
        assert "451 4.3.0 " in said
        assert talk.store.asked == []
        assert all(spool.discarded for spool in talk.store.spools)

    asyncio.run(run())


def test_the_record_of_a_session_has_the_name_that_policy_confirmed(caplog: pytest.LogCaptureFixture) -> None:
    confirms = Finding(NEUTRAL, "confirmed", result=ConfirmedName("client.example"))
    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        talk = Talk(check_at(PolicyStage.CONNECT, lambda facts: confirms, "names"))
        talk.say("EHLO a.example", "MAIL FROM:<>", "EHLO a.example", "QUIT")
        talk.session.lost()
    (session,) = (json.loads(each.getMessage()) for each in caplog.records)
    assert (session["event"], session["name"]) == ("session", "client.example")
