"""Logging in to the real program: changes of accounts, permissions of a login, hooks, databases."""

from __future__ import annotations

import base64
import json
import signal
import smtplib
import sqlite3
import ssl
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts.passwords import hash_password

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = b"From: ada@client.example\r\nSubject: x\r\n\r\ny\r\n"
SUBMISSION = 'role = "submission"'
WAIT = (454, b"4.7.0 Too many failed login attempts, try again later")


@contextmanager
def connected(port: int) -> Iterator[smtplib.SMTP]:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with smtplib.SMTP("127.0.0.1", port, "client.example") as client:
        client.starttls(context=context)
        client.ehlo()
        yield client


def login(port: int, name: str, password: str) -> tuple[int, bytes]:
    """Return the last reply to AUTH PLAIN."""
    with connected(port) as client:
        client.user, client.password = name, password
        try:
            return client.auth("PLAIN", client.auth_plain)
        except smtplib.SMTPAuthenticationError as refused:
            return int(refused.smtp_code), bytes(refused.smtp_error)


def guesses(port: int) -> int:
    """Return the number of logins that are checked before one is delayed.

    The delays double, so a slow machine checks more of them.
    """
    for number in range(12):
        reply = login(port, "eve", f"guess {number}")
        if reply == WAIT:
            return number
        assert reply[0] == 535
    return 12


def test_account_changes_take_effect_in_a_running_server(serve: Callable[..., Any]) -> None:
    server = serve("trusted = []\n", SUBMISSION)
    port = server.ports["submission"]
    assert login(port, "ada", "pencil case")[0] == 535
    added = server.run("user", "add", "ada", "-c", str(server.file), stdin=b"pencil case\n")
    assert added.returncode == 0, added.stderr
    assert login(port, "ada", "pencil case")[0] == 235
    server.run("user", "add", "--replace", "ada", "-c", str(server.file), stdin=b"eraser and rubber\n")
    assert login(port, "ada", "pencil case")[0] == 535
    assert login(port, "ADA", "eraser and rubber")[0] == 235
    server.run("user", "remove", "ada", "-c", str(server.file))
    assert login(port, "ada", "eraser and rubber")[0] == 535


def test_authenticated_users_may_send_and_received_has_esmtpa(serve: Callable[..., Any]) -> None:
    server = serve("trusted = []\n", SUBMISSION)
    server.run("user", "add", "ada@localhost", "-c", str(server.file), stdin=b"pencil case\n")
    with connected(server.ports["submission"]) as client:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("ada@localhost", ["grace@localhost"], MESSAGE)
        assert refused.value.smtp_code == 530
        assert "SCRAM-SHA-256-PLUS" in client.esmtp_features["auth"]
        assert "CRAM-MD5" not in client.esmtp_features["auth"]
        client.login("ada@localhost", "pencil case")
        client.sendmail("ada@localhost", ["grace@localhost"], MESSAGE)
        client.mail("ada@localhost")
        assert client.rcpt("grace@elsewhere.example")[0] == 250
    (found,) = server.wait_for_mail()
    assert b"with ESMTPSA" in found
    assert b"pencil case" not in server.log().encode()


def test_logins_are_counted_and_logged(serve: Callable[..., Any]) -> None:
    server = serve("", SUBMISSION)
    port = server.ports["submission"]
    server.run("user", "add", "ada", "-c", str(server.file), stdin=b"pencil case\n")
    with connected(port) as client:
        wrong = base64.b64encode("\0ada\0pen\u00a9".encode()).decode()
        assert [client.docmd("AUTH", f"PLAIN {wrong}")[0] for _ in range(2)] == [535, 535]
        assert client.login("ada", "pencil case")[0] == 235
    assert server.stop() == 0
    records = [json.loads(line) for line in server.log().splitlines()]
    (session,) = [record for record in records if record.get("event") == "session"]
    assert (session["identity"], session["failed_logins"]) == ("ada", 2)
    failed = [record for record in records if record.get("event") == "login-failed"]
    assert [(record["level"], record["account"], record["ip"]) for record in failed] == [
        ("info", "ada", "127.0.0.1")
    ] * 2
    sessions = [record["session"] for record in records if record.get("event") == "session"]
    assert {record["session"] for record in failed} <= set(sessions)


def test_r13_login_needs_tls(serve: Callable[..., Any]) -> None:
    server = serve("", SUBMISSION)
    with smtplib.SMTP("127.0.0.1", server.ports["submission"], "client.example") as client:
        client.ehlo()
        assert "auth" not in client.esmtp_features
        assert client.docmd("AUTH", "PLAIN AGFkYQBwZW5jaWw=")[0] == 538
    named = serve("", f'{SUBMISSION}\ntls = "none"\nauth_without_tls = true')
    named.run("user", "add", "ada", "-c", str(named.file), stdin=b"pencil case\n")
    with smtplib.SMTP("127.0.0.1", named.ports["submission"], "client.example") as client:
        assert client.login("ada", "pencil case")[0] == 235


def test_r53_password_guessing_is_delayed_across_a_reload(serve: Callable[..., Any]) -> None:
    server = serve("", SUBMISSION)
    port = server.ports["submission"]
    assert 6 <= guesses(port) < 12
    server.configure("max_recipients = 200\n")
    assert b" replaces " in server.run("reload", "-c", str(server.file)).stdout
    assert guesses(port) < 5
    assert login(port, "ada", "another")[0] == 535


def test_r53_failed_logins_are_shared_by_workers_and_survive_a_restart(serve: Callable[..., Any]) -> None:
    server = serve("", SUBMISSION, workers=2)
    assert 6 <= guesses(server.ports["submission"]) < 12
    size = {each["namespace"]: (each["entries"], each["octets"]) for each in server.json("status")["state"]}
    assert size["login-accounts"] == (1, 17), "a digest and a digit"
    assert size["login-owners"] == (0, 0)
    assert b"state login-accounts: 1 key, 17 octets\n" in server.run("status", "-c", str(server.file)).stdout
    gauges = server.json("metrics")["gauges"]
    assert gauges["state_entries"]["login-accounts"] == 1, "of all workers together"
    assert server.stop() == 0
    server.start("--workers", "1")
    assert guesses(server.ports["submission"]) < 5
    assert b"eve" not in (server.data / "state.sqlite3").read_bytes()
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    server.start("--workers", "2")
    assert guesses(server.ports["submission"]) < 5, "also after a crash, in which a second is lost"


def test_a_damaged_state_file_is_replaced_and_loses_no_mail(serve: Callable[..., Any]) -> None:
    server = serve("trusted = []\n", SUBMISSION, workers=2)
    server.run("user", "add", "ada@localhost", "-c", str(server.file), stdin=b"pencil case\n")
    assert 6 <= guesses(server.ports["submission"]) < 12
    with connected(server.ports["submission"]) as client:
        client.login("ada@localhost", "pencil case")
        client.sendmail("ada@localhost", ["grace@localhost"], MESSAGE, ["HOLDFOR=3600"])
    assert server.stop() == 0
    path = server.data / "state.sqlite3"
    assert server.run("check", "--data", str(server.file)).returncode == 0
    path.write_bytes(b"garbage" * 1000)
    checked = server.run("check", "--data", str(server.file))
    assert checked.returncode == 74
    assert b"state.sqlite3: damaged (file is not a database); the next start of the server " in checked.stdout
    server.start("--workers", "2")
    assert [json.loads(line)["event"] for line in server.log().splitlines() if "state-" in line] == ["state-replaced"]
    assert len(server.queue()) == 1
    assert 6 <= guesses(server.ports["submission"]) < 12


def test_a_database_and_a_hook_are_consulted_after_the_file(serve: Callable[..., Any]) -> None:
    server = serve("", SUBMISSION)
    port = server.ports["submission"]
    with closing(sqlite3.connect(server.folder / "accounts.sqlite3")) as database, database:
        database.execute("CREATE TABLE accounts (name TEXT, password TEXT)")
        database.execute("INSERT INTO accounts VALUES ('bob', ?)", (hash_password("pass of bob"),))
    (server.folder / "accounts.py").write_text(
        "class Accounts:\n"
        "    async def verify_password(self, session, login, password):\n"
        "        if login == 'broken': raise OSError('as asked')\n"
        "        return 'Carol' if (login, password) == ('carol', 'pass of carol') else None\n"
        "accounts = Accounts()\n"
    )
    server.run("user", "add", "ada", "-c", str(server.file), stdin=b"pass of ada\n")
    query = "SELECT name, password FROM accounts WHERE name = :login"
    auth = f'[auth]\ndatabase = "accounts.sqlite3"\nquery = "{query}"\nhook = "accounts.py:accounts"\n'
    server.configure(auth)
    assert b" replaces " in server.run("reload", "-c", str(server.file)).stdout
    for name in ("ada", "bob", "carol"):
        assert login(port, name, f"pass of {name}")[0] == 235
        assert login(port, name, "wrong")[0] == 535
    assert login(port, "nobody", "wrong")[0] == 535
    assert login(port, "broken", "wrong") == (454, b"4.7.0 Temporary authentication failure")


@pytest.mark.parametrize(
    ("auth", "why"),
    [
        ('hook = "nowhere.py:accounts"', b"nowhere.py:accounts: file not found: "),
        ('database = "no.sqlite3"\nquery = "SELECT password FROM a WHERE b = :login"', b"no.sqlite3: unable to open"),
        ('users = "broken"', b"broken, line 1: expected a name"),
    ],
)
def test_unusable_accounts_are_named_at_start_at_reload_and_by_check(
    serve: Callable[..., Any], auth: str, why: bytes
) -> None:
    server = serve("", SUBMISSION)
    (server.folder / "broken").write_text("ada\n")
    server.configure(f"[auth]\n{auth}\n")
    failed = server.run("reload", "-c", str(server.file))
    assert failed.returncode == 78
    assert why in failed.stderr
    assert server.stop() == 0
    for command in (["serve", "-c", str(server.file)], ["check", str(server.file)]):
        done = server.run(*command)
        assert done.returncode == 78
        assert why in done.stderr
        assert b"Traceback" not in done.stderr


def test_workers_show_unknown_names_the_same_salt(serve: Callable[..., Any]) -> None:
    """SECURITY R53: each connection may reach another worker."""
    server = serve("", SUBMISSION, workers=2)
    salts = set()
    for _ in range(6):  # one more could be delayed
        with connected(server.ports["submission"]) as client:
            code, challenge = client.docmd("AUTH", "SCRAM-SHA-256 biwsbj1ub2JvZHkscj1j")  # n,,n=nobody,r=c
            assert code == 334
            salts.add(base64.b64decode(challenge).split(b",")[1])
            client.docmd("*")
    assert len(salts) == 1


@pytest.mark.parametrize("forward", ["", 'forward = ["ada@other.example"]\n'])
def test_a_login_whose_mailbox_is_disabled_cannot_log_in(serve: Callable[..., Any], forward: str) -> None:
    text = '[local]\ndomains = ["mail.example"]\n[[mailbox]]\naddress = "ada@mail.example"\n'
    server = serve(text, SUBMISSION)
    for name in ("ada", "ada@mail.example", "jo"):
        added = server.run("user", "add", name, "-c", str(server.file), stdin=b"pencil case\n")
        assert added.returncode == 0, added.stderr
    port, right, wrong = server.ports["submission"], "pencil case", "no password"
    assert login(port, "ada", right)[0] == 235
    server.configure(text + "disabled = true\n" + forward)
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    assert login(port, "ada", right) == login(port, "ada", wrong)
    assert login(port, "ADA@mail.example", right) == login(port, "ada@mail.example", wrong)
    assert login(port, "jo", right)[0] == 235
    server.wait_for_log("ada cannot log in: mail.example is local; ada@mail.example: mailbox[1], disabled")
