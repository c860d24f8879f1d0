"""The client on sockets with TLS and AUTH, against our own server and against hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from ironpost import BaseHandler, Client, Server
from ironpost.client import ConnectionLost, Insecure, LoginRefused, PeerFault
from ironpost.client.tls import verifying
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import TlsContext
from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from pathlib import Path


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with contextlib.suppress(ImportError):
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[None, None, None]], None]:
    """Runs a coroutine on each event loop that is here."""
    if request.param not in LOOPS:
        pytest.skip("uvloop is not installed")

    def runner(coroutine: Coroutine[None, None, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(asyncio.wait_for(coroutine, 20))

    return runner


class Keeper(BaseHandler):
    """Takes everything; remembers who sent it and how."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str]] = []

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        self.kept.append((session.protocol, session.identity.name if session.identity else ""))


class Users:
    """One account."""

    mechanisms = ("PLAIN", "LOGIN")

    def __init__(self) -> None:
        self.tried: list[tuple[str, str]] = []

    def verify_password(self, session, login, password):
        self.tried.append((login, password))
        return login if password == "secret" else None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for name in ("localhost", "other.example"):
        found[name] = folder / f"{name}.pem", folder / f"{name}.key"
        write_self_signed(*found[name], [name, "127.0.0.1"] if name == "localhost" else [name])
    return found


@pytest.fixture
def serve(files: dict[str, tuple[Path, Path]]) -> Callable[..., Server]:
    """A server with TLS and one user."""

    def make(name: str = "localhost", *, implicit: bool = False, users: Users | None = None) -> Server:
        settings = ServerSettings(authenticator=users or Users())
        tls = TlsContext.load([files[name]])
        return Server(Keeper(), "127.0.0.1", settings=settings, tls=tls, implicit_tls=implicit)

    return make


def trusting(files: dict[str, tuple[Path, Path]], name: str = "localhost") -> ssl.SSLContext:
    return verifying(str(files[name][0]))


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_a_login_under_tls(serve, files, implicit: bool, run) -> None:
    async def main() -> None:
        async with serve(implicit=implicit) as server:
            tls = "implicit" if implicit else None
            async with Client(
                "127.0.0.1", server.port, tls=tls, context=trusting(files), credentials=("ada", "secret")
            ) as client:
                await client.send("a@a.example", "b@b.example", b"Subject: x\r\n\r\ny\r\n")
            assert server.handler.kept == [("ESMTPSA", "ada")]

    run(main())


def test_tls_is_used_where_it_is_offered_and_nobody_logs_in(serve, files, run) -> None:
    async def main() -> None:
        async with serve() as server:
            async with Client("127.0.0.1", server.port, context=trusting(files)) as client:
                await client.send("a@a.example", "b@b.example", b"Subject: x\r\n\r\ny\r\n")
            async with Client("127.0.0.1", server.port, tls="never") as client:
                await client.send("a@a.example", "b@b.example", b"Subject: x\r\n\r\ny\r\n")
            assert server.handler.kept == [("ESMTPS", ""), ("ESMTP", "")]

    run(main())


@pytest.mark.parametrize("tls", ["must", "implicit"])
def test_r13_an_untrusted_certificate_is_refused(serve, tls: str, run) -> None:
    async def main() -> None:
        users = Users()
        async with serve(implicit=tls == "implicit", users=users) as server:
            with pytest.raises(Insecure, match="self-signed certificate"):
                await Client("127.0.0.1", server.port, tls=tls, credentials=("ada", "secret")).connect()
        assert users.tried == []

    run(main())


@pytest.mark.parametrize("tls", ["must", "implicit"])
def test_r13_a_certificate_for_another_name_is_refused(serve, files, tls: str, run) -> None:
    async def main() -> None:
        users = Users()
        async with serve("other.example", implicit=tls == "implicit", users=users) as server:
            context = trusting(files, "other.example")
            with pytest.raises(Insecure, match="not accepted"):
                await Client(
                    "127.0.0.1", server.port, tls=tls, context=context, credentials=("ada", "secret")
                ).connect()
        assert users.tried == []

    run(main())


def test_a_wrong_password_is_a_refused_login(serve, files, run) -> None:
    async def main() -> None:
        async with serve() as server:
            with pytest.raises(LoginRefused, match="535"):
                await Client("127.0.0.1", server.port, context=trusting(files), credentials=("ada", "guess")).connect()

    run(main())


def test_r13_to_log_in_without_tls_must_be_said() -> None:
    with pytest.raises(ValueError, match="login_without_tls"):
        Client("127.0.0.1", 25, tls="never", credentials=("ada", "secret"))
    with pytest.raises(ValueError, match="tls is"):
        Client("127.0.0.1", 25, tls="sometimes")


async def scripted(*said: bytes) -> tuple[asyncio.Server, list[bytes], asyncio.Event]:
    """A server that says its lines whatever it hears; what it heard, and when it has heard all."""
    heard: list[bytes] = []
    done = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for octets in said:
                writer.write(octets)
                heard.append(await reader.read(1000))
        except ConnectionError:
            pass
        finally:
            writer.close()
            done.set()

    return await asyncio.start_server(talk, "127.0.0.1", 0), heard, done


EHLO = b"250-mx.example\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"


@pytest.mark.parametrize(
    "injected", [b"235 welcome\r\n", b"250-mx.example\r\n250 AUTH PLAIN\r\n", b"x"], ids=["235", "an offer", "an octet"]
)
def test_r10_a_response_injected_before_tls_ends_the_connection(injected: bytes, run) -> None:
    async def main() -> None:
        server, heard, done = await scripted(b"220 mx.example\r\n", EHLO, b"220 go\r\n" + injected, b"")
        async with server:
            with pytest.raises((PeerFault, Insecure, ConnectionLost)):
                await Client("127.0.0.1", server.sockets[0].getsockname()[1], credentials=("ada", "secret")).connect()
            await done.wait()
        assert heard[1] == b"STARTTLS\r\n"
        assert not any(b"AUTH" in octets for octets in heard)

    run(main())


def test_r13_an_offer_without_starttls_gets_no_password(run) -> None:
    async def main() -> None:
        server, heard, done = await scripted(b"220 mx.example\r\n", b"250-mx.example\r\n250 AUTH PLAIN\r\n")
        async with server:
            with pytest.raises(Insecure, match="does not offer STARTTLS"):
                await Client("127.0.0.1", server.sockets[0].getsockname()[1], credentials=("ada", "secret")).connect()
            await done.wait()
        assert heard[1] == b"QUIT\r\n"

    run(main())


def test_a_handshake_with_what_speaks_no_tls_fails_clearly(run) -> None:
    async def main() -> None:
        server, _, done = await scripted(
            b"220 mx.example\r\n", EHLO, b"220 go\r\n", b"hello there, this is not TLS\r\n"
        )
        async with server:
            with pytest.raises(Insecure, match="TLS handshake failed"):
                await Client("127.0.0.1", server.sockets[0].getsockname()[1], tls="must").connect()
            await done.wait()

    run(main())
