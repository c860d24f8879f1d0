"""Submission with the real program: who may send, what is mended, what waits, what the log and the metrics say."""

from __future__ import annotations

import json
import smtplib
import ssl
from base64 import b64encode
from datetime import UTC, datetime
from email import message_from_bytes
from typing import TYPE_CHECKING

import pytest

from ironpost.compose.auth import first_login
from ironpost.config import parse
from ironpost.lookup.passwords import PasswordChecker
from ironpost.lookup.users_file import UsersFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

USER, PASSWORD = "ada@localhost", "correct horse"
MESSAGE = b"From: ada@localhost\r\nTo: jo@localhost\r\nBcc: eve@localhost\r\nSubject: x\r\n\r\ny\r\n"


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def server(serve: Callable[..., Any]) -> Any:
    """One with a submission listener, and the user `USER`. Nobody is trusted for their address."""
    running = serve("trusted = []\n", 'role = "submission"', 'role = "submission"\ntls = "implicit"')
    added = running.run("user", "add", USER, "-c", str(running.file), stdin=PASSWORD.encode() + b"\n")
    assert added.returncode == 0, added.stderr
    return running


@pytest.fixture
def client(server: Any) -> Iterator[smtplib.SMTP]:
    """Logged in under TLS."""
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as connection:
        connection.starttls(context=unverified())
        connection.login(USER, PASSWORD)
        yield connection


def test_nobody_sends_without_logging_in_and_nobody_logs_in_in_clear(server: Any) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.ehlo()
        assert not client.has_extn("AUTH")
        assert client.mail("ada@localhost") == (530, b"5.7.0 Authentication required")
        assert client.docmd("AUTH PLAIN AGEAYg==")[0] == 538
        client.starttls(context=unverified())
        client.ehlo()
        assert client.has_extn("AUTH")
        assert client.mail("ada@localhost")[0] == 530
        with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
            client.login(USER, "wrong")
        assert refused.value.smtp_code == 535


def test_who_has_logged_in_may_send_anywhere(server: Any, client: smtplib.SMTP) -> None:
    client.mail(USER)
    assert client.rcpt("jo@elsewhere.example")[0] == 250


def test_f61_a_login_sends_as_itself_alone(client: smtplib.SMTP) -> None:
    for sender, code in (("ceo@localhost", 553), ("ada@elsewhere.example", 553), ("", 250)):
        assert client.mail(sender)[0] == code


def test_a_login_sends_as_itself_and_as_what_the_map_allows(server: Any) -> None:
    server.configure(f'trusted = []\n[policy.sender_login]\n"{USER}" = ["sales@localhost"]\n')
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.starttls(context=unverified())
        client.login(USER, PASSWORD)
        for sender, code in ((USER, 250), ("sales@localhost", 250), ("ceo@localhost", 553)):
            assert client.mail(sender)[0] == code
            client.rset()


def test_implicit_tls_takes_a_login_at_once(server: Any) -> None:
    port = int(server.said[2].partition("127.0.0.1:")[2].partition(" ")[0])
    with smtplib.SMTP_SSL("127.0.0.1", port, "client.example", context=unverified()) as client:
        client.login(USER, PASSWORD)
        client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()


def test_what_arrives_is_mended_and_says_how_it_came(server: Any, client: smtplib.SMTP) -> None:
    client.sendmail(USER, ["jo@localhost"], MESSAGE)
    (mail,) = server.wait_for_mail()
    message = message_from_bytes(mail)
    assert message["Bcc"] is None
    assert message["Date"]
    assert message["Message-ID"].endswith("@mx.example>")
    received = " ".join(message["Received"].split())
    assert " with ESMTPSA id " in received
    assert " tls TLS_" in received
    assert USER not in received.partition(" for ")[0]


def test_lines_that_end_in_lf_alone_are_mended_for_users(server: Any, client: smtplib.SMTP) -> None:
    client.mail(USER)
    client.rcpt("jo@localhost")
    client.docmd("DATA")
    client.send(b"From: ada@localhost\nSubject: x\n\na line\nanother\n.\nnot the end\r\n.\r\n")
    assert client.getreply()[0] == 250
    (mail,) = server.wait_for_mail()
    assert mail.endswith(b"\n\na line\nanother\n.\nnot the end\n")


def test_content_that_is_no_message_is_refused_and_the_session_goes_on(server: Any, client: smtplib.SMTP) -> None:
    with pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(USER, ["jo@localhost"], b"no header at all\r\n")
    assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (554, b"5.6.0")
    client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()


def test_a_message_for_later_waits_in_the_queue(server: Any, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.has_extn("FUTURERELEASE")
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["HOLDFOR=3600"])
    client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()
    (waiting,) = server.json("queue", "list")
    wait = datetime.fromisoformat(waiting["recipients"][0]["next"]) - datetime.now(UTC)
    assert 3000 < wait.total_seconds() <= 3601
    assert len(server.mail()) == 1


def test_requiretls_is_kept_with_the_message(server: Any, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.has_extn("REQUIRETLS")
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["REQUIRETLS", "HOLDFOR=3600"])
    (waiting,) = server.json("queue", "list")
    shown = server.json("queue", "show", waiting["id"])
    assert "REQUIRETLS" in shown["parameters"]
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["REQUIRETLS"])
    server.wait_for_mail()


def test_the_log_and_the_metrics_know_who_it_was(server: Any) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.starttls(context=unverified())
        client.ehlo()
        assert client.docmd("AUTH PLAIN", b64encode(f"\0{USER}\0wrong".encode()).decode())[0] == 535
        client.login(USER, PASSWORD)
        client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()
    metrics = server.run("metrics", "-c", str(server.file)).stdout
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log().splitlines()]
    (accepted,) = [record for record in records if record.get("event") == "accepted"]
    assert (accepted["identity"], accepted["listener"], accepted["protocol"]) == (USER, "submission", "ESMTPSA")
    (session,) = [record for record in records if record.get("event") == "session"]
    assert session["tls"].startswith("TLSv1.")
    assert session["cipher"]
    assert (session["identity"], session["messages"]) == (USER, 1)
    assert session["failed_logins"] >= 1
    assert PASSWORD not in server.log()
    assert b'ironpost_logins_total{result="accepted"} 1.0' in metrics
    assert b'ironpost_logins_total{result="refused"} 1.0' in metrics
    assert b'ironpost_handshakes_total{result="TLSv1.3"} 1.0' in metrics


def test_the_first_start_makes_one_user_and_tells_its_password_once(tmp_path: Path) -> None:
    configuration = parse(f'data = "{tmp_path}"')
    made = first_login(configuration)
    assert made is not None
    assert made.name == "you@localhost"
    assert (tmp_path / "users").stat().st_mode & 0o777 == 0o600
    assert made.password not in (tmp_path / "users").read_text()
    user = UsersFile(tmp_path / "users").find("you@localhost")
    assert user is not None
    assert PasswordChecker().check(user.password, made.password)
    assert first_login(configuration) is None


def test_no_user_is_made_where_something_is_configured(tmp_path: Path) -> None:
    listener = '[[listener]]\nrole = "submission"\nlisten = ["127.0.0.1:0"]\n'
    assert first_login(parse(f'data = "{tmp_path}"\n{listener}')) is None
    assert first_login(parse(f'data = "{tmp_path}"\n[auth]\nusers = "{tmp_path / "others"}"')) is None
    assert list(tmp_path.iterdir()) == []
