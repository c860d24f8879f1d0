"""The client's errors and life cycle as Python programs expect them (f45)."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest
from tests.client.test_client_sockets import HELLO, lines, peer, run

from ironpost import client as errors
from ironpost.client import (
    Client,
    ClientError,
    ConnectionLost,
    ContentRefused,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceRefused,
    TimedOut,
)
from ironpost.model import Address, Reply
from ironpost.protocol.client.session import ClientStep

if TYPE_CHECKING:
    import asyncio

REPLY = Reply(550, "5.1.1", ("no",)).because("for the log")
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ClientError)]


def made(kind: type[ClientError]) -> ClientError:
    if kind is RecipientsRefused:
        return RecipientsRefused(REPLY, "mx.example", ClientStep.RCPT, {Address.parse("b@b.example"): REPLY})
    if issubclass(kind, Refused):
        return kind(REPLY, "mx.example", ClientStep.MAIL)
    return kind(REPLY, "mx.example")


def fails() -> None:
    raise made(RecipientsRefused)


@pytest.mark.parametrize("kind", KINDS)
def test_f45_errors_can_be_copied_and_pickled(kind: type[ClientError]) -> None:
    error = made(kind)
    error.add_note("a note")
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert (twin.reply, twin.reply.detail, twin.remote) == (REPLY, "for the log", "mx.example")
        assert vars(twin) == vars(error)
        assert twin.__notes__ == ["a note"]


def test_f45_an_error_of_the_system_has_no_reply_for_a_number() -> None:
    for kind in (TimedOut, ConnectionLost):
        error = made(kind)
        assert isinstance(error, OSError)
        assert error.errno is None


def test_f45_errors_cross_process_pools() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool, pytest.raises(RecipientsRefused) as caught:
        pool.submit(fails).result(60)
    assert caught.value.refused == {Address.parse("b@b.example"): REPLY}


def test_f45_connect_replaces_a_connection_that_died() -> None:
    async def main() -> None:
        async with peer(lines(*HELLO, b"421 bye\r\n")) as port:
            client = Client("127.0.0.1", port)
            assert not client.connected
            for _ in range(2):
                await client.connect()
                assert client.connected
                with pytest.raises(RuntimeError):
                    await client.connect()
                with pytest.raises(ClientError):
                    await client.send("a@a.example", "b@b.example", b"")
                assert not client.connected
            await client.close()
            assert not client.connected

    run(main)


def test_f45_none_is_the_null_reverse_path() -> None:
    said: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        while line := await reader.readline():
            said.append(line)
            writer.write(b"250 hi\r\n" if line.startswith(b"EHLO") else b"550 no\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            with pytest.raises(SenderRefused):
                await client.send(None, "b@b.example", b"")
        assert b"MAIL FROM:<>\r\n" in said

    run(main)


@pytest.mark.parametrize(
    ("steps", "step"),
    [
        ((b"554 no\r\n",), ClientStep.GREETING),
        ((b"220 hi\r\n", b"451 no\r\n"), ClientStep.EHLO),
        ((b"220 hi\r\n", b"550 no\r\n", b"550 no\r\n"), ClientStep.HELO),
    ],
)
def test_f45_the_step_in_an_error_of_connect_is_the_one_that_was_refused(
    steps: tuple[bytes, ...], step: ClientStep
) -> None:
    async def main() -> None:
        async with peer(lines(*steps)) as port:
            with pytest.raises(ServiceRefused) as caught:
                await Client("127.0.0.1", port).connect()
            assert caught.value.step is step

    run(main)


def test_f45_the_reply_in_an_error_is_that_of_its_step() -> None:
    """The last recipient was refused before, and the content of the others then."""

    async def main() -> None:
        replies = (b"250 ok\r\n", b"250 ok\r\n", b"550 5.1.1 who\r\n", b"354 go\r\n", b"554 5.6.0 spam\r\n")
        async with peer(lines(*HELLO, *replies, close=False)) as port, Client("127.0.0.1", port) as client:
            with pytest.raises(ContentRefused) as caught:
                await client.send("a@a.example", ["b@b.example", "c@b.example"], b"")
            assert (caught.value.step, caught.value.reply.enhanced) == (ClientStep.END, "5.6.0")

    run(main)


def test_f45_421_names_its_step() -> None:
    async def main() -> None:
        async with peer(lines(*HELLO, b"250 ok\r\n", b"421 bye\r\n")) as port, Client("127.0.0.1", port) as client:
            with pytest.raises(ServiceRefused) as caught:
                await client.send("a@a.example", "b@b.example", b"")
            assert caught.value.step is ClientStep.RCPT

    run(main)
