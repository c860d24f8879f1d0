"""fetchmail fetches mail by ATRN (RFC 2645), with CRAM-MD5."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tests.mta.on_demand_kit import Accounts, Mailbox, Provider

from ironpost import Server
from ironpost.protocol.dialect import SMTP
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.store import RecipientState
from ironpost.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BIG = b"Subject: y\r\n\r\n" + b"line\r\n.dot\r\n" * 3000


def test_fetchmail_fetches_by_odmr(program: Callable[[str], str], tmp_path: Path) -> None:
    fetchmail = program("fetchmail")
    control = tmp_path / "fetchmailrc"

    async def fetch() -> str:
        process = await asyncio.create_subprocess_exec(
            *(fetchmail, "-f", control, "-v", "--nosyslog", "--nodetach", "--pidfile", tmp_path / "pid"),
            env={**os.environ, "HOME": str(tmp_path), "FETCHMAILHOME": str(tmp_path), "LC_ALL": "C"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, out.decode()
        return out.decode()

    async def main() -> None:
        provider, mailbox = Provider(MemoryStore()), Mailbox()
        dialect = SMTP._replace(authenticate=True)
        settings = ServerSettings("provider.example", authenticator=Accounts(), auth_without_tls=True, dialect=dialect)
        async with (
            Server(provider.handler, "127.0.0.1", settings=settings) as server,
            Server(mailbox, "127.0.0.1") as own,
        ):
            control.write_text(
                f"poll 127.0.0.1 with protocol ODMR service {server.port} user jo password jo sslproto ''\n"
                f"smtphost 127.0.0.1/{own.port} fetchdomains jo.example,mail.jo.example\n"
            )
            control.chmod(0o600)
            await provider.queue("a@jo.example", "b@jo.example")
            await provider.queue("c@mail.jo.example", content=BIG)
            await provider.queue("d@al.example")
            provider.runner.start()
            said = await fetch()
            assert "ATRN jo.example,mail.jo.example" in said
            assert "now reversing the connection" in said
            assert [to for to, _ in mailbox.messages] == [["a@jo.example", "b@jo.example"], ["c@mail.jo.example"]]
            assert mailbox.messages[1][1] == b"Trace: t\r\n" + BIG
            assert await provider.states() == {"d@al.example": RecipientState.QUEUED}
            assert "You have no mail" in await fetch()
            await provider.on_demand.stop()
            await provider.runner.stop()

    asyncio.run(main())
