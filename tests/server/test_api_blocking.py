"""Hooks that block: in the pool they delay only their client; on the event loop the watchdog names them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest
from api_kit import Takes, joined, run, talking

from ironpost import Server, blocking, reject
from ironpost.server import Timeouts


class Waits(Takes):
    """A handler whose `recipient` blocks until the gate opens."""

    def __init__(self):
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.threads = set()

    @blocking
    def recipient(self, session, forward_path, parameters):
        self.threads.add(threading.get_ident())
        self.entered.release()
        assert self.gate.wait(20)
        return reject("No") if forward_path.local_part == "nobody" else None


async def turns(condition):
    while not condition():
        await asyncio.sleep(0)


def test_r26_a_blocking_hook_delays_only_its_client():
    async def scenario():
        handler = Waits()
        async with talking(handler) as (server, client):
            client.writer.write(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<nobody@d.example>\r\nRCPT TO:<c@d.example>\r\n")
            await turns(lambda: handler.entered.acquire(blocking=False))
            assert server.hooks.counts.running == 1
            async with joined(server) as other:
                assert (await other.say("NOOP"))[0].startswith("250")
            handler.gate.set()
            assert [(await client.reply())[:9] for _ in range(3)] == ["250 2.1.0", "550 5.7.1", "250 2.1.5"]
            assert threading.get_ident() not in handler.threads
        counts = server.hooks.counts
        assert (counts.pooled, counts.running, counts.raised) == (2, 0, 0)

    run(scenario())


def test_r26_the_pool_is_bounded_and_calls_that_time_out_while_waiting_never_run(caplog):
    async def scenario():
        handler = Waits()
        async with contextlib.AsyncExitStack() as stack:
            server = Server(handler, "127.0.0.1", threads=2, timeouts=Timeouts(hook=0.1))
            await stack.enter_async_context(server)
            clients = [await stack.enter_async_context(joined(server)) for _ in range(4)]
            for client in clients:
                client.writer.write(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n")
            said = [[(await client.reply())[:3] for _ in range(2)] for client in clients]
            assert said == [["250", "451"]] * 4
            assert len(handler.threads) <= 2
            handler.gate.set()
            for client in clients:
                assert (await client.say("RCPT TO:<c@d.example>"))[0].startswith("250")
        # Two ran after their timeout; two timed out before they began; then four ran.
        assert server.hooks.counts.abandoned == 4
        assert handler.entered.acquire(blocking=False)
        assert sum(handler.entered.acquire(blocking=False) for _ in range(9)) == 5

    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario())


def test_r26_a_blocking_hook_that_raises_is_451(caplog):
    class Raises(Takes):
        @blocking
        def message(self, session, content, facts):
            raise ZeroDivisionError

    async def scenario():
        async with talking(Raises()) as (_, client):
            assert await client.send() == "451 4.3.0 Local error in processing"
            assert (await client.say("NOOP"))[0].startswith("250")

    with caplog.at_level(logging.CRITICAL, "ironpost.protocol"):
        run(scenario())


def test_a_message_that_a_blocking_hook_stores_is_stored_even_if_its_client_leaves():
    class Stores(Takes):
        def __init__(self):
            super().__init__()
            self.gate, self.entered, self.left = threading.Event(), threading.Event(), asyncio.Event()

        @blocking
        def message(self, session, content, facts):
            self.entered.set()
            assert self.gate.wait(20)
            super().message(session, content, facts)

        async def disconnect(self, session):
            self.left.set()

    async def scenario():
        handler = Stores()
        async with talking(handler) as (server, client):
            await client.envelope()
            client.writer.write(b"hello\r\n.\r\n")
            await turns(handler.entered.is_set)
            client.reset()
            await handler.left.wait()
            handler.gate.set()
            await turns(lambda: handler.took)
        assert server.hooks.counts.abandoned == 0

    run(scenario())


@pytest.mark.parametrize("kind", ["async def", "blocking"])
def test_disconnect_may_await_or_block_and_its_exceptions_are_counted(kind, caplog):
    done = threading.Event()

    class Leaves(Takes):
        if kind == "async def":

            async def disconnect(self, session):
                await asyncio.sleep(0)
                done.set()
                raise ZeroDivisionError("in disconnect")

        else:

            @blocking
            def disconnect(self, session):
                done.set()
                raise ZeroDivisionError("in disconnect")

    async def scenario():
        async with talking(Leaves()) as (_, client):
            await client.say("QUIT")
            await client.close()
            await turns(done.is_set)

    run(scenario())
    assert "ZeroDivisionError: in disconnect" in caplog.text


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_r26_a_hook_that_blocks_the_event_loop_is_named(kind, caplog):
    seen = threading.Event()

    class Holds(Takes):
        if kind == "def":

            def mail(self, session, reverse_path, parameters):
                self.hold()

        else:

            async def mail(self, session, reverse_path, parameters):
                await asyncio.sleep(0)
                self.hold()

        def hold(self):
            assert seen.wait(20)  # until the watchdog has sampled the loop

    async def scenario():
        async with talking(Holds()) as (server, client):
            look = server.hooks._watchdog._running_hook

            def looked(frame):
                found = look(frame)
                if found is not None:  # other delays of the loop on a busy machine do not count
                    seen.set()
                return found

            server.hooks._watchdog._running_hook = looked
            assert (await client.say("MAIL FROM:<a@b.example>"))[0].startswith("250")
            await turns(lambda: server.hooks.stalls)

    run(scenario())
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Holds.mail blocked the event loop for" in line
    assert " ms at " in line


def test_blocking_rejects_async_functions():
    with pytest.raises(TypeError, match="async def"):

        @blocking
        async def hook():
            pass

    with pytest.raises(ValueError, match="threads is 0"):
        Server(Takes(), threads=0)
