"""Texts of clients in the output of `queue` cannot control the terminal (SECURITY R20)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING

from tests import preloaded

from ironpost.model import Address, Disposition, Envelope, Origin, Outcome, Recipient, Reply
from ironpost.model.parameters import Notify, Return
from ironpost.queue.store import NewMessage, RecipientState, Update
from ironpost.storage.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "a\u009b2J\u202eb"
"""CSI as one character, which clears the screen, and an override of the writing direction."""
REASON = "DMARC fail: bank.example asks for quarantine"
"""Why policy holds a message."""


async def fill(data: Path) -> None:
    store = SqliteStore.at(data, reserve=0)
    spool = store.spool()
    spool.write(b"Subject: x\r\n")
    to = Address(HOSTILE, "b.example")
    envelope = Envelope(to, (Recipient(to),), {"SMTPUTF8": None}, Origin("192.0.2.1", f"{HOSTILE}.example"))
    message = await store.commit(NewMessage("q1", envelope, 1_700_000_000.0, b"", spool))
    reply = Reply(450, "4.2.0", (f"[bold]{HOSTILE}[/bold] \\x1b[31m",))
    outcome = Outcome(Disposition.DEFERRED, reply, f"{HOSTILE} [192.0.2.2]")
    await store.record(message.lease, [Update("q1", 0, RecipientState.QUEUED, 1, 4_000_000_000.0, outcome)])
    await store.close()


def test_r20_the_queue_is_shown_without_control_characters(tmp_path: Path) -> None:
    asyncio.run(fill(tmp_path / "data"))
    (tmp_path / "c.toml").write_text(f'data = "{tmp_path / "data"}"\n')
    for arguments in (["list"], ["show", "q1"], ["list", "--json"], ["show", "q1", "--json"]):
        done = preloaded.said(tmp_path, "queue", *arguments, "-c", str(tmp_path / "c.toml"))
        done.check_returncode()
        assert all(c.isprintable() or c == "\n" for c in done.stdout), arguments
        if "--json" in arguments:
            json.loads(done.stdout)
        else:
            assert "a\\x9b2J\\u202eb@b.example" in done.stdout.replace("\n", "")
            assert "[bold]" in done.stdout


async def fill_with_requests(data: Path) -> None:
    store = SqliteStore.at(data, reserve=0)
    for name, options in (
        ("later", {"due": 4_000_000_000.0}),
        ("apart", {"held": REASON, "findings": "spf=fail; " + REASON}),
    ):
        spool = store.spool()
        spool.write(b"Subject: x\r\n")
        asked = {"SIZE": 12, "HOLDFOR": 60, "RET": Return.HDRS}
        to = Recipient(Address.parse("b@b.example"), {"NOTIFY": Notify.NEVER})
        envelope = Envelope(Address.parse("a@a.example"), (to,), asked)
        await store.commit(NewMessage(name, envelope, 1_700_000_000.0, b"", spool, **options))
    await store.close()


def test_requested_due_later_and_held_mail_is_shown(tmp_path: Path) -> None:
    asyncio.run(fill_with_requests(tmp_path / "data"))
    (tmp_path / "c.toml").write_text(f'data = "{tmp_path / "data"}"\n')

    def said(*arguments: str) -> str:
        done = preloaded.said(tmp_path, *arguments, "-c", str(tmp_path / "c.toml"))
        done.check_returncode()
        return done.stdout

    later, apart = said("queue", "list").splitlines()[1:]
    assert " in " in later
    assert " held" in apart
    assert apart.rstrip().endswith(REASON.split()[-1])
    shown = said("queue", "show", "later")
    assert "asked     SIZE=12 HOLDFOR=60 RET=HDRS" in shown
    assert "  asked     NOTIFY=NEVER" in shown
    value = json.loads(said("queue", "show", "apart", "--json"))
    assert value["parameters"] == {"SIZE": "12", "HOLDFOR": "60", "RET": "HDRS"}
    assert value["recipients"][0]["parameters"] == {"NOTIFY": "NEVER"}
    assert (value["recipients"][0]["state"], value["recipients"][0]["next"]) == ("held", None)
    assert f"  last      {REASON}" in said("queue", "show", "apart")
    accepted, held = said("trace", "apart").splitlines()[1:]
    assert accepted.endswith(f"accepted <a@a.example> spf=fail; {REASON}")
    assert held.endswith(f"held <b@b.example> {REASON}")


def test_f04_a_message_that_cannot_be_read_is_shown_with_the_reason(tmp_path: Path) -> None:
    asyncio.run(fill_with_requests(tmp_path / "data"))
    connection = sqlite3.connect(tmp_path / "data" / "queue.sqlite3")
    connection.execute("UPDATE message SET reverse_path='no \u009b mailbox', accepted=1 << 62 WHERE id='later'")
    connection.execute("DELETE FROM recipient WHERE message=(SELECT seq FROM message WHERE id='later')")
    connection.commit()
    connection.close()
    (tmp_path / "c.toml").write_text(f'data = "{tmp_path / "data"}"\n')

    def said(*arguments: str) -> str:
        done = preloaded.said(tmp_path, "queue", *arguments, "-c", str(tmp_path / "c.toml"))
        done.check_returncode()
        return done.stdout

    listed = said("list")
    assert "unreadable: " in listed
    assert "apart" in listed
    assert all(c.isprintable() or c == "\n" for c in listed)
    shown = said("show", "later")
    assert "fault     unreadable: " in shown
    assert "from      <no \\x9b mailbox>" in shown
    assert json.loads(said("show", "later", "--json"))["fault"].startswith("unreadable: ")
    assert [bool(each["fault"]) for each in json.loads(said("list", "--json"))] == [True, False]
