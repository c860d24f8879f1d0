"""Mail for other domains is relayed to other programs."""

from __future__ import annotations

import smtplib
import ssl
from typing import TYPE_CHECKING

import pytest
from aiosmtpd.controller import Controller

from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

CONTENT = b"Subject: onward\r\n\r\nfirst\r\n.a line that begins with a dot\r\n..\r\n.\r\nlast\r\n"


def route(port: int) -> str:
    return f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{port}"]\n'


def submit(port: int, to: list[str], content: bytes = CONTENT) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        assert client.sendmail("ada@client.example", to, content) == {}


def test_smtp_sink(serve: Callable[[str], Any], sink: tuple[int, Path]) -> None:
    port, folder = sink
    server = serve(route(port))
    submit(server.port, ["grace@elsewhere.example", "linus@other.example"])
    server.wait_until_empty()
    found = [path.read_bytes() for path in folder.iterdir()]
    assert found
    to = set()
    for text in found:
        # smtp-sink writes the envelope as X- fields, and LF line endings.
        head, body = text.split(b"\n\n", 1)
        assert b"X-Mail-Args: <ada@client.example>" in head
        assert b"Received: from client.example" in head
        assert body.rstrip(b"\n") == CONTENT.split(b"\r\n\r\n", 1)[1].replace(b"\r\n", b"\n").rstrip(b"\n")
        to |= {line.split(b"<")[1].split(b">")[0] for line in head.splitlines() if line.startswith(b"X-Rcpt-Args:")}
    assert to == {b"grace@elsewhere.example", b"linus@other.example"}


class Kept:
    """A handler of aiosmtpd that records messages."""

    def __init__(self) -> None:
        self.envelopes: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.envelopes.append(envelope)
        return "250 OK"


class Refusing(Kept):
    """A handler of aiosmtpd that refuses everything."""

    async def handle_RCPT(self, *arguments: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return "550 5.1.1 No such user here"


class AnyPort(Controller):
    """aiosmtpd's controller on a free port."""

    def _trigger_server(self) -> None:
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        super()._trigger_server()


def test_aiosmtpd(serve: Callable[[str], Any]) -> None:
    handler = Kept()
    controller = AnyPort(handler, "127.0.0.1", 0, decode_data=False, enable_SMTPUTF8=True)
    controller.start()
    try:
        server = serve(route(controller.port))
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.ehlo()
            client.sendmail("adà@client.example", ["grâce@elsewhere.example"], CONTENT, ["SMTPUTF8"])
        server.wait_until_empty()
    finally:
        controller.stop()
    (envelope,) = handler.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("adà@client.example", ["grâce@elsewhere.example"])
    assert envelope.original_content.endswith(CONTENT)
    assert envelope.original_content.startswith(b"Received: from client.example")


@pytest.mark.parametrize(("level", "reached"), [("may", "encrypted"), ("verify", "authenticated")])
def test_aiosmtpd_that_requires_starttls(serve: Callable[[str], Any], tmp_path: Path, level: str, reached: str) -> None:
    certificate, key = tmp_path / "hub.pem", tmp_path / "hub.key"
    write_self_signed(certificate, key, ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = Kept()
    controller = AnyPort(handler, "127.0.0.1", 0, tls_context=context, require_starttls=True)
    controller.start()
    try:
        rule = f'[[delivery.tls]]\ndomains = ["127.0.0.1"]\nlevel = "{level}"\n'
        server = serve(route(controller.port) + f'[delivery]\nca = "{certificate}"\n' + rule)
        submit(server.port, ["grace@elsewhere.example"])
        server.wait_until_empty()
        server.stop()  # with QUIT, so that aiosmtpd closes its transport
    finally:
        controller.stop()
    (envelope,) = handler.envelopes
    assert envelope.original_content.endswith(CONTENT)
    assert f'"tls": "{reached}"' in server.log()


def test_a_refusal_becomes_a_bounce_to_the_sender(serve: Callable[[str], Any]) -> None:
    handler = Refusing()
    controller = AnyPort(handler, "127.0.0.1", 0)
    controller.start()
    try:
        server = serve(route(controller.port))
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.sendmail("ada@localhost", ["grace@elsewhere.example"], CONTENT)
        (report,) = server.wait_for_mail()
    finally:
        controller.stop()
    assert report.startswith(b"Return-Path: <>\n")
    assert b"multipart/report" in report
    assert b"550 5.1.1 No such user here" in report
    assert b"Final-Recipient: rfc822;grace@elsewhere.example" in report.replace(b"rfc822; ", b"rfc822;")
