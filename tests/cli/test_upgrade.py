"""Upgrade and rollback as docs/tutorial.md describes them, between this version and one with another queue format."""

from __future__ import annotations

import re
import smtplib
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.conftest import PROGRAM as OLDER
from tests.conftest import Running, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_NEWER = """
from ironpost.storage.sqlite import schema
schema.MIGRATIONS = (*schema.MIGRATIONS, "CREATE TABLE newer (x);")
schema.VERSION += 1
from ironpost.cli import main
main()
"""
NEWER = (sys.executable, "-c", _NEWER)
"""A version that migrates the queue."""
TEXT = '[local]\n[[local.delivery]]\nrecipients = ["*"]\nlmtp = { host = "127.0.0.1:1" }\n'
OLD, NEW = "old@client.example", "new@client.example"


@contextmanager
def running(server: Running) -> Iterator[Running]:
    """Start a version, and stop it."""
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0


def send(server: Running, sender: str) -> None:
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail(sender, ["jo@localhost"], b"Subject: x\r\n\r\nx\r\n")


def waiting(server: Running, program: tuple[str, ...]) -> list[str]:
    """The senders of what is in the queue, as a version lists it."""
    done = subprocess.run(
        [*program, "queue", "list", "--json"], cwd=server.folder, env=environment(), capture_output=True, check=True
    )
    return sorted(re.findall(r"\b(?:old|new)@client\.example", done.stdout.decode()))


def test_an_upgrade_keeps_the_queue_and_a_rollback_needs_the_backup(serve: Callable[..., Any], tmp_path: Path) -> None:
    older = serve(TEXT)
    newer = Running(older.folder, TEXT, program=NEWER)
    send(older, OLD)
    assert older.run("backup", str(tmp_path / "before")).returncode == 0
    assert older.stop() == 0
    with running(newer):
        assert waiting(newer, NEWER) == [OLD]
        send(newer, NEW)
    # The old version does not start, and damages nothing.
    refused = older.run("serve", "-c", str(older.file))
    assert (refused.returncode, b"a newer ironpost wrote it" in refused.stderr) == (78, True)
    with running(newer):
        assert waiting(newer, NEWER) == [NEW, OLD]
    # It starts on the backup.
    older.data.rename(tmp_path / "data.new")
    assert older.run("restore", str(tmp_path / "before")).returncode == 0
    with running(older):
        assert waiting(older, OLDER) == [OLD]
        assert older.run("queue", "release", "--all").returncode == 0
