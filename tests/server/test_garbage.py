"""A connection leaves no reference cycles, because garbage collection blocks the event loop."""

from __future__ import annotations

import asyncio
import gc
import ssl

import pytest
from server_kit import ENVELOPE, Client, Open, codes

from ironpost import Server
from ironpost.server import TlsContext
from ironpost.server.self_signed import write_self_signed


@pytest.mark.parametrize("way", ["plain", "STARTTLS", "implicit", "proxy"])
def test_a_closed_connection_leaves_no_reference_cycle(run, tmp_path, way):
    pair = tmp_path / "a.pem", tmp_path / "a.key"
    write_self_signed(*pair, ["localhost"])
    context = ssl.create_default_context(cafile=pair[0])
    options = {"proxy": ["127.0.0.1/32"]} if way == "proxy" else {}
    if way in {"STARTTLS", "implicit"}:
        options = {"tls": TlsContext.load([pair]), "implicit_tls": way == "implicit"}

    async def one(server):
        secure = {"ssl": context, "server_hostname": "localhost"} if way == "implicit" else {}
        client = await Client.to(server, greeted=False, **secure)
        if way == "proxy":
            client.writer.write(b"PROXY TCP4 192.0.2.7 192.0.2.1 1 2\r\n")
        assert codes(await client.reply() + await client.say(b"EHLO x.example\r\n")) == [b"220", b"250"]
        if way == "STARTTLS":
            await client.say(b"STARTTLS\r\n")
            await client.writer.start_tls(context, server_hostname="localhost")
            await client.say(b"EHLO x.example\r\n")
        await client.say(ENVELOPE + b"DATA\r\n", 3)
        assert codes(await client.say(b"x\r\n.\r\nQUIT\r\n", 2)) == [b"250", b"221"]
        await client.rest()
        await client.close()

    async def scenario():
        async with Server(Open(), "127.0.0.1", **options) as server:
            await one(server)
            while server.connections:
                await asyncio.sleep(0)
            while gc.collect():  # garbage of other tests, some of which is freed only in a second pass
                pass
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                await one(server)
                while server.connections:
                    await asyncio.sleep(0)
                gc.collect()
                ours = [each for each in gc.garbage if type(each).__module__.startswith("ironpost")]
                assert ours == []
            finally:
                gc.set_debug(0)
                gc.enable()
                gc.garbage.clear()

    run(scenario())
