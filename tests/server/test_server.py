"""The asyncio server on real sockets: framing, hooks of each kind, back-pressure, timeouts, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import smtplib
import socket
import subprocess
import sys

import pytest
from server_kit import ENVELOPE, Client, Open, codes, talking

from ironpost import Server
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler, ConnectionLimits, MemorySpool, Timeouts

# ---------------------------------------------------------------------------------------------------------------------
# Framing


@pytest.mark.parametrize("newlines", ["reject", "normalise", "accept"])
def test_r1_r2_no_second_message_before_the_true_end(run, newlines):
    async def scenario():
        for lookalike in (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n. \r\n"):
            handler = Open()
            async with talking(handler, settings=ServerSettings(newlines=newlines)) as (_, client):
                await client.say(b"EHLO x.example\r\n")
                await client.say(ENVELOPE + b"DATA\r\n", 3)
                content = b"one" + lookalike + ENVELOPE + b"DATA\r\ntwo"
                for octet in content:  # one octet per write
                    client.writer.write(bytes([octet]))
                    await asyncio.sleep(0)
                answer = await client.say(b"\r\n.\r\nNOOP\r\n", 2)
                refused = newlines == "reject" and lookalike != b"\r\n. \r\n"
                assert codes(answer) == [b"550" if refused else b"250", b"250"]
                assert len(handler.messages) == (not refused)

    run(scenario())


def test_r5_a_chunk_out_of_order_is_consumed_and_503(run):
    async def scenario():
        async with talking(Open()) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            client.writer.write(b"BDAT 12 LAST\r\nMAIL ")
            await asyncio.sleep(0)
            assert codes(await client.say(b"FROM:<>NOOP\r\n", 2)) == [b"503", b"250"]

    run(scenario())


@pytest.mark.parametrize("end", ["eof", "reset"])
@pytest.mark.parametrize("start", [b"DATA\r\n", b"BDAT 100 LAST\r\n"])
def test_r6_content_cut_off_by_the_end_of_the_connection_reaches_no_hook(run, start, end):
    discarded = asyncio.Event()

    class Watching(Open):
        def content(self, session):
            class Spool(MemorySpool):
                def discard(self):
                    discarded.set()

            return Spool()

    async def scenario():
        handler = Watching()
        async with talking(handler) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + start, 3 if start.startswith(b"DATA") else 2)
            client.writer.write(b"half\r\n.")
            await client.writer.drain()
            if end == "eof":
                client.writer.write_eof()
                assert await client.rest() == b""
            else:
                client.reset()
            await handler.gone.wait()
            await discarded.wait()
            assert handler.messages == []

    run(scenario())


def test_r7_octets_before_the_greeting_and_after_quit(run):
    greet = asyncio.Event()

    class Slow(Open):
        async def connect(self, session):
            await greet.wait()

    async def scenario():
        handler = Slow()
        async with talking(handler, greeted=False) as (_, client):
            client.writer.write(b"EHLO early.example\r\n" + ENVELOPE)
            assert await client.rest() == replies.EARLY_TALKER.octets
            greet.set()
        async with talking(handler) as (_, client):
            client.writer.write(b"QUIT\r\nEHLO late.example\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n")
            assert await client.rest() == replies.GOODBYE.octets
        assert handler.messages == []

    run(scenario())


def test_r8_an_endless_line_holds_no_memory(run):
    async def scenario():
        async with talking(Open(), settings=ServerSettings(max_size=1 << 26)) as (server, client):
            line = b"x" * 65536
            for _ in range(64):
                client.writer.write(line)
                await client.writer.drain()
            assert (await client.reply()).startswith(b"500 5.5.2 The line is longer")
            assert codes(await client.say(b"\r\nEHLO x.example\r\n")) == [b"250"]
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            assert connection.session._framer.buffered == 0
            for _ in range(64):
                client.writer.write(line)
                await client.writer.drain()
            assert codes(await client.say(b"\r\n.\r\nNOOP\r\n", 2)) == [b"550", b"250"]

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# Batches and hooks


def test_a_pipelined_batch_is_answered_with_one_write(run):
    async def scenario():
        async with talking(Open()) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            (connection,) = server.connections
            writes = []
            transport = connection.transport

            class Recording:
                def write(self, octets):
                    writes.append(octets)
                    transport.write(octets)

                def __getattr__(self, name):
                    return getattr(transport, name)

            connection.transport = Recording()
            batch = b"MAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 50 + b"DATA\r\n"
            assert len(codes(await client.say(batch, 52))) == 52
            assert len(writes) == 1

    run(scenario())


@pytest.mark.parametrize("kind", ["sync", "coroutine", "future", "done future", "awaitable"])
def test_hooks_may_return_a_result_or_an_awaitable(run, kind):
    class Awaitable:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()

    def answer():
        loop = asyncio.get_running_loop()
        if kind == "coroutine":
            return asyncio.sleep(0)
        if kind == "awaitable":
            return Awaitable()
        if kind in {"future", "done future"}:
            future = loop.create_future()
            if kind == "future":
                loop.call_soon(future.set_result, None)
            else:
                future.set_result(None)
            return future
        return None

    class Kind(Open):
        def connect(self, session):
            return answer()

        def hello(self, session, verb, domain):
            return answer()

        def mail(self, session, reverse_path, parameters):
            return answer()

        def recipient(self, session, forward_path, parameters):
            return answer()

        def message(self, session, content, facts):
            super().message(session, content, facts)
            return answer()

        def verify(self, session, argument):
            return answer()

    async def scenario():
        handler = Kind()
        async with talking(handler) as (_, client):
            greeting = await client.say(b"EHLO x.example\r\nVRFY x\r\n", 2)
            assert codes(greeting) == [b"250", b"252"]
            for _ in range(3):
                answers = await client.say(ENVELOPE + b"DATA\r\n.x\r\n.\r\nNOOP\r\n", 5)
                assert codes(answers) == [b"250", b"250", b"354", b"250", b"250"]
            assert await client.say(b"QUIT\r\n") == replies.GOODBYE.octets
        assert handler.messages == [b"x\r\n"] * 3

    run(scenario())


@pytest.mark.parametrize("kind", ["sync", "coroutine", "future", "cancelled future"])
def test_r26_a_hook_that_raises_is_451_and_the_session_continues(run, kind, caplog):
    def answer():
        if kind == "sync":
            raise ZeroDivisionError("as asked")
        future = asyncio.get_running_loop().create_future()
        if kind == "coroutine":
            future.set_exception(ZeroDivisionError("as asked"))
            return asyncio.wait_for(future, 5)
        if kind == "cancelled future":
            asyncio.get_running_loop().call_soon(future.cancel)
        else:
            asyncio.get_running_loop().call_soon(future.set_exception, ZeroDivisionError("as asked"))
        return future

    class Broken(Open):
        def recipient(self, session, forward_path, parameters):
            return answer() if forward_path.local_part == "raise" else None

    async def scenario():
        handler = Broken()
        async with talking(handler) as (server, client):
            await client.say(b"EHLO x.example\r\nMAIL FROM:<>\r\n", 2)
            assert codes(await client.say(b"RCPT TO:<raise@d.example>\r\nNOOP\r\n", 2)) == [b"451", b"250"]
            answers = await client.say(b"RCPT TO:<c@d.example>\r\nDATA\r\nx\r\n.\r\n", 3)
            assert codes(answers) == [b"250", b"354", b"250"]
            (connection,) = server.connections
            assert connection.session.failures == 1
        assert handler.messages == [b"x\r\n"]

    with caplog.at_level(logging.CRITICAL, "ironpost.server"):
        run(scenario())
    assert caplog.records == []


def test_timeouts_inside_a_hook_work(run):
    class Patient(Open):
        async def mail(self, session, reverse_path, parameters):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()

    async def scenario():
        async with talking(Patient()) as (_, client):
            assert codes(await client.say(b"EHLO x.example\r\nMAIL FROM:<>\r\nNOOP\r\n", 3)) == [b"250"] * 3

    run(scenario())


@pytest.mark.parametrize("kind", ["coroutine", "future"])
def test_r26_a_hook_that_times_out_is_451(run, kind):
    class Stuck(Open):
        def mail(self, session, reverse_path, parameters):
            if reverse_path.is_null:
                return None
            return asyncio.Event().wait() if kind == "coroutine" else asyncio.get_running_loop().create_future()

    async def scenario():
        async with talking(Stuck(), timeouts=Timeouts(hook=0.02)) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            answers = await client.say(b"MAIL FROM:<a@b.example>\r\nMAIL FROM:<>\r\nNOOP\r\n", 3)
            assert codes(answers) == [b"451", b"250", b"250"]

    run(scenario())


def test_r26_a_spool_that_arrives_after_the_timeout_is_discarded(run):
    class Late(Open):
        def content(self, session):
            self.place = asyncio.get_running_loop().create_future()
            return self.place

    class Place(MemorySpool):
        given_back = False

        def discard(self):
            self.given_back = True

    async def scenario():
        handler = Late()
        async with talking(handler, timeouts=Timeouts(hook=0.02)) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            assert codes(await client.say(ENVELOPE + b"DATA\r\n", 3)) == [b"250", b"250", b"451"]
            place = Place()
            handler.place.set_result(place)
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
            assert place.given_back

    run(scenario())


def test_a_client_that_leaves_cancels_its_hook_but_never_a_commit(run, caplog):
    async def scenario():
        cancelled, release, finished, asked = (asyncio.Event() for _ in range(4))

        class Slow(Open):
            async def mail(self, session, reverse_path, parameters):
                if not reverse_path.is_null:
                    asked.set()
                    try:
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:
                        cancelled.set()
                        raise

            async def message(self, session, content, facts):
                asked.set()
                await release.wait()
                finished.set()

        handler = Slow()
        for octets in (b"MAIL FROM:<a@b.example>\r\n", b"MAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n"):
            asked.clear()
            handler.gone.clear()
            async with talking(handler) as (_, client):
                await client.say(b"EHLO x.example\r\n")
                client.writer.write(octets)
                await asked.wait()
                client.reset()
                await handler.gone.wait()
        await cancelled.wait()
        assert not finished.is_set()
        release.set()
        await finished.wait()

    run(scenario())
    assert not caplog.records  # no hook failed


def test_r22_r24_a_fault_in_our_own_code_closes_that_session_only(run, caplog):
    async def scenario():
        async with talking(Open()) as (server, client):
            other = await Client.to(server)
            (broken,) = [
                c for c in server.connections if c.session.peer.port == client.writer.get_extra_info("sockname")[1]
            ]
            broken.session._handlings = None  # breaks the session
            assert await client.say(b"NOOP\r\n") == replies.INTERNAL.octets
            assert await client.rest() == b""
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            await other.close()

    with caplog.at_level(logging.CRITICAL, "ironpost.server"):
        run(scenario())
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


# ---------------------------------------------------------------------------------------------------------------------
# Flow


def test_nothing_is_read_while_a_hook_is_pending(run):
    async def scenario():
        release = asyncio.Event()

        class Slow(Open):
            async def mail(self, session, reverse_path, parameters):
                await release.wait()

        async with talking(Slow()) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            (connection,) = server.connections
            client.writer.write(b"MAIL FROM:<>\r\n")
            while connection.session.pending is None:
                await asyncio.sleep(0)
            client.writer.write(b"NOOP\r\n")
            while connection.transport.is_reading():
                await asyncio.sleep(0)
            client.writer.write(b"NOOP\r\n" * 1000)
            await client.writer.drain()
            for _ in range(10):
                await asyncio.sleep(0)
            assert not connection.transport.is_reading()
            assert sum(map(len, connection.session._unread)) <= len(b"NOOP\r\n")
            release.set()
            assert codes(await client.reply()) == [b"250"]
            for _ in range(1001):
                assert await client.reader.readline() == replies.NOTHING_DONE.octets

    run(scenario())


def test_r23_a_client_that_does_not_read_replies_is_paused_then_aborted(run, caplog):
    async def scenario():
        handler = Open()
        async with talking(handler, timeouts=Timeouts(write=0.1), settings=ServerSettings(max_commands=10**9)) as (
            _,
            client,
        ):
            client.reader._transport.pause_reading()
            with contextlib.suppress(ConnectionError):
                while not handler.gone.is_set():
                    client.writer.write(b"HELP\r\n" * 1000)
                    drain = asyncio.ensure_future(client.writer.drain())
                    gone = asyncio.ensure_future(handler.gone.wait())
                    await asyncio.wait([drain, gone], return_when=asyncio.FIRST_COMPLETED)
                    gone.cancel()
                    if not drain.done():
                        drain.cancel()
                    elif drain.exception():
                        break
            await handler.gone.wait()

    with caplog.at_level(logging.WARNING, "ironpost.server"):
        run(scenario())
    assert "does not read our replies" in caplog.text


@pytest.mark.parametrize("octets", [b"", b"NOO", b"EHLO x.example\r\n" + ENVELOPE + b"DATA\r\nhalf"])
def test_r23_an_idle_session_ends_with_421(run, octets):
    async def scenario():
        async with talking(Open(), timeouts=Timeouts(command=0.05, data=0.05)) as (_, client):
            client.writer.write(octets)
            assert (await client.rest()).endswith(replies.TIMED_OUT.octets)

    run(scenario())


def test_a_client_that_never_closes_is_not_waited_for(run):
    async def scenario():
        handler = Open()
        async with talking(handler, timeouts=Timeouts(linger=0.05)) as (_, client):
            client.writer.write(b"BDAT nonsense\r\n")
            await handler.gone.wait()  # the client never closes its side
            assert codes(await client.rest()) == [b"501", b"421"]

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# Start, stop, limits


def test_r23_one_connection_too_many_is_421(run):
    async def scenario():
        handler = Open()
        async with talking(handler, limits=ConnectionLimits(connections=1)) as (server, client):
            other = await Client.to(server, greeted=False)
            assert await other.rest() == replies.TOO_MANY_CONNECTIONS.octets
            await other.close()
            assert server.refused == 1
            assert not handler.gone.is_set()
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]

    run(scenario())


def test_stop_lets_a_message_finish_and_sends_421_to_idle_clients(run):
    async def scenario():
        handler = Open()
        server = Server(handler, "127.0.0.1")
        await server.start()
        idle, busy = await Client.to(server), await Client.to(server)
        await busy.say(b"EHLO x.example\r\n")
        await busy.say(ENVELOPE + b"DATA\r\n", 3)
        stopping = asyncio.ensure_future(server.stop())
        assert await idle.rest() == replies.SHUTTING_DOWN.octets
        await idle.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert not stopping.done()
        busy.writer.write(b"x\r\n.\r\n")
        assert await busy.rest() == replies.ACCEPTED.octets + replies.SHUTTING_DOWN.octets
        await busy.close()
        await stopping
        await server.stop()
        assert handler.messages == [b"x\r\n"]
        assert not server.connections

    run(scenario())


def test_stop_has_a_deadline(run, caplog):
    async def scenario():
        handler = Open()
        server = Server(handler, "127.0.0.1")
        await server.start()
        client = await Client.to(server)
        await client.say(b"EHLO x.example\r\n")
        await client.say(ENVELOPE + b"DATA\r\n", 3)
        await server.stop(grace=0.01)
        assert handler.gone.is_set()
        await client.close()

    with caplog.at_level(logging.WARNING, "ironpost.server"):
        run(scenario())
    assert "did not finish" in caplog.text


def test_a_taken_port_and_an_absent_address_are_named(run):
    async def scenario():
        async with Server(Open(), "127.0.0.1") as server:
            second = Server(Open(), "127.0.0.1", server.port)
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {server.port}: ") as caught:
                await second.start()
            assert caught.value.errno == errno.EADDRINUSE
            await second.stop()
            with pytest.raises(RuntimeError, match="only once"):
                await server.start()
        with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid: "):
            await Server(Open(), "nowhere.invalid").start()

    run(scenario())


def test_given_sockets_are_used_and_inherit_no_delay(run):
    async def scenario():
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        async with Server(Open(), sockets=[sock]) as server:
            assert server.port == port
            assert server.addresses == (("127.0.0.1", port),)
            client = await Client.to(server)
            (connection,) = server.connections
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            await client.close()

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# For authors of handlers


def test_hooks_that_a_handler_lacks_refuse(run):
    class Only:
        def recipient(self, session, forward_path, parameters):
            return None

    async def scenario():
        async with talking(Only()) as (_, client):
            answers = await client.say(b"EHLO x.example\r\n" + ENVELOPE + b"DATA\r\n.\r\n", 5)
            assert codes(answers) == [b"250", b"250", b"250", b"354", b"554"]
        async with talking(BaseHandler()) as (_, client):
            assert codes(await client.say(b"EHLO x.example\r\n" + ENVELOPE, 3)) == [b"250", b"250", b"550"]

    run(scenario())


def test_an_object_without_hooks_is_refused_as_handler():
    with pytest.raises(TypeError, match="none of connect"):
        Server(object())


def test_smtplib_delivers(run):
    async def scenario():
        handler = Open()
        async with Server(handler, "localhost") as server:

            def send():
                with smtplib.SMTP("localhost", server.port, local_hostname="client.example") as client:
                    return client.sendmail("a@b.example", ["c@d.example"], "Subject: x\n\n.dot\n..dots\ntext")

            assert await asyncio.to_thread(send) == {}
        assert handler.messages == [b"Subject: x\r\n\r\n.dot\r\n..dots\r\ntext\r\n"]

    run(scenario())


def test_importing_the_package_does_not_import_the_server():
    program = "import sys, ironpost, ironpost.wire; assert 'ironpost.server' not in sys.modules; ironpost.Server"
    subprocess.run([sys.executable, "-c", program], check=True, env=dict(os.environ))
    import ironpost

    assert {"Server", "Client"} <= set(dir(ironpost))
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = ironpost.nothing_here


@pytest.mark.parametrize("bad", [{"command": 0}, {"linger": -1.0}])
def test_a_timeout_must_be_positive(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Timeouts(**bad)


def test_a_memory_spool_has_a_limit():
    spool = MemorySpool(3)
    spool.write(b"ab")
    assert (spool.size, spool.content) == (2, b"ab")
    with pytest.raises(OSError, match="larger than the 3 octets") as caught:
        spool.write(b"cd")
    assert caught.value.errno == errno.ENOSPC
