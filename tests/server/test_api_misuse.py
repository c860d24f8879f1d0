"""Embedders' mistakes, and platforms that lack something, are met where they are made."""

import asyncio
import subprocess
import sys

import pytest
from tests.server.server_kit import PATIENCE, Client

from ironpost import Server
from ironpost.model import Reply
from ironpost.server import BaseHandler


def test_f32_a_cancelled_serve_forever_listens_no_more(tmp_path):
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
        assert not server.connections
        writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("code", "starts"), [(250, b"220 "), (220, b"220 2.0.0 mine")])
def test_f32_yes_is_no_greeting(code, starts):
    class Yes(BaseHandler):
        def connect(self, session):
            return Reply(code, "2.0.0", ("mine",))

    async def scenario():
        async with Server(Yes(), "127.0.0.1") as server:
            client = await Client.to(server, greeted=False)
            assert (await client.reply()).startswith(starts)
            client.writer.close()

    asyncio.run(scenario())


def test_f32_a_class_is_no_handler():
    class Handler(BaseHandler):
        pass

    with pytest.raises(TypeError, match=r"Handler is a class: Server wants an object, Handler\(\)"):
        Server(Handler)


def test_f32_the_client_is_there_without_the_modules_of_unix():
    program = (
        "import sys\nfor name in ('fcntl', 'pwd', 'termios'): sys.modules[name] = None\nfrom ironpost import Client"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
