"""The clients of `ironpost.compat` log in under TLS, at this machine, or where the program allows it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue
from tests.compat.test_smtplib import peer, tls_server

from ironpost.compat import aiosmtplib, smtplib
from ironpost.compat.aiosmtplib import connection
from ironpost.compat.login import is_this_machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.compat.test_smtplib import Peer


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (("127.0.0.1", 25), True),
        (("::1", 25, 0, 0), True),
        (("::ffff:127.0.0.1", 25, 0, 0), True),
        ("/run/lmtp", True),
        ("", True),  # a Unix socket without a name
        (("192.0.2.1", 25), False),
        (("2001:db8::1", 25, 0, 0), False),
        (("localhost.mx.example", 25), False),
        ((2130706433, 25), False),  # of a virtual machine
        ((), False),
        (None, False),
    ],
    ids=str,
)
def test_this_machine_is_known_by_the_address_of_the_peer(address: Any, expected: bool) -> None:
    assert is_this_machine("", address) is expected
    assert is_this_machine("localhost", address) is expected
    assert not is_this_machine("mx.example", address)


@pytest.fixture(params=["smtplib", "aiosmtplib"])
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the test counts as another machine."""
    for module in (smtplib, connection):
        monkeypatch.setattr(module, "is_this_machine", lambda *_: False)


def log_in(library: str, port: int, *, by_hand: bool = False, context: Any = None, allowed: bool = False) -> None:
    """Log in with `login`, or with a command."""
    if library == "smtplib":
        with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
            if context is not None:
                client.starttls(context=context)
            client.login_without_tls = allowed
            if by_hand:
                client.putcmd("auth PLAIN", "AGFkYQBzZWNyZXQ=")
                client.getreply()
            else:
                client.login("ada", "secret")
        return

    async def run() -> None:
        async with aiosmtplib.SMTP(
            hostname="127.0.0.1",
            port=port,
            start_tls=context is not None,
            tls_context=context,
            login_without_tls=allowed,
            local_hostname="client.example",
        ) as client:
            protocol = client.protocol
            if by_hand:
                await client.execute_command(b"auth PLAIN", b"AGFkYQBzZWNyZXQ=")
            else:
                await client.login("ada", "secret")
        while protocol.transport is not None:  # TLS ends after `close`
            await asyncio.sleep(0)

    asyncio.run(run())


def logins(server: Peer) -> list[str]:
    return [line for line in server.lines if line[:4].upper() == "AUTH"]


@pytest.mark.usefixtures("_elsewhere")
@pytest.mark.parametrize("by_hand", [False, True], ids=["login", "command"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_r13_without_tls_no_login_is_sent_to_another_machine(library: str, mechanism: str, by_hand: bool) -> None:
    error = smtplib.SMTPNotSupportedError if library == "smtplib" else aiosmtplib.SMTPNotSupported
    with peer(f"AUTH {mechanism}", AUTH="235 in") as server, pytest.raises(error, match="a login needs TLS"):
        log_in(library, server.port, by_hand=by_hand)
    assert logins(server) == []


def by_smtplib(proxy: Callable[[], socket.socket], *, at_once: bool) -> None:
    class Proxied(smtplib.SMTP):
        def _get_socket(self, *_: Any) -> socket.socket:
            return proxy()

    with Proxied("mx.example:587" if at_once else "") as client:
        if not at_once:
            client.connect("mx.example", 587)
        client.login("ada", "secret")


def by_aiosmtplib(proxy: Callable[[], socket.socket]) -> None:
    async def run() -> None:
        async with aiosmtplib.SMTP(hostname="mx.example", sock=proxy(), local_hostname="client.example") as client:
            await client.login("ada", "secret")

    asyncio.run(run())


@pytest.mark.parametrize(
    "log_in_by", [partial(by_smtplib, at_once=True), partial(by_smtplib, at_once=False), by_aiosmtplib]
)
def test_r13_no_login_is_sent_to_another_machine_through_a_proxy_on_this_one(log_in_by: Callable[..., None]) -> None:
    errors = (smtplib.SMTPNotSupportedError, aiosmtplib.SMTPNotSupported)
    with peer("AUTH PLAIN", AUTH="235 in") as server, pytest.raises(errors, match="a login needs TLS"):
        log_in_by(lambda: socket.create_connection(("127.0.0.1", server.port), 20))
    assert logins(server) == []


@pytest.mark.parametrize("host", ["localhost:{}", "LOCALHOST:{}", "127.0.0.1:{}"])
def test_this_machine_may_be_named(host: str) -> None:
    with peer("AUTH PLAIN", AUTH="235 in") as server, smtplib.SMTP(host.format(server.port), timeout=20) as client:
        client.login("ada", "secret")
    assert len(logins(server)) == 1


@pytest.mark.usefixtures("_elsewhere")
def test_r13_a_program_may_allow_a_login_without_tls(library: str) -> None:
    with peer("AUTH PLAIN", AUTH="235 in") as server:
        log_in(library, server.port, allowed=True)
    assert logins(server) == ["AUTH PLAIN AGFkYQBzZWNyZXQ="]


@pytest.mark.usefixtures("_elsewhere")
def test_a_login_without_tls_can_be_allowed_for_a_program_that_cannot_be_edited(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = smtplib if library == "smtplib" else aiosmtplib
    monkeypatch.setattr(module.SMTP, "login_without_tls", True)
    with peer("AUTH PLAIN", AUTH="235 in") as server:
        if library == "smtplib":
            with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
                client.login("ada", "secret")
        else:
            settings = {"hostname": "127.0.0.1", "port": server.port, "username": "ada", "password": "secret"}
            message = {"sender": "ada@mail.example", "recipients": "jo@mx.example"}
            asyncio.run(aiosmtplib.send(b"x\r\n", **message, **settings))
    assert len(logins(server)) == 1


def test_a_login_at_this_machine_needs_no_tls(library: str) -> None:
    with peer("AUTH PLAIN", AUTH="235 in") as server:
        log_in(library, server.port)
    assert logins(server) == ["AUTH PLAIN AGFkYQBzZWNyZXQ="]


@pytest.mark.usefixtures("_elsewhere")
def test_a_login_under_tls_is_sent(library: str, tmp_path: Path) -> None:
    root = issue(authority=True, common_name="root")
    issue("127.0.0.1", by=root).write(tmp_path / "chain.pem", tmp_path / "key.pem", alone=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    with tls_server(server, implicit=False) as port:
        log_in(library, port, by_hand=True, context=ssl.create_default_context(cadata=root.pem.decode()))
