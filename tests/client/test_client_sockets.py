"""The asyncio client on real sockets: against aiosmtpd, and against peers that a script drives."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

from ironpost import wire
from ironpost.client import (
    Client,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    PeerFault,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceRefused,
    TimedOut,
    Unsupported,
)
from ironpost.client.connection import Connection
from ironpost.model import Address
from ironpost.model.network import address_literal
from ironpost.protocol.client.session import TIMEOUTS, ClientStep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LONG = 30.0
"""A bound that is reached only when something hangs."""


class Mailbox:
    """An aiosmtpd handler that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:  # noqa: N802 - aiosmtpd's name
        if address.startswith("bad"):
            return "550 5.1.1 No such recipient"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server, session, envelope) -> str:  # noqa: N802 - aiosmtpd's name
        self.messages.append(envelope)
        return "250 2.0.0 Taken"


@asynccontextmanager
async def aiosmtpd(**options: Any) -> AsyncIterator[tuple[int, Mailbox]]:
    mailbox = Mailbox()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(mailbox, loop=loop, hostname="peer.example", **options), "127.0.0.1", 0
    )
    async with server:
        yield server.sockets[0].getsockname()[1], mailbox


@asynccontextmanager
async def peer(script: Script) -> AsyncIterator[int]:
    """A server whose every connection runs `script`; what the script raises fails the test."""
    failures: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        except BaseException as error:  # noqa: BLE001
            failures.append(error)
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await server.wait_closed()
    assert not failures, failures


def lines(*steps: bytes, close: bool = True) -> Script:
    """Says each step as an answer to one line; the first is the greeting. None of it looks at what the line was."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, step in enumerate(steps):
            if number:
                await reader.readline()
            writer.write(step)
        if not close:
            await reader.read()

    return script


HELLO = (b"220 hi\r\n", b"250 hi\r\n")


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(LONG):
            await main()

    asyncio.run(bounded())


# -- what works -------------------------------------------------------------------------------------------------------


def test_sends_and_says_who_was_accepted_and_who_refused() -> None:
    async def main() -> None:
        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port, local_hostname="client.example") as client:
            result = await client.send(
                "a@a.example", ["b@b.example", "bad@b.example", "C@c.example"], b"Subject: x\n\n.dot\nno end"
            )
            assert result.accepted == (Address.parse("b@b.example"), Address.parse("C@c.example"))
            assert result.refused[Address.parse("bad@b.example")].code == 550
            assert result.reply.code == 250
            await client.send("", "b@b.example", b"")
        first, second = mailbox.messages
        assert first.rcpt_tos == ["b@b.example", "C@c.example"]
        assert first.content == b"Subject: x\r\n\r\n.dot\r\nno end\r\n"
        assert second.mail_from == "<>"  # how aiosmtpd calls the null reverse-path
        assert second.content == b""

    run(main)


def test_f27_addresses_that_exist_can_be_written_to() -> None:
    said: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        async for line in reader:
            said.append(line)
            writer.write(b"354 go\r\n" if line == b"DATA\r\n" else b"250 ok\r\n" if line[:1].isupper() else b"")
            if line == b".\r\n":
                writer.write(b"250 taken\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port, local_hostname="client.example") as client:
            result = await client.send(".a@b_c.example", ["a@b_c.example", "x..y@d.example"], b"")
            assert result.accepted == (Address("a", "b_c.example"), Address("x..y", "d.example"))
        assert said[1:4] == [
            b'MAIL FROM:<".a"@b_c.example>\r\n', b"RCPT TO:<a@b_c.example>\r\n", b'RCPT TO:<"x..y"@d.example>\r\n',
        ]  # fmt: skip
        for line in said[1:4]:
            assert wire.parse_command(line, lenient=True).tolerated in {(), ("underscore",)}

    run(main)


def test_content_in_every_form() -> None:
    text = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 100_000

    class AtRest:
        size = len(text)

        async def pieces(self):
            yield text[:7]
            yield text[7:]

        async def head(self, limit: int) -> bytes:
            return text[:limit]

    async def stream():
        for start in range(0, len(text), 99_991):
            yield text[start : start + 99_991]

    async def main() -> None:
        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port) as client:
            for content in (text, bytearray(text), memoryview(text), AtRest(), stream()):
                await client.send("a@a.example", "b@b.example", content)
        assert [message.content for message in mailbox.messages] == [text] * 5

    run(main)


def test_addresses_beyond_ascii() -> None:
    async def main() -> None:
        async with aiosmtpd(enable_SMTPUTF8=True) as (port, mailbox), Client("127.0.0.1", port) as client:
            await client.send("é@a.example", "ü@b.example", "Subject: é\r\n\r\n".encode())
        assert mailbox.messages[0].mail_from == "é@a.example"
        assert mailbox.messages[0].smtp_utf8

        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port) as client:
            with pytest.raises(Unsupported) as caught:
                await client.send("é@a.example", "b@b.example", b"x")
            assert caught.value.reply.enhanced == "5.6.7"
            await client.send("a@a.example", "b@b.example", b"x")  # the connection is as good as before
        assert len(mailbox.messages) == 1

    run(main)


def test_concurrent_sends_take_turns_on_one_connection() -> None:
    async def main() -> None:
        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port) as client:
            await asyncio.gather(*(client.send("a@a.example", f"u{n}@b.example", b"x") for n in range(10)))
        assert len(mailbox.messages) == 10

    run(main)


def test_ehlo_says_a_full_name_or_an_address_literal() -> None:
    said: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        said.append(await reader.readline())
        writer.write(b"250 hi\r\n")
        await reader.readline()
        writer.write(b"221 bye\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port):
            pass

    run(main)
    domain = wire.parse_command(said[0]).domain
    assert domain is not None
    assert "." in domain
    assert address_literal("192.0.2.1") == "[192.0.2.1]"
    assert address_literal("fe80::1%eth0") == "[IPv6:fe80::1]"


# -- what goes wrong, by type -----------------------------------------------------------------------------------------


def test_nobody_there() -> None:
    async def main() -> None:
        async with peer(lines()) as port:
            pass
        with pytest.raises(ConnectFailed) as caught:
            await Client("127.0.0.1", port).connect()
        assert caught.value.reply.transient
        assert isinstance(caught.value, ConnectionError)

    run(main)


@pytest.mark.parametrize("greeting", [b"554 no\r\n", b"421 busy\r\n"])
def test_service_refused(greeting: bytes) -> None:
    async def main() -> None:
        async with peer(lines(greeting, close=False)) as port:
            with pytest.raises(ServiceRefused) as caught:
                await Client("127.0.0.1", port).connect()
            assert caught.value.reply.code == int(greeting[:3])

    run(main)


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ((b"550 5.7.1 no\r\n",), SenderRefused),
        ((b"250 ok\r\n", b"550 5.1.1 no\r\n"), RecipientsRefused),
        ((b"250 ok\r\n", b"250 ok\r\n", b"451 later\r\n"), ContentRefused),
        ((b"250 ok\r\n", b"250 ok\r\n", b"250 what\r\n"), PeerFault),
        ((b"250 ok\r\n", b"421 bye\r\n"), ServiceRefused),
        ((b"250 ok\r\n",), ConnectionLost),
        ((b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"), ConnectionLost),
        ((b"250 ok\r\n250 injected\r\n",), PeerFault),
        ((b"250-ok\r\n550 mixed\r\n",), PeerFault),
        ((b"garbage\r\n",), PeerFault),
    ],
)
def test_refusals_and_faults_raise_different_errors(steps: tuple[bytes, ...], error: type[Exception]) -> None:
    close = error is ConnectionLost

    async def main() -> None:
        async with peer(lines(*HELLO, *steps, close=close)) as port:
            client = Client("127.0.0.1", port, timeouts={**TIMEOUTS, ClientStep.QUIT: 0.05})
            await client.connect()
            with pytest.raises(error):
                await client.send("a@a.example", "b@b.example", b"x")
            if error in (PeerFault, ConnectionLost):
                with pytest.raises(error):  # R19: never used again
                    await client.send("a@a.example", "b@b.example", b"x")
            await client.close()

    run(main)


def test_r18_an_endless_reply_is_cut_off() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        while not writer.is_closing():
            writer.write(b"250-endless\r\n" * 100)
            await writer.drain()

    async def main() -> None:
        async with peer(script) as port:
            with pytest.raises(PeerFault, match="more lines"):
                await Client("127.0.0.1", port).connect()

    run(main)


def test_r19_a_reply_that_trickles_in_does_not_hold_the_time_out_off() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250-")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)

    async def main() -> None:
        async with peer(script) as port:
            with pytest.raises(TimedOut):
                await Client("127.0.0.1", port, timeouts={**TIMEOUTS, ClientStep.EHLO: 0.05}).connect()

    run(main)


@pytest.mark.parametrize(
    "step", [ClientStep.GREETING, ClientStep.EHLO, ClientStep.MAIL, ClientStep.DATA, ClientStep.END]
)
def test_r19_silence_is_a_time_out_at_every_step(step: ClientStep) -> None:
    answers = [b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"]
    said = answers[
        : [
            ClientStep.GREETING,
            ClientStep.EHLO,
            ClientStep.MAIL,
            ClientStep.RCPT,
            ClientStep.DATA,
            ClientStep.END,
        ].index(step)
    ]

    async def main() -> None:
        script = lines(*said, close=False) if said else lines(b"", close=False)
        async with peer(script) as port:
            client = Client("127.0.0.1", port, timeouts={**TIMEOUTS, step: 0.03})

            async def connect_and_send() -> None:
                await client.connect()
                await client.send("a@a.example", "b@b.example", b"x")

            with pytest.raises(TimedOut) as caught:
                await connect_and_send()
            assert caught.value.reply.enhanced == "4.4.2"
            await client.close()

    run(main)


def test_a_peer_that_does_not_read_is_a_time_out_and_holds_no_memory() -> None:
    read = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await lines(*HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")(reader, writer)
        await asyncio.Event().wait()

    async def endless():
        nonlocal read
        while True:
            read += 1
            yield b"x" * 65_534 + b"\r\n"

    async def main() -> None:
        async with peer(script) as port:
            client = Client("127.0.0.1", port, timeouts={**TIMEOUTS, ClientStep.CONTENT: 0.1})
            await client.connect()
            with pytest.raises(TimedOut):
                await client.send("a@a.example", "b@b.example", endless())
            await client.close()

    run(main)
    assert read < 500  # what fits into the sockets' buffers, and no more


def test_content_that_is_slow_to_come_is_not_the_peers_time_out() -> None:
    async def main() -> None:
        async with aiosmtpd() as (port, mailbox):
            timeouts = {**TIMEOUTS, ClientStep.CONTENT: 0.0}
            due = asyncio.Event()

            async def slow():
                yield b"one\r\n"
                asyncio.get_running_loop().call_later(0.02, due.set)
                await due.wait()
                yield b"two\r\n"

            async with Client("127.0.0.1", port, timeouts=timeouts) as client:
                await client.send("a@a.example", "b@b.example", slow())
            assert mailbox.messages[0].content == b"one\r\ntwo\r\n"

    run(main)


def test_closing_ends_a_send_that_runs() -> None:
    async def main() -> None:
        async with peer(lines(*HELLO, b"", close=False)) as port:
            client = Client("127.0.0.1", port)
            await client.connect()
            sending = asyncio.create_task(client.send("a@a.example", "b@b.example", b"x"))
            await asyncio.sleep(0)  # it runs up to its first wait
            await client.close()
            with pytest.raises(ConnectionLost):
                await sending

    run(main)


def test_an_early_refusal_stops_the_content() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await lines(*HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")(reader, writer)
        await reader.read(1000)
        writer.write(b"552 5.3.4 too much\r\n")
        while await reader.read(65536):
            pass

    async def endless():
        while True:
            yield b"x" * 65_534 + b"\r\n"

    async def main() -> None:
        async with peer(script) as port:
            client = Client("127.0.0.1", port)
            await client.connect()
            with pytest.raises(ContentRefused) as caught:
                await client.send("a@a.example", "b@b.example", endless())
            assert caught.value.reply.code == 552
            await client.close()

    run(main)


@pytest.mark.parametrize("cancel", [False, True])
def test_content_that_fails_or_a_cancelled_send_never_ends_the_message(cancel: bool) -> None:
    got = b""
    started = asyncio.Event()
    over = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await lines(*HELLO, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")(reader, writer)
        with suppress(ConnectionError):
            got = await reader.read()
        over.set()

    async def broken():
        yield b"half of it\r\n"
        started.set()
        if cancel:
            await asyncio.Event().wait()
        raise ValueError("my own bug")

    async def main() -> None:
        async with peer(script) as port:
            client = Client("127.0.0.1", port)
            await client.connect()
            sending = asyncio.create_task(client.send("a@a.example", "b@b.example", broken()))
            await started.wait()
            if cancel:
                sending.cancel()
            with pytest.raises(asyncio.CancelledError if cancel else ValueError):
                await sending
            await over.wait()
            with pytest.raises(ConnectionLost):
                await client.send("a@a.example", "b@b.example", b"x")
            await client.close()

    run(main)
    assert b"\r\n.\r\n" not in got


def test_r17_nothing_with_a_newline_can_be_sent() -> None:
    with pytest.raises(wire.WireFault):
        Client("127.0.0.1", 1, local_hostname="a.example\r\nMAIL FROM:<>")

    async def main() -> None:
        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port) as client:
            for bad in (
                "b@b.example>\r\nRCPT TO:<c@c.example",
                "b\r\n@b.example",
                "b@b.example\n",
                "a b@c.example",
                "b",
            ):
                with pytest.raises(wire.WireFault):
                    await client.send("a@a.example", bad, b"x")
                with pytest.raises(wire.WireFault):
                    await client.send(bad, "a@a.example", b"x")
        assert mailbox.messages == []

    run(main)


def test_misuse_says_what_to_do() -> None:
    async def main() -> None:
        client = Client("127.0.0.1", 1)
        with pytest.raises(RuntimeError, match="not connected"):
            await client.send("a@a.example", "b@b.example", b"x")
        await client.close()
        async with aiosmtpd() as (port, _), Client("127.0.0.1", port) as client:
            with pytest.raises(ValueError, match="recipient"):
                await client.send("a@a.example", [], b"x")
            with pytest.raises(RuntimeError, match="already connected"):
                await client.connect()

    run(main)


def test_under_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        async with aiosmtpd() as (port, mailbox), Client("127.0.0.1", port) as client:
            await client.send("a@a.example", "b@b.example", b"y\r\n" * 500_000)
        assert len(mailbox.messages[0].content) == 1_500_000

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


# -- faults of the dialogue (f40) -------------------------------------------------------------------------------------


def test_f40_a_server_that_rejects_bdat_gets_data_on_a_new_connection() -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        while line := await reader.readline():
            seen.append(line)
            replies = {b"EHLO": b"250-hi\r\n250 CHUNKING\r\n", b"BDAT": b"502 5.5.1 what\r\n", b"DATA": b"354 go\r\n"}
            writer.write(replies.get(line[:4], b"250 ok\r\n"))
            if line.startswith(b"DATA"):
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 taken\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            for _ in range(2):
                result = await client.send("a@a.example", "b@b.example", b"hi\r\n")
                assert result.reply.code == 250
        assert [line[:4] for line in seen].count(b"BDAT") == 1

    run(main)


def test_f40_a_refused_rset_makes_the_client_reconnect() -> None:
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(b"220 hi\r\n")
        while line := await reader.readline():
            replies = {b"RSET": b"502 what\r\n", b"RCPT TO:<no@b.example>\r\n": b"550 who\r\n", b"DATA": b"354 go\r\n"}
            writer.write(replies.get(line, replies.get(line[:4], b"250 ok\r\n")))
            if line.startswith(b"DATA"):
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 2.0.0 taken\r\n")

    async def pieces() -> AsyncIterator[bytes]:
        yield b"hi\r\n"

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            with pytest.raises(RecipientsRefused):
                await client.send("a@a.example", "no@b.example", b"hi\r\n")
            assert (await client.send("a@a.example", "b@b.example", pieces())).reply.code == 250
        assert connections == 2

    run(main)


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ((b"503 5.5.1 no\r\n",), SenderRefused),
        ((b"250 ok\r\n", b"503 5.5.1 no\r\n"), RecipientsRefused),
        ((b"250 ok\r\n", b"250 ok\r\n", b"503 5.5.1 no\r\n"), ContentRefused),
        ((b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n", b"503 5.5.1 no\r\n"), ContentRefused),
    ],
)
def test_f40_an_error_of_the_dialogue_says_that_another_attempt_makes_sense(
    steps: tuple[bytes, ...], error: type[Refused]
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number, step in enumerate((*HELLO, *steps)):
            if number:
                await reader.readline()
            writer.write(step)
        await reader.read()

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            with pytest.raises(error) as caught:
                await client.send("a@a.example", "b@b.example", b"")
            assert caught.value.reply.transient
            assert "503 5.5.1 no" in str(caught.value)

    run(main)


# -- servers that want no parameters (f43), that hang up (f44), that want fewer recipients (f83) ----------------------


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_f43_aiosmtpd_takes_mail_after_a_login(mechanism: str) -> None:
    """aiosmtpd 1.4.6 offers AUTH, and answers 555 to AUTH= in MAIL."""

    def anyone(*_: object) -> AuthResult:
        return AuthResult(success=True)

    async def main() -> None:
        options = {"auth_require_tls": False, "authenticator": anyone}
        async with aiosmtpd(**options) as (port, mailbox):
            client = Client(
                "127.0.0.1", port, credentials=("ada", "secret"), login_without_tls=True, mechanisms=(mechanism,)
            )
            async with client:
                result = await client.send("a@a.example", "b@b.example", b"Subject: x\r\n\r\nhi\r\n")
            assert result.reply.code == 250
            assert len(mailbox.messages) == 1

    run(main)


@pytest.mark.parametrize("parameter", ["SIZE", "BODY"])
def test_f43_a_server_without_extensions_gets_no_parameters(parameter: str) -> None:
    seen: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        while line := await reader.readline():
            seen.append(line)
            writer.write(b"250-hi\r\n250 AUTH PLAIN\r\n" if line.startswith(b"EHLO") else b"250 ok\r\n")

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            with suppress(Exception):
                await client.send("a@a.example", "b@b.example", b"hi\r\n")
        assert not any(parameter.encode() in line for line in seen)
        assert b"MAIL FROM:<a@a.example>\r\n" in seen

    run(main)


def test_f44_what_the_server_said_before_it_hung_up_is_heard() -> None:
    """The server refuses in the middle of the content, and the next write fails: the reply stays in the socket."""
    refused = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"):
            writer.write(reply)
            await (reader.read(1) if reply.startswith(b"354") else reader.readline())
        # Content is left unread, so that the close becomes a reset.
        writer.write(b"552 5.3.4 too large\r\n")
        writer.close()
        refused.set()

    async def main() -> None:
        async with peer(script) as port:
            client = Client("127.0.0.1", port)
            await client.connect()
            connection = client._connection
            assert connection is not None

            async def pieces() -> AsyncIterator[bytes]:
                while True:
                    if refused.is_set():  # asyncio shall notice the reset before the reply
                        connection._transport.pause_reading()
                    yield b"x" * 70_000

            with pytest.raises(ContentRefused) as caught:
                await client.send("a@a.example", "b@b.example", pieces())
            assert caught.value.reply.enhanced == "5.3.4"
            await client.close()

    run(main)


def test_f83_one_recipient_too_many_is_transient() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = (b"220 hi\r\n", b"250 hi\r\n", b"250 ok\r\n", b"250 ok\r\n", b"552 too many\r\n", b"354 go\r\n")
        for reply in replies:
            writer.write(reply)
            await reader.readline()
        await reader.readuntil(b".\r\n")
        writer.write(b"250 taken\r\n")
        await reader.read()

    async def main() -> None:
        async with peer(script) as port, Client("127.0.0.1", port) as client:
            result = await client.send("a@a.example", ["b@b.example", "c@b.example"], b"hi\r\n")
        refusal = result.refused[Address.parse("c@b.example")]
        assert (refusal.code, refusal.transient) == (452, True)

    run(main)


def test_the_connections_of_a_thread_read_into_one_buffer() -> None:
    async def buffer() -> memoryview:
        return Connection("client.example", "mx.example").get_buffer(-1)

    here = asyncio.run(buffer())
    assert asyncio.run(buffer()) is here
    with ThreadPoolExecutor() as threads:
        assert threads.submit(lambda: asyncio.run(buffer())).result() is not here
