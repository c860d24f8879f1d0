"""The conformance suite against other servers, to test the suite itself (SECURITY R56).

A MUST that one of them violates is listed in docs/conformance.md, after a check against the RFC, or is a bug here."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.smtp import SMTP

from ironpost.conform import CaseOutcome, Target, cases, run, survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Launch = Callable[[list[str], dict[str, str], int], None]

PATIENCE = 600.0
REPLY_SECONDS = 15.0
"""Time for a reply; on a busy machine the processes of Exim and Postfix take seconds to start."""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"


def known(server: str) -> set[str]:
    """Return the cases that docs/conformance.md lists as failed by a server."""
    _, _, rest = DOCUMENT.read_text().partition(f"### {server}\n")
    return set(re.findall(r"^\| `(rfc[^`]+)`", rest.partition("\n### ")[0], re.M))


async def examined(port: int) -> list[Any]:
    """Run every case against the server on a port."""
    async with asyncio.timeout(PATIENCE):
        target, found = await survey(Target("127.0.0.1", port, insecure=True, timeout=REPLY_SECONDS))
        return await run(target, found, cases(), parallel=8)


def judged(results: list[Any], server: str) -> None:
    """Assert that only listed cases failed, and that enough cases applied."""
    failed = {result.case.id: (result.why, *result.dialogue) for result in results if result.wrong}
    assert {name: why for name, why in failed.items() if name not in known(server)} == {}
    assert sum(result.outcome is CaseOutcome.PASS for result in results) > 300


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that other users may traverse; they may not traverse pytest's."""
    with tempfile.TemporaryDirectory(prefix="ironpost-mta-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_r56_postfix(program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int) -> None:
    program("postfix")
    main = (
        "smtpd_relay_restrictions = reject_unauth_destination\n"
        "virtual_mailbox_domains = localhost, postfix.example\n"
        "virtual_transport = discard:\n"
        "local_transport = discard:\n"
    )
    launch(*mtas.postfix(home, port, main=main), port)
    judged(asyncio.run(examined(port)), "Postfix")


def test_r56_exim(program: Callable[[str], str], mtas: Any, launch: Launch, home: Path, port: int) -> None:
    program("exim4")
    launch(
        *mtas.exim(
            home, port, main="qualify_domain = exim.example", acl="accept domains = localhost : exim.example",
            routers="hole:\n  driver = redirect\n  data = :blackhole:",
        ),
        port,
    )  # fmt: skip
    judged(asyncio.run(examined(port)), "Exim")


class Here:
    """A handler of aiosmtpd that accepts mail for localhost."""

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if not (address.lower().endswith("@localhost") or address.lower() == "postmaster"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        return "250 OK"


def test_r56_aiosmtpd() -> None:
    async def scenario() -> list[Any]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: SMTP(Here(), hostname="aio.example", enable_SMTPUTF8=True, loop=loop), "127.0.0.1", 0
        )
        try:
            return await examined(server.sockets[0].getsockname()[1])
        finally:
            server.close()

    judged(asyncio.run(scenario()), "aiosmtpd")
