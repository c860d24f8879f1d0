"""Mailboxes and aliases that other programs maintain, in the real program."""

from __future__ import annotations

import smtplib
import sqlite3
import ssl
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from tests.authority import issue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MX = 'role = "mx"'
LOCAL = '[local]\ndomains = ["mail.example"]\n[directory]\ncache = "0s"\ncache_missing = "0s"\n'
SQL = """
[[directory.sql]]
database = "people.sqlite3"
query = "SELECT target AS targets, disabled FROM people WHERE address = :key"
"""
HTTP = """
[[directory.http]]
url = "https://people.example/{key}"
token = "file:absent"
"""
HOOK = """
[[directory.hook]]
object = "people.py:people"
"""


def people(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE people (address TEXT, target TEXT, disabled INTEGER)")
        database.executemany(
            "INSERT INTO people VALUES (?, ?, ?)",
            [
                ("ada@mail.example", None, 0),
                ("left@mail.example", None, 1),
                ("team@mail.example", "ada@mail.example", 0),
                ("team@mail.example", "bob@mail.example", 0),
                ("bob@mail.example", None, 0),
            ],
        )


def replies(port: int, *recipients: str) -> list[str]:
    """The reply code and the enhanced status code to RCPT of each recipient."""
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        client.ehlo()
        client.mail("jo@client.example")
        found = [client.rcpt(each) for each in recipients]
    return [f"{code} {text.split()[0].decode()}" for code, text in found]


def test_a_database_decides_which_addresses_exist(serve: Callable[..., Any]) -> None:
    server = serve("", MX)
    people(server.folder / "people.sqlite3")
    server.configure(LOCAL + SQL)
    assert b" replaces " in server.run("reload", "-c", str(server.file)).stdout
    port = server.ports["mx"]
    names = [f"{name}@mail.example" for name in ("Ada", "ada+news", "team", "left", "nobody", "postmaster")]
    accepted, refused, disabled = "250 2.1.5", "550 5.1.1", "550 5.2.1"
    assert replies(port, *names) == [accepted, accepted, accepted, disabled, refused, accepted]
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        client.sendmail("jo@client.example", ["team@mail.example"], b"Subject: x\r\n\r\ny\r\n")
    stored = server.wait_for_mail(2)
    assert sorted(line for each in stored for line in each.splitlines() if line.startswith(b"Delivered-To")) == [
        b"Delivered-To: ada@mail.example",
        b"Delivered-To: bob@mail.example",
    ]
    explained = server.run("route", "explain", "team@mail.example", "-c", str(server.file)).stdout.decode()
    assert "mail.example is local; team@mail.example: people.sqlite3" in explained


class People(BaseHTTPRequestHandler):
    """A web server that knows ada; it fails for `broken`."""

    def do_GET(self) -> None:
        found = {"/ada%40mail.example": 200, "/broken%40mail.example": 500}
        self.send_response(found.get(self.path, 404))
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server(tmp_path: Path) -> Iterator[int]:
    """The port of a web server whose certificate is in `ca.pem`."""
    certificate = issue("127.0.0.1")
    certificate.write(tmp_path / "ca.pem", tmp_path / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "ca.pem", tmp_path / "key.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), People) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_a_web_server_decides_which_addresses_exist(
    serve: Callable[..., Any], wait_until: Callable[..., None], web_server: int, tmp_path: Path
) -> None:
    http = f'[http]\nca = "{tmp_path / "ca.pem"}"\nallow = ["127.0.0.1/32"]\n'
    source = f'[[directory.http]]\nurl = "https://127.0.0.1:{web_server}/{{key}}"\n'
    server = serve(LOCAL + http + source, MX, workers=2)
    assert replies(server.ports["mx"], "ada@mail.example", "nobody@mail.example", "broken@mail.example") == [
        "250 2.1.5",
        "550 5.1.1",
        "451 4.3.0",
    ]
    wait_until(lambda: f"https://127.0.0.1:{web_server}/{{key}}: HTTP status 500" in server.log(), server.log)
    assert server.run("check", str(server.file)).returncode == 0
    explained = server.run("route", "explain", "ada@mail.example", "-c", str(server.file)).stdout.decode()
    assert f"ada@mail.example: https://127.0.0.1:{web_server}/{{key}}" in explained


def test_a_hook_decides_which_addresses_exist(serve: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    server = serve("", MX, workers=2)
    (server.folder / "people.py").write_text(
        "class People:\n"
        "    async def lookup(self, key):\n"
        "        return {'targets': 'ada@mail.example,'} if key == 'team@mail.example' else self.known(key)\n"
        "    def known(self, key):\n"
        "        return {'ada@mail.example': {}, 'broken@mail.example': 7}.get(key)\n"
        "people = People()\n"
    )
    server.configure(LOCAL + HOOK)
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    names = [f"{name}@mail.example" for name in ("ada", "team", "nobody", "broken")]
    assert replies(server.ports["mx"], *names) == ["250 2.1.5", "250 2.1.5", "550 5.1.1", "451 4.3.0"]
    wait_until(lambda: "people.py:people: lookup returned int" in server.log(), server.log)
    found = server.run("directory", "find", "team@mail.example", "-c", str(server.file)).stdout.decode()
    assert "team@mail.example: people.py:people" in found


def test_mail_is_deferred_while_the_database_is_gone(
    serve: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    server = serve("", MX, workers=2)
    database = server.folder / "people.sqlite3"
    people(database)
    server.configure(LOCAL + SQL)
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    port = server.ports["mx"]
    database.rename(server.folder / "away")
    assert replies(port, "ada@mail.example", "nobody@mail.example") == ["451 4.3.0"] * 2
    wait_until(lambda: "people.sqlite3: unable to open database file" in server.log(), server.log)
    (server.folder / "away").rename(database)
    assert replies(port, "ada@mail.example", "nobody@mail.example") == ["250 2.1.5", "550 5.1.1"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (SQL, b"directory.sql[1]: people.sqlite3: unable to open database file"),
        (SQL.replace("people.", "other."), b"directory.sql[1]: other.sqlite3: no such table: people"),
        (SQL.replace("people.", "other.").replace("FROM people", "FROM unrelated"), b"no such column: target"),
        (SQL.replace(":key", "'x'"), b"directory.sql[1]: the query has no parameter :key"),
        (HTTP, b"directory.http[1]: token: absent: No such file or directory"),
        (HOOK, b"directory.hook[1]: people.py:people: file not found: "),
    ],
)  # fmt: skip
def test_an_unusable_source_is_named_at_start_at_reload_and_by_check(
    serve: Callable[..., Any], source: str, why: bytes
) -> None:
    server = serve("", MX)
    with closing(sqlite3.connect(server.folder / "other.sqlite3")) as database, database:
        database.execute("CREATE TABLE unrelated (address TEXT)")
    server.configure(LOCAL + source)
    failed = server.run("reload", "-c", str(server.file))
    assert failed.returncode == 78
    assert why in failed.stderr
    assert server.stop() == 0
    for command in (
        ["serve", "-c", str(server.file)],
        ["serve", "--workers", "2", "-c", str(server.file)],
        ["check", str(server.file)],
        ["route", "explain", "ada@mail.example", "-c", str(server.file)],
    ):
        done = server.run(*command)
        assert done.returncode == 78
        assert why in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_file_decides_which_addresses_exist_and_a_change_counts(
    serve: Callable[..., Any], wait_until: Callable[..., None]
) -> None:
    server = serve("", MX)
    aliases = server.folder / "aliases"
    aliases.write_text("ada@mail.example:\nteam@mail.example: ada@mail.example\n")
    server.configure('[local]\ndomains = ["mail.example"]\n[directory]\nfiles = ["aliases"]')
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    port = server.ports["mx"]

    def told() -> list[str]:
        return replies(port, "ada@mail.example", "team@mail.example", "jo@mail.example")

    changed = ["550 5.1.1", "550 5.1.1", "250 2.1.5"]
    assert told() == ["250 2.1.5", "250 2.1.5", "550 5.1.1"]
    aliases.write_text("jo@mail.example:\n")
    wait_until(lambda: told() == changed, server.log)
    aliases.write_text("jo@mail.example:\n/dev/null\n")
    wait_until(lambda: told() == changed and "aliases, line 2: expected an address" in server.log(), server.log)
    for command in (["reload", "-c", str(server.file)], ["check", str(server.file)]):
        done = server.run(*command)
        assert done.returncode == 78
        assert b"directory.files[1]: aliases, line 2: expected an address and a colon" in done.stderr


def test_an_account_that_is_added_is_a_mailbox(serve: Callable[..., Any], wait_until: Callable[..., None]) -> None:
    server = serve("", MX)
    server.configure('[local]\ndomains = ["mail.example"]\nrecipients = []')
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    port = server.ports["mx"]
    assert replies(port, "ada@mail.example") == ["550 5.1.1"]
    added = server.run("user", "add", "ada", "-c", str(server.file), stdin=b"pencil case\n")
    assert added.returncode == 0
    wait_until(lambda: replies(port, "ada+news@mail.example") == ["250 2.1.5"], server.log)
    assert replies(port, "jo@mail.example") == ["550 5.1.1"]
