"""A customer fetches its mail from the real program, by ATRN under STARTTLS (RFC 2645)."""

from __future__ import annotations

import json
import smtplib
import ssl
from typing import TYPE_CHECKING

from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

    from ironpost.protocol.server.handler import HookResult

CONTENT = b"From: ada@client.example\r\nSubject: x\r\n\r\n.dot\r\n"
MX = 'role = "mx"\nauth = "offered"'
CUSTOMER = '[[on_demand]]\nlogin = "customer"\ndomains = ["customer.example"]\n'


class Mailbox(BaseHandler):
    """The handler of the customer's server."""

    def __init__(self) -> None:
        self.messages: list[tuple[list[str], bytes]] = []

    def recipient(self, session: ServerSession, *_: object) -> HookResult:
        return None

    def message(self, session: ServerSession, content: Any, facts: object) -> HookResult:
        assert session.transaction is not None
        self.messages.append(([str(each.address) for each in session.transaction.recipients], content.content))
        return None


def logged_in(port: int) -> smtplib.SMTP:
    client = smtplib.SMTP("127.0.0.1", port, "customer.example", timeout=30)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    client.starttls(context=context)
    client.login("customer", "pencil case")
    return client


def serve_on(connection: socket.socket) -> list[tuple[list[str], bytes]]:
    """Act as the server on a connection that we opened; return what the provider delivers."""
    mailbox = Mailbox()
    session = ServerSession(mailbox, ServerSettings("mail.customer.example"))
    session.start()
    while True:
        connection.sendall(session.output())
        data = b"" if session.closing else connection.recv(65536)
        if not data:
            return mailbox.messages
        session.receive(data)


def test_a_customer_fetches_its_mail(serve: Callable[..., Any]) -> None:
    server = serve(CUSTOMER, MX)
    assert server.run("user", "add", "-c", str(server.file), "customer", stdin=b"pencil case\n").returncode == 0
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.sendmail("ada@client.example", ["jo@customer.example", "a@localhost"], CONTENT)
    server.wait_for_mail()

    (waiting,) = server.json("queue", "list")
    assert {each["to"]: each["state"] for each in waiting["recipients"]}["jo@customer.example"] == "queued"
    with logged_in(server.port) as client:
        assert "atrn" in client.esmtp_features
        assert client.docmd("ATRN", "other.example")[0] == 450
        assert client.docmd("ATRN", "customer.example") == (250, b"2.0.0 OK, now reversing the connection")
        assert isinstance(client.sock, ssl.SSLSocket)
        ((to, content),) = serve_on(client.sock)
        client.close()
    assert to == ["jo@customer.example"]
    assert content.endswith(CONTENT)
    assert content.startswith(b"Received: from client.example")
    server.wait_until_empty()
    with logged_in(server.port) as client:
        assert client.docmd("ATRN")[0] == 453
        assert client.docmd("ETRN", "customer.example")[0] == 251
    records = [json.loads(line) for line in server.log().splitlines() if '"atrn"' in line]
    assert [(each["identity"], each.get("messages")) for each in records][-1] == ("customer", 1)
    assert server.stop() == 0


def test_a_customer_fetches_its_mail_from_all_workers(serve: Callable[..., Any]) -> None:
    server = serve(CUSTOMER, MX, workers=3)
    assert server.run("user", "add", "-c", str(server.file), "customer", stdin=b"pencil case\n").returncode == 0
    sent = {f"n{number}@customer.example" for number in range(20)}
    for to in sent:
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.sendmail("ada@client.example", [to], CONTENT)
    assert len(server.json("queue", "list")) == 20
    with logged_in(server.port) as client:
        assert client.docmd("ETRN", "customer.example")[0] == 253
    # Its workers made it due and tried; it waits again. What one of them has at hand at this moment stays for later.
    found: list[str] = []
    while len(found) < 20:
        with logged_in(server.port) as client:
            code, _ = client.docmd("ATRN", "customer.example")
            assert code == 250
            assert isinstance(client.sock, ssl.SSLSocket)
            for (to,), content in serve_on(client.sock):
                found.append(to)
                assert content.endswith(CONTENT)
            client.close()
    assert sorted(found) == sorted(sent), "each once"
    server.wait_until_empty()
    with logged_in(server.port) as client:
        assert client.docmd("ATRN")[0] == 453
    assert server.stop() == 0
    assert '"level": "error"' not in server.log()
