"""Forward files in the real program: mail follows them, and waits while one is broken."""

from __future__ import annotations

import smtplib
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Running

MX = 'role = "mx"'


def configured(server: Running, files: str) -> str:
    return f'[local]\ndomains = ["mail.example"]\n[directory]\nforward_files = "{files.format(server.folder)}"\n'


def forward(server: Running, user: str, text: str) -> Path:
    home = server.folder / "homes" / user
    home.mkdir(0o755, parents=True, exist_ok=True)
    file = home / ".forward"
    file.write_text(text)
    file.chmod(0o600)
    return file


def sent(server: Running, *recipients: str) -> dict[str, tuple[int, bytes]]:
    """Send one message; return the refusals."""
    with smtplib.SMTP("127.0.0.1", server.ports["mx"], "client.example") as client:
        try:
            return client.sendmail("jo@client.example", recipients, b"Subject: x\r\n\r\ny\r\n")
        except smtplib.SMTPRecipientsRefused as refused:
            return refused.recipients


@pytest.mark.parametrize("workers", [1, 2])
def test_mail_follows_a_forward_file_and_waits_while_it_is_broken(
    serve: Callable[..., Any], wait_until: Callable[..., None], workers: int
) -> None:
    server = serve("", MX, workers=workers)
    file = forward(server, "jo", "\\jo, ann\n")
    server.configure(configured(server, "{0}/homes/{{local}}/.forward"))
    assert b" replaces " in server.run("reload", "-c", str(server.file)).stdout
    assert sent(server, "jo+news@mail.example") == {}
    stored = server.wait_for_mail(2)
    assert sorted(line for each in stored for line in each.splitlines() if line.startswith(b"Delivered-To")) == [
        b"Delivered-To: ann@mail.example",
        b"Delivered-To: jo+news@mail.example",
    ]
    forward(server, "jo", "|/usr/bin/vacation jo\n")
    assert sent(server, "jo@mail.example")["jo@mail.example"][0] == 451
    why = f"{file}: line 1: a program, file or list cannot be a target"
    wait_until(lambda: why in server.log(), server.log)
    assert why in server.run("directory", "find", "jo@mail.example", "-c", str(server.file)).stdout.decode()
    metrics = server.run("metrics", "-c", str(server.file)).stdout.decode()
    assert 'ironpost_forward_file_failures_total{reason="unsupported"} 1.0' in metrics
    forward(server, "jo", "ann\n")
    assert sent(server, "jo@mail.example") == {}
    assert sum(b"Delivered-To: ann@mail.example" in each for each in server.wait_for_mail(3)) == 2


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ("{0}/nowhere/{{local}}", "directory.forward_files: {0}/nowhere: No such file or directory"),
        ("{0}/log/{{local}}", "directory.forward_files: {0}/log is not a directory"),
        ("{0}/open/{{local}}", "directory.forward_files: other users may write in {0}/open; run: chmod go-w {0}/open"),
        ("{0}/.forward", "expected an absolute path with a placeholder, such as /home/{{local}}/.forward"),
        ("homes/{{local}}", "expected an absolute path with a placeholder, such as /home/{{local}}/.forward"),
        ("{0}/{{user}}", "{{user}} is not known"),
    ],
)
def test_a_wrong_path_is_named_at_start_at_reload_and_by_check(serve: Callable[..., Any], files: str, why: str) -> None:
    server = serve("", MX)
    (server.folder / "open").mkdir()
    (server.folder / "open").chmod(0o777)
    server.configure(configured(server, files))
    expected = why.format(server.folder)
    assert expected in server.run("reload", "-c", str(server.file)).stderr.decode()
    assert server.stop() == 0
    for command in (
        ["serve", "-c", str(server.file)],
        ["serve", "--workers", "2", "-c", str(server.file)],
        ["check", str(server.file)],
    ):
        done = server.run(*command)
        assert done.returncode == 78
        assert expected in done.stderr.decode()
