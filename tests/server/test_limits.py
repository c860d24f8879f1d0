"""Limits of connections, of data rate and of time, and the greeting delay: each with its reply and its count."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_kit import ENVELOPE, Client, Open, codes, talking

from ironpost import Server
from ironpost.protocol import replies
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import ConnectionLimits, Timeouts, TlsContext
from ironpost.server.fairness import LARGE
from ironpost.server.limits import RATE_WINDOW, REMEMBERED, Excess, LocalLimiter
from ironpost.server.self_signed import write_self_signed


class Counted:
    """A `Metrics` that remembers."""

    def __init__(self):
        self.counts = {}

    def count(self, name, label="", amount=1):
        self.counts[name, label] = self.counts.get((name, label), 0) + amount


def from_anywhere(**options):
    """Return options of a server that accepts XCLIENT from local clients."""
    return Server(Open(), "127.0.0.1", proxy=["127.0.0.1/32"], metrics=Counted(), **options)


async def coming_from(server, ip):
    client = await Client.to(server, greeted=False)
    family = "TCP6" if ":" in ip else "TCP4"
    client.writer.write(f"PROXY {family} {ip} {ip} 1 2\r\n".encode())
    return client, await client.reply()


# ---------------------------------------------------------------------------------------------------------------------
# The ledger of connections


def test_connections_of_one_network_are_counted_together():
    prefix = ConnectionLimits().prefix
    assert prefix("192.0.2.7") == "192.0.2.7"
    assert prefix("2001:db8::1") == prefix("2001:db8::ffff:1") == "2001:db8::/64"
    assert prefix("2001:db8:0:1::1") != prefix("2001:db8::1")
    assert prefix("127.0.0.1") == prefix("::1") == prefix("") == prefix("no address") == ""
    wide = ConnectionLimits(ipv4_prefix=24, ipv6_prefix=48, exempt=["198.51.100.0/24"]).prefix
    assert wide("192.0.2.7") == "192.0.2.0/24"
    assert wide("2001:db8:0:1::1") == "2001:db8::/48"
    assert wide("198.51.100.9") == ""
    assert wide("127.0.0.1") == "127.0.0.0/24"
    assert wide("::ffff:192.0.2.7") == "192.0.2.0/24"
    assert wide("::ffff:198.51.100.9") == ""


def test_a_burst_of_one_minute_is_allowed():
    book, limits = LocalLimiter(), ConnectionLimits(connection_rate=0.5, connections_per_prefix=10**6)
    burst = int(0.5 * RATE_WINDOW)
    assert [book.enter_prefix("a", limits, 0.0) for _ in range(burst)] == [None] * burst
    assert book.enter_prefix("a", limits, 0.0) is Excess.RATE
    assert book.enter_prefix("b", limits, 0.0) is None
    assert book.enter_prefix("a", limits, 1.9) is Excess.RATE
    assert book.enter_prefix("a", limits, 2.1) is None
    assert book.enter_prefix("a", limits, 2.2) is Excess.RATE


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans(), st.floats(0, 5)), max_size=200))
def test_admitted_and_released_connections_are_counted_exactly(steps):
    book, limits, now, active = (
        LocalLimiter(),
        ConnectionLimits(connections_per_prefix=3, connection_rate=100),
        0.0,
        {"a": 0, "b": 0},
    )
    for prefix, enters, later in steps:
        now += later
        if enters:
            excess = book.enter_prefix(prefix, limits, now)
            assert (excess is Excess.PREFIX) == (active[prefix] == 3)
            active[prefix] += excess is None
        elif active[prefix]:
            book.leave_prefix(prefix)
            active[prefix] -= 1
        book.sweep(now)


def test_the_number_of_remembered_networks_is_bounded():
    book, limits = LocalLimiter(), ConnectionLimits()
    for number in range(REMEMBERED + 10):
        book.enter_prefix(str(number), limits, 0.0)
        if number:
            book.leave_prefix(str(number))
    assert len(book._networks) <= REMEMBERED
    book.sweep(RATE_WINDOW + 1)
    assert list(book._networks) == ["0"]


@pytest.mark.parametrize(
    "bad",
    [{"connections": 0}, {"connection_rate": 0}, {"ipv4_prefix": 33}, {"ipv6_prefix": 0}, {"exempt": ["nowhere"]}],
)
def test_an_invalid_limit_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad)) if "exempt" not in bad else "nowhere"):
        ConnectionLimits(**bad)


@pytest.mark.parametrize("bad", [{"data_rate": -1}, {"session": 0}])
def test_an_invalid_timeout_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Timeouts(**bad)


# ---------------------------------------------------------------------------------------------------------------------
# Connections


def test_r23_one_connection_too_many_from_a_network(run):
    async def scenario():
        async with from_anywhere(limits=ConnectionLimits(connections_per_prefix=2)) as server:
            first, said = await coming_from(server, "2001:db8::1")
            second, _ = await coming_from(server, "2001:db8::2")
            assert codes(said) == [b"220"]
            third, refused = await coming_from(server, "2001:db8::3")
            assert refused == replies.TOO_MANY_FROM_NETWORK.octets
            assert await third.rest() == b""
            other, said = await coming_from(server, "2001:db8:0:1::1")
            assert codes(said) == [b"220"]
            assert server.metrics.counts["connections_refused", "prefix"] == server.refused == 1
            await first.say(b"QUIT\r\n")
            await first.rest()
            while len(server.connections) > 2:
                await asyncio.sleep(0)
            again, said = await coming_from(server, "2001:db8::3")
            assert codes(said) == [b"220"]
            for client in (first, second, third, other, again):
                await client.close()

    run(scenario())


def test_a_failed_handshake_releases_its_connection_slot(run, tmp_path):
    pair = tmp_path / "a.pem", tmp_path / "a.key"
    write_self_signed(*pair, ["localhost"])

    async def scenario():
        options = {
            "tls": TlsContext.load([pair]),
            "implicit_tls": True,
            "limits": ConnectionLimits(connections_per_prefix=1),
        }
        async with from_anywhere(**options) as server:
            for octets in (b"no handshake\r\n", b""):
                client = await Client.to(server, greeted=False)
                client.writer.write(b"PROXY TCP4 192.0.2.7 192.0.2.7 1 2\r\n" + octets)
                if not octets:
                    client.writer.write_eof()
                await client.rest()
                await client.close()
                while server.connections:
                    await asyncio.sleep(0)
            assert ("connections_refused", "prefix") not in server.metrics.counts
            assert server.metrics.counts["handshakes", "failed"] == 2
            assert server.limiter.connections == 0

    run(scenario())


def test_r23_connections_above_the_rate_are_refused(run):
    async def scenario():
        async with from_anywhere(limits=ConnectionLimits(connection_rate=1 / RATE_WINDOW)) as server:
            first, said = await coming_from(server, "192.0.2.7")
            assert codes(said) == [b"220"]
            second, refused = await coming_from(server, "192.0.2.7")
            assert refused == replies.TOO_MANY_NEW.octets
            assert server.metrics.counts["connections_refused", "rate"] == 1
            for client in (first, second):
                await client.close()

    run(scenario())


def test_r23_the_total_may_be_shared_by_several_servers(run):
    async def scenario():
        book, limits = LocalLimiter(), ConnectionLimits(connections=1)
        async with (
            Server(Open(), "127.0.0.1", limits=limits, limiter=book) as one,
            Server(Open(), "127.0.0.1", limits=limits, limiter=book) as two,
        ):
            first = await Client.to(one)
            second = await Client.to(two, greeted=False)
            assert await second.rest() == replies.TOO_MANY_CONNECTIONS.octets
            await first.close()
            await second.close()
            while one.connections:
                await asyncio.sleep(0)
            assert book.connections == 0
            third = await Client.to(two)
            await third.close()

    run(scenario())


def test_connections_are_counted_by_the_accepting_server(run):
    async def scenario():
        metrics = Counted()
        async with Server(Open(), "127.0.0.1", metrics=metrics, name="mx") as server:
            for _ in range(3):
                await (await Client.to(server)).close()
            assert metrics.counts == {("connections", "mx"): 3}

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------------
# The greeting delay


def test_r7_a_client_that_sends_during_the_greeting_delay_is_refused(run):
    async def scenario():
        handler, metrics = Open(), Counted()
        async with Server(handler, "127.0.0.1", greeting_delay=30, metrics=metrics) as server:
            client = await Client.to(server, greeted=False)
            client.writer.write(b"EHLO early.example\r\n" + ENVELOPE)
            assert await client.rest() == replies.EARLY_TALKER.octets
            await client.close()
            assert metrics.counts["connections_refused", "early"] == 1
            patient = await Client.to(server, greeted=False)
            while not server.connections:
                await asyncio.sleep(0)
            (connection,) = server.connections
            connection.greet()  # as the server does at the end of the delay
            assert codes(await patient.reply()) == [b"220"]
            await patient.close()
        assert handler.messages == []

    run(scenario())


def test_r7_a_queued_large_read_before_the_greeting_is_detected(run):
    async def scenario():
        handler = Open()
        async with Server(handler, "127.0.0.1", greeting_delay=30) as server:
            client = await Client.to(server, greeted=False)
            while not server.connections:
                await asyncio.sleep(0)
            (connection,) = server.connections
            connection.data_received(
                b"EHLO early.example\r\n" + b"NOOP\r\n" * LARGE
            )  # in the pieces that the loop reads
            connection.greet()  # before the next iteration of the loop
            assert await client.rest() == replies.EARLY_TALKER.octets
            await client.close()

    run(scenario())


def test_each_greeting_is_sent_after_its_own_delay(run):
    async def scenario():
        async with Server(Open(), "127.0.0.1", greeting_delay=0.05) as server:
            clients = [await Client.to(server, greeted=False) for _ in range(20)]
            assert [codes(await client.reply()) for client in clients] == [[b"220"]] * 20
            assert not server._greetings
            for client in clients:
                await client.close()
            again = await Client.to(server)
            await again.close()

    run(scenario())


def test_r7_octets_waiting_in_the_kernel_before_the_greeting_are_detected(run):
    """The client has sent octets before the server reads from the connection."""

    async def scenario():
        handler = Open()
        for delay, answer in ((0.0, replies.EARLY_TALKER.octets), (None, b"220")):
            async with Server(handler, "127.0.0.1", greeting_delay=delay) as server:
                with socket.create_connection(("127.0.0.1", server.port)) as sock:
                    sock.sendall(b"EHLO early.example\r\n")
                    assert not server.connections  # before the first iteration of the loop
                    sock.setblocking(False)
                    client = Client(*await asyncio.open_connection(sock=sock.dup()))
                    assert (await client.reply()).startswith(answer)
                    await client.close()

    run(scenario())


def test_stop_during_the_greeting_delay(run):
    async def scenario():
        server = Server(Open(), "127.0.0.1", greeting_delay=30)
        await server.start()
        client = await Client.to(server, greeted=False)
        while not server.connections:
            await asyncio.sleep(0)
        await server.stop()
        assert await client.rest() == replies.SHUTTING_DOWN.octets
        await client.close()

    run(scenario())


def test_a_negative_greeting_delay_is_refused():
    with pytest.raises(ValueError, match="greeting_delay"):
        Server(Open(), greeting_delay=-1)


# ---------------------------------------------------------------------------------------------------------------------
# Data rate and timeouts


def test_r23_content_that_trickles_is_421(run):
    async def scenario():
        metrics, handler = Counted(), Open()
        timeouts = Timeouts(data=0.1, data_rate=10**6)
        async with talking(handler, timeouts=timeouts, metrics=metrics) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            ended = asyncio.ensure_future(client.rest())
            with contextlib.suppress(ConnectionError):
                while not ended.done():
                    client.writer.write(b"x" * 1022 + b"\r\n")  # each piece is progress, and their rate is too low
                    await client.writer.drain()
                    await asyncio.wait([ended], timeout=0.01)
            assert await ended == replies.TOO_SLOW.octets
            assert metrics.counts["sessions_ended", "data rate"] == 1
        assert handler.messages == []

    run(scenario())


def test_content_at_the_minimum_rate_is_accepted(run):
    async def scenario():
        handler = Open()
        async with talking(handler, timeouts=Timeouts(data=0.05, data_rate=10)) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            await client.say(ENVELOPE + b"DATA\r\n", 3)
            (connection,) = server.connections
            windows = set()
            while len(windows) < 4:
                client.writer.write(b"x" * 1022 + b"\r\n")
                await asyncio.sleep(0)
                windows.add(connection._rate_window)
            assert codes(await client.say(b"\r\n.\r\n")) == [b"250"]

    run(scenario())


def test_r23_a_client_that_never_sends_ehlo_is_421(run):
    async def scenario():
        metrics = Counted()
        async with talking(Open(), timeouts=Timeouts(hello=0.1), metrics=metrics) as (_, client):
            ended = asyncio.ensure_future(client.rest())
            with contextlib.suppress(ConnectionError):
                while not ended.done():
                    client.writer.write(b"NOOP\r\n")
                    await asyncio.wait([ended], timeout=0.01)
            assert (await ended).endswith(replies.NO_HELLO.octets)
            assert metrics.counts["sessions_ended", "hello"] == 1

    run(scenario())


def test_after_xclient_the_hello_timeout_starts_again(run):
    async def scenario():
        settings = ServerSettings(front_ends=(ip_network("127.0.0.1/32"),))
        async with talking(Open(), settings=settings) as (server, client):
            await client.say(b"EHLO x.example\r\n")
            (connection,) = server.connections
            later = server.loop.time() + server.timeouts.hello - 1
            connection.sweep(later)
            assert codes(await client.say(b"XCLIENT ADDR=192.0.2.7\r\n")) == [b"220"]
            connection.sweep(later + 2)
            assert codes(await client.say(b"EHLO y.example\r\n")) == [b"250"]
            assert codes(await client.say(b"XCLIENT ADDR=192.0.2.7\r\n")) == [b"220"]
            connection.sweep(later + 3 + server.timeouts.hello)
            assert await client.rest() in {replies.NO_HELLO.octets, replies.TIMED_OUT.octets}

    run(scenario())


@pytest.mark.parametrize("quits", [True, False])
def test_a_refused_client_may_only_send_quit(run, quits):
    class Closed(Open):
        def connect(self, session):
            return replies.NOT_TAKEN

    async def scenario():
        metrics, handler = Counted(), Closed()
        timeouts = Timeouts(refused=30 if quits else 0.05)
        async with Server(
            handler, "127.0.0.1", timeouts=timeouts, metrics=metrics, overrides={"NOOP": lambda session, command: None}
        ) as server:
            client = await Client.to(server, greeted=False)
            assert await client.reply() == replies.NOT_TAKEN.octets
            said = await client.say(b"NOOP\r\nEHLO x.example\r\n" + ENVELOPE + b"BDAT 4\r\nQUITNOSUCH\r\n", 6)
            assert codes(said) == [b"503"] * 5 + [b"500"]
            if quits:
                assert await client.say(b"QUIT\r\n") == replies.GOODBYE.octets
            else:
                assert await client.reply() == replies.NO_QUIT.octets
                assert metrics.counts["sessions_ended", "refused"] == 1
            assert await client.rest() == b""
            await client.close()
        assert handler.messages == []

    run(scenario())


def test_r23_a_session_that_lasts_too_long_is_421(run):
    async def scenario():
        metrics = Counted()
        async with talking(Open(), timeouts=Timeouts(session=0.1), metrics=metrics) as (_, client):
            await client.say(b"EHLO x.example\r\n")
            ended = asyncio.ensure_future(client.rest())
            with contextlib.suppress(ConnectionError):
                while not ended.done():
                    client.writer.write(b"NOOP\r\n")
                    await asyncio.wait([ended], timeout=0.01)
            assert (await ended).endswith(replies.SESSION_TOO_LONG.octets)
            assert metrics.counts["sessions_ended", "session"] == 1

    run(scenario())


def test_a_sweep_over_many_connections_yields_to_the_event_loop(run):
    async def scenario():
        async with talking(Open()) as (server, client):

            class Party:
                swept = 0

                def sweep(self, now):
                    Party.swept += 1

            parties = {Party() for _ in range(2000)}
            server.connections |= parties
            server._timer.cancel()
            server._sweep()
            assert Party.swept <= 500
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
            while Party.swept < 2000:
                await asyncio.sleep(0)
            server.connections -= parties

    run(scenario())


def test_r22_a_connection_that_raises_in_the_sweep_is_aborted_alone(run, caplog):
    async def scenario():
        handler = Open()
        async with talking(handler, timeouts=Timeouts(linger=0.05)) as (server, client):
            (broken,) = server.connections
            broken.session.octets = None
            await handler.gone.wait()
            assert await client.rest() == b""
            other = await Client.to(server)
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            await other.close()

    run(scenario())
    assert "could not be checked" in caplog.text
