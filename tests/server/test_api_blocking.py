"""Hooks that block: in the pool they hold nobody, on the loop the watchdog names them."""

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
    """Every RCPT blocks until the gate opens."""

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


def test_r26_a_blocking_hook_holds_its_client_and_no_other():
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


def test_r26_the_pool_is_bounded_and_what_waits_for_it_is_taken_back_when_its_client_is_late(caplog):
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
        # Two ran and were not waited for; two were taken back before they began; then four ran.
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
def test_disconnect_may_await_or_block_and_what_it_raises_is_counted(kind, caplog):
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
def test_r26_a_hook_that_holds_the_event_loop_is_named(kind, caplog):
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
            assert seen.wait(20)  # until the watchdog has looked

    async def scenario():
        async with talking(Holds()) as (server, client):
            look = server.hooks._watchdog._holder

            def looked(frame):
                found = look(frame)
                if found is not None:  # not the machine, which holds the loop too at times
                    seen.set()
                return found

            server.hooks._watchdog._holder = looked
            assert (await client.say("MAIL FROM:<a@b.example>"))[0].startswith("250")
            await turns(lambda: server.hooks.holds)

    run(scenario())
    (line,) = [record.getMessage() for record in caplog.records]
    assert "Holds.mail held the event loop for" in line
    assert " ms at " in line


def test_only_a_def_is_blocking():
    with pytest.raises(TypeError, match="async def"):

        @blocking
        async def hook():
            pass

    with pytest.raises(ValueError, match="0 threads"):
        Server(Takes(), threads=0)
