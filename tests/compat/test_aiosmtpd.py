"""`ironpost.compat.aiosmtpd`: what aiosmtpd's own tests do not show, and where it differs."""

from __future__ import annotations

import asyncio
import re
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import threading
import tracemalloc
from base64 import b64encode
from contextlib import asynccontextmanager
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue

from ironpost.compat import aliases
from ironpost.compat.aiosmtpd import __version__
from ironpost.compat.aiosmtpd.connection import Content
from ironpost.compat.aiosmtpd.controller import Controller
from ironpost.compat.aiosmtpd.input import CONTENT_LINE_TOO_LONG, CONTENT_TOO_LARGE, store_content
from ironpost.compat.aiosmtpd.lmtp import LMTP
from ironpost.compat.aiosmtpd.smtp import SMTP, AuthResult, syntax

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START = b"HELO client.example\r\nMAIL FROM:<ada@mail.example>\r\nRCPT TO:<jo@mx.example>\r\n"


START_CONTENT = b"354 End data with <CR><LF>.<CR><LF>"


class Keep:
    """A handler that keeps envelopes."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.envelopes.append(envelope)
        return "250 Kept"


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        return await asyncio.wait_for(self.reader.readline(), 20)

    async def ask(self, octets: bytes) -> bytes:
        """Send octets; return the next line."""
        self.writer.write(octets)
        return await self.line()

    async def rest(self, octets: bytes) -> list[bytes]:
        """Send the last octets; return all lines up to the end."""
        self.writer.write(octets)
        self.writer.write_eof()
        return (await asyncio.wait_for(self.reader.read(), 20)).splitlines()


@asynccontextmanager
async def client(factory: Callable[[], Any], **options: Any) -> AsyncIterator[Client]:
    """Serve, and connect; the greeting is read."""
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, ssl=options.pop("served", None))
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **options)
    found = Client(reader, writer)
    assert (await found.line()).startswith(b"220 ")
    yield found
    writer.transport.abort()
    server.close()


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The TLS of a server and of a client that trusts it."""
    certificate = issue("mx.example")
    certificate.write(folder / "mx.pem", folder / "mx.key")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(folder / "mx.pem", folder / "mx.key")
    return served, ssl.create_default_context(cafile=str(folder / "mx.pem"))


def test_it_does_not_need_aiosmtpd() -> None:
    program = (
        "import sys; sys.modules['aiosmtpd'] = sys.modules['attr'] = sys.modules['public'] = None;"
        "import ironpost.compat.aiosmtpd.main, ironpost.compat.aiosmtpd.lmtp"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "compat.md").read_text()
    (program,) = (each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "controller.start()" in each)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "ada@mail.example ['grace@here.example'] b'Subject: hello\\r\\n\\r\\nworld\\r\\n'\n"


def test_the_command() -> None:
    command = [sys.executable, "-m", "ironpost.compat.aiosmtpd"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"aiosmtpd {__version__}\n"
    done = subprocess.run([*command, "-c", "aiosmtpd.handlers.Sink", "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "aiosmtpd: error: Sink handler does not accept arguments",
    )


def test_the_alias_covers_the_modules() -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "aiosmtpd"}
    aliases.install("aiosmtpd")
    try:
        assert sys.modules["aiosmtpd.smtp"].SMTP is SMTP
        assert sys.modules["aiosmtpd.lmtp"].LMTP is LMTP
    finally:
        aliases.remove("aiosmtpd")
    assert before == {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "aiosmtpd"}


def test_a_command_of_a_subclass_replies_while_it_runs() -> None:
    go_on = asyncio.Event()

    class Server(SMTP):
        @syntax("XWAIT")
        async def smtp_XWAIT(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
            await self.push("250-Working on it")
            async with asyncio.timeout(20):
                await go_on.wait()
            await self.push(f"250 Done with {arg} for {self.session.host_name}")

        async def smtp_NOOP(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
            await super().smtp_NOOP(arg)
            self.session.host_name = "noop"

    async def main() -> None:
        async with client(partial(Server, Keep())) as it:
            assert await it.ask(b"NOOP\r\nXWAIT x\r\n") == b"250 OK\r\n"
            assert await it.line() == b"250-Working on it\r\n"
            go_on.set()
            assert await it.line() == b"250 Done with x for noop\r\n"

    asyncio.run(main())


def test_a_challenge_outside_auth_is_an_error_at_once() -> None:
    class Server(SMTP):
        async def smtp_XASK(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
            await self.challenge_auth("Who?")

    async def main() -> None:
        async with client(partial(Server, Keep())) as it:
            reply = b"500 Error: (RuntimeError) challenge_auth can read a response only while AUTH runs\r\n"
            assert await it.ask(b"XASK\r\n") == reply
            assert await it.ask(b"NOOP\r\n") == b"250 OK\r\n"

    asyncio.run(main())


def test_a_challenge_after_content_is_an_error_if_data_runs_in_a_task() -> None:
    class Handler(Keep):
        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
            return f"250 {await server.challenge_auth('Who?')!r}"

    class Server(SMTP):
        async def push(self, status: str | bytes) -> None:
            await super().push(status)

    async def main() -> None:
        async with client(partial(Server, Handler())) as it:
            for each in (b"HELO x\r\n", b"MAIL FROM:<a@b.example>\r\n", b"RCPT TO:<c@d.example>\r\n", b"DATA\r\n"):
                await it.ask(each)
            assert b"while AUTH runs" in await it.ask(b"x\r\n.\r\n")
            assert await it.ask(b"NOOP\r\n") == b"250 OK\r\n"

    asyncio.run(main())


def test_a_hook_runs_in_a_task() -> None:
    class Handler(Keep):
        async def handle_RCPT(self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]) -> str:  # noqa: N802
            async with asyncio.timeout(20):
                await asyncio.sleep(0)
            envelope.rcpt_tos.append(address)
            return "250 Noted"

        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
            async with asyncio.timeout(20):
                await asyncio.sleep(0)
            return await super().handle_DATA(server, session, envelope)

    handler = Handler()

    async def main() -> list[bytes]:
        async with client(partial(SMTP, handler, hostname="mx.example")) as it:
            return await it.rest(START + b"DATA\r\n..x\r\n.\r\nQUIT\r\n")

    replies = asyncio.run(main())
    assert replies[2:] == [b"250 Noted", START_CONTENT, b"250 Kept", b"221 Bye"]
    assert [each.content for each in handler.envelopes] == [b".x\r\n"]


def test_process_message() -> None:
    class Handler:
        def process_message(self, peer: Any, mail_from: str, rcpt_tos: list[str], content: bytes) -> str:
            return f"250 {mail_from} {rcpt_tos} {len(content)}"

    async def main() -> bytes:
        async with client(partial(SMTP, Handler())) as it:
            with pytest.warns(DeprecationWarning, match="process_message"):
                return (await it.rest(START + b"DATA\r\nx\r\n.\r\n"))[-1]

    assert asyncio.run(main()) == b"250 ada@mail.example ['jo@mx.example'] 3"


def test_lmtp_replies_for_each_recipient() -> None:
    async def main() -> list[bytes]:
        async with client(partial(LMTP, Keep(), hostname="mx.example")) as it:
            start = START.replace(b"HELO", b"LHLO") + b"RCPT TO:<max@mx.example>\r\n"
            return await it.rest(start + b"DATA\r\nx\r\n.\r\nQUIT\r\n")

    assert asyncio.run(main())[-3:] == [b"250 Kept", b"250 Kept", b"221 Bye"]


def test_auth_under_implicit_tls(tmp_path: Path) -> None:
    def check(server: SMTP, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=session.ssl is not None and data.password == b"secret", auth_data=data)

    served, trusted = contexts(tmp_path)

    async def main() -> list[bytes]:
        factory = partial(SMTP, Keep(), authenticator=check, hostname="mx.example")
        async with client(factory, served=served, ssl=trusted, server_hostname="mx.example") as it:
            it.writer.write(b"EHLO client.example\r\nAUTH LOGIN\r\n")
            lines = []
            while not (line := await it.line()).startswith(b"334"):
                lines.append(line)
            await it.ask(b64encode(b"ada") + b"\r\n")
            return [*lines, await it.ask(b64encode(b"secret") + b"\r\n")]

    lines = asyncio.run(main())
    assert b"250-AUTH LOGIN PLAIN\r\n" in lines
    assert lines[-1] == b"235 2.7.0 Authentication successful\r\n"


def test_r9_what_follows_starttls_unencrypted_ends_the_session(tmp_path: Path) -> None:
    served, _ = contexts(tmp_path)

    async def main() -> bytes:
        async with client(partial(SMTP, Keep(), tls_context=served)) as it:
            return await it.ask(b"STARTTLS\r\nMAIL FROM:<evil@mail.example>\r\n")

    assert asyncio.run(main()) == b""


def test_starttls_forgets_the_session_and_calls_the_hook(tmp_path: Path) -> None:
    served, trusted = contexts(tmp_path)
    seen = []

    class Handler(Keep):
        def handle_STARTTLS(self, server: SMTP, session: Any, envelope: Any) -> bool:  # noqa: N802
            seen.append((session.ssl["cipher"] == server.transport.get_extra_info("cipher"), session.host_name))
            return True

    async def main() -> bytes:
        async with client(partial(SMTP, Handler(), tls_context=served)) as it:
            assert await it.ask(b"HELO client.example\r\n")
            assert await it.ask(b"STARTTLS\r\n") == b"220 Ready to start TLS\r\n"
            await it.writer.start_tls(trusted, server_hostname="mx.example")
            return await it.ask(b"MAIL FROM:<ada@mail.example>\r\n")

    assert asyncio.run(main()) == b"503 Error: send HELO first\r\n"
    assert seen == [(True, None)]


def test_r1_a_line_that_ends_in_lf_is_refused() -> None:
    async def main() -> list[bytes]:
        async with client(partial(SMTP, Keep(), hostname="mx.example")) as it:
            return await it.rest(b"HELO client.example\nNOOP\r\nNOOP\r\n")

    assert asyncio.run(main()) == [b"500 Error: bad syntax", b"250 OK"]


def test_content_with_nul_is_refused_and_the_session_continues() -> None:
    handler = Keep()

    async def main() -> list[bytes]:
        async with client(partial(SMTP, handler, hostname="mx.example")) as it:
            return await it.rest(START + b"DATA\r\n\0\r\n.\r\n" + START + b"DATA\r\nx\r\n.\r\n")

    replies = asyncio.run(main())
    assert replies[4].startswith(b"550 ")
    assert replies[-1] == b"250 Kept"
    assert [each.content for each in handler.envelopes] == [b"x\r\n"]


@pytest.mark.parametrize("handler", [object(), Keep()], ids=["without hooks", "with a hook"])
def test_content_beyond_the_limit_is_not_kept(handler: object, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    take = Content.take

    def watched(self: Content) -> bytes:
        kept.append(take(self))
        return kept[-1]

    monkeypatch.setattr(Content, "take", watched)

    async def main() -> list[bytes]:
        async with client(partial(SMTP, handler, data_size_limit=1000, hostname="mx.example")) as it:
            return await it.rest(START + b"DATA\r\n" + b"x\r\n" * 100_000 + b".\r\nQUIT\r\n")

    assert asyncio.run(main())[-2:] == [b"552 Error: Too much mail data", b"221 Bye"]
    assert [len(each) for each in kept] == [1000]


def test_the_limit_that_was_exceeded_first_is_named() -> None:
    server: Any = SimpleNamespace(data_size_limit=1, line_length_limit=4)
    for octets in map(bytes, product(b"x\r\n", repeat=8)):
        lines = [len(line) for line in octets.split(b"\r\n")]
        expected = CONTENT_LINE_TOO_LONG if max(lines) > 2 else CONTENT_TOO_LARGE
        assert {store_content(server, octets, 9, longest) for longest in (max(lines), 9)} == {expected}


@pytest.mark.parametrize("longest_line", [0, 999], ids=["short lines", "a long line after the limit"])
def test_content_beyond_the_limit_is_not_split_into_lines(longest_line: int) -> None:
    server: Any = SimpleNamespace(data_size_limit=1 << 20, line_length_limit=1000)
    content = b"\r\n" * (1 << 19)
    tracemalloc.start()
    try:
        assert store_content(server, content, len(content) + 1, longest_line) == CONTENT_TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < len(content) / 10
    finally:
        tracemalloc.stop()


def test_a_message_is_handled_to_its_end_if_its_client_leaves() -> None:
    started, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Handler(Keep):
        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
            started.set()
            await go_on.wait()
            done.set()
            return "250 OK"

    async def main() -> None:
        lost = asyncio.Event()

        class Server(SMTP):
            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                lost.set()

        async with client(partial(Server, Handler())) as it:
            it.writer.write(START + b"DATA\r\nx\r\n.\r\n")
            await asyncio.wait_for(started.wait(), 20)
            linger = struct.pack("ii", 1, 0)  # close with RST
            it.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            it.writer.transport.abort()
            await asyncio.wait_for(lost.wait(), 20)
            go_on.set()
            await asyncio.wait_for(done.wait(), 20)

    asyncio.run(main())


def test_content_that_is_not_ascii_ends_the_transaction() -> None:
    async def main() -> list[bytes]:
        async with client(partial(SMTP, Keep(), decode_data=True, hostname="mx.example")) as it:
            again = START.partition(b"\r\n")[2]
            return await it.rest(START + b"DATA\r\n\xff\r\n.\r\n" + again + b"DATA\r\nx\r\n.\r\n")

    assert asyncio.run(main())[4:] == [b"500 Error: strict ASCII mode", *[b"250 OK"] * 2, START_CONTENT, b"250 Kept"]


def test_a_hook_that_is_cancelled_ends_its_connection() -> None:
    class Handler(Keep):
        async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
            raise asyncio.CancelledError

    async def main() -> bytes:
        async with client(partial(SMTP, Handler(), hostname="mx.example")) as it:
            it.writer.write(START + b"DATA\r\nx\r\n.\r\n")
            return (await asyncio.wait_for(it.reader.read(), 20)).splitlines()[-1]

    assert asyncio.run(main()) == START_CONTENT


def test_a_subclass_sees_what_arrives() -> None:
    seen: list[bytes] = []

    class Server(SMTP):
        def data_received(self, data: bytes) -> None:
            seen.append(data)
            super().data_received(data)

    async def main() -> bytes:
        async with client(partial(Server, Keep(), hostname="mx.example")) as it:
            return await it.ask(b"NOOP\r\n")

    assert asyncio.run(main()) == b"250 OK\r\n"
    assert b"".join(seen) == b"NOOP\r\n"


def test_content_in_many_pieces_is_whole_up_to_its_limit() -> None:
    handler, line = Keep(), b"." + b"x" * 70 + b"\r\n"

    async def main(limit: int) -> bytes:
        async with client(partial(SMTP, handler, hostname="mx.example", data_size_limit=limit)) as it:
            it.writer.write(START + b"DATA\r\n" + (b"." + line) * 20_000 + b".\r\nQUIT\r\n")
            return (await it.reader.read()).splitlines()[-2]

    assert asyncio.run(main(0)) == asyncio.run(main(len(line) * 20_000)) == b"250 Kept"
    assert [each.content for each in handler.envelopes] == [line * 20_000] * 2
    assert asyncio.run(main(len(line) * 20_000 - 1)) == b"552 Error: Too much mail data"


def test_a_port_in_use_is_reported_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        controller = Controller(Keep(), hostname="127.0.0.1", port=port, ready_timeout=threading.TIMEOUT_MAX)
        with pytest.raises(OSError, match="in use"):
            controller.start()
    controller.stop()
    controller.loop.close()


class AnyPort(Controller):
    """A controller at a port that the system chooses."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("package", ["uvloop", "asyncio"])
def test_a_controller_uses_uvloop_where_it_is_installed(
    package: str, tls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "uvloop":
        pytest.importorskip("uvloop")
    else:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    served, trusted = contexts(tmp_path)
    trusted.check_hostname = False  # the address is not in the certificate
    given = {"implicit": {"ssl_context": served}, "starttls": {"tls_context": served}}.get(tls, {})
    handler = Keep()
    controller = AnyPort(handler, hostname="127.0.0.1", port=0, **given)
    assert type(controller.loop).__module__.partition(".")[0] == package
    controller.start()
    connect = partial(smtplib.SMTP_SSL, context=trusted) if tls == "implicit" else smtplib.SMTP
    content = b"0123456789\r\n" * 100_000
    with connect("127.0.0.1", controller.port) as session:
        if tls == "starttls":
            session.starttls(context=trusted)
        for _ in range(2):
            assert session.sendmail("ada@mail.example", ["jo@mx.example"], content) == {}
        assert (controller.smtpd.session.ssl is None) == (tls == "none")
    with connect("127.0.0.1", controller.port):
        controller.stop()
    assert [each.content for each in handler.envelopes] == [content] * 2


def test_a_controller_uses_the_event_loop_that_it_is_given() -> None:
    loop = asyncio.new_event_loop()
    controller = AnyPort(Keep(), hostname="127.0.0.1", port=0, loop=loop)
    controller.start()
    assert (controller.loop, loop.is_running()) == (loop, True)
    controller.stop()
    assert loop.is_closed()


def test_commands_before_the_end_of_the_input_get_their_replies() -> None:
    async def main() -> list[bytes]:
        async with client(partial(SMTP, Keep(), hostname="mx.example")) as it:
            return await it.rest(b"HELO client.example\r\nRSET\r\n")

    assert asyncio.run(main()) == [b"250 mx.example", b"250 OK"]


def test_an_exception_without_hooks_reports_its_text() -> None:
    class Server(SMTP):
        async def smtp_NOOP(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
            raise ValueError("no")

    async def main() -> bytes:
        async with client(partial(Server, Keep())) as it:
            return await it.ask(b"NOOP\r\n")

    assert asyncio.run(main()) == b"500 Error: (ValueError) no\r\n"
