"""Hooks that raise CancelledError without being cancelled, that are cancelled, and that end the program."""

import asyncio
import logging
import subprocess
import sys

import pytest
from api_kit import PATIENCE, Takes, joined, run, talking

from ironpost import Server, blocking
from ironpost.server import Timeouts
from ironpost.server.body import BodyError

FAILURE = "451 4.3.0 Local error in processing"


@pytest.fixture(autouse=True)
def quiet(caplog):
    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        yield


def raising(kind):
    """Return a hook of each kind that raises the exception."""

    def hook(*_):
        raise asyncio.CancelledError

    @blocking
    def in_a_thread(*_):
        raise asyncio.CancelledError

    async def coroutine(*_):
        raise asyncio.CancelledError

    async def later(*_):
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    def future(*_):
        made = asyncio.get_running_loop().create_future()
        made.cancel()
        return made

    def task(*_):
        return asyncio.ensure_future(later())

    async def child(*_):
        await task()

    kinds = {
        "def": hook, "blocking": in_a_thread, "async": coroutine, "later": later, "future": future, "task": task,
        "child": child,
    }  # fmt: skip
    return kinds[kind]


KINDS = ["def", "blocking", "async", "later", "future", "task", "child"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["mail", "recipient", "message"])
def test_f32_a_spontaneous_cancellation_is_451_and_the_connection_stays_open(hook, kind):
    async def scenario():
        handler = Takes()
        setattr(handler, hook, raising(kind))
        async with talking(handler) as (server, client):
            said = await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
            if hook == "message":
                await client.say("DATA")
                said = await client.say("x", ".", replies=1)
            assert FAILURE in said
            assert (await client.say("NOOP"))[0].startswith("250")
            await client.say("QUIT")
            await client.close()
        assert server.hooks.counts.raised == 1
        assert server.hooks.counts.abandoned == 0

    run(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_f32_a_cancellation_at_the_greeting_is_421(kind):
    async def scenario():
        handler = Takes()
        handler.connect = raising(kind)
        async with Server(handler, "127.0.0.1") as server, joined(server, hello="") as client:
            assert (await client.reply()).startswith("421 ")
            assert await client.reply() == ""

    run(scenario())


@pytest.mark.parametrize("kind", ["def", "async", "later", "task"])
def test_f32_a_cancellation_in_a_data_hook_is_451_at_the_true_end(kind):
    class Streams:
        data = staticmethod(raising(kind))

        def recipient(self, session, forward_path, parameters):
            return None

    async def scenario():
        async with talking(Streams()) as (_, client):
            said = await client.envelope()
            if said[-1].startswith("354"):
                said = await client.say("x", ".", replies=1)
            assert said[-1] == FAILURE
            assert (await client.say("NOOP"))[0].startswith("250")

    run(scenario())


def test_f32_a_cancellation_in_a_data_hook_after_its_body_is_lost_is_counted():
    class Streams:
        def recipient(self, session, forward_path, parameters):
            return None

        async def data(self, session, body):
            try:
                async for _ in body:
                    pass
            except BodyError:
                raise asyncio.CancelledError from None

    async def scenario():
        async with Server(Streams(), "127.0.0.1") as server, joined(server) as client:
            assert (await client.envelope())[-1].startswith("354")
            ((connection,),) = (tuple(server.connections),)
            session = connection.session
        assert session.failures == 1

    run(scenario())


@pytest.mark.parametrize("kind", ["def", "blocking", "async", "later"])
def test_f32_a_cancellation_in_a_disconnect_hook_is_counted(kind):
    async def scenario():
        handler = Takes()
        handler.disconnect = raising(kind)
        async with talking(handler) as (server, client):
            ((connection,),) = (tuple(server.connections),)
            session = connection.session
            await client.say("QUIT")
        assert session.failures == 1

    run(scenario())


@pytest.mark.parametrize("kind", ["later", "task", "future"])
def test_f32_after_a_hook_that_timed_out_the_next_may_raise_cancelled_error(kind):
    async def scenario():
        handler = Takes()

        async def never(*_):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return  # the hook swallows the cancellation

        handler.mail = never
        handler.recipient = raising(kind)
        async with talking(handler, timeouts=Timeouts(hook=0.1)) as (_, client):
            said = await client.say("MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "NOOP")
            assert said[1] == FAILURE or said[1].startswith("503")
            assert said[2].startswith("250")

    run(scenario())


def test_f32_a_real_cancellation_of_the_connection_propagates_and_closes_it():
    async def scenario():
        asked = asyncio.Event()
        outcome = asyncio.get_running_loop().create_future()

        class Waits(Takes):
            async def mail(self, session, reverse_path, parameters):
                asked.set()
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    outcome.set_result("cancelled")
                    raise

        before = asyncio.all_tasks()
        async with talking(Waits()) as (server, client):
            client.writer.write(b"MAIL FROM:<a@b.example>\r\n")
            await asked.wait()
            (connection,) = server.connections
            (task,) = (each for each in asyncio.all_tasks() - before if "_await_hooks" in repr(each))
            task.cancel()  # as `asyncio.run` does when it ends
            assert await outcome == "cancelled"
            assert await client.reply() == ""
            assert task.cancelled()
            while connection in server.connections:
                await asyncio.sleep(0)
        assert server.hooks.counts.raised == 0

    run(scenario())


PROGRAM = """
import asyncio
from ironpost import Server, blocking

class Handler:
    {hook}

async def main():
    async with Server(Handler(), "127.0.0.1") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"EHLO x.example\\r\\nMAIL FROM:<a@b.example>\\r\\n")
        await reader.read()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "hook",
    [
        "def mail(self, *_): raise SystemExit(3)",
        "async def mail(self, *_): raise SystemExit(3)",
        "def connect(self, *_): raise SystemExit(3)",
        "mail = blocking(lambda *_: exit(3))",
    ],
)
def test_f32_system_exit_in_a_hook_ends_the_program(hook):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hook=hook)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 3, done.stderr
