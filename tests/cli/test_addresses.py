"""The real program and a scripted next hop: addresses outside the grammar that exist (f27)."""

from __future__ import annotations

import smtplib
import socketserver
import threading
from contextlib import contextmanager
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

from ironpost.message.section import Header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTENT = b"Subject: x\r\n\r\ny\r\n"
SENDER = ".a..b.@some_host.example"


class NextHop(socketserver.StreamRequestHandler):
    """A next hop that accepts everything, unless `refusal` is set: then RCPT is refused with it."""

    def handle(self) -> None:
        self.wfile.write(b"220 next.example\r\n")
        content = False
        for line in self.rfile:
            verb = line[:4].upper()
            if content:
                content = line != b".\r\n"
                if content:
                    continue
            elif verb != b"EHLO":
                self.server.heard.append(line.decode().rstrip("\r\n"))  # type: ignore[attr-defined]
            content = content or verb == b"DATA"
            refusal = self.server.refusal if verb == b"RCPT" else b""  # type: ignore[attr-defined]
            self.wfile.write(refusal or {b"DATA": b"354 go\r\n", b"QUIT": b"221 bye\r\n"}.get(verb, b"250 fine\r\n"))
            if verb == b"QUIT":
                return


@contextmanager
def next_hop(refusal: bytes = b"") -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NextHop) as server:
        server.daemon_threads = True
        server.refusal, server.heard = refusal, []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def configured(port: int) -> str:
    return f"""
[local]
domains = ["local.example", "some_host.example"]
[[route]]
domains = ["b_c.example"]
smart_host = ["127.0.0.1:{port}"]
"""


def send(port: int, recipient: str, kind: type[smtplib.SMTP] = smtplib.SMTP) -> list[int]:
    """Return the reply codes of MAIL, RCPT and, if both are accepted, the content.

    The paths are sent unchanged; smtplib would rewrite them.
    """
    with kind("127.0.0.1", port, "client.example", timeout=60) as client:
        client.ehlo_or_helo_if_needed()
        found = [client.docmd(f"MAIL FROM:<{SENDER}>")[0], client.docmd(f"RCPT TO:<{recipient}>")[0]]
        return [*found, client.data(CONTENT)[0]] if found == [250, 250] else found


def test_f27_such_mail_arrives_here_and_at_the_next_hop(serve: Callable[..., Any]) -> None:
    with next_hop() as hop:
        server = serve(configured(hop.server_address[1]), 'role = "mx"', 'role = "lmtp"\naddresses = "strict"')
        assert send(server.ports["mx"], "x..y@local.example") == [250, 250, 250]
        (stored,) = server.wait_for_mail()
        header = Header(stored.replace(b"\n", b"\r\n"))
        assert header.values("Return-Path") == [b'<".a..b."@some_host.example>']
        assert header.values("Delivered-To") == [b'"x..y"@local.example']
        assert b' for <"x..y"@local.example>; ' in header.values("Received")[0]
        assert send(server.ports["mx"], "x..y@b_c.example") == [250, 250, 250]
        server.wait_until_empty()
        mail, recipient = hop.heard[:2]
        assert mail.startswith('MAIL FROM:<".a..b."@some_host.example>')
        assert recipient == 'RCPT TO:<"x..y"@b_c.example>'
        assert send(server.ports["lmtp"], "x..y@local.example", smtplib.LMTP) == [501, 503]
        counted = server.run("metrics", "-c", str(server.file)).stdout.decode()
        assert 'ironpost_leniencies_total{kind="stray_dots"} 4.0' in counted
        assert 'ironpost_leniencies_total{kind="underscore"} 3.0' in counted
        assert 'ironpost_leniencies_total{kind="hello"} 0.0' in counted


def test_f27_the_queue_keeps_and_shows_such_mail(serve: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    with next_hop(b"451 4.7.1 Later\r\n") as hop:
        server = serve(configured(hop.server_address[1]), 'role = "mx"')
        assert send(server.port, "x..y@b_c.example") == [250, 250, 250]
        wait_until(lambda: "451" in str(server.json("queue", "list")), server.log)
        assert server.stop() == 0
        server.start()  # the rows are read from the disk
        (message,) = server.json("queue", "list")
        shown = server.json("queue", "show", message["id"])
        assert '".a..b."@some_host.example' in str(shown)
        assert '"x..y"@b_c.example' in str(shown)
        assert "unreadable" not in str(shown)
        hop.refusal = b"550 5.1.1 Nobody here\r\n"
        for command in ("hold", "release", "retry"):
            assert server.run("queue", command, message["id"], "-c", str(server.file)).returncode == 0
        (stored,) = server.wait_for_mail()
        report = message_from_bytes(stored, policy=policy.default)
        assert report["Delivered-To"] == '".a..b."@some_host.example'
        assert b'\nTo: <".a..b."@some_host.example>\n' in stored
        assert b'\nFinal-Recipient: rfc822; "x..y"@b_c.example\n' in stored


def test_f27_route_explain_takes_such_addresses(serve: Callable[..., Any]) -> None:
    server = serve(configured(25), 'role = "mx"')
    for recipient, route in (
        ("x..y@some_host.example", "some_host.example is local"),
        ("x..y@b_c.example", "route[1] matches by b_c.example: smart host 127.0.0.1:25"),
    ):
        asked = ("--client", "127.0.0.1", "--from", SENDER, "-c", str(server.file))
        explained = server.json("route", "explain", recipient, *asked)
        assert explained["outcome"] == "accepted"
        assert route in str(explained)
