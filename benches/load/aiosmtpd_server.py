"""aiosmtpd that accepts and discards: `aiosmtpd_server.py PORT`."""

from __future__ import annotations

import asyncio
import sys

from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    handler = Sink()
    server = await loop.create_server(
        lambda: SMTP(handler, hostname="peer.example", loop=loop), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
