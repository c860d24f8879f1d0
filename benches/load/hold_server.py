"""The mail transfer agent up to its 250, and no delivery: what Postfix's HOLD does."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from ironpost.mta.inbound import Inbound
from ironpost.policy import Policy
from ironpost.policy.checks import configured
from ironpost.processes import gc_tuning as collector
from ironpost.processes.clock import SystemClock, SystemRandom
from ironpost.protocol.server.settings import ServerSettings as SessionSettings
from ironpost.server import Server
from ironpost.server.tls import TlsContext
from ironpost.storage.sqlite.shards import ShardedStore, lay_out


async def main(asked: argparse.Namespace) -> None:
    if asked.worker == 0:
        asked.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lay_out(asked.directory)
    store = ShardedStore.at(asked.directory, worker=asked.worker, workers=asked.workers)
    inbound = Inbound(
        store=store,
        policy=Policy(configured()),
        clock=SystemClock(),
        random=SystemRandom(),
        hostname="hold.example",
        accept=lambda message: None,
    )
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    collector.settle()
    tls = TlsContext.load([(asked.pem, None)]) if asked.pem else None
    settings = SessionSettings(max_size=1 << 30)
    shared = asked.workers > 1
    async with Server(inbound, "127.0.0.1", asked.port, settings=settings, tls=tls, reuse_port=shared):
        await stopped.wait()
    await store.close()


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("port", type=int)
parser.add_argument("directory", type=Path)
parser.add_argument("--pem", help="a certificate with its key, for STARTTLS")
parser.add_argument("--worker", type=int, default=0, help="which of several on the same port and directory, from 0")
parser.add_argument("--workers", type=int, default=1, help="how many there are; number 0 must be ready first")
uvloop.run(main(parser.parse_args()))
