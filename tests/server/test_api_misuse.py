"""Mistakes of embedding programs, and platforms without some modules, cause errors at the right place."""

import asyncio
import subprocess
import sys

import pytest
from tests.server.server_kit import PATIENCE, Client

from ironpost import Server
from ironpost.model import Reply
from ironpost.server import BaseHandler


def test_f32_cancelling_serve_forever_closes_the_listeners(tmp_path):
    async def scenario():
        server = Server(BaseHandler(), path=tmp_path / "socket")
        task = asyncio.create_task(server.serve_forever())
        while not server.addresses:
            await asyncio.sleep(0)
        _, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)
        assert not (tmp_path / "socket").exists()
        while server.connections:  # one that was accepted while the server stopped
            await asyncio.sleep(0)
        writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("code", "starts"), [(250, b"220 "), (220, b"220 2.0.0 mine")])
def test_f32_a_greeting_with_250_becomes_220(code, starts):
    class Yes(BaseHandler):
        def connect(self, session):
            return Reply(code, "2.0.0", ("mine",))

    async def scenario():
        async with Server(Yes(), "127.0.0.1") as server:
            client = await Client.to(server, greeted=False)
            assert (await client.reply()).startswith(starts)
            client.writer.close()

    asyncio.run(scenario())


def test_f32_a_class_as_handler_is_refused():
    class Handler(BaseHandler):
        pass

    with pytest.raises(TypeError, match=r"Handler is a class; pass an instance: Server\(Handler\(\)\)"):
        Server(Handler)


def test_f32_the_client_can_be_imported_without_unix_modules():
    program = (
        "import sys\nfor name in ('fcntl', 'pwd', 'termios'): sys.modules[name] = None\nfrom ironpost import Client"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
