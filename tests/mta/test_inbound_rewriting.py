"""Incoming mail whose addresses are rewritten: envelope, header section, checks, counts and the log."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from tests.mta.test_inbound import MESSAGE, Talk

from ironpost.model.patterns import AddressPattern
from ironpost.routing.rewriting import RewriteRule, Rewriting

RULES = Rewriting([RewriteRule((AddressPattern("old.example"),), "example.org", name="rewrite[1]")])
EVERYBODY = Rewriting([RewriteRule((AddressPattern("old.example"),), "example.org", all_clients=True)])
REMOTE = "198.51.100.7"
CONTENT = "From: Flo <flo@old.example>\r\nTo: jo@old.example\r\nSubject: flo@old.example\r\n\r\nTo: jo@old.example\r\n"
CHANGED = "From: Flo <flo@example.org>\r\nTo: jo@example.org\r\nSubject: flo@old.example\r\n\r\nTo: jo@old.example\r\n"


@pytest.mark.parametrize("role", ["mx", "submission"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_envelope_and_header_section_of_a_trusted_client(
    role: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        talk = Talk(role=role, rewriting=RULES)
        talk.start("jo@old.example", mail="MAIL FROM:<flo@old.example>")
        octets = CONTENT.encode() + b".\r\n"
        for at in range(0, len(octets), size):
            talk.say(octets[at : at + size])
        ((message, _),) = talk.store.asked
        assert str(message.envelope.reverse_path) == "flo@example.org"
        (recipient,) = message.envelope.recipients
        assert (str(recipient.address), str(recipient.original)) == ("jo@example.org", "jo@old.example")
        assert message.content is talk.store.spools[0]
        assert talk.store.spools[0].octets.decode() == CHANGED
        assert talk.metrics.snapshot()["addresses_rewritten"] == {"other": 0, "rewrite[1]": 4}

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        asyncio.run(run())
    (found,) = (json.loads(each.getMessage()) for each in caplog.records)
    assert (found["event"], found["id"], found["addresses"]) == ("rewritten", "Q1", 4)
    assert found["changes"][2] == "reverse-path: flo@old.example becomes flo@example.org by rewrite[1]"


MANY = ", \r\n ".join(f"jo{number}@old.example" for number in range(2000))


def test_a_large_header_section_is_rewritten_before_the_body_is_stored() -> None:
    async def run() -> None:
        talk = Talk(rewriting=RULES)
        talk.start()
        talk.say(f"To: {MANY}\r\n\r\nTo: jo@old.example\r\n".encode())
        assert talk.store.spools[0].octets == b""
        await talk.settle()
        talk.say(b"last\r\n.\r\n")
        assert len(talk.store.asked) == 1
        stored = talk.store.spools[0].octets.decode()
        changed = MANY.replace("@old.example", "@example.org")
        assert stored == f"To: {changed}\r\n\r\nTo: jo@old.example\r\nlast\r\n"
        assert talk.metrics.snapshot()["addresses_rewritten"]["rewrite[1]"] == 2000

    asyncio.run(run())


def test_a_large_header_section_without_an_end_is_refused() -> None:
    talk = Talk(rewriting=RULES)
    talk.start()
    assert "Header section is large" in talk.say(f"To: {MANY}\r\n.\r\n".encode())
    assert talk.store.asked == []


def test_the_header_section_of_other_clients_is_left_unless_a_rule_is_for_all() -> None:
    async def run() -> None:
        for rules, expected in ((RULES, CONTENT), (EVERYBODY, CHANGED)):
            talk = Talk(ip=REMOTE, rewriting=rules)
            talk.start("jo@old.example")
            talk.say(CONTENT.encode() + b".\r\n")
            ((message, _),) = talk.store.asked
            assert str(message.envelope.recipients[0].address) == "jo@example.org"
            assert talk.store.spools[0].octets.decode() == expected

    asyncio.run(run())


def test_relay_control_sees_the_new_recipient() -> None:
    talk = Talk(ip=REMOTE, rewriting=RULES)
    said = talk.say("EHLO a.example", "MAIL FROM:<>", "RCPT TO:<jo@old.example>", "RCPT TO:<jo@older.example>")
    assert [line[:3] for line in said.splitlines()[-2:]] == ["250", "550"]


def test_a_rule_cannot_open_a_relay() -> None:
    away = Rewriting([RewriteRule((AddressPattern("example.org"),), "far.example")])
    talk = Talk(ip=REMOTE, rewriting=away)
    assert "550 5.7.1" in talk.say("EHLO a.example", "MAIL FROM:<>", "RCPT TO:<jo@example.org>")


def test_the_next_message_of_a_session_is_counted_by_itself() -> None:
    async def run() -> None:
        talk = Talk(rewriting=RULES)
        for count, content in ((3, CONTENT + ".\r\n"), (4, MESSAGE)):
            talk.start("jo@old.example")
            talk.say(content.encode())
            talk.store.finish()
            assert (await talk.settle()).startswith("250 ")
            assert talk.metrics.snapshot()["addresses_rewritten"]["rewrite[1]"] == count

    asyncio.run(run())


def test_content_that_is_refused_counts_nothing() -> None:
    async def run() -> None:
        talk = Talk(role="submission", rewriting=RULES)
        talk.start()
        assert talk.say(b"To: jo@old.example\r\n\r\n.\r\n").startswith("554 5.6.0 ")
        assert talk.metrics.snapshot()["addresses_rewritten"] == {"other": 0}

    asyncio.run(run())
