"""Listeners of the real program: TLS with certificates, LMTP, Unix sockets, inherited sockets, limits."""

from __future__ import annotations

import os
import smtplib
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

MESSAGE = b"From: ada@client.example\r\nSubject: x\r\n\r\ny\r\n"


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Create a certificate for a name; for the same name again, another one in the same files."""

    def make(name: str) -> tuple[Path, Path]:
        chain, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        write_self_signed(chain, key, [name])
        return chain, key

    return make


def listed(*pairs: tuple[Path, Path]) -> str:
    entries = ", ".join(f'{{ chain = "{chain}", key = "file:{key}" }}' for chain, key in pairs)
    return f"[tls]\ncertificates = [{entries}]\n"


def shown(port: int, name: str) -> bytes:
    """Return the certificate that a client gets with STARTTLS and the server name `name`."""
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        client._host = name  # type: ignore[attr-defined] # what smtplib sends as server name
        client.starttls(context=unverified())
        assert isinstance(client.sock, ssl.SSLSocket)
        found = client.sock.getpeercert(binary_form=True)
    assert found is not None
    return found


def der(chain: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(chain.read_text())


def test_r47_starttls_works_with_a_self_signed_certificate_whose_key_is_private(serve: Callable[..., Any]) -> None:
    server = serve("")
    made = server.data / "tls" / "self-signed.pem"
    assert shown(server.port, "localhost") == der(made)
    for path in (made, made.with_suffix(".key")):
        assert path.stat().st_mode & 0o777 == 0o600
    before = made.read_bytes()
    assert server.stop() == 0
    server.start()
    assert made.read_bytes() == before
    assert server.stop() == 0
    write_self_signed(made, made.with_suffix(".key"), ["mx.example"], days=-1)
    server.start()
    assert shown(server.port, "localhost") == der(made)
    assert "expired" in server.log()
    assert server.run("check", str(server.file)).returncode == 0


def test_mail_over_tls_has_its_protocol_in_received(serve: Callable[..., Any]) -> None:
    server = serve("")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.starttls(context=unverified())
        client.sendmail("ada@client.example", ["a@localhost"], MESSAGE)
    (mail,) = server.wait_for_mail()
    received = b" ".join(mail.partition(b"Received:")[2].partition(b"\nFrom:")[0].split())
    assert b"with ESMTPS id " in received
    assert b" for <a@localhost> tls TLS_" in received


def test_implicit_tls_starts_with_the_handshake(serve: Callable[..., Any]) -> None:
    server = serve("", 'role = "mx"\ntls = "implicit"')
    with smtplib.SMTP_SSL("127.0.0.1", server.port, "client.example", context=unverified()) as client:
        client.ehlo()
        assert not client.has_extn("STARTTLS")
        client.sendmail("", ["a@localhost"], MESSAGE)
    server.wait_for_mail()


def test_certificates_are_selected_by_name_and_reloaded(
    serve: Callable[..., Any], certificate: Callable[[str], tuple[Path, Path]]
) -> None:
    one, other = certificate("one.example"), certificate("other.example")
    server = serve(listed(one, other))
    assert shown(server.port, "other.example") == der(other[0])
    assert shown(server.port, "unknown.example") == der(one[0])

    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as open_before:
        open_before.starttls(context=unverified())
        certificate("other.example")
        reload = server.run("reload", "-c", str(server.file))
        assert reload.returncode == 0, reload.stderr
        assert shown(server.port, "other.example") == der(other[0])
        open_before.sendmail("", ["a@localhost"], MESSAGE)  # the old session continues

    other[1].write_text(one[1].read_text())
    refused = server.run("reload", "-c", str(server.file))
    assert refused.returncode == 78
    assert f"{other[1]}: this private key does not match the certificate in {other[0]}" in refused.stderr.decode()
    assert shown(server.port, "one.example") == der(one[0])


def test_an_unusable_certificate_is_named(
    serve: Callable[..., Any], certificate: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    chain, _ = certificate("one.example")
    server = serve("")
    server.configure(listed((chain, tmp_path / "absent.key")))
    for command in (["check", str(server.file)], ["reload", "-c", str(server.file)]):
        done = server.run(*command)
        assert done.returncode == 78
        assert f"{tmp_path / 'absent.key'}: No such file or directory" in done.stderr.decode()
    assert server.stop() == 0
    done = server.run("serve", "-c", str(server.file))
    assert done.returncode == 78
    assert done.stderr.decode().startswith(f"ironpost: {tmp_path / 'absent.key'}: No such file or directory")


def test_lmtp_over_a_unix_socket_answers_for_each_recipient(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "lmtp.sock"
    server = serve("", f'role = "lmtp"\nlisten = ["unix:{path}"]\nmode = "0600"')
    assert f"listening on unix:{path} for lmtp, unencrypted, no login" in server.said
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
        connection.settimeout(30)
        connection.connect(str(path))
        assert stream.readline().startswith(b"220 ")
        stream.write(
            b"LHLO front.example\r\nMAIL FROM:<>\r\nRCPT TO:<a@localhost>\r\nRCPT TO:<x@elsewhere.example>\r\n"
            b"RCPT TO:<b@localhost>\r\nDATA\r\n"
        )
        stream.flush()
        assert any(line.startswith(b"354 ") for line in iter(stream.readline, b""))
        stream.write(MESSAGE + b".\r\nQUIT\r\n")
        stream.flush()
        codes = [line[:3] for line in stream]
    assert codes == [b"250", b"250", b"221"]
    assert len(server.wait_for_mail(2)) == 2
    assert server.stop() == 0
    assert not path.exists()


@pytest.fixture
def bound() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


ACTIVATE = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3)\n"
    "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1', 'LISTEN_FDNAMES': 'smtp'}\n"
    "os.execv(sys.executable, [sys.executable, '-m', 'ironpost.cli', 'serve', '-c', sys.argv[2]])\n"
)
"""A service manager: passes the listening socket as descriptor 3."""


def test_a_socket_passed_by_a_service_manager_is_served(tmp_path: Path, bound: socket.socket) -> None:
    file = tmp_path / "ironpost.toml"
    file.write_text(f'data = "{tmp_path / "data"}"\n[[listener]]\nrole = "mx"\nlisten = ["fd:smtp"]\n')
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", ACTIVATE, str(bound.fileno()), str(file)], pass_fds=[bound.fileno()],
        env={**os.environ, "PYTHONPATH": str(root / "python")}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with smtplib.SMTP(*bound.getsockname(), "client.example", timeout=60) as client:
            assert client.noop()[0] == 250
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_a_missing_inherited_socket_is_named(tmp_path: Path, serve: Callable[..., Any]) -> None:
    server = serve("")
    assert server.stop() == 0
    server.file.write_text(f'data = "{server.data}"\n[[listener]]\nrole = "mx"\nlisten = ["fd:smtp"]\n')
    done = server.run("serve", "-c", str(server.file))
    assert done.returncode == 69
    assert "\nironpost: cannot listen on fd:smtp: no socket of that name was passed\n" in done.stderr.decode()


def test_a_listener_may_have_separate_limits(serve: Callable[..., Any]) -> None:
    server = serve("", 'role = "mx"\n[listener.limits]\nconnections = 1', 'role = "lmtp"')
    address = ("127.0.0.1", server.ports["mx"])
    with smtplib.SMTP(*address, "client.example") as one:
        assert one.noop()[0] == 250
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtplib.SMTP(*address, "client.example")
        assert refused.value.smtp_code == 421
        with smtplib.LMTP("127.0.0.1", server.ports["lmtp"], "client.example") as other:
            assert other.noop()[0] == 250
    metrics = server.run("metrics", "-c", str(server.file)).stdout
    assert b'ironpost_connections_refused_total{limit="total"} 1.0' in metrics


def test_a_listener_may_refuse_undeclared_8_bit_content(
    serve: Callable[..., Any],
) -> None:
    server = serve("", 'role = "mx"\neight_bit = "reject"', 'role = "lmtp"')
    content = b"Subject: \xc3\xa9\r\n\r\ny\r\n"
    with smtplib.SMTP("127.0.0.1", server.ports["mx"], "client.example") as client:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("", ["a@localhost"], content)
        assert refused.value.smtp_code == 550
        client.sendmail("", ["a@localhost"], content, ["BODY=8BITMIME"])
    with smtplib.LMTP("127.0.0.1", server.ports["lmtp"], "client.example") as client:
        client.sendmail("", ["a@localhost"], content)
    server.wait_for_mail(2)


def test_r2_a_listener_may_normalise_line_ends(serve: Callable[..., Any]) -> None:
    here = 'role = "mx"\nlenient = ["127.0.0.0/8"]'
    elsewhere = 'role = "lmtp"\nlenient = ["192.0.2.0/24"]'
    server = serve("", here, elsewhere)
    for role, hello, answer in (("mx", b"EHLO", b"250"), ("lmtp", b"LHLO", b"550")):
        with socket.create_connection(("127.0.0.1", server.ports[role]), 30) as client, client.makefile("rb") as said:
            assert said.readline().startswith(b"220")
            client.sendall(hello + b" client.example\r\n")
            while said.readline()[3:4] == b"-":
                pass
            client.sendall(b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@localhost>\r\nDATA\r\n")
            assert [said.readline()[:3] for _ in range(3)] == [b"250", b"250", b"354"]
            client.sendall(b"Subject: ironpost\n\n.\nx\n\r\n.\r\n")
            assert said.readline()[:3] == answer
    (message,) = server.wait_for_mail()
    assert message.endswith(b"\nSubject: ironpost\n\n.\nx\n\n")


def test_workers_share_a_unix_socket_and_one_certificate(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "mx.sock"
    server = serve("", f'role = "mx"\nlisten = ["127.0.0.1:0", "unix:{path}"]', workers=2)
    assert f"listening on unix:{path} for mx, STARTTLS, no login" in server.said
    made = der(server.data / "tls" / "self-signed.pem")
    assert [shown(server.port, "localhost") for _ in range(8)] == [made] * 8
    for _ in range(8):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(path))
            assert connection.recv(4) == b"220 "
    assert server.stop() == 0
    assert not path.exists()


def test_a_client_that_sends_during_the_pause_is_refused_logged_and_counted(serve: Callable[..., Any]) -> None:
    server = serve("", 'role = "mx"\npause = "1s"')
    with socket.create_connection(("127.0.0.1", server.port), 60) as connection:
        connection.sendall(b"EHLO client.example\r\n")
        assert connection.recv(1024).startswith(b"554 ")
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as patient:
        assert patient.noop()[0] == 250
    metrics = server.run("metrics", "-c", str(server.file)).stdout
    assert b'ironpost_connections_refused_total{limit="early"} 1.0' in metrics
    assert server.stop() == 0
    assert "127.0.0.1 sent data before the greeting" in server.log()


def test_a_session_ended_by_a_limit_is_counted_by_that_limit(serve: Callable[..., Any]) -> None:
    server = serve("", 'role = "mx"\n[listener.limits]\nerrors = 2')
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        assert client.docmd("NONSENSE")[0] == 500
        assert client.docmd("NONSENSE")[0] == 421
    metrics = server.run("metrics", "-c", str(server.file)).stdout
    assert b'ironpost_sessions_ended_total{limit="errors"} 1.0' in metrics
    assert server.stop() == 0
    assert '"ended": "421 4.7.0 Too many errors, closing transmission channel"' in server.log()


def test_the_counters_of_all_workers_are_added(serve: Callable[..., Any]) -> None:
    server = serve("", workers=2)
    for _ in range(6):
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.sendmail("", ["a@localhost"], MESSAGE)
    metrics = server.run("metrics", "-c", str(server.file)).stdout
    assert b'ironpost_messages_total{result="accepted"} 6.0' in metrics
    assert b'ironpost_connections_total{listener="mx"} 6.0' in metrics
