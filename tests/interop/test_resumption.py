"""TLS sessions that other servers issue are resumed: Postfix with OpenSSL, Exim with GnuTLS."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from ironpost.client.connection import connect
from ironpost.client.tls import encrypting
from ironpost.client.tls_sessions import TlsSessions
from ironpost.model.tls import UNAUTHENTICATED
from ironpost.protocol.client.session import Security

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    Launch = Callable[[list[str], dict[str, str], int], None]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="Postfix and Exim change to other users, so they need root"
)


async def connections(port: int) -> list[bool]:
    """Connect three times, and return whether each resumed the session of the one before."""
    sessions, context = TlsSessions(), encrypting()
    found = []
    for _ in range(3):
        made = await connect(
            "127.0.0.1", port, "us.example",
            security=Security("must"), tls=context, verifier=UNAUTHENTICATED, tls_sessions=sessions,
        )  # fmt: skip
        assert made.ready, made.session.reason
        assert made.resumption is not None
        found.append(made.resumption.resumed)
        await made.quit()
    return found


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_postfix(
    program: Callable[[str], str], mtas: Any, launch: Launch, certificate: Path, home: Path, port: int, version: str
) -> None:
    program("postfix")
    options = f"-o smtpd_tls_security_level=may -o smtpd_tls_chain_files={certificate} -o smtpd_tls_protocols={version}"
    launch(*mtas.postfix(home, port, options=options), port)
    assert asyncio.run(asyncio.wait_for(connections(port), 60)) == [False, True, True]


@pytest.mark.parametrize("resumes", [True, False])
def test_exim(
    program: Callable[[str], str], mtas: Any, launch: Launch, certificate: Path, home: Path, port: int, resumes: bool
) -> None:
    program("exim4")
    readable = home / "certificate.pem"
    readable.write_bytes(certificate.read_bytes())
    readable.chmod(0o644)  # Exim reads it as another user
    main = f"tls_advertise_hosts = *\ntls_certificate = {readable}\ntls_privatekey = {readable}\n"
    main += f"tls_resumption_hosts = {'*' if resumes else ''}\n"
    routers = "discarding:\n  driver = redirect\n  data = :blackhole:\n"
    launch(*mtas.exim(home / "exim", port, main=main, routers=routers), port)
    found = asyncio.run(asyncio.wait_for(connections(port), 60))
    assert found == [False, resumes, resumes]
