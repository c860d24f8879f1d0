"""Idle connections use little memory (slowloris): resident memory of a server process is measured."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SETTLING = 200
"""Connections after which the allocators have reserved their memory."""
COUNTED = 600
MOST = 6.0
"""Maximum KiB for each connection after EHLO."""

PROGRAM = """
import asyncio, gc, sys
from ironpost.server import BaseHandler, Server

async def main():
    async with Server(BaseHandler(), "127.0.0.1") as server:
        gc.freeze()
        print(server.port, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

try:
    import uvloop
    uvloop.run(main())
except ImportError:
    asyncio.run(main())
"""


def resident(process):
    """Return the private memory of a process in KiB."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return sum(int(size) for size in re.findall(r"^Private_\w+: +(\d+) kB", text, re.M))


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_an_idle_connection_costs_six_kib_at_most():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        port = int(process.stdout.readline())
        clients = []

        def open_more(count):
            for _ in range(count):
                client = socket.create_connection(("127.0.0.1", port), 10)
                clients.append(client)
                with client.makefile("rb") as lines:
                    assert lines.readline().startswith(b"220")
                    client.sendall(b"EHLO idle.example\r\n")
                    while (line := lines.readline())[3:4] == b"-":
                        pass
                    assert line.startswith(b"250")

        try:
            open_more(SETTLING)
            before = resident(process)
            open_more(COUNTED)
            each = (resident(process) - before) / COUNTED
            assert 0 < each <= MOST
        finally:
            for client in clients:
                client.close()
            process.stdin.close()
            process.wait(10)
