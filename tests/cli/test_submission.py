"""Submission with the real program: permitted senders, header completion, deferred mail, log records and metrics."""

from __future__ import annotations

import json
import smtplib
import ssl
from base64 import b64encode
from datetime import UTC, datetime
from email import message_from_bytes
from typing import TYPE_CHECKING

import pytest

from ironpost.accounts.file import UsersFile
from ironpost.accounts.passwords import PasswordChecker
from ironpost.compose.auth import first_login
from ironpost.config import parse

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
    """Start a server with a submission listener and the user `USER`, without trusted networks."""
    running = serve("trusted = []\n", 'role = "submission"', 'role = "submission"\ntls = "implicit"')
    added = running.run("user", "add", USER, "-c", str(running.file), stdin=PASSWORD.encode() + b"\n")
    assert added.returncode == 0, added.stderr
    return running


@pytest.fixture
def client(server: Any) -> Iterator[smtplib.SMTP]:
    """Return a client that is logged in under TLS."""
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as connection:
        connection.starttls(context=unverified())
        connection.login(USER, PASSWORD)
        yield connection


def test_sending_requires_a_login_and_a_login_requires_tls(server: Any) -> None:
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


def test_an_authenticated_client_may_send_anywhere(server: Any, client: smtplib.SMTP) -> None:
    client.mail(USER)
    assert client.rcpt("jo@elsewhere.example")[0] == 250


def test_f61_a_login_may_use_only_its_own_address(client: smtplib.SMTP) -> None:
    for sender, code in (("ceo@localhost", 553), ("ada@elsewhere.example", 553), ("", 250)):
        assert client.mail(sender)[0] == code


def test_a_login_may_use_the_senders_that_are_configured(server: Any) -> None:
    server.configure(f'trusted = []\n[policy.sender_login]\n"{USER}" = ["sales@localhost"]\n')
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
        client.starttls(context=unverified())
        client.login(USER, PASSWORD)
        for sender, code in ((USER, 250), ("sales@localhost", 250), ("ceo@localhost", 553)):
            assert client.mail(sender)[0] == code
            client.rset()


def test_a_login_over_implicit_tls(server: Any) -> None:
    port = int(server.said[2].partition("127.0.0.1:")[2].partition(" ")[0])
    with smtplib.SMTP_SSL("127.0.0.1", port, "client.example", context=unverified()) as client:
        client.login(USER, PASSWORD)
        client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()


def test_a_submitted_header_section_is_completed_and_traced(server: Any, client: smtplib.SMTP) -> None:
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


def test_bare_lf_is_normalised_for_users(server: Any, client: smtplib.SMTP) -> None:
    client.mail(USER)
    client.rcpt("jo@localhost")
    client.docmd("DATA")
    client.send(b"From: ada@localhost\nSubject: x\n\na line\nanother\n.\nnot the end\r\n.\r\n")
    assert client.getreply()[0] == 250
    (mail,) = server.wait_for_mail()
    assert mail.endswith(b"\n\na line\nanother\n.\nnot the end\n")


def test_invalid_content_is_refused_and_the_session_continues(server: Any, client: smtplib.SMTP) -> None:
    with pytest.raises(smtplib.SMTPDataError) as refused:
        client.sendmail(USER, ["jo@localhost"], b"no header at all\r\n")
    assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (554, b"5.6.0")
    client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()


def test_a_future_release_message_waits_in_the_queue(server: Any, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.has_extn("FUTURERELEASE")
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["HOLDFOR=3600"])
    client.sendmail(USER, ["jo@localhost"], MESSAGE)
    server.wait_for_mail()
    (waiting,) = server.json("queue", "list")
    wait = datetime.fromisoformat(waiting["recipients"][0]["next"]) - datetime.now(UTC)
    assert 3000 < wait.total_seconds() <= 3601
    assert len(server.mail()) == 1


def test_a_priority_and_a_deadline_are_stored_with_the_message(server: Any, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.has_extn("MT-PRIORITY")
    assert client.has_extn("DELIVERBY")
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["MT-PRIORITY=5", "HOLDFOR=3600", "BY=7200;R"])
    (row,) = server.json("queue", "sql", "SELECT priority, mail_parameters FROM queue")
    assert row["priority"] == 5
    assert "MT-PRIORITY=5" in row["mail_parameters"]
    assert ";R" in row["mail_parameters"]
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["MT-PRIORITY=-1"])
    (mail,) = server.wait_for_mail()
    assert b"PRIORITY -1" in mail.partition(b"\n\n")[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_submission_that_is_repeated_on_other_connections_is_stored_once(
    serve: Callable[..., Any], workers: int
) -> None:
    server = serve("trusted = []\n", 'role = "submission"\ntls = "implicit"', workers=workers)
    added = server.run("user", "add", USER, "-c", str(server.file), stdin=PASSWORD.encode() + b"\n")
    assert added.returncode == 0, added.stderr
    content = b"Idempotency-Key: 8e03978e\r\n" + MESSAGE
    replies = []
    for body in (content,) * 8 + (content + b"more\r\n",):
        with smtplib.SMTP_SSL("127.0.0.1", server.port, "client.example", context=unverified()) as client:
            client.login(USER, PASSWORD)
            client.mail(USER)
            client.rcpt("jo@localhost")
            replies.append(client.data(body))
    assert len(set(replies[:8])) == 1
    assert replies[0][0] == 250
    assert (replies[8][0], replies[8][1][:5]) == (554, b"5.6.0")
    server.wait_until_empty()
    (mail,) = server.mail()
    assert b"Idempotency" not in mail
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    repeated = [record for record in records if record.get("event") == "repeated"]
    assert len(repeated) == 8
    assert {record["id"].encode() for record in repeated} == {replies[0][1].split()[-1]}


def test_requiretls_is_stored_with_the_message(server: Any, client: smtplib.SMTP) -> None:
    client.ehlo()
    assert client.has_extn("REQUIRETLS")
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["REQUIRETLS", "HOLDFOR=3600"])
    (waiting,) = server.json("queue", "list")
    shown = server.json("queue", "show", waiting["id"])
    assert "REQUIRETLS" in shown["parameters"]
    client.sendmail(USER, ["jo@localhost"], MESSAGE, ["REQUIRETLS"])
    server.wait_for_mail()


def test_the_log_and_the_metrics_have_the_login(server: Any) -> None:
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


def test_the_first_start_creates_one_user_and_prints_its_password_once(tmp_path: Path) -> None:
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


def test_no_user_is_created_if_accounts_are_configured(tmp_path: Path) -> None:
    listener = '[[listener]]\nrole = "submission"\nlisten = ["127.0.0.1:0"]\n'
    assert first_login(parse(f'data = "{tmp_path}"\n{listener}')) is None
    assert first_login(parse(f'data = "{tmp_path}"\n[auth]\nusers = "{tmp_path / "others"}"')) is None
    assert list(tmp_path.iterdir()) == []
