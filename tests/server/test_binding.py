"""Unix sockets, and sockets passed by a service manager."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import smtplib
import socket
import stat
import subprocess
import sys

import pytest
from server_kit import ENVELOPE, Client, Open, codes

from ironpost import Server
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server.binding import bind_unix, inherited


@pytest.fixture
def path(tmp_path):
    return tmp_path / "smtp.sock"


async def at(path):
    """A client of a Unix socket."""
    return Client(*await asyncio.open_unix_connection(path))


def test_a_unix_socket_has_its_mode_and_is_removed_with_the_server(run, path):
    async def scenario():
        handler = Open()
        async with Server(handler, path=path, path_mode=0o600) as server:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert server.addresses == ((str(path), 0),)
            client = await at(path)
            assert codes(await client.reply()) == [b"220"]
            (connection,) = server.connections
            assert connection.session.peer.ip == ""
            assert codes(await client.say(b"EHLO x.example\r\nQUIT\r\n", 2)) == [b"250", b"221"]
            await client.close()
        assert not path.exists()

    run(scenario())


HOSTILE = {
    "binary": b"\x00\xff\xfe\r\n" * 100,
    "endless line": b"x" * 300_000,
    "HTTP": b"POST / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": bytes.fromhex("16030100f8010000f40303") + b"\0" * 100,
    "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.1 1 2\r\n",
    "half a message": b"LHLO x.example\r\n" + ENVELOPE + b"DATA\r\nhalf",
    "half a chunk": b"LHLO x.example\r\n" + ENVELOPE + b"BDAT 1000 LAST\r\nhalf",
    "no size": b"LHLO x.example\r\n" + ENVELOPE + b"BDAT -1\r\n" + ENVELOPE,
    "nothing": b"",
}


@pytest.mark.parametrize("octets", HOSTILE.values(), ids=HOSTILE.keys())
def test_r24_hostile_octets_on_an_lmtp_socket_cost_their_own_connection_only(run, path, octets, caplog):
    async def scenario():
        handler = Open()
        async with Server(handler, path=path, settings=ServerSettings(dialect=LMTP, max_errors=5)) as server:
            before = await at(path)
            assert codes(await before.reply()) == [b"220"]
            hostile = await at(path)
            with contextlib.suppress(ConnectionError):
                hostile.writer.write(octets)
                await hostile.writer.drain()
                hostile.writer.write_eof()
            await hostile.rest()
            await hostile.close()
            after = await at(path)
            assert codes(await after.reply()) == [b"220"]
            for client in (before, after):
                await client.say(b"LHLO x.example\r\n")
                assert codes(await client.say(ENVELOPE + b"DATA\r\n", 3)) == [b"250", b"250", b"354"]
                assert codes(await client.say(b"whole\r\n.\r\n")) == [b"250"]
                await client.say(b"QUIT\r\n")
                await client.close()
            while server.connections:
                await asyncio.sleep(0)
        assert handler.messages == [b"whole\r\n"] * 2

    run(scenario())
    assert not [record for record in caplog.records if record.exc_info]


def test_a_stale_unix_socket_is_replaced_one_in_use_is_not(run, path):
    async def scenario():
        bind_unix(path).close()
        assert path.exists()
        async with Server(Open(), path=path):
            with pytest.raises(OSError, match=f"cannot listen on {path}: another server listens there") as caught:
                await Server(Open(), path=path).start()
            assert caught.value.errno == errno.EADDRINUSE
            client = await at(path)
            assert codes(await client.reply()) == [b"220"]
            await client.close()
        path.write_text("a file of somebody's")
        with pytest.raises(OSError, match="the path exists and is not a socket"):
            await Server(Open(), path=path).start()
        assert path.read_text() == "a file of somebody's"

    run(scenario())


def test_a_unix_socket_that_another_server_replaced_is_not_removed(run, path):
    async def scenario():
        async with Server(Open(), path=path):
            path.unlink()
            other = bind_unix(path)
        assert path.exists()
        other.close()

    run(scenario())


def test_an_unusable_socket_path_is_named(run, tmp_path):
    async def scenario():
        with pytest.raises(OSError, match=r"cannot listen on .*absent/smtp.sock: No such file"):
            await Server(Open(), path=tmp_path / "absent" / "smtp.sock").start()
        with pytest.raises(OSError, match=r"cannot listen on .*too long"):
            await Server(Open(), path=tmp_path / ("x" * 200)).start()

    run(scenario())


def test_several_servers_may_listen_on_one_port(run):
    async def scenario():
        async with Server(Open(), "127.0.0.1", reuse_port=True) as one:
            async with Server(Open(), "127.0.0.1", one.port, reuse_port=True) as two:
                assert one.port == two.port
            client = await Client.to(one)
            await client.close()

    run(scenario())


PROGRAM = """
import asyncio, os, sys
from ironpost import Server
from ironpost.server import BaseHandler
from ironpost.server.binding import inherited

async def main():
    os.environ["LISTEN_PID"] = str(os.getpid())  # a service manager knows it
    found = inherited()
    assert inherited() == {}
    print(sorted(found), flush=True)
    async with Server(BaseHandler(), sockets=found["smtp"]) as server:
        print(server.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def test_sockets_of_a_service_manager_by_their_names():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]

        def in_child():
            first, second = os.dup(one.fileno()), os.dup(two.fileno())
            os.dup2(first, 3)
            os.dup2(second, 4)

        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            preexec_fn=in_child, pass_fds=(3, 4), env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp:"},
        )  # fmt: skip
        with process:
            assert process.stdout.readline() == "['smtp', 'unknown']\n"
            assert process.stdout.readline() == f"{ports[0]}\n"
            with smtplib.SMTP("127.0.0.1", ports[0], local_hostname="x.example", timeout=60) as client:
                assert client.noop()[0] == 250
            process.stdin.close()
            assert process.wait(60) == 0


def test_sockets_passed_to_another_process_are_ignored():
    assert inherited({}) == {}
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c"}
    assert inherited(environment) == {}
    assert environment == {}
