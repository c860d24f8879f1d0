"""Postfix as a smart host: logins by each mechanism, client certificates, source addresses, failover.

What Postfix saw is in its Received field: it relays to smtp-sink.
"""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.interop.conftest import free_port

from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable

    Launch = Callable[[list[str], dict[str, str], int], None]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="Postfix changes to other users, so it needs root"
)

PASSWORD = "correct horse"


class Postfix:
    """A Postfix that requires TLS and relays to smtp-sink."""

    def __init__(
        self,
        program: Callable[[str], str],
        mtas: Any,
        proxied: dict[str, str],
        prefix: Path,
        home: Path,
        port: int,
        launch: Launch,
        sink: int,
    ) -> None:
        program("postfix")
        self._saslpasswd2 = program("saslpasswd2")
        self._mtas, self._env, self._home = mtas, proxied, home
        self.port, self.launch, self._sink = port, launch, sink
        self.plugins = prefix / "root/usr/lib/x86_64-linux-gnu/sasl2"
        self.authority = home / "hub.pem"
        write_self_signed(self.authority, home / "hub.key", ["localhost", "127.0.0.1"])

    def accounts(self, mechanisms: str) -> str:
        """Create the account ada; return the lines of main.cf with which Postfix requires a login."""
        database = self._home / "sasldb2"
        env = {**self._env, "SASL_PATH": str(self.plugins)}
        subprocess.run(
            [self._saslpasswd2, "-p", "-c", "-f", str(database), "-u", "postfix.example", "ada"],
            input=PASSWORD.encode(), env=env, check=True, capture_output=True,
        )  # fmt: skip
        database.chmod(0o644)
        folder = self._home / "postfix/conf/sasl"  # where Debian's Postfix looks for it
        folder.mkdir(parents=True)
        (folder / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {database}\nmech_list: {mechanisms}\n"
        )
        return """
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = postfix.example
smtpd_tls_auth_only = yes
smtpd_sasl_authenticated_header = yes
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""

    def configured(self, lines: str, options: str = "") -> tuple[list[str], dict[str, str]]:
        """Command and environment."""
        main = f"""
import_environment = LD_LIBRARY_PATH MAIL_CONFIG TZ LANG=C SASL_PATH={self.plugins}
relayhost = [127.0.0.1]:{self._sink}
smtpd_tls_security_level = encrypt
smtpd_tls_cert_file = {self.authority}
smtpd_tls_key_file = {self._home / "hub.key"}
smtpd_tls_received_header = yes
{lines}
"""
        ready = self._mtas.postfix(self._home / "postfix", self.port, main=main, options=options)
        return ready.command, {**ready.env, "SASL_PATH": str(self.plugins)}

    def start(self, lines: str) -> None:
        """Start it with more lines of main.cf, and wait for its greeting."""
        self.launch(*self.configured(lines), self.port)


@pytest.fixture
def postfix(
    program: Callable[[str], str],
    mtas: Any,
    proxied: dict[str, str],
    peers_prefix: Path,
    home: Path,
    port: int,
    launch: Launch,
    sink: tuple[int, Path],
) -> Postfix:
    return Postfix(program, mtas, proxied, peers_prefix, home, port, launch, sink[0])


def submit(port: int, sender: str = "ada@client.example") -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        assert client.sendmail(sender, ["grace@elsewhere.example"], b"Subject: onward\r\n\r\nhello\r\n") == {}


@pytest.fixture
def received(
    sink: tuple[int, Path], wait_until: Callable[[Callable[[], bool], Callable[[], str]], None]
) -> Callable[..., list[str]]:
    """A function that waits for messages in smtp-sink, and returns Postfix's Received field of each, unfolded."""

    def whole() -> list[str]:
        found = [path.read_text() for path in sink[1].iterdir()]
        return [text for text in found if text.rstrip("\n").endswith("hello")]

    def wait(server: Any, count: int = 1) -> list[str]:
        wait_until(lambda: len(whole()) >= count, lambda: f"{len(whole())} of {count} messages: {server.log()}")
        return [field(text) for text in whole()]

    return wait


def field(text: str) -> str:
    """Postfix's Received field."""
    fields = re.split(r"\n(?![ \t])", text.partition("\n\n")[0])
    (found,) = [each for each in fields if each.startswith("Received:") and "by postfix.example" in each]
    return " ".join(found.split())


def route(postfix: Postfix, keys: str, hosts: str = "") -> str:
    place = hosts or f'"127.0.0.1:{postfix.port}"'
    return f'[[route]]\nsmart_host = [{place}]\nca = "{postfix.authority}"\n{keys}\n'


@pytest.mark.parametrize("offered", ["SCRAM-SHA-256 PLAIN LOGIN", "PLAIN LOGIN", "LOGIN"])
def test_postfix_accepts_the_login(
    serve: Callable[..., Any],
    postfix: Postfix,
    home: Path,
    offered: str,
    received: Callable[..., list[str]],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    postfix.start(postfix.accounts(offered))
    secret = home / "password"
    secret.write_text(PASSWORD + "\n")
    secret.chmod(0o600)
    login = f'[route.auth]\nuser = "ada"\npassword = "file:{secret}"'
    server = serve(route(postfix, login))
    submit(server.port)
    (field,) = received(server)
    assert "Authenticated sender: ada" in field
    assert "with ESMTPSA" in field
    wait_until(lambda: '"tls": "authenticated"' in server.log(), server.log)


def test_postfix_rejects_the_login_and_the_mail_waits_for_the_right_one(
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
    serve: Callable[..., Any],
    postfix: Postfix,
    home: Path,
    received: Callable[..., list[str]],
) -> None:
    postfix.start(postfix.accounts("PLAIN"))
    secret = home / "password"
    secret.write_text("wrong")
    server = serve(route(postfix, f'[route.auth]\nuser = "ada"\npassword = "file:{secret}"'))
    submit(server.port)
    wait_until(lambda: '"event": "deferred"' in server.log(), server.log)
    assert server.log().count('"event": "route-fault"') == 1
    assert "535 5.7.8" in server.log()
    secret.write_text(PASSWORD)
    assert "wrong" not in server.log()
    assert server.run("reload").returncode == 0
    server.run("queue", "retry", "--all")
    (field,) = received(server)
    assert "Authenticated sender: ada" in field


def test_postfix_verifies_the_client_certificate(
    serve: Callable[..., Any], postfix: Postfix, home: Path, received: Callable[..., list[str]]
) -> None:
    write_self_signed(home / "client.pem", home / "client.key", ["relay.us.example"])
    lines = f"smtpd_tls_CAfile = {home / 'client.pem'}\nsmtpd_tls_req_ccert = yes\nsmtpd_tls_ask_ccert = yes\n"
    postfix.start(lines)
    keys = f'tls = "verify"\ncertificate = "{home / "client.pem"}"\nkey = "file:{home / "client.key"}"'
    server = serve(route(postfix, keys))
    submit(server.port)
    (field,) = received(server)
    assert 'Client CN "relay.us.example"' in field
    assert "(verified OK)" in field


def test_postfix_with_implicit_tls_sees_source_and_name(
    serve: Callable[..., Any], postfix: Postfix, received: Callable[..., list[str]]
) -> None:
    command, env = postfix.configured("", options="-o smtpd_tls_wrappermode=yes")
    # With implicit TLS there is no unencrypted greeting to wait for: a second listener has one.
    plain = free_port()
    master = Path(env["MAIL_CONFIG"]) / "master.cf"
    master.write_text(f"{plain} inet n - n - - smtpd\n" + master.read_text())
    postfix.launch(command, env, plain)
    first = 'tls = "implicit"\nsenders = ["one.example"]\nsource = ["127.0.0.2"]\nhello = "one.us.example"'
    second = 'tls = "implicit"\nsource = ["127.0.0.3"]\nhello = "two.us.example"'
    server = serve(route(postfix, first) + route(postfix, second))
    submit(server.port, "jo@one.example")
    submit(server.port, "jo@two.example")
    fields = received(server, 2)
    assert sorted(re.findall(r"from (\S+) \(\S+ \[([0-9.]+)\]\)", " ".join(fields))) == [
        ("one.us.example", "127.0.0.2"),
        ("two.us.example", "127.0.0.3"),
    ]
    assert all("using TLSv1" in field for field in fields)
