"""The control socket: commands, refusals, and bytes that nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.operations import control_socket as control
from ironpost.operations.control_socket import REQUEST_OCTETS, ControlServer, ask
from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path


async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"said": request.get("word")}


async def refuse(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RequestRefused("no such message: 42")


async def crash(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise KeyError("inner secret")


def with_server(path: Path, body: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        server = ControlServer(path, {"echo": echo, "refuse": refuse, "crash": crash})
        await server.start()
        try:
            async with asyncio.timeout(30):
                await body()
        finally:
            await server.stop()
        assert not path.exists()

    asyncio.run(run())


async def exchange(path: Path, octets: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(octets)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_command_is_answered_on_one_line(tmp_path: Path) -> None:
    async def body() -> None:
        assert await asyncio.to_thread(ask, tmp_path / "c", {"do": "echo", "word": "a\nb"}) == {"said": "a\nb"}
        both = await exchange(tmp_path / "c", b'{"do":"echo","word":1}\n{"do":"echo","word":2}\n')
        assert [json.loads(line) for line in both.splitlines()] == [{"said": 1}, {"said": 2}]

    with_server(tmp_path / "c", body)


def test_only_the_owner_may_open_it(tmp_path: Path) -> None:
    async def body() -> None:
        assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600

    with_server(tmp_path / "c", body)


def test_a_refusal_is_a_sentence_and_a_crash_keeps_its_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        with pytest.raises(RequestRefused, match=r"^no such message: 42$"):
            await asyncio.to_thread(ask, tmp_path / "c", {"do": "refuse"})
        with pytest.raises(RequestRefused, match=r"^crash failed; the server's log says why$"):
            await asyncio.to_thread(ask, tmp_path / "c", {"do": "crash"})
        with pytest.raises(RequestRefused, match=r"^unknown command; the commands are crash, echo, refuse$"):
            await asyncio.to_thread(ask, tmp_path / "c", {"do": "x"})

    with_server(tmp_path / "c", body)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\xff\xfe garbage\n",
        b"[" * 100_000 + b"\n",
        b"1\n",
        b'{"do":["echo"]}\n',
        b'{"do":"echo","word":"\\ud800"}\n',
        b"x" * (REQUEST_OCTETS + 1000) + b"\n",
        b'{"do":"echo"',
        b"",
    ],
    ids=["binary", "nesting", "number", "list", "surrogate", "endless", "cut", "nothing"],
)
def test_r24_hostile_bytes_on_the_control_socket_cost_their_own_connection_only(tmp_path: Path, octets: bytes) -> None:
    async def body() -> None:
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "c"))
        with contextlib.suppress(ConnectionError):  # closed while the endless line was still being written
            await exchange(tmp_path / "c", octets)
        # A connection that was open before, and a new one, work on.
        writer.write(b'{"do":"echo","word":"still here"}\n')
        assert json.loads(await reader.readline()) == {"said": "still here"}
        writer.close()
        await writer.wait_closed()
        assert await asyncio.to_thread(ask, tmp_path / "c", {"do": "echo", "word": 1}) == {"said": 1}

    with_server(tmp_path / "c", body)


def test_a_stale_socket_of_a_crashed_server_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"")

    async def body() -> None:
        assert await asyncio.to_thread(ask, tmp_path / "c", {"do": "echo", "word": 1}) == {"said": 1}

    with_server(tmp_path / "c", body)


def test_a_path_that_no_socket_can_have_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="choose a shorter data directory"):
        asyncio.run(ControlServer(tmp_path / ("d" * 200) / "c", {}).start())


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask(tmp_path / "c", {"do": "echo"})


def test_f14_a_slow_command_is_answered_and_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "COMMAND_SECONDS", 0.1)
    monkeypatch.setattr(control, "UNFINISHED", 1)

    async def run() -> None:
        go_on, finished = asyncio.Event(), asyncio.Event()

        async def wait(request: Mapping[str, Any]) -> Mapping[str, Any]:
            await go_on.wait()
            finished.set()
            return {}

        server = ControlServer(tmp_path / "c", {"wait": wait})
        await server.start()
        async with asyncio.timeout(30):
            with pytest.raises(
                RequestTimedOut, match=r"^wait has not finished within 0.1 s; the server is still working"
            ):
                await asyncio.to_thread(ask, tmp_path / "c", {"do": "wait"})
            with pytest.raises(RequestTimedOut, match="too many commands have not finished"):
                await asyncio.to_thread(ask, tmp_path / "c", {"do": "wait"})
            go_on.set()
            await finished.wait()
            assert await asyncio.to_thread(ask, tmp_path / "c", {"do": "wait"}) == {}
            await server.stop()

    asyncio.run(run())


def test_f14_a_command_that_does_not_finish_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "COMMAND_SECONDS", 0.1)

    async def wait(request: Mapping[str, Any]) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def run() -> None:
        server = ControlServer(tmp_path / "c", {"wait": wait})
        await server.start()
        async with asyncio.timeout(30):
            with pytest.raises(RequestTimedOut):
                await asyncio.to_thread(ask, tmp_path / "c", {"do": "wait"})
            await server.stop()

    asyncio.run(run())


@pytest.mark.parametrize("answered", [b"", b" "], ids=["nothing", "one octet after the other"])
def test_f14_a_server_that_does_not_answer_is_given_up(tmp_path: Path, answered: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "c"))
        listener.listen()

        async def run() -> None:
            asking = asyncio.create_task(asyncio.to_thread(ask, tmp_path / "c", {"do": "echo"}, 0.2))
            connection, _ = await asyncio.to_thread(listener.accept)
            with connection:
                async with asyncio.timeout(30):
                    while not asking.done():
                        connection.sendall(answered)
                        await asyncio.wait([asking], timeout=0.05)
                with pytest.raises(TimeoutError):
                    await asking

        asyncio.run(run())


def test_f14_a_server_that_accepts_nothing_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as waiting:
        listener.bind(str(tmp_path / "c"))
        listener.listen(0)
        while True:  # until its backlog is full
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(tmp_path / "c"))
            except OSError:
                break
        with pytest.raises(TimeoutError):
            ask(tmp_path / "c", {"do": "echo"}, 0.2)
