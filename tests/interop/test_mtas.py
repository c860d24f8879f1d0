"""Other mail transfer agents relay mail to us: Postfix and Exim by SMTP, Postfix by LMTP.

Each receives a message from smtplib and relays it.
"""

from __future__ import annotations

import json
import os
import smtplib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Launch = Callable[[list[str], dict[str, str], int], None]

CONTENT = (
    b"From: ada@client.example\r\nTo: grace@localhost\r\nSubject: onward\r\n"
    b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <one@client.example>\r\n\r\n"
    b"first\r\n.a line that begins with a dot\r\n..\r\n.\r\nlast\r\n"
)
BODY = CONTENT.split(b"\r\n\r\n", 1)[1].replace(b"\r\n", b"\n")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="Postfix and Exim change to other users, so they need root"
)


def submit(port: int, to: list[str]) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        assert client.sendmail("ada@client.example", to, CONTENT) == {}


def checked(found: bytes, by: bytes, with_: bytes) -> None:
    """Check that the content arrived unchanged, below one trace field of each server."""
    head, body = found.split(b"\n\n", 1)
    assert body == BODY
    ours = head.split(b"\nReceived: ")[1]
    assert ours.startswith(b"from " + by)
    assert b"with " + with_ in ours
    assert head.count(b"\nReceived: ") == 2


def tls(certificate: Path) -> str:
    return f'[tls]\ncertificates = [{{ chain = "{certificate}", key = "file:{certificate}" }}]\n'


def test_postfix_sends(
    serve: Callable[..., Any], program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int
) -> None:
    program("postfix")
    server = serve()
    launch(*mtas.postfix(home, port, main=f"relayhost = [127.0.0.1]:{server.port}"), port)
    submit(port, ["grace@localhost", "linus@localhost"])
    for found in server.wait_for_mail(2):
        checked(found, b"postfix.example", b"ESMTP")


def test_postfix_sends_under_tls(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    mtas: Any,
    launch: Launch,
    certificate: Path,
    home: Path,
    port: int,
) -> None:
    program("postfix")
    server = serve(tls(certificate))
    main = f"relayhost = [127.0.0.1]:{server.port}\nsmtp_tls_security_level = encrypt"
    launch(*mtas.postfix(home, port, main=main), port)
    submit(port, ["grace@localhost"])
    (found,) = server.wait_for_mail()
    checked(found, b"postfix.example", b"ESMTPS")


def test_postfix_passes_the_origin_by_xforward(
    serve: Callable[..., Any], program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int
) -> None:
    program("postfix")
    server = serve("", 'role = "mx"\nxclient = ["127.0.0.1/32"]')
    main = f"relayhost = [127.0.0.1]:{server.port}\nsmtp_send_xforward_command = yes"
    launch(*mtas.postfix(home, port, main=main), port)
    submit(port, ["grace@localhost"])
    server.wait_for_mail()
    server.wait_for_log('"event": "accepted"')
    (accepted,) = (json.loads(line) for line in server.log().splitlines() if '"event": "accepted"' in line)
    forwarded = dict(each.split("=", 1) for each in accepted["forwarded"])
    assert (forwarded["ADDR"], forwarded["HELO"], forwarded["PROTO"]) == ("127.0.0.1", "client.example", "ESMTP")
    assert forwarded["SOURCE"] in {"LOCAL", "REMOTE"}
    assert accepted["ip"] == "127.0.0.1"


def exim(mtas: Any, home: Path, port: int, next_hop: int, options: str) -> Any:
    """Configure Exim to relay everything to one next hop."""
    routers = f"out:\n  driver = manualroute\n  route_data = 127.0.0.1::{next_hop}\n  self = send\n  transport = smtp"
    transports = f"smtp:\n  driver = smtp\n  allow_localhost\n{options}"
    return mtas.exim(home, port, routers=routers, transports=transports)


def test_exim_sends(
    serve: Callable[..., Any], program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int
) -> None:
    program("exim4")
    server = serve()
    launch(*exim(mtas, home, port, server.port, "  hosts_avoid_tls = *"), port)
    submit(port, ["grace@localhost"])
    (found,) = server.wait_for_mail()
    checked(found, b"exim.example", b"ESMTP")


def test_exim_sends_under_tls(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    mtas: Any,
    launch: Launch,
    certificate: Path,
    home: Path,
    port: int,
) -> None:
    program("exim4")
    server = serve(tls(certificate))
    launch(*exim(mtas, home, port, server.port, "  hosts_require_tls = *\n  tls_verify_hosts ="), port)
    submit(port, ["grace@localhost"])
    (found,) = server.wait_for_mail()
    checked(found, b"exim.example", b"ESMTPS")


@pytest.mark.parametrize("kind", ["inet", "unix"])
def test_postfix_delivers_by_lmtp(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    mtas: Any,
    launch: Launch,
    home: Path,
    port: int,
    kind: str,
) -> None:
    program("postfix")
    path = home / "lmtp.sock"
    where = f'listen = ["unix:{path}"]\n' if kind == "unix" else ""
    server = serve("", 'role = "mx"', f'role = "lmtp"\n{where}')
    target = f"inet:127.0.0.1:{server.ports['lmtp']}" if kind == "inet" else f"unix:{path}"
    if kind == "unix":
        path.chmod(0o666)  # Postfix connects as another user
    launch(*mtas.postfix(home, port, main=f"default_transport = lmtp:{target}"), port)
    submit(port, ["grace@localhost", "linus@localhost"])
    for found in server.wait_for_mail(2):
        checked(found, b"postfix.example", b"LMTP")
