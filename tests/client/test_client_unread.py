"""A server that refuses in the middle of the content and closes: its reply is read although our next write fails."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from tests.delivery.test_remote import deliver, delivery, message, one

from ironpost.client import Client, ConnectionLost, ContentRefused, Insecure
from ironpost.client.connection import connect
from ironpost.client.tls import verifying
from ironpost.client.unread import UNREAD_OCTETS
from ironpost.model import Address, Disposition, Envelope, Recipient
from ironpost.protocol.client.session import OutgoingTransaction, Security
from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    Runner = Callable[[Coroutine[None, None, None]], None]

PATIENCE = 20.0
"""Seconds after which a test fails that hangs."""
RECORD = 16_384
"""Octets of clear text in one TLS record at most."""
REFUSAL = b"552 5.3.4 too large\r\n"


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[None, None, None]], None]:
    """Runs a coroutine on each event loop that is here."""

    def runner(coroutine: Coroutine[None, None, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(coroutine, PATIENCE))

    return runner


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    found = folder / "chain.pem", folder / "key.pem"
    write_self_signed(*found, ["localhost", "127.0.0.1"])
    return found


class Hasty:
    """A server in a thread that reads a part of the content, says its word, and closes with the rest unread."""

    def __init__(self, files: tuple[Path, Path], tls: str, *, close_notify: bool, word: bytes = REFUSAL) -> None:
        self._files = files
        self._tls = tls
        self._close_notify = close_notify
        self._word = word
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.closed = threading.Event()
        """Set after the end: any write to it now fails with a reset."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _secured(self, sock: socket.socket) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self._files)
        return context.wrap_socket(sock, server_side=True)

    def _serve(self) -> None:
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reset takes back what waits to be sent
        with contextlib.suppress(OSError):
            if self._tls == "implicit":
                sock = self._secured(sock)
            sock.sendall(b"220 hi\r\n")
            if self._tls == "starttls":
                for reply in (b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n"):
                    _line(sock)
                    sock.sendall(reply)
                sock = self._secured(sock)
            for reply in (b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
                _line(sock)
                sock.sendall(reply)
            sock.recv(1)
            sock.sendall(self._word)
            if self._close_notify and isinstance(sock, ssl.SSLSocket):
                sock.setblocking(False)
                with contextlib.suppress(ssl.SSLError):  # it would wait for the client's
                    sock.unwrap()
        sock.close()
        self.closed.set()

    def stop(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE)


def _line(sock: socket.socket) -> None:
    while sock.recv(1) != b"\n":
        pass


@pytest.fixture
def hasty(certificate: tuple[Path, Path]) -> Iterator[Callable[..., Hasty]]:
    made: list[Hasty] = []

    def make(tls: str, **options: object) -> Hasty:
        made.append(Hasty(certificate, tls, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.stop()


async def content(server: Hasty) -> AsyncIterator[bytes]:
    yield b"Subject: x\r\n\r\n" + b"x" * 70_000
    # The event loop stands still, so that the next write comes before it can read.
    assert server.closed.wait(PATIENCE)
    for _ in range(10):
        yield b"x" * 70_000


def client_of(server: Hasty, tls: str, certificate: tuple[Path, Path]) -> Client:
    wanted = {"never": "never", "starttls": "must", "implicit": "implicit"}[tls]
    return Client("127.0.0.1", server.port, tls=wanted, context=verifying(str(certificate[0])))  # type: ignore[arg-type]


@pytest.mark.parametrize("close_notify", [False, True])
@pytest.mark.parametrize("tls", ["never", "starttls", "implicit"])
def test_f44_the_reply_before_a_reset_is_heard(
    tls: str, close_notify: bool, hasty: Callable[..., Hasty], certificate: tuple[Path, Path], run: Runner
) -> None:
    async def main() -> None:
        server = hasty(tls, close_notify=close_notify)
        client = client_of(server, tls, certificate)
        await client.connect()
        with pytest.raises(ContentRefused) as caught:
            await client.send("a@a.example", "b@b.example", content(server))
        assert (caught.value.reply.code, caught.value.reply.enhanced) == (552, "5.3.4")
        await client.close()

    run(main())


@pytest.mark.parametrize("word", [b"", b"552 5.3.4 too lar"])
@pytest.mark.parametrize("tls", ["never", "starttls", "implicit"])
def test_f44_where_nothing_was_said_the_connection_is_lost(
    tls: str, word: bytes, hasty: Callable[..., Hasty], certificate: tuple[Path, Path], run: Runner
) -> None:
    async def main() -> None:
        server = hasty(tls, close_notify=False, word=word)
        client = client_of(server, tls, certificate)
        await client.connect()
        with pytest.raises(ConnectionLost):
            await client.send("a@a.example", "b@b.example", content(server))
        await client.close()

    run(main())


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_f44_under_tls_what_was_said_is_read_whole(
    tls: str, hasty: Callable[..., Hasty], certificate: tuple[Path, Path], run: Runner
) -> None:
    """A reply of several records."""
    word = (b"552-5.3.4 " + b"x" * 400 + b"\r\n") * 90 + REFUSAL
    assert 2 * RECORD < len(word) < UNREAD_OCTETS

    async def main() -> None:
        server = hasty(tls, close_notify=True, word=word)
        client = client_of(server, tls, certificate)
        await client.connect()
        with pytest.raises(ContentRefused) as caught:
            await client.send("a@a.example", "b@b.example", content(server))
        assert len(caught.value.reply.text) == 91
        await client.close()

    run(main())


def test_f44_a_refusal_in_the_middle_is_the_outcome_of_every_recipient(
    hasty: Callable[..., Hasty], certificate: tuple[Path, Path], run: Runner
) -> None:
    """As delivery does it: over a connection, with the outcome of each recipient."""

    async def main() -> None:
        server = hasty("starttls", close_notify=False)
        connection = await connect(
            "127.0.0.1", server.port, "us.example",
            security=Security("must"), tls=verifying(str(certificate[0])), server_name="localhost",
        )  # fmt: skip
        transaction = OutgoingTransaction(
            Envelope(Address.parse("a@a.example"), (Recipient(Address.parse("b@b.example")),)), size=None
        )
        await connection.transact(transaction, content(server))
        (outcome,) = transaction.outcomes
        assert outcome is not None
        assert (outcome.disposition, outcome.reply.code) == (Disposition.FAILED, 552)
        connection.abort()

    run(main())


class Large:
    """A stored body that is not held in memory; it is looked through once, then sent."""

    size = 1 << 20

    def __init__(self, server: Hasty) -> None:
        self._server = server
        self._read = 0

    async def head(self, limit: int) -> bytes:
        return b"Subject: x\r\n\r\n"[:limit]

    async def pieces(self) -> AsyncIterator[bytes]:
        self._read += 1
        if self._read > 1:
            async for piece in content(self._server):
                yield piece


def test_f44_delivery_takes_the_refusal_for_the_outcome(hasty: Callable[..., Hasty], run: Runner) -> None:
    async def main() -> None:
        server = hasty("never", close_notify=False)
        async with delivery(server.port) as made:
            outcome = one(await deliver(made, message("x@a.example", body=Large(server))))  # type: ignore[arg-type]
        assert (outcome.disposition, outcome.reply.enhanced) == (Disposition.FAILED, "5.3.4")

    run(main())


def test_implicit_tls_with_what_speaks_before_it_fails_clearly(run: Runner) -> None:
    async def main() -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hi\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        async with server:
            with pytest.raises(Insecure, match=r"wrong version number|record layer failure"):
                await Client("127.0.0.1", server.sockets[0].getsockname()[1], tls="implicit").connect()

    run(main())
