"""aiosmtpd that accepts all mail and discards it: `aiosmtpd_server.py [--requiretls] PORT[=PEM] ...`

With a certificate it offers STARTTLS. `--requiretls` offers REQUIRETLS under TLS (RFC 8689 §2), which aiosmtpd itself
does not know.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
from functools import partial

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP, Envelope, Session

LIMIT = 1 << 30
"""Octets of one message."""


class RequireTls(Sink):
    """Offers REQUIRETLS under TLS."""

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return [*responses[:-1], *(["250-REQUIRETLS"] if session.ssl else []), responses[-1]]


class WithRequireTls(SMTP):
    """Accepts the parameter."""

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802 - aiosmtpd's name
        await super().smtp_MAIL(arg.removesuffix(" REQUIRETLS") if arg else arg)


async def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("listeners", nargs="+", metavar="PORT[=PEM]")
    parser.add_argument("--requiretls", action="store_true")
    asked = parser.parse_args()
    kind, handler = (WithRequireTls, RequireTls()) if asked.requiretls else (SMTP, Sink())
    loop = asyncio.get_running_loop()
    for each in asked.listeners:
        port, _, chain = each.partition("=")
        context = None
        if chain:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(chain)
        made = partial(kind, handler, hostname="peer.example", tls_context=context, data_size_limit=LIMIT)
        await loop.create_server(made, "127.0.0.1", int(port), backlog=2048)
    await asyncio.Event().wait()


asyncio.run(main())
