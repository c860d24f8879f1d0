"""A hook that streams the body: back-pressure, the true end, and the errors if there is none."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest
from api_kit import PER_RECIPIENT, Client, Takes, joined, run, talking

from ironpost import BaseHandler, Server, accept, blocking, quarantine, reject
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BodyLost, BodyRefused, Timeouts
from ironpost.server.body import WINDOW


class Reads(Takes):
    """Reads to the end; `outcome` records how the iteration ended."""

    message = None

    def __init__(self, verdict=None):
        super().__init__()
        self.verdict = verdict
        self.outcome = asyncio.get_running_loop().create_future()

    async def data(self, session, body):
        try:
            pieces = [chunk async for chunk in body]
        except Exception as exc:
            self.outcome.set_result(exc)
            raise
        self.took.append(b"".join(pieces))
        if not self.outcome.done():
            self.outcome.set_result(body.facts)
        return self.verdict


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (None, "250 2.0.0 Message accepted"),
        (accept("Stored as 17"), "250 2.0.0 Stored as 17"),
        (quarantine("odd"), "250 2.0.0 Message accepted"),
        (reject("Spam"), "550 5.7.1 Spam"),
    ],
)
def test_the_body_is_unstuffed_and_its_facts_are_set_at_the_end(verdict, said):
    async def scenario():
        handler = Reads(verdict)
        async with talking(handler) as (_, client):
            assert await client.send(content="Subject: x\r\n\r\n..dot é\r\n") == said
            facts = await handler.outcome
            assert (facts.size, facts.eight_bit, facts.last) == (23, True, True)
            assert handler.took == ["Subject: x\r\n\r\n.dot é\r\n".encode()]
            assert await client.send(content="") == said
            assert handler.took[1] == b""

    run(scenario())


def test_chunks_of_bdat_are_one_body():
    async def scenario():
        handler = Reads()
        async with talking(handler) as (_, client):
            await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
            client.writer.write(b"BDAT 5\r\nhel\r\nBDAT 0\r\nBDAT 4 LAST\r\nlo\r\n")
            assert [(await client.reply())[:3] for _ in range(3)] == ["250"] * 3
        assert handler.took == [b"hel\r\nlo\r\n"]

    run(scenario())


def test_a_hook_that_reads_slowly_makes_the_client_wait_within_a_window():
    class Slow(Takes):
        message = None

        def __init__(self):
            super().__init__()
            self.gate = asyncio.Event()
            self.read = self.most = 0

        async def data(self, session, body):
            async for chunk in body:
                await self.gate.wait()
                self.read += len(chunk)
                self.most = max(self.most, body.size - self.read)

    async def scenario():
        handler = Slow()
        async with talking(handler) as (server, client):
            await client.envelope()
            client.writer.transport.set_write_buffer_limits(0)
            line, lines = b"x" * 998 + b"\r\n", 20_000
            client.writer.write(line * lines + b".\r\n")
            with pytest.raises(TimeoutError):  # only the hook can consume 20 MB
                await asyncio.wait_for(client.writer.drain(), 0.3)
            (connection,) = server.connections
            assert connection.session.octets < 2 * WINDOW + (1 << 20)
            handler.gate.set()
            assert await client.reply() == "250 2.0.0 Message accepted"
            assert handler.read == len(line) * lines
            assert handler.most < 2 * WINDOW + (1 << 20)

    run(scenario())


@pytest.mark.parametrize(
    ("content", "code"),
    [("bare\nnewline\r\n", "550 5.6.0"), ("nul\0\r\n", "550 5.6.0"), ("x" * 70_000 + "\r\n", "552 5.3.4")],
)
def test_refused_content_raises_body_refused(content, code):
    async def scenario():
        handler = Reads()
        async with talking(handler, settings=ServerSettings(max_size=64 * 1024)) as (_, client):
            assert (await client.send(content=content)).startswith(code)
            error = await handler.outcome
            assert isinstance(error, BodyRefused)
            assert str(error.reply).startswith(code)
            assert await client.send() == "250 2.0.0 Message accepted"
        assert handler.took == [b"Subject: x\r\n\r\nhello\r\n"]

    run(scenario())


@pytest.mark.parametrize("end", ["reset", "close", "timeout", "rset", "stop"])
def test_r6_incomplete_content_raises_body_lost(end):
    async def scenario():
        handler = Reads()
        timeouts = Timeouts(data=0.1) if end == "timeout" else Timeouts()
        async with Server(handler, "127.0.0.1", timeouts=timeouts) as server, joined(server) as client:
            if end == "rset":
                await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
                client.writer.write(b"BDAT 5\r\nhel\r\nRSET\r\n")
            else:
                await client.envelope()
                client.writer.write(b"half a\r\n")
            await client.writer.drain()
            if end == "reset":
                client.reset()
            elif end == "close":
                client.writer.close()
            elif end == "stop":
                await server.stop(0.05)
            assert isinstance(await handler.outcome, BodyLost)
            if end == "rset":
                assert [(await client.reply())[:3] for _ in range(2)] == ["250", "250"]
        assert handler.took == []
        assert server.hooks.counts.raised == 0

    run(scenario())


def test_a_hook_that_does_not_end_when_its_body_is_lost_is_cancelled(caplog):
    class Stuck(Reads):
        async def data(self, session, body):
            try:
                await asyncio.Event().wait()
            finally:
                self.outcome.set_result("cancelled")

    async def scenario():
        handler = Stuck()
        async with talking(handler, timeouts=Timeouts(hook=0.05)) as (_, client):
            await client.envelope()
            await client.close()
            assert await handler.outcome == "cancelled"

    run(scenario())
    assert "a data hook was cancelled" in caplog.text


@pytest.mark.parametrize("kind", ["def", "async def", "after one chunk"])
def test_the_verdict_of_a_hook_that_returns_early_is_sent_at_the_true_end(kind):
    class Early(Takes):
        message = None

        if kind == "def":

            def data(self, session, body):
                return reject("Not for us")

        else:

            async def data(self, session, body):
                if kind == "after one chunk":
                    await anext(aiter(body))
                return reject("Not for us")

    async def scenario():
        async with talking(Early()) as (_, client):
            await client.envelope()
            client.writer.write(b"MAIL FROM:<x@y.example>\r\n" * 50_000)
            await client.writer.drain()
            assert await client.say(".", "NOOP") == ["550 5.7.1 Not for us", "250 2.0.0 OK"]

    run(scenario())


def test_r26_a_data_hook_that_raises_is_451_at_the_true_end_and_the_session_continues(caplog):
    class Raises(Takes):
        message = None

        async def data(self, session, body):
            async for _ in body:
                raise ZeroDivisionError("in the middle")

    async def scenario():
        async with talking(Raises()) as (server, client):
            for _ in range(2):
                assert await client.send(content="x\r\n" * 100_000) == "451 4.3.0 Local error in processing"
            await client.say("QUIT")
            await client.close()
        assert server.hooks.counts.raised == 2

    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario())


def test_r26_a_data_hook_that_times_out_is_451(caplog):
    class Never(Reads):
        async def data(self, session, body):
            async for _ in body:
                pass
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            self.outcome.set_result("undone")
            return accept("too late")

    async def scenario():
        handler = Never()
        async with talking(handler, timeouts=Timeouts(hook=0.1)) as (_, client):
            said = await client.send()
            assert said.startswith(("451", "250 2.0.0 too late"))
            assert await handler.outcome == "undone"
            assert (await client.say("NOOP"))[0].startswith("250")

    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario())


def test_under_lmtp_a_body_has_a_verdict_for_each_recipient():
    async def scenario():
        handler = Reads({"one@d.example": None, "two@d.example": reject("No two")})
        async with talking(handler, settings=PER_RECIPIENT) as (_, client):
            said = await client.send("one@d.example", "two@d.example", replies=2)
            assert said == ["250 2.0.0 Message accepted", "550 5.7.1 No two"]

    run(scenario())


def test_read_returns_the_rest_of_the_body_within_a_limit():
    class Whole(Takes):
        message = None

        async def data(self, session, body):
            with pytest.raises(RuntimeError, match="has ended"):
                _ = body.facts
            try:
                self.took.append(await body.read(1000))
            except ValueError:
                return reject("Too much for us", code=552, status="3.4")

    async def scenario():
        handler = Whole()
        async with talking(handler) as (_, client):
            assert await client.send() == "250 2.0.0 Message accepted"
            assert await client.send(content="x" * 5000 + "\r\n") == "552 5.3.4 Too much for us"
        assert handler.took == [b"Subject: x\r\n\r\nhello\r\n"]

    run(scenario())


def test_a_hook_may_return_a_task():
    class Own(Takes):
        message = None

        def data(self, session, body):
            return asyncio.ensure_future(self.read(body))

        async def read(self, body):
            return accept(f"{len(await body.read())} octets")

    async def scenario():
        async with talking(Own()) as (_, client):
            assert await client.send() == "250 2.0.0 21 octets"

    run(scenario())


def test_a_base_handler_subclass_with_a_data_hook_streams():
    class Sub(BaseHandler):
        def recipient(self, session, forward_path, parameters):
            return None

        async def data(self, session, body):
            return accept(f"{len(await body.read())} octets")

    async def scenario():
        async with talking(Sub()) as (_, client):
            assert await client.send() == "250 2.0.0 21 octets"

    run(scenario())


def test_a_handler_has_a_message_or_a_data_hook_and_not_both():
    class Both(Takes):
        async def data(self, session, body):
            pass

    class Blocks(BaseHandler):
        @blocking
        def data(self, session, body):
            pass

    with pytest.raises(TypeError, match="data and message"):
        Server(Both())
    with pytest.raises(TypeError, match="occupy a thread"):
        Server(Blocks())

    class Attribute(Takes):
        data = b"no hook"

    async def scenario():
        async with talking(Attribute()) as (_, client):
            assert isinstance(client, Client)
            assert await client.send() == "250 2.0.0 Message accepted"

    run(scenario())
