"""Common programs log in, by each mechanism that they support, over STARTTLS and implicit TLS."""

from __future__ import annotations

import asyncio
import os
import smtplib
import ssl
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiosmtplib
import pytest

from ironpost import Server
from ironpost.accounts.authenticator import User, Users, new_user
from ironpost.protocol.sasl import BY_NAME
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler, TlsContext

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Call = Callable[..., subprocess.CompletedProcess[bytes]]

CERTIFIED = "ada@client.example"
MESSAGE = b"Subject: hello\r\n\r\nworld\r\n"


class Accounts:
    """The account ada with the password pencil, and one named in a certificate."""

    secrets = True
    users = {"ada": new_user("ada", "pencil")._replace(secret="pencil"), CERTIFIED: User(CERTIFIED)}  # noqa: RUF012

    def find(self, login: str) -> User | None:
        return self.users.get(login)


class Tokens:
    """An authenticator with one token."""

    def verify_token(self, session: Any, login: str, token: str) -> str | None:
        return "ada" if token == "abc" and login in {"", "ada"} else None


class Seen(BaseHandler):
    """Accepts everything from authenticated clients."""

    def __init__(self) -> None:
        self.senders: list[tuple[str, str, str]] = []

    def recipient(self, session: Any, forward_path: Any, parameters: Any) -> None:
        who = session.identity
        self.senders.append((who.name, who.mechanism, session.protocol))

    def message(self, session: Any, content: Any, facts: Any) -> None:
        return None


@pytest.fixture(scope="module")
def client_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Create a client certificate that names an account, with its key."""
    folder = tmp_path_factory.mktemp("client")
    chain, key = folder / "chain.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-out", chain, "-days", "30", "-subj", "/CN=Ada", "-addext", f"subjectAltName=email:{CERTIFIED}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return chain, key


@pytest.fixture
def logins(certificate: Path, client_certificate: tuple[Path, Path]) -> Callable[..., Any]:
    """Start a server in a thread: `with logins(implicit_tls=...) as (port, senders)`."""

    @contextmanager
    def start(*, implicit_tls: bool = False) -> Iterator[tuple[int, list[tuple[str, str, str]]]]:
        handler, ready, stop = Seen(), threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()
        port: list[int] = []

        async def serve() -> None:
            users = Users([Accounts()], [Tokens()], mechanisms=BY_NAME)
            tls = TlsContext.load([(certificate, certificate)], client_ca=client_certificate[0])
            settings = ServerSettings(hostname="localhost", authenticator=users)
            async with Server(handler, "127.0.0.1", settings=settings, tls=tls, implicit_tls=implicit_tls) as server:
                port.append(server.port)
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        try:
            assert ready.wait(10)
            yield port[0], handler.senders
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            loop.close()

    return start


@pytest.fixture(scope="module")
def swaks(program: Callable[[str], str]) -> str:
    """The path of swaks, if Perl has its TLS library (Debian: libnet-ssleay-perl)."""
    path = program("swaks")
    said = subprocess.run([path, "--support"], capture_output=True, text=True, check=False).stdout
    if "TLS supported" not in said and not os.environ.get("CI"):
        pytest.skip("swaks has no TLS: install libnet-ssleay-perl")
    return path


@pytest.mark.usefixtures("swaks")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("tls", ["--tls", "--tls-optional", "--tls-optional-strict", "--tls-on-connect"])
def test_swaks_logs_in(logins: Callable[..., Any], call: Call, mechanism: str, tls: str) -> None:
    with logins(implicit_tls=tls == "--tls-on-connect") as (port, senders):
        call("swaks", "--server", "127.0.0.1", "--port", port, tls, "--auth", mechanism, "--auth-user", "ada",
             "--auth-password", "pencil", "--from", "ada@client.example", "--to", "b@mail.example")  # fmt: skip
    assert senders == [("ada", mechanism, "ESMTPSA")]


def test_swaks_shows_the_reason_of_a_refused_login(logins: Callable[..., Any], swaks: str) -> None:
    with logins() as (port, senders):
        done = subprocess.run(
            [swaks, "--server", "127.0.0.1", "--port", str(port), "--tls", "--auth", "PLAIN", "--auth-user",
             "ada", "--auth-password", "pen", "--from", "ada@client.example", "--to", "b@mail.example"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 28  # swaks: AUTH failed
    assert "535 5.7.8 Authentication credentials invalid" in done.stdout
    assert senders == []


def msmtp(call: Call, port: int, certificate: Path, *options: object) -> None:
    call("msmtp", "--host=localhost", f"--port={port}", "--tls=on", f"--tls-trust-file={certificate}",
         "--domain=client.example", "--from=ada@client.example", "--file=/dev/null", *options, "b@mail.example",
         stdin=MESSAGE)  # fmt: skip


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("starttls", ["on", "off"])
def test_msmtp_logs_in(
    logins: Callable[..., Any], call: Call, certificate: Path, mechanism: str, starttls: str
) -> None:
    secret = "abc" if "OAUTH" in mechanism else "pencil"
    with logins(implicit_tls=starttls == "off") as (port, senders):
        msmtp(call, port, certificate, f"--tls-starttls={starttls}", f"--auth={mechanism.lower()}", "--user=ada",
              f"--passwordeval=echo {secret}")  # fmt: skip
    assert senders == [("ada", mechanism, "ESMTPSA")]


def test_msmtp_logs_in_with_a_certificate(
    logins: Callable[..., Any], call: Call, certificate: Path, client_certificate: tuple[Path, Path]
) -> None:
    chain, key = client_certificate
    with logins() as (port, senders):
        msmtp(call, port, certificate, "--auth=external", f"--user={CERTIFIED}", f"--tls-cert-file={chain}",
              f"--tls-key-file={key}")  # fmt: skip
    assert senders == [(CERTIFIED, "EXTERNAL", "ESMTPSA")]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl_logs_in(
    logins: Callable[..., Any], call: Call, certificate: Path, tmp_path: Path, mechanism: str, scheme: str
) -> None:
    (tmp_path / "message").write_bytes(MESSAGE)
    secret = ["--user", "ada:", "--oauth2-bearer", "abc"] if "OAUTH" in mechanism else ["--user", "ada:pencil"]
    with logins(implicit_tls=scheme == "smtps") as (port, senders):
        call("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", certificate, "--url",
             f"{scheme}://localhost:{port}/client.example", "--login-options", f"AUTH={mechanism}", *secret,
             "--mail-from", "ada@client.example", "--mail-rcpt", "b@mail.example",
             "--upload-file", tmp_path / "message")  # fmt: skip
    # curl 7.88 uses OAUTHBEARER whichever of the two is requested.
    assert [(who, by) for who, _, by in senders] == [("ada", "ESMTPSA")]
    assert senders[0][1] in ({"XOAUTH2", "OAUTHBEARER"} if "OAUTH" in mechanism else {mechanism})


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_smtplib_logs_in(logins: Callable[..., Any], certificate: Path, mechanism: str, implicit: bool) -> None:
    context = ssl.create_default_context(cafile=certificate)
    with (
        logins(implicit_tls=implicit) as (port, senders),
        smtplib.SMTP_SSL("localhost", port, context=context) if implicit else smtplib.SMTP("localhost", port) as client,
    ):
        if not implicit:
            client.starttls(context=context)
        client.ehlo()
        client.esmtp_features["auth"] = mechanism
        client.login("ada", "pencil")
        client.sendmail("ada@client.example", ["b@mail.example"], MESSAGE)
    assert senders == [("ada", mechanism, "ESMTPSA")]


@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_aiosmtplib_logs_in(logins: Callable[..., Any], certificate: Path, implicit: bool) -> None:
    context = ssl.create_default_context(cafile=certificate)
    with logins(implicit_tls=implicit) as (port, senders):
        refused, said = asyncio.run(
            aiosmtplib.send(
                MESSAGE, sender="ada@client.example", recipients=["b@mail.example"], hostname="localhost",
                port=port, tls_context=context,
                use_tls=implicit, start_tls=not implicit, username="ada", password="pencil",
            )
        )  # fmt: skip
    assert (refused, said[:5]) == ({}, "2.0.0")
    assert [(who, by) for who, _, by in senders] == [("ada", "ESMTPSA")]
