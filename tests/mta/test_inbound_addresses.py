"""Addresses that `listener.addresses = "lenient"` accepts (f27): how they are stored, written and counted."""

from __future__ import annotations

import asyncio

from tests.mta.test_inbound import Talk
from tests.mta.test_inbound_hello import NO_LENIENCY

from ironpost.config import parse
from ironpost.message.section import Header
from ironpost.model import Address


def test_f27_received_and_envelope_have_the_quoted_form_of_an_address() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start("x..y@example.org", mail="MAIL FROM:<.a..b.@some_host.example>")
        talk.say(b"Subject: x\r\n\r\n.\r\n")
        await asyncio.sleep(0)
        ((message, _),) = talk.store.asked
        assert message.envelope.reverse_path == Address(".a..b.", "some_host.example")
        (received,) = Header(message.prefix).values("Received")
        assert b' for <"x..y"@example.org>; ' in received
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_f27_every_leniency_is_counted_by_name() -> None:
    async def run() -> None:
        talk = Talk(hello="lenient")
        assert talk.metrics.snapshot()["leniencies"] == NO_LENIENCY
        for _ in range(2):
            talk.start("x..y@example.org", "y.@example.org", mail="MAIL FROM:<a@b_c.example>", hello="EHLO a b")
            talk.say(b"Subject: x\r\n\r\nna\xefve\r\n.\r\n")
            await asyncio.sleep(0)
            talk.store.finish()
            assert (await talk.settle()).startswith("250 ")
        talk.session.lost()
        counted = talk.metrics.snapshot()["leniencies"]
        assert counted == {"eight_bit": 2, "hello": 2, "mbox_line": 0, "stray_dots": 4, "underscore": 2}
        assert set(counted) == set(NO_LENIENCY)

    asyncio.run(run())


def test_f27_undeclared_8_bit_content_in_chunks_is_counted_once_per_message() -> None:
    async def run() -> None:
        talk = Talk()
        talk.say("EHLO a.example", "MAIL FROM:<a@b.example>", "RCPT TO:<jo@example.org>")
        talk.say(b"BDAT 2\r\n\xefx", b"BDAT 2\r\n\xefx", b"BDAT 3 LAST\r\n\xef\r\n")
        await asyncio.sleep(0)
        talk.store.finish()
        await talk.settle()
        talk.session.lost()
        assert talk.metrics.snapshot()["leniencies"]["eight_bit"] == 1

    asyncio.run(run())


def test_f27_every_role_is_lenient_by_default() -> None:
    text = '[[listener]]\nrole = "{}"\nlisten = ["127.0.0.1:0"]\n{}\n'
    for role in ("mx", "submission", "lmtp"):
        for line, expected in (("", "lenient"), ('addresses = "strict"', "strict")):
            (listener,) = parse(text.format(role, line), "test").listener
            assert listener.addresses == expected
