"""f62: messages of the real program that were misleading in earlier versions."""

from __future__ import annotations

import smtplib
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MESSAGE = b"Subject: x\r\n\r\ny\r\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    pair = tmp_path / "chain.pem", tmp_path / "key.pem"
    write_self_signed(*pair, ["mx.example"])
    return pair


def listed(pair: tuple[Path, Path]) -> str:
    return f'[[tls.certificates]]\nchain = "{pair[0]}"\nkey = "file:{pair[1]}"\n'


# -- the queue


def test_f62_held_mail_is_reported(serve: Callable[..., Any]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        server = serve(f'[[route]]\ndomains = ["*"]\nsmart_host = ["127.0.0.1:{nobody.getsockname()[1]}"]\n')
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            for to in (["a@far.example"], ["b@far.example", "c@far.example"]):
                client.sendmail("ada@client.example", to, MESSAGE)
        one, two = (each["id"] for each in server.json("queue", "list"))

        def said(*arguments: str) -> tuple[int, str, str]:
            done = server.run("queue", *arguments)
            return done.returncode, done.stdout.decode(), done.stderr.decode()

        held = f"{one} is held and not retried; release with: ironpost queue release {one}"
        assert said("hold", one) == (0, "1 recipient is held\n", "")
        assert said("hold", one) == (66, "0 recipients are held\n", f"ironpost: {one} is already held\n")
        assert said("retry", one) == (66, "0 recipients are due now\n", f"ironpost: {held}\n")
        assert said("retry", one, "--json") == (
            66, '{"recipients": 0, "suspended": [], "early": 0}\n', f"ironpost: {held}\n",
        )  # fmt: skip
        assert said("retry", one, two) == (0, "2 recipients are due now\n", f"ironpost: {held}\n")
        assert said("retry", "--all") == (0, "2 recipients are due now\n", "")
        assert said("release", two) == (
            66, "0 recipients are released\n",
            f"ironpost: {two} is not held; to attempt delivery now: ironpost queue retry {two}\n",
        )  # fmt: skip
        assert said("hold", two) == (0, "2 recipients are held\n", "")
        assert said("retry", "--all") == (
            66, "0 recipients are due now\n",
            f"ironpost: {one}, {two} are held and not retried; release with: ironpost queue release {one} {two}\n",
        )  # fmt: skip
        assert said("release", one) == (0, "1 recipient is released\n", "")
        assert said("retry", one) == (0, "1 recipient is due now\n", "")
        assert said("drop", one) == (0, "1 recipient is dropped\n", "")
        assert said("drop", two) == (0, "2 recipients are dropped\n", "")
        assert said("retry", "--all") == (0, "0 recipients are due now\n", "")
        assert "1 connection\n" not in server.run("status", "-c", str(server.file)).stdout.decode()
        with smtplib.SMTP("127.0.0.1", server.port, "client.example"):
            assert ", 1 connection\n" in server.run("status", "-c", str(server.file)).stdout.decode()


# -- reload


@pytest.mark.parametrize("workers", [1, 2])
def test_f62_a_reload_names_new_and_expired_certificates(
    serve: Callable[..., Any], files: tuple[Path, Path], workers: int
) -> None:
    server = serve(listed(files), workers=workers)

    def reload() -> str:
        done = server.run("reload", "-c", str(server.file))
        assert (done.returncode, done.stderr) == (0, b"")
        return str(done.stdout.decode().rstrip())

    same = reload()
    assert same.startswith("configuration unchanged (")
    assert same.endswith("); certificates and accounts reloaded")
    write_self_signed(*files, ["mx.example"])
    said = reload()
    assert said.startswith(f"{same}; new certificate {files[0]}, valid until 20")
    assert "nothing" not in said
    server.wait_for_log(said)
    assert reload() == same
    write_self_signed(*files, ["mx.example"], days=-1)
    said = reload()
    assert said.startswith(f"{same}; certificate {files[0]} expired on 20")
    assert said.endswith(": renew it")
    assert reload() == said  # at every reload while it is expired
    server.configure(f"max_recipients = 200\n{listed(files)}")
    write_self_signed(*files, ["mx.example"])
    assert f"; new certificate {files[0]}, valid until 20" in reload()


# -- send


def test_f62_send_explains_a_certificate_error_and_its_remedy(
    serve: Callable[..., Any], files: tuple[Path, Path], tmp_path: Path
) -> None:
    server = serve(listed(files), 'role = "mx"\ntls = "starttls"', 'role = "submission"\ntls = "implicit"')
    (server.folder / "m").write_bytes(MESSAGE)
    clear, secure = str(server.ports["mx"]), str(server.ports["submission"])

    def said(*arguments: str) -> str:
        done = server.run("send", "--to", "a@localhost", *arguments, "m")
        assert done.returncode == 77
        last: str = done.stderr.decode().splitlines()[-1]
        return last.removeprefix("ironpost: nothing was sent; ")

    names = "its certificate is not valid for 127.0.0.1: use one of its names with --host"
    assert said("--port", clear, "--tls", "must", "--ca", str(files[0])) == names
    assert said("--port", secure, "--tls", "implicit", "--ca", str(files[0])) == names
    assert said("--port", clear, "--tls", "must") == "give the CA of the server with --ca"
    assert said("--port", clear, "--tls", "implicit", "--ca", str(files[0])) == (
        "the port does not use implicit TLS: leave out --tls implicit, or choose another --port"
    )
    done = server.run("send", "--to", "a@localhost", "--port", clear, "--tls", "must", "--ca", "m", "m")
    assert (done.returncode, done.stderr) == (66, b"ironpost: m: no PEM certificate found in this file\n")


@pytest.mark.parametrize("option", ["--to", "--from"])
def test_f62_send_explains_an_invalid_address(serve: Callable[..., Any], option: str) -> None:
    server = serve()
    done = server.run("send", "--to", "a@x.example", option, "a b@x.example", "m")
    assert (done.returncode, done.stderr) == (
        64, b'ironpost: invalid address a b@x.example: invalid character " " in the local part (offset 1)\n',
    )  # fmt: skip
    done = server.run("route", "explain", "-c", str(server.file), "<a@x..example>")
    assert (done.returncode, done.stderr) == (
        64,
        b"ironpost: invalid recipient <a@x..example>: misplaced dot in the domain (offset 4)\n",
    )


@contextmanager
def silent() -> Iterator[tuple[int, Callable[[], None]]]:
    """Start a server that accepts a connection and sends nothing; yield its port and a function that ends it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[socket.socket] = []
        thread = threading.Thread(target=lambda: taken.append(listening.accept()[0]))
        thread.start()

        def end() -> None:
            thread.join(30)
            taken[0].close()

        yield listening.getsockname()[1], end


def test_f62_send_reports_that_a_server_may_be_waiting_for_tls(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(MESSAGE)
    script = tmp_path / "hurried.py"
    script.write_text("import sys\nfrom ironpost.cli import app, send\nsend.PATIENCE = 0.1\nsys.exit(app.run())\n")
    with silent() as (port, end), subprocess.Popen(
        [sys.executable, str(script), "send", "--to", "a@localhost", "--port", str(port), "--tls", "may", "m"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
    ) as sending:  # fmt: skip
        assert sending.stderr is not None
        assert sending.stderr.readline() == (
            f"ironpost: no greeting from 127.0.0.1:{port} for 0.1 s, still waiting; for implicit TLS, "
            "use --tls implicit\n"
        )
        end()
        assert "Then use --tls implicit" in sending.stderr.read()
        assert sending.wait(60) == 75


def test_f62_send_uses_implicit_tls_at_port_465(tmp_path: Path) -> None:
    """Without `--tls`; with it the client waits for 20 s: tests/client/test_client_reach.py."""
    from ironpost.cli.send import SendOptions, _client

    assert _client(SendOptions("127.0.0.1", 465, None, "", None, None), from_input=False)._implicit
    assert not _client(SendOptions("127.0.0.1", 587, None, "", None, None), from_input=False)._implicit
