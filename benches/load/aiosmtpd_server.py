"""aiosmtpd that accepts and discards, with STARTTLS: `aiosmtpd_server.py PORT PEM`."""

from __future__ import annotations

import asyncio
import ssl
import sys

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

LIMIT = 1 << 30
"""Octets of one message."""


async def main(port: int, pem: str) -> None:
    loop = asyncio.get_running_loop()
    handler = Sink()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="peer.example", loop=loop, tls_context=context, data_size_limit=LIMIT),
        "127.0.0.1", port, backlog=2048,
    )  # fmt: skip
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
