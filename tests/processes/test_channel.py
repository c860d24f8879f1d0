"""The channel between a supervisor and a worker."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.processes.channel import Channel, ChannelClosed
from ironpost.processes.requests import RequestRefused, RequestTimedOut

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping


class End:
    """One end, and what it heard."""

    def __init__(self) -> None:
        self.notes: list[Mapping[str, Any]] = []
        self.gone = asyncio.Event()
        self.never = asyncio.Event()
        commands = {"echo": self.echo, "refuse": self.refuse, "crash": self.crash, "wait": self.wait}
        self.channel = Channel(commands, self.notes.append, self.gone.set)

    async def echo(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"said": request["word"]}

    async def refuse(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise RequestRefused("not today")

    async def crash(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise KeyError("inner secret")

    async def wait(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        await self.never.wait()
        return {}


def between(scenario: Callable[[End, End], Awaitable[None]]) -> None:
    async def run() -> None:
        one, other = End(), End()
        ours, theirs = socket.socketpair()
        await one.channel.open(ours)
        await other.channel.open(theirs)
        async with asyncio.timeout(30):
            await scenario(one, other)
            one.channel.close()
            other.channel.close()
            await one.gone.wait()
            await other.gone.wait()

    asyncio.run(run())


def test_questions_go_both_ways_at_once() -> None:
    async def scenario(one: End, other: End) -> None:
        large = "x" * 1_000_000
        answers = await asyncio.gather(
            one.channel.ask({"do": "echo", "word": large}),
            other.channel.ask({"do": "echo", "word": "a\nb"}),
            one.channel.ask({"do": "echo", "word": 1}),
        )
        assert answers == [{"said": large}, {"said": "a\nb"}, {"said": 1}]

    between(scenario)


def test_a_refusal_is_a_sentence_and_a_crash_keeps_its_secrets() -> None:
    async def scenario(one: End, other: End) -> None:
        with pytest.raises(RequestRefused, match=r"^not today$"):
            await one.channel.ask({"do": "refuse"})
        with pytest.raises(RequestRefused, match=r"^crash failed; the server's log says why$"):
            await one.channel.ask({"do": "crash"})
        with pytest.raises(RequestRefused, match=r"^unknown command; the commands are crash, echo, refuse, wait$"):
            await one.channel.ask({"do": "x"})

    between(scenario)


def test_notes_arrive_in_order_and_before_the_end() -> None:
    async def scenario(one: End, other: End) -> None:
        for number in range(1000):
            one.channel.notify({"n": number})
        one.channel.close()
        await other.gone.wait()
        assert other.notes == [{"n": number} for number in range(1000)]

    between(scenario)


def test_nobody_waits_for_an_end_that_is_gone() -> None:
    async def scenario(one: End, other: End) -> None:
        asked = asyncio.create_task(one.channel.ask({"do": "wait"}))
        await one.channel.ask({"do": "echo", "word": "it is asked"})
        other.channel.close()
        with pytest.raises(ChannelClosed):
            await asked
        with pytest.raises(ChannelClosed):
            await one.channel.ask({"do": "echo"})
        one.channel.notify({"to": "nobody"})

    between(scenario)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\xff\xfe garbage\n",
        b"[" * 100_000 + b"\n",
        b"1\n",
        b"{}\n",
        b'{"ask":1}\n',
        b'{"ask":1,"request":{}}\n',
        b'{"to":[],"answer":1}\n',
        b'{"note":1}\n"\n',
    ],
)
def test_r24_hostile_octets_on_one_link_end_that_link_only(octets: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(one: End, other: End) -> None:
        victim = End()
        ours, theirs = socket.socketpair()
        with theirs:
            await victim.channel.open(ours)
            asked = asyncio.create_task(victim.channel.ask({"do": "echo", "word": "never answered"}))
            theirs.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(theirs, octets)
            await victim.gone.wait()
            with pytest.raises(ChannelClosed):
                await asked
        assert await one.channel.ask({"do": "echo", "word": 1}) == {"said": 1}
        assert await other.channel.ask({"do": "echo", "word": 2}) == {"said": 2}

    between(scenario)
    assert "invalid message from the process at the other end" in caplog.text


def test_r24_a_question_with_an_invalid_command_is_refused() -> None:
    async def scenario(one: End, other: End) -> None:
        with pytest.raises(RequestRefused, match="failed; the server's log says why"):
            await one.channel.ask({"do": ["echo"]})
        assert await one.channel.ask({"do": "echo", "word": 1}) == {"said": 1}

    between(scenario)


def test_f14_a_question_has_a_deadline_and_the_link_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ironpost.processes.channel.GRACE_SECONDS", 0.0)

    async def scenario(one: End, other: End) -> None:
        with pytest.raises(RequestTimedOut, match=r"^no answer within 0\.1 s$"):
            await one.channel.ask({"do": "wait"}, 0.1)
        other.never.set()  # its answer comes now, and nobody wants it
        assert await one.channel.ask({"do": "echo", "word": 1}) == {"said": 1}

    between(scenario)


def test_f14_a_question_that_is_read_after_its_deadline_is_not_acted_upon() -> None:
    async def scenario(_one: End, _other: End) -> None:
        late = End()
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            await late.channel.open(ours)
            loop = asyncio.get_running_loop()
            for serial, until in ((1, time.monotonic() - 1), (2, time.monotonic() + 60)):
                request = {"do": "echo", "word": serial, "until": until}
                line = json.dumps({"ask": serial, "request": request})
                await loop.sock_sendall(theirs, line.encode() + b"\n")
            assert json.loads(await loop.sock_recv(theirs, 65536)) == {"to": 2, "answer": {"said": 2}}
        await late.gone.wait()

    between(scenario)


def test_f14_a_ping_shows_that_the_other_end_runs() -> None:
    async def scenario(one: End, other: End) -> None:
        assert one.channel.received == 0
        one.channel.ping()
        while not one.channel.received:
            await asyncio.sleep(0)
        assert (one.notes, other.notes) == ([], [])

    between(scenario)


def test_f14_a_link_can_be_cut_though_the_other_end_reads_nothing() -> None:
    async def scenario(_one: End, _other: End) -> None:
        end = End()
        ours, theirs = socket.socketpair()
        with theirs:
            await end.channel.open(ours)
            end.channel.notify({"large": "x" * 10_000_000})
            end.channel.abort()
            await end.gone.wait()

    between(scenario)
