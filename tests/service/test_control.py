"""The control socket: commands, refusals, and bytes that nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.service.control import REQUEST_OCTETS, ControlError, ControlServer, ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path


async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"said": request.get("word")}


async def refuse(request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise ControlError("no such message: 42")


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
        with pytest.raises(ControlError, match=r"^no such message: 42$"):
            await asyncio.to_thread(ask, tmp_path / "c", {"do": "refuse"})
        with pytest.raises(ControlError, match=r"^crash failed; the server's log says why$"):
            await asyncio.to_thread(ask, tmp_path / "c", {"do": "crash"})
        with pytest.raises(ControlError, match=r"^unknown command; the commands are crash, echo, refuse$"):
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


def test_a_socket_that_a_crash_left_behind_is_replaced(tmp_path: Path) -> None:
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
