"""How the client finds a host and what it calls itself: addresses, names, time limits (f42, f45, f46)."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests.client.test_client_sockets import HELLO, lines, peer, run

from ironpost import wire
from ironpost.client import Client, ConnectFailed, TimedOut
from ironpost.client import reach as reaching
from ironpost.client.connection import connect
from ironpost.client.reach import interleaved, own_name, plain_host, reach
from ironpost.protocol.client.name import full_name
from ironpost.protocol.client.session import TIMEOUTS, ClientSession, ClientStep, check_hostname

if TYPE_CHECKING:
    from collections.abc import Iterator

SILENT = (socket.AF_INET6, ("2001:db8::1", 25, 0, 0))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    kept = dict(reaching._NAMES)
    reaching._NAMES.clear()
    yield
    reaching._NAMES.clear()
    reaching._NAMES.update(kept)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any]]:
    """What every host resolves to. Nobody answers at SILENT."""
    found: list[tuple[int, Any]] = []
    really = reaching._connected

    async def connected(family: int, address: Any, source: str | None) -> socket.socket:
        if (family, address) == SILENT:
            await asyncio.get_running_loop().create_future()
        return await really(family, address, source)

    async def resolved(_host: str, _port: int) -> list[tuple[int, Any]]:
        return list(found)

    monkeypatch.setattr(reaching, "_connected", connected)
    monkeypatch.setattr(reaching, "_addresses", resolved)
    return found


def test_f42_a_silent_address_does_not_eat_the_time_of_the_others(addresses: list[tuple[int, Any]]) -> None:
    async def main() -> None:
        async with peer(lines(*HELLO, b"221 bye\r\n")) as port:
            addresses[:] = [SILENT, (socket.AF_INET, ("127.0.0.1", port))]
            async with Client("mail.example", port, tls="never") as client:
                assert client.connected

    run(main)


def test_f42_an_address_that_refuses_is_followed_at_once(addresses: list[tuple[int, Any]]) -> None:
    async def main() -> None:
        async with peer(lines()) as gone:
            pass
        async with peer(lines(*HELLO, b"221 bye\r\n")) as port:
            addresses[:] = [(socket.AF_INET, ("127.0.0.1", gone)), (socket.AF_INET, ("127.0.0.1", port))]
            async with Client("mail.example", port, tls="never"):
                pass
        addresses[:] = [(socket.AF_INET, ("127.0.0.1", gone))] * 2
        with pytest.raises(OSError) as caught:
            await reach("mail.example", gone)
        assert caught.value.errno == errno.ECONNREFUSED

    run(main)


def test_f42_when_all_are_silent_the_limit_holds_and_nothing_is_left(addresses: list[tuple[int, Any]]) -> None:
    async def main() -> None:
        addresses[:] = [SILENT]
        with pytest.raises(ConnectFailed):
            await Client("mail.example", connect_timeout=0.05).connect()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_f42_families_take_turns() -> None:
    four = [(socket.AF_INET, number) for number in range(3)]
    six = [(socket.AF_INET6, number) for number in range(2)]
    assert interleaved([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert interleaved(four) == four


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("[::1]", "::1"),
        ("[IPv6:::1]", "::1"),
        ("[127.0.0.1]", "127.0.0.1"),
        ("mail.example.", "mail.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
    ],
)
def test_f45_hosts_may_be_written_in_several_ways(given: str, plain: str) -> None:
    assert plain_host(given) == plain


def test_f45_an_invalid_host_name_is_refused() -> None:
    async def main() -> None:
        for host in ("☃☃.example", "x" * 64 + ".example"):
            with pytest.raises(ConnectFailed):
                await Client(host).connect()

    run(main)


def test_f45_brackets_reach_an_ipv6_address() -> None:
    async def main() -> None:
        try:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "::1", 0)
        except OSError:
            pytest.skip("this machine has no IPv6")
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(Exception, match=rf"^\[::1\]:{port}: ") as caught:
                await Client("[::1]", port).connect()
            assert not isinstance(caught.value, ConnectFailed)

    run(main)


def test_f45_our_own_name_is_looked_up_once_and_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    answer = threading.Event()

    def getfqdn(name: str) -> str:
        asked.append(name)
        answer.wait(30)
        return f"{name}.own.example"

    monkeypatch.setattr(socket, "gethostname", lambda: "short")
    monkeypatch.setattr(socket, "getfqdn", getfqdn)

    async def main() -> None:
        assert await own_name(0.01) is None
        assert await own_name(0.01) is None
        assert asked == ["short"]
        reaching._NAMES.clear()
        answer.set()
        assert await own_name(30) == "short.own.example"
        assert await own_name(30) == "short.own.example"
        assert asked == ["short"] * 2

    run(main)


def test_f45_some_time_outs_may_be_given() -> None:
    async def main() -> None:
        async with peer(lines(b"220 hi\r\n", b"250 hi\r\n", close=False)) as port:
            client = Client("127.0.0.1", port, timeouts={ClientStep.MAIL: 0.01})
            await client.connect()
            with pytest.raises(TimedOut):
                await client.send("a@a.example", "b@b.example", b"")
            await client.close()
        async with peer(lines(b"220 hi\r\n", b"250 hi\r\n", b"221 bye\r\n")) as port:
            connection = await connect("127.0.0.1", port, "us.example", timeouts={ClientStep.QUIT: 1.0})
            assert connection.ready
            await connection.quit()

    run(main)


# -- port 465 ---------------------------------------------------------------------------------------------------------


def test_f45_tls_from_the_start_is_what_port_465_means() -> None:
    assert Client("mail.example", 465)._implicit
    assert not Client("mail.example", 465, tls="may")._implicit
    assert not Client("mail.example", 587)._implicit


def test_f45_a_server_that_waits_for_tls_is_distinguished_from_a_slow_one() -> None:
    async def main() -> None:
        async with peer(lines(b"", close=False)) as port:
            with pytest.raises(TimedOut, match='tls="implicit"'):
                await Client("127.0.0.1", port, timeouts={ClientStep.GREETING: 0.01}).connect()
        async with peer(lines(b"\x15\x03\x01\x00\x02\x02\x0a", close=True)) as port:
            with pytest.raises(Exception, match='tls="implicit"'):
                await Client("127.0.0.1", port).connect()

    run(main)


def test_f45_silence_at_port_465_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    async def nowhere(*_: Any, timeouts: dict[ClientStep, float], **__: Any) -> None:
        seen.append(timeouts[ClientStep.GREETING])
        raise OSError(errno.ECONNREFUSED, "refused")

    monkeypatch.setattr("ironpost.client.client.connect", nowhere)

    async def main() -> None:
        for port in (465, 25):
            with pytest.raises(ConnectFailed):
                await Client("127.0.0.1", port, tls="may").connect()

    run(main)
    assert seen[0] < seen[1] == TIMEOUTS[ClientStep.GREETING]


# -- the name in EHLO -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "my_host.example",
        "my_host",
        "192.0.2.1",
        "1.0.0.127.in-addr.arpa",
        "1.0.0.0.ip6.arpa",
        "[IPv6:::ffff:192.0.2.1]",
        "[IPv6:::FFFF:c000:201]",
    ],
)
def test_f46_a_name_that_servers_turn_away_is_not_said(name: str) -> None:
    with pytest.raises(wire.WireFault):
        check_hostname(name)
    with pytest.raises(wire.WireFault):
        ClientSession(name)
    assert full_name(name) is None


@pytest.mark.parametrize("name", ["mx.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "a-b.example", "host"])
def test_f46_other_names_are(name: str) -> None:
    check_hostname(name)
    assert full_name("mx.example") == "mx.example"
    assert full_name("localhost.localdomain") is None
    assert full_name("host") is None
