"""The mail transfer agent up to its 250, and no delivery: `hold_server.py PORT DIRECTORY`. What Postfix's HOLD does."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from ironpost.policy import Policy
from ironpost.policy.checks import configured
from ironpost.policy.settings import Settings
from ironpost.server import Server
from ironpost.service import collector
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.inbound import Inbound
from ironpost.storage.sqlite import SqliteStore


async def main(port: int, directory: Path) -> None:
    store = SqliteStore.at(directory)
    inbound = Inbound(
        store=store,
        policy=Policy(configured(Settings())),
        clock=SystemClock(),
        random=SystemRandom(),
        hostname="hold.example",
        accept=lambda message: None,
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    collector.settle()
    async with Server(inbound, "127.0.0.1", port):
        await stopped.wait()
    await store.close()


uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
