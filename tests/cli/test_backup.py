"""`ironpost backup` and `restore` as an operator uses them, with real servers."""

from __future__ import annotations

import signal
import smtplib
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.storage import drop
from ironpost.storage.lock import RESTORING
from ironpost.storage.manifest import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[..., Any]

LATER = '[[route]]\ndomains = ["later.example"]\nsmart_host = ["127.0.0.1:{port}"]\n'
CLOSED = LATER.format(port=1)
"""Nothing listens there, so mail for later.example stays in the queue."""
BODY = "0123456789abcdef0123456789abcdef\r\n" * 6000
"""Too large for a row of the database."""


def send(port: int, *recipients: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, "client.example", timeout=30) as client:
        for to in recipients:
            client.sendmail("from@client.example", [to], f"Subject: for {to}\r\n\r\n{BODY}")


def said(done: Any) -> tuple[int, str, str]:
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_continues_on_another_machine_with_the_mail_of_a_backup(serve: Serve, workers: int) -> None:
    server = serve(CLOSED, workers=workers)
    send(server.port, "a@later.example", "b@later.example", "you@localhost")
    server.wait_for_mail()
    made = server.json("backup", "backup")
    assert (made["messages"], made["finished"], made["damaged"], made["left_out"]) == (2, 0, [], [])
    server.stop(signal.SIGKILL)
    server.data.rename(server.folder / "lost")  # its workers may not have ended yet

    next_hop = serve('[local]\ndomains = ["later.example"]\n')
    server.configure(LATER.format(port=next_hop.port))
    code, out, err = said(server.run("restore", "backup"))
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("2 messages in the queue")
    assert out.splitlines()[1].startswith("2 recipients held: ")
    assert server.run("check", str(server.file), "--data").returncode == 0
    server.start("--workers", str(workers))
    assert server.json("queue", "release", "--all")["recipients"] == 2
    assert server.json("queue", "retry", "--all")["recipients"] == 2
    assert len(next_hop.wait_for_mail(2)) == 2
    server.wait_until_empty()
    assert server.mail() == [], "Maildirs were not in the backup"
    assert server.stop() == 0


def test_release_delivers_at_the_start(serve: Serve) -> None:
    server = serve(CLOSED)
    send(server.port, "a@later.example")
    assert server.stop() == 0
    assert server.json("backup", "backup")["messages"] == 1, "no server needs to run"
    server.data.rename(server.folder / "old")
    next_hop = serve('[local]\ndomains = ["later.example"]\n')
    server.configure(LATER.format(port=next_hop.port))
    restored = server.json("restore", "backup", "--release")
    assert (restored["messages"], restored["held"]) == (1, 0)
    server.start()
    assert server.json("queue", "retry", "--all")["recipients"] <= 1
    next_hop.wait_for_mail()
    assert server.stop() == 0


def test_what_sendmail_left_for_the_server_is_in_a_backup(serve: Serve) -> None:
    server = serve()
    assert server.stop() == 0
    drop.prepare(server.data / "sendmail")
    message = b"Subject: from cron\n\nbody\n"
    assert server.run("sendmail", "-C", str(server.file), "you@localhost", stdin=message).returncode == 0
    assert server.json("backup", "backup")["messages"] == 0
    server.data.rename(server.folder / "old")
    assert server.json("restore", "backup")["messages"] == 0
    server.start()
    (found,) = server.wait_for_mail()
    assert b"Subject: from cron" in found
    assert server.stop() == 0


def test_a_restore_does_not_touch_a_data_directory_in_use(serve: Serve) -> None:
    server = serve(CLOSED)
    send(server.port, "a@later.example")
    assert server.run("backup", "backup").returncode == 0
    code, _, err = said(server.run("restore", "backup"))
    assert (code, err) == (
        75, f"ironpost: {server.data}: The data directory is in use by process {server.process.pid}: stop it, or give"
        " this one another directory\n",
    )  # fmt: skip
    assert server.stop() == 0
    code, _, err = said(server.run("restore", "backup"))
    assert code == 73
    assert err.startswith(f"ironpost: {server.data}: the data directory is not empty, there is ")
    server.start()
    assert len(server.queue()) == 1
    assert server.stop() == 0


def test_errors_name_the_file_and_the_remedy(serve: Serve) -> None:
    server = serve()
    backup = server.folder / "backup"
    assert said(server.run("restore", "backup"))[::2] == (
        66, f"ironpost: backup: not a backup, or one that was interrupted: it has no {MANIFEST}\n",
    )  # fmt: skip
    assert server.run("backup", "backup").returncode == 0
    assert said(server.run("backup", "backup"))[::2] == (
        73, "ironpost: backup: it is not empty; give each backup a new directory\n",
    )  # fmt: skip
    assert said(server.run("backup", "data/backup"))[0] == 73
    assert said(server.run("backup", "no/backup"))[::2] == (
        66, "ironpost: no/backup: No such file or directory\n",
    )  # fmt: skip
    assert server.stop() == 0
    database = server.data / "shards" / "00" / "queue.sqlite3"
    good = database.read_bytes()
    database.write_bytes(b"no database " * 1000)
    assert said(server.run("backup", "damaged"))[::2] == (
        74, f"ironpost: {database.parent}: the queue's database: file is not a database\n",
    )  # fmt: skip
    database.write_bytes(good)
    server.data.rename(server.folder / "old")
    with (backup / "shards" / "count").open("a") as file:
        file.write(" ")
    assert said(server.run("restore", "backup"))[::2] == (
        74, "ironpost: backup/shards/count: it was changed since the backup\n",
    )  # fmt: skip
    assert [path.name for path in server.data.iterdir()] == ["lock"]


def test_a_server_does_not_start_on_a_directory_that_is_being_restored(serve: Serve) -> None:
    server = serve()
    assert server.stop() == 0
    (server.data / RESTORING).mkdir()
    remedy = (
        f"ironpost: cannot use the data directory {server.data}: a restore was interrupted; run ironpost restore again,"
        " it begins from the start\n"
    )
    assert said(server.run("serve", "-c", str(server.file)))[::2] == (73, remedy)
    assert said(server.run("check", str(server.file)))[::2] == (73, remedy)
