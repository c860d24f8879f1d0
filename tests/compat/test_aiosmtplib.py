"""`ironpost.compat.aiosmtplib`: the results and exceptions of aiosmtplib, in fewer round trips."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiosmtplib as stock
import pytest
from tests.authority import issue
from tests.compat.test_smtplib import ENCODED, EXTENSIONS, FIRST, KINDS, Peer, failing, peer, tls_server

from ironpost.compat import aiosmtplib, content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MESSAGE = b"Subject: hello\n\n.dot\r\nlast"
SENT = b"Subject: hello\r\n\r\n.dot\r\nlast\r\n"
STUFFED = b"Subject: hello\r\n\r\n..dot\r\nlast\r\n"
"""What DATA sends for it."""
RECIPIENTS = ["jo@mx.example", "al@mx.example"]
REFUSALS: list[dict[str, str]] = [
    {},
    {"MAIL": "550 no sender"},
    {"RCPT TO:<JO": "550 not jo"},
    {"RCPT": "550 nobody"},
    {"DATA": "554 no content"},
    {"CONTENT": "552 too much"},
]


def send(library: Any, extensions: tuple[str, ...], replies: dict[str, str], message: Any) -> tuple[Any, Peer]:
    """Send a message to a scripted server; return the result or exception, and the server."""
    peer = Peer(extensions, {key: value for key, value in replies.items() if value})

    async def run() -> Any:
        client = library.SMTP(hostname="127.0.0.1", port=peer.port, start_tls=False, local_hostname="client.example")
        async with client:
            try:
                return await client.sendmail("ada@mail.example", RECIPIENTS, message)
            except library.SMTPException as error:
                recipients = [each.args for each in getattr(error, "recipients", ())]
                return type(error).__name__, recipients or error.args

    with closing(peer.listener):
        result = asyncio.run(run())
        peer.thread.join(20)
    return result, peer


@pytest.mark.parametrize("replies", REFUSALS, ids=str)
def test_results_are_those_of_aiosmtplib(replies: dict[str, str]) -> None:
    replies = {("content" if key == "CONTENT" else key): value for key, value in replies.items()}
    theirs, stock_peer = send(stock, EXTENSIONS, replies, MESSAGE)
    ours, peer = send(aiosmtplib, EXTENSIONS, replies, MESSAGE)
    assert ours == theirs
    assert [each for each in peer.content if each] == stock_peer.content
    assert max(peer.groups) == 4


@pytest.mark.parametrize("command", ["MAIL", "RCPT TO:<JO", "RCPT TO:<AL"])
def test_421_ends_a_message_as_in_aiosmtplib(command: str) -> None:
    theirs, _ = send(stock, EXTENSIONS, {command: "421 closing"}, MESSAGE)
    ours, peer = send(aiosmtplib, EXTENSIONS, {command: "421 closing"}, MESSAGE)
    assert ours[0] == theirs[0]
    assert peer.content == []


def test_r5_no_content_is_sent_before_its_envelope_is_accepted() -> None:
    _, peer = send(
        aiosmtplib, (*EXTENSIONS, "CHUNKING"), {"RCPT": "550 nobody"}, b"RSET\r\nMAIL FROM:<evil@x.example>\r\n"
    )
    assert [line[:4].upper() for line in peer.lines[:5]] == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA"]
    assert not any("evil" in line for line in peer.lines)


def test_the_size_of_the_content_is_declared() -> None:
    _, peer = send(aiosmtplib, EXTENSIONS, {}, MESSAGE)
    assert f"size={len(SENT)}" in next(line for line in peer.lines if line.startswith("MAIL"))


@pytest.mark.parametrize("extensions", [(), EXTENSIONS])
@pytest.mark.parametrize("kind", KINDS)
def test_r3_content_of_every_kind_is_sent_with_crlf(kind: str, extensions: tuple[str, ...]) -> None:
    result, server = send(aiosmtplib, extensions, {}, KINDS[kind]())
    assert result[0] == {}
    assert server.content == [ENCODED]


def test_one_call_sends_a_file() -> None:
    with peer(*EXTENSIONS) as server:
        settings = {"hostname": "127.0.0.1", "port": server.port}
        message = {"sender": "ada@mail.example", "recipients": RECIPIENTS}
        asyncio.run(aiosmtplib.send(KINDS["file"](), **message, **settings))
    assert server.content == [ENCODED]


def test_content_is_read_outside_the_event_loop_and_once_the_transport_has_room() -> None:
    readers: set[int] = set()

    def many() -> Iterator[bytes]:
        for _ in range(64):
            readers.add(threading.get_ident())
            yield b"x" * 65_534 + b"\r\n"

    result, server = send(aiosmtplib, EXTENSIONS, {}, many())
    assert result[0] == {}
    assert server.content == [(b"x" * 65_534 + b"\r\n") * 64]
    assert threading.get_ident() not in readers


def test_content_that_cannot_be_read_ends_the_connection() -> None:
    async def run() -> None:
        client, transport = await pipelining()
        task = asyncio.create_task(client.sendmail("ada@mail.example", "jo@mx.example", failing(), timeout=60))
        await asyncio.sleep(0)
        client.protocol.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
        with pytest.raises(RuntimeError, match="the disk is gone"):
            await task
        assert transport.closed
        assert transport.written[1:] == [FIRST]

    asyncio.run(run())


@pytest.mark.parametrize("implicit", [False, True])
def test_r13_tls_is_verified_unless_the_program_says_otherwise(implicit: bool, tmp_path: Path) -> None:
    root = issue(authority=True, common_name="root")
    issue("127.0.0.1", by=root).write(tmp_path / "chain.pem", tmp_path / "key.pem", alone=True)
    (tmp_path / "root.pem").write_bytes(root.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")

    async def connect(port: int, settings: dict[str, Any]) -> int:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, use_tls=implicit, start_tls=not implicit, **settings)
        async with client:
            protocol = client.protocol
            code = (await client.noop()).code
        while protocol.transport is not None:  # TLS ends after `close`
            await asyncio.sleep(0)
        return code

    refused = pytest.raises((ssl.SSLCertVerificationError, aiosmtplib.SMTPConnectError), match="CERTIFICATE_VERIFY")
    with tls_server(context, implicit=implicit) as port, refused:
        asyncio.run(connect(port, {}))
    for settings in ({"validate_certs": False}, {"cert_bundle": str(tmp_path / "root.pem")}):
        with tls_server(context, implicit=implicit) as port:
            assert asyncio.run(connect(port, settings)) == 250


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.sendmail("ada@mail.example\r\nRSET", RECIPIENTS, b"x\r\n"),
        lambda client: client.sendmail("ada@mail.example", ["jo@mx.example\nRSET"], b"x\r\n"),
        lambda client: client.sendmail("ada@mail.example", ["<jo@mx.example>\r\nRSET"], b"x\r\n"),
        lambda client: client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n", mail_options=["SIZE=1\r\nRSET"]),
        lambda client: client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n", rcpt_options=["NOTIFY=NEVER\nRSET"]),
        lambda client: client.mail("ada@mail.example", options=["SIZE=1\rRSET"]),
        lambda client: client.rcpt("jo@mx.example\r\nRSET"),
        lambda client: client.ehlo(hostname="client\r\nRSET"),
        lambda client: client.helo(hostname="client\nRSET"),
        lambda client: client.vrfy("jo\rRSET"),
        lambda client: client.expn("staff\r\nRSET"),
        lambda client: client.execute_command(b"NOOP", b"x\nRSET"),
    ],
)
@pytest.mark.parametrize("extensions", [(), EXTENSIONS])
def test_r17_no_argument_starts_another_line(call: Callable[[Any], Any], extensions: tuple[str, ...]) -> None:
    async def run(port: int) -> None:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="client.example")
        async with client:
            with pytest.raises(ValueError):
                await call(client)
            await client.noop()

    with peer(*extensions) as server:
        asyncio.run(run(server.port))
    assert not [line for line in server.lines if line.startswith("RSET")]
    assert "NOOP" in server.lines


def test_large_content_arrives_whole() -> None:
    message = b"." + b"x" * 70 + b"\r\n"
    result, peer = send(aiosmtplib, EXTENSIONS, {}, message * 20_000)
    assert result[0] == {}
    assert peer.content == [(b"." + message) * 20_000]


@pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA"])
def test_a_malformed_reply_ends_the_connection(command: str) -> None:
    result, peer = send(aiosmtplib, EXTENSIONS, {command: "what?"}, MESSAGE)
    assert result == ("SMTPResponseException", (-1, "Malformed SMTP response line: what?\r\n"))
    assert not any(line.startswith(("RSET", "QUIT")) for line in peer.lines)


def test_a_malformed_line_of_a_reply_ends_the_connection_before_its_last_line() -> None:
    result, _ = send(aiosmtplib, EXTENSIONS, {"content": "250-fine\r\nwha-t?"}, MESSAGE)
    assert result == ("SMTPResponseException", (-1, "Malformed SMTP response line: wha-t?\r\n"))


def test_r18_each_octet_of_a_reply_is_searched_once() -> None:
    """A server may send a long reply in small pieces, to occupy the event loop."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "c_call"

    async def run() -> aiosmtplib.SMTPResponse:
        protocol = aiosmtplib.protocol.SMTPProtocol()
        protocol.connection_made(Silent())
        sys.setprofile(count)
        try:
            for octet in reply:
                protocol.data_received(bytes([octet]))
        finally:
            sys.setprofile(None)
        return await protocol.read_response()

    reply = b"220-\r\n" * 500 + b"220 mx.example\r\n"
    assert asyncio.run(run()) == (220, "\n" * 500 + "mx.example")
    assert calls < 20 * len(reply)


def test_an_overridden_command_is_called() -> None:
    called: list[str] = []

    class Client(aiosmtplib.SMTP):
        async def rcpt(self, recipient: str, /, **options: Any) -> aiosmtplib.SMTPResponse:
            called.append(recipient)
            return await super().rcpt(recipient, **options)

    class Library:
        SMTP = Client
        SMTPException = aiosmtplib.SMTPException

    result, peer = send(Library, EXTENSIONS, {}, MESSAGE)
    assert result[0] == {}
    assert called == RECIPIENTS
    assert peer.content == [STUFFED]


@pytest.mark.parametrize("extensions", [(), ("SIZE",), EXTENSIONS])
def test_content_is_encoded_once(extensions: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[bytes] = []

    class Watched(content.Content):
        def __init__(self, octets: bytes) -> None:
            encoded.append(octets)
            super().__init__(octets)

    monkeypatch.setattr(content, "Content", Watched)
    result, peer = send(aiosmtplib, extensions, {}, b".dot\r\n")
    assert result[0] == {}
    assert peer.content == [b"..dot\r\n"]
    assert encoded == [b".dot\r\n"]


def test_aiosmtplib_is_not_imported() -> None:
    program = (
        "import sys; from ironpost.compat import aliases; import ironpost.compat.aiosmtplib;"
        "assert 'aiosmtplib' not in sys.modules; aliases.install('aiosmtplib'); import aiosmtplib.errors as errors;"
        "assert errors.SMTPException is ironpost.compat.aiosmtplib.SMTPException; aliases.remove('aiosmtplib');"
        "assert not [each for each in sys.modules if each.startswith('aiosmtplib')]"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_cancelled_content_ends_the_connection() -> None:
    async def run() -> bool:
        reached, ended, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mx.example\r\n")
            while line := await reader.readline():
                writer.write(
                    {b"EHLO": b"250-mx\r\n250 PIPELINING\r\n", b"DATA": b"354 go\r\n"}.get(line[:4], b"250 ok\r\n")
                )
                if line.startswith(b"DATA"):
                    await reader.readexactly(1)
                    reached.set()
                    await ended.wait()
                    break
            writer.transport.abort()
            await asyncio.sleep(0)
            closed.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False, local_hostname="client.example")
        await client.connect()
        sending = asyncio.create_task(client.sendmail("ada@mail.example", RECIPIENTS, b"x\r\n" * 3_000_000))
        await reached.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        ended.set()
        await closed.wait()
        server.close()
        await server.wait_closed()
        return client.is_connected

    assert not asyncio.run(run())


class Silent(asyncio.Transport):
    """A transport to a server whose replies the test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


async def pipelining() -> tuple[aiosmtplib.SMTP, Silent]:
    """A client whose server has offered PIPELINING."""
    client, transport = aiosmtplib.SMTP(), Silent()
    client.protocol = aiosmtplib.protocol.SMTPProtocol()
    client.protocol.connection_made(transport)
    client.protocol.data_received(b"220 mx.example\r\n")
    await client.protocol.read_response()
    client.transport = transport
    client.last_ehlo_response = aiosmtplib.SMTPResponse(250, "mx.example\nPIPELINING")
    return client, transport


def sending(client: aiosmtplib.SMTP, seconds: float) -> asyncio.Task[Any]:
    """A message that is being sent."""
    return asyncio.create_task(client.sendmail("ada@mail.example", "jo@mx.example", b"x\r\n", timeout=seconds))


def test_content_follows_its_354_at_once_and_later_octets_are_not_its_reply() -> None:
    async def run() -> None:
        client, transport = await pipelining()
        task = sending(client, 60)
        await asyncio.sleep(0)
        client.protocol.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n250 unsolicited\r\n")
        assert transport.written[1:] == [b"x\r\n.\r\n"]
        client.protocol.data_received(b"250 2.0.0 ")
        client.protocol.data_received(b"taken\r\n")
        assert await task == ({}, "2.0.0 taken")

    asyncio.run(run())


@pytest.mark.parametrize("before", [60.0, 0.001], ids=["longer", "shorter"])
def test_overdue_replies_end_the_connection_whatever_the_limit_before(before: float) -> None:
    async def run() -> None:
        client, transport = await pipelining()
        task = sending(client, before)
        await asyncio.sleep(0)
        client.protocol.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n")
        client.protocol.data_received(b"250 ok\r\n")
        await task
        with pytest.raises(aiosmtplib.SMTPReadTimeoutError):
            await sending(client, 0.01)
        assert transport.closed

    asyncio.run(run())


def test_no_content_follows_replies_after_which_too_much_comes() -> None:
    async def run() -> None:
        client, transport = await pipelining()
        task = sending(client, 60)
        await asyncio.sleep(0)
        client.protocol.data_received(b"250 ok\r\n250 ok\r\n354 go\r\n" + b"x" * 40_000)
        with pytest.raises(aiosmtplib.SMTPResponseException, match="too long"):
            await task
        assert len(transport.written) == 1

    asyncio.run(run())


def test_a_message_that_is_cancelled_before_its_replies_ends_the_connection() -> None:
    async def run() -> None:
        client, transport = await pipelining()
        task = sending(client, 60)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.closed

    asyncio.run(run())


def test_send_connects_to_localhost_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts: list[str | None] = []

    async def connect(client: aiosmtplib.SMTP) -> None:
        hosts.append(client.hostname)
        raise aiosmtplib.SMTPConnectError("not here")

    monkeypatch.setattr(aiosmtplib.SMTP, "connect", connect)
    with pytest.raises(aiosmtplib.SMTPConnectError):
        asyncio.run(aiosmtplib.send(MESSAGE, sender="ada@mail.example", recipients=RECIPIENTS))
    assert hosts == ["localhost"]
