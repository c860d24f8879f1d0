"""Verdicts of hooks on real sockets: the replies to the client, and their effect on later hooks."""

from __future__ import annotations

import asyncio
import logging

import pytest
from api_kit import PER_RECIPIENT, Takes, joined, run, talking

from ironpost import accept, defer, drop, quarantine, reject, tarpit
from ironpost.model import Address, Reply


def answering(hook, verdict, kind="def"):
    """Return a handler that accepts everything, except in one hook."""
    handler = Takes()
    if kind == "def":
        setattr(handler, hook, lambda *arguments: verdict)
    else:

        async def later(*arguments):
            if kind == "suspends":
                await asyncio.sleep(0)
            return verdict

        setattr(handler, hook, later)
    return handler


KINDS = ["def", "async def", "suspends"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("hook", "verdict", "said"),
    [
        ("connect", reject("Go away"), "554 Go away"),
        ("connect", defer("Later"), "421 Later"),
        ("connect", accept("at your service"), "220 localhost at your service"),
        ("hello", accept("ignored"), "250-localhost"),
        ("hello", reject("Not that name"), "550 Not that name"),
        ("mail", reject("Not him"), "550 5.7.1 Not him"),
        ("mail", defer("Greylisted"), "451 4.7.1 Greylisted"),
        ("recipient", reject("Nobody", status="1.1"), "550 5.1.1 Nobody"),
        ("recipient", Reply(450, "4.2.1", ("Busy",)), "450 4.2.1 Busy"),
        ("content", reject("No room", code=552, status="3.4"), "552 5.3.4 No room"),
        ("content", tarpit(0.001, defer("Wait")), "451 4.7.1 Wait"),
        ("message", reject("Spam", code=554, status="7.1"), "554 5.7.1 Spam"),
        ("message", defer("Full", code=452, status="3.1"), "452 4.3.1 Full"),
        ("message", accept("Stored as 17"), "250 2.0.0 Stored as 17"),
        ("verify", accept("Ask her", status="1.0"), "250 2.1.0 Ask her"),
    ],
)
def test_a_verdict_at_each_stage(hook, verdict, said, kind):
    async def scenario():
        async with talking(answering(hook, verdict, kind), hello="") as (_, client):
            greeting = await client.reply()
            if hook == "connect":
                assert greeting == said
                if said.startswith("554"):  # RFC 5321 §3.1: only QUIT is allowed then
                    assert [reply[:3] for reply in await client.say("NOOP", "QUIT")] == ["503", "221"]
                if not said.startswith("220"):
                    assert await client.reply() == ""
                return
            if hook == "verify":
                assert await client.say("VRFY grace") == [said]
                return
            replies = await client.say("EHLO x.example")
            if hook != "hello":
                replies += await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA")
                if replies[-1].startswith("354"):
                    replies += await client.say("hello", ".", replies=1)
            assert any(reply.startswith(said) for reply in replies)
            assert (await client.say("NOOP"))[0].startswith("250")

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipient_that_is_dropped_is_accepted_and_not_in_the_transaction(kind):
    class Handler(Takes):
        def recipient(self, session, forward_path, parameters):
            verdict = drop("a trap") if forward_path.local_part == "trap" else None
            if kind == "def":
                return verdict
            return asyncio.sleep(0, verdict)

    async def scenario():
        handler = Handler()
        async with talking(handler) as (_, client):
            said = await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<trap@d.example>", "RCPT TO:<c@d.example>")
            assert said[1] == said[2] == "250 2.1.5 Recipient OK"
            said = await client.say("DATA", "hello", ".", replies=2)
            assert said[1] == "250 2.0.0 Message accepted"
            # No recipient is left: the content is read, discarded and acknowledged.
            assert await client.send("trap@d.example") == "250 2.0.0 Message accepted"
            assert await client.send("trap@d.example", "trap@d.example", "e@d.example") == "250 2.0.0 Message accepted"
        assert [rows for rows, _, _ in handler.took] == [["c@d.example"], ["e@d.example"]]

    run(scenario())


def test_under_lmtp_a_dropped_recipient_gets_its_reply_in_order():
    class Handler(Takes):
        def recipient(self, session, forward_path, parameters):
            return drop("a trap") if forward_path.local_part == "trap" else None

        def message(self, session, content, facts):
            super().message(session, content, facts)
            return [reject(f"No {recipient.address.local_part}") for recipient in session.transaction.recipients]

    async def scenario():
        async with talking(Handler(), settings=PER_RECIPIENT) as (_, client):
            local_parts = ("trap", "one", "trap", "trap", "two", "trap")
            said = await client.send(*(f"{name}@d.example" for name in local_parts), replies=6)
            assert [line[10:] for line in said] == [
                *("Message accepted", "No one", "Message accepted"),
                *("Message accepted", "No two", "Message accepted"),
            ]

    run(scenario())


@pytest.mark.parametrize("stage", ["connect", "hello", "mail"])
def test_after_a_dropped_sender_or_session_no_hook_is_called(stage):
    class Handler(Takes):
        asked = 0

        def recipient(self, session, forward_path, parameters):
            self.asked += 1

    async def scenario():
        handler = Handler()
        setattr(handler, stage, lambda *arguments: drop("abuse"))
        async with talking(handler) as (_, client):
            for content in ("one\r\n", "x" * 70_000 + "\r\n"):
                assert await client.send("c@d.example", content=content) == "250 2.0.0 Message accepted"
            await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
            assert await client.say("BDAT 5 LAST", "abc", replies=1) == ["250 2.0.0 Message accepted"]
        async with talking(handler, settings=PER_RECIPIENT) as (_, client):
            assert await client.send("c@d.example", "e@d.example", replies=2) == ["250 2.0.0 Message accepted"] * 2
        assert (handler.took, handler.asked) == ([], 0)

    run(scenario())


@pytest.mark.parametrize("stage", ["connect", "hello", "mail", "recipient"])
def test_a_quarantine_is_a_reason_that_the_message_hook_sees(stage):
    async def scenario():
        handler = answering(stage, quarantine(f"odd {stage}"))
        async with talking(handler) as (_, client):
            assert await client.send() == "250 2.0.0 Message accepted"
            assert (await client.envelope("c@d.example"))[-1].startswith("354")
            assert (await client.say(".", "NOOP"))[0] == "250 2.0.0 Message accepted"
        assert [reasons for _, reasons, _ in handler.took] == [(f"odd {stage}",)] * 2

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", ["connect", "hello", "mail", "recipient", "message"])
def test_a_tarpit_delays_only_its_client(stage, kind):
    """The test ends the delay: the handler's `pause` returns a future of the test."""

    async def scenario():
        gate = asyncio.get_running_loop().create_future()
        asked = []

        async def pause(session, seconds, then):
            asked.append(seconds)
            await gate
            return then

        handler = answering(stage, tarpit(7, reject("Slowly")), kind)
        handler.pause = pause
        async with talking(handler, hello="") as (server, client):
            client.writer.write(
                b""
                if stage == "connect"
                else b"EHLO x.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\nNOOP\r\n"
            )
            while not asked:
                await asyncio.sleep(0)
            for attribute in (stage, "pause"):
                setattr(server.handler, attribute, lambda *arguments: None)
            async with joined(server) as other:
                assert await other.send() == "250 2.0.0 Message accepted"
            gate.set_result(None)
            client.writer.write_eof()
            rest = (await client.reader.read()).decode()
            assert asked == [7]
            assert rest.count("Slowly") == 1
            assert ("250 2.0.0 OK" in rest) == (stage != "connect")

    run(scenario())


def test_an_override_that_calls_standard_waits_for_its_verdict():
    async def usual(session, command):
        await session.standard(command)

    async def scenario():
        handler = answering("mail", tarpit(0.001, reject("Slowly")), "suspends")
        handler.recipient = lambda session, forward_path, parameters: tarpit(0.001, tarpit(0.001))
        async with talking(handler, overrides={"MAIL": usual, "RCPT": usual}) as (_, client):
            assert await client.say("MAIL FROM:<a@b.example>", "NOOP") == ["550 5.7.1 Slowly", "250 2.0.0 OK"]
        async with talking(answering("recipient", tarpit(0.001)), overrides={"RCPT": usual}) as (_, client):
            assert await client.send() == "250 2.0.0 Message accepted"

    run(scenario())


def test_a_verdict_on_content_after_the_client_has_disconnected_is_ignored(caplog):
    async def scenario():
        handler, gone = Takes(), asyncio.Event()
        answer = asyncio.get_running_loop().create_future()
        handler.content = lambda session: answer
        handler.disconnect = lambda session: gone.set()
        async with talking(handler) as (server, client):
            await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
            (connection,) = server.connections
            await client.say("DATA", replies=0)
            while connection.session.pending is None:
                await asyncio.sleep(0)
            client.reset()
            await gone.wait()
            answer.set_result(reject("No"))
            while connection.session.pending is not None:
                await asyncio.sleep(0)

    run(scenario())
    assert not caplog.records


def test_a_tarpit_waits_on_the_loop_without_a_thread():
    async def scenario():
        async with talking(answering("mail", tarpit(0.05, reject("Slowly")))) as (_, client):
            loop = asyncio.get_running_loop()
            since = loop.time()
            assert await client.say("MAIL FROM:<a@b.example>") == ["550 5.7.1 Slowly"]
            assert loop.time() - since >= 0.04

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# One verdict for each recipient


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "answer",
    [
        {"one@d.example": None, Address.parse("two@D.example"): reject("No two"), "three@d.example": defer()},
        [None, reject("No two"), Reply(451, "4.7.1", ("Try again later",))],
        (accept("Message accepted"), tarpit(0.001, reject("No two")), defer()),
    ],
)
def test_under_lmtp_each_recipient_gets_its_verdict(answer, kind):
    async def scenario():
        handler = answering("message", answer, kind)
        async with talking(handler, settings=PER_RECIPIENT) as (_, client):
            said = await client.send("one@d.example", "two@d.example", "three@d.example", replies=3)
            assert said == ["250 2.0.0 Message accepted", "550 5.7.1 No two", "451 4.7.1 Try again later"]

    run(scenario())


def test_under_lmtp_unnamed_recipients_are_deferred_and_one_verdict_applies_to_all():
    async def scenario():
        async with talking(answering("message", {"one@d.example": None}), settings=PER_RECIPIENT) as (_, client):
            said = await client.send("one@d.example", "two@d.example", replies=2)
            assert [line[:9] for line in said] == ["250 2.0.0", "451 4.3.0"]
        async with talking(answering("message", reject("No")), settings=PER_RECIPIENT) as (_, client):
            assert await client.send("one@d.example", "two@d.example", replies=2) == ["550 5.7.1 No"] * 2

    run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        *({"stranger@d.example": None}, {"not an address": None}, {5: None}),
        *([None], [None, None, None], [None, 250], "250 OK", 250),
    ],
)
def test_r26_an_invalid_result_for_recipients_is_451(answer, caplog):
    async def scenario():
        async with talking(answering("message", answer), settings=PER_RECIPIENT) as (_, client):
            said = await client.send("one@d.example", "two@d.example", replies=2)
            assert said == ["451 4.3.0 Local error in processing"] * 2
            assert (await client.say("NOOP"))[0].startswith("250")

    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario())


def test_smtp_has_one_reply_so_verdicts_must_agree(caplog):
    async def scenario(answer, said):
        async with talking(answering("message", answer)) as (_, client):
            assert (await client.send("one@d.example", "two@d.example")).startswith(said)

    run(scenario({"one@d.example": None, "two@d.example": accept()}, "250"))
    run(scenario([reject("No"), reject("No")], "550 5.7.1 No"))
    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario([None, reject("No")], "451"))
