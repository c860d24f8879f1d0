"""Clients with an invalid EHLO name can send on lenient listeners."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.mta.test_inbound import Talk

from ironpost import wire
from ironpost.config import parse
from ironpost.protocol.dialect import SUBMISSION

NAMES = [
    b"[::1]", b"[::ffff:192.0.2.1]", b"client.example.", b"-client.example", b"client-.example", b"my computer",
    b'"quoted"', b"(comment)", b"(((", b"\\", b"\xff\xfe", b"a..b", b"[", "bü cher".encode(),
]  # fmt: skip

NO_LENIENCY = {"eight_bit": 0, "hello": 0, "mbox_line": 0, "stray_dots": 0, "underscore": 0}
"""All of them are in the metrics from the start."""


def greeted(**more: Any) -> Talk:
    talk = Talk(**more)
    talk.session.output()
    return talk


@pytest.mark.parametrize("verb", [b"EHLO", b"HELO"])
@pytest.mark.parametrize("name", NAMES)
def test_f26_an_invalid_name_is_a_comment_in_received(name: bytes, verb: bytes) -> None:
    async def run() -> None:
        talk = greeted(dialect=SUBMISSION._replace(authenticate=False), hello="lenient")
        assert talk.say(verb + b" " + name + b"\r\n").startswith("250")
        talk.say("MAIL FROM:<a@b.example>", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(b"From: a@b.example\r\n\r\n.\r\n")
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        section = wire.scan_header(message.prefix)
        assert section.fault is None
        assert [field.name for field in section.fields] == ["Received"]
        assert b"from [127.0.0.1] ([127.0.0.1])" in message.prefix.replace(b"\r\n ", b" ")
        assert b"(helo=" in message.prefix
        assert message.prefix.isascii()
        talk.store.finish()
        await talk.settle()
        talk.session.lost()
        assert talk.metrics.snapshot()["leniencies"] == NO_LENIENCY | {"hello": 1}

    asyncio.run(run())


@pytest.mark.parametrize("name", NAMES)
def test_f26_a_strict_listener_refuses_an_invalid_name(name: bytes) -> None:
    talk = greeted()
    assert talk.say(b"EHLO " + name + b"\r\n").startswith("501 ")
    assert talk.say("EHLO client.example").startswith("250-")


@pytest.mark.parametrize("name", [b"", b"  ", b"a\tb", b"a\x7fb", b"a\0b", b"a\rb", b"x" * 256, b"y" * 5000])
def test_f26_a_name_with_control_characters_is_refused_by_every_listener(name: bytes) -> None:
    talk = greeted(hello="lenient")
    assert talk.say(b"EHLO " + name + b"\r\n")[:3] in {"500", "501"}
    assert talk.session.helo == ""


def test_f26_a_valid_name_needs_no_leniency() -> None:
    talk = greeted(hello="lenient")
    talk.say("EHLO client.example")
    talk.session.lost()
    assert talk.metrics.snapshot()["leniencies"] == NO_LENIENCY


@pytest.mark.parametrize("declared", ["", " BODY=8BITMIME"])
def test_f27_old_systems_need_not_declare_8_bit_content(declared: str) -> None:
    (listener,) = parse('[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:0"]\n', "test").listener

    async def run() -> None:
        talk = Talk(eight_bit=listener.eight_bit)
        talk.say("EHLO client.example", f"MAIL FROM:<a@b.example>{declared}", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(b"Subject: x\r\n\r\nna\xefve\r\n.\r\n")
        await asyncio.sleep(0)
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")
        talk.session.lost()
        assert talk.metrics.snapshot()["leniencies"] == NO_LENIENCY | {"eight_bit": 0 if declared else 1}

    asyncio.run(run())
