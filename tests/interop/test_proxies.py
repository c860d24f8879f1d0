"""Proxies: HAProxy passes the client's address by PROXY v2, nginx's mail proxy by XCLIENT."""

from __future__ import annotations

import json
import smtplib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    Launch = Callable[[list[str], dict[str, str], int], None]

CLIENT = "127.0.0.9"
"""The loopback address of the client; nothing else uses it."""
CONTENT = b"Subject: through a proxy\r\n\r\nhello\r\n"


def accepted(server: Any) -> dict[str, Any]:
    """Return the log record of the accepted message."""
    records = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    (found,) = [record for record in records if record.get("event") == "accepted"]
    return found


def submit(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example", source_address=(CLIENT, 0)) as client:
        assert client.sendmail("ada@client.example", ["grace@localhost"], CONTENT) == {}


def test_r15_haproxy_with_proxy_v2(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    proxied: dict[str, str],
    launch: Launch,
    port: int,
    tmp_path: Path,
) -> None:
    server = serve("", 'role = "mx"\nproxy = ["127.0.0.1/32"]')
    (tmp_path / "haproxy.cfg").write_text(f"""defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen smtp
    bind 127.0.0.1:{port}
    server one 127.0.0.1:{server.port} send-proxy-v2
""")
    command = [program("haproxy"), "-db", "-f", str(tmp_path / "haproxy.cfg")]
    launch(command, proxied, port)
    submit(port)
    (found,) = server.wait_for_mail()
    assert f"[{CLIENT}]".encode() in found.split(b"\nReceived: ")[1]
    assert accepted(server)["ip"] == CLIENT


class Backend(BaseHTTPRequestHandler):
    """The HTTP service from which nginx gets the address of the mail server."""

    port = 0

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Auth-Status", "OK")
        self.send_header("Auth-Server", "127.0.0.1")
        self.send_header("Auth-Port", str(self.port))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def backend() -> Iterator[type[Backend]]:
    """Start the HTTP service for nginx."""

    class Mine(Backend):
        pass

    http = HTTPServer(("127.0.0.1", 0), Mine)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    Mine.http_port = http.server_address[1]  # type: ignore[attr-defined]
    yield Mine
    http.shutdown()
    thread.join()
    http.server_close()


def test_r14_nginx_mail_proxy_with_xclient(
    serve: Callable[..., Any],
    program: Callable[[str], str],
    proxied: dict[str, str],
    peers_prefix: Path,
    backend: type[Backend],
    launch: Launch,
    port: int,
    tmp_path: Path,
) -> None:
    nginx = program("nginx")
    server = serve("", 'role = "mx"\nxclient = ["127.0.0.1/32"]')
    backend.port = server.port
    module = peers_prefix / "root" / "usr/lib/nginx/modules/ngx_mail_module.so"
    (tmp_path / "nginx.conf").write_text(f"""load_module {module};
daemon off;
pid {tmp_path}/nginx.pid;
error_log {tmp_path}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
mail {{
    server_name proxy.example;
    auth_http 127.0.0.1:{backend.http_port}/;
    xclient on;
    smtp_auth none;
    server {{ listen 127.0.0.1:{port}; protocol smtp; }}
}}
""")
    command = [nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
    launch(command, proxied, port)
    submit(port)
    (found,) = server.wait_for_mail()
    assert f"[{CLIENT}]".encode() in found.split(b"\nReceived: ")[1]
    assert accepted(server)["ip"] == CLIENT
