"""A queue runner in virtual time that delivers over real sockets to scripted hosts on loopback.

Time passes in `World.run` only; what the sockets do takes none of it.
"""

from __future__ import annotations

import asyncio

from tests.mta.runner_kit import Chance, World

from ironpost.delivery.remote import RemoteDelivery
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.testing import directory
from ironpost.testing.resolver import StaticResolver

STEPS = ("greeting", "EHLO", "MAIL", "RCPT", "content")
"""Where a host can reply as a test says."""


class Host:
    """An SMTP server that replies as usual, unless `replies` has a function for a step that returns a reply."""

    def __init__(self) -> None:
        self.replies = {}
        """Functions by step; that of RCPT is called with the address, the others with nothing. None: as usual."""
        self.port = 0
        self.connections = 0
        self.recipients: list[str] = []
        """The address of each RCPT, whatever the reply."""
        self.copies: list[tuple[str, list[str]]] = []
        """Reverse-path and recipients of each message taken."""
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def hang_up(self) -> None:
        """Close all connections, as hosts do with idle ones."""
        for writer in self._writers:
            writer.close()

    def close(self) -> None:
        self._server.close()
        self.hang_up()

    async def _serve(self, reader, writer) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _converse(self, reader, writer) -> None:
        def reply(step: str, usual: str, *arguments: str) -> str:
            text = self.replies.get(step, lambda *_: None)(*arguments) or usual
            writer.write(f"{text}\r\n".encode())
            return text[:3]

        sender, accepted = "", []
        code = reply("greeting", "220 host.example")
        while code != "421" and (line := (await reader.readline()).decode()):
            verb, address = line[:4].upper(), line.partition("<")[2].partition(">")[0]
            if verb == "EHLO":
                code = reply("EHLO", "250-host.example\r\n250 PIPELINING")
            elif verb == "MAIL":
                sender, accepted = address, []
                code = reply("MAIL", "250 2.1.0 ok")
            elif verb == "RCPT":
                self.recipients.append(address)
                code = reply("RCPT", "250 2.1.5 ok", address)
                accepted += [address] if code == "250" else []
            elif verb == "DATA" and not accepted:
                writer.write(b"554 5.5.1 no recipients\r\n")
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                code = reply("content", "250 2.0.0 taken")
                if code == "250":
                    self.copies.append((sender, accepted))
            elif verb == "QUIT":
                writer.write(b"221 2.0.0 bye\r\n")
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")


class HostWorld(World):
    """A world whose mail goes to `hosts`, by domain; other mail to the scripts of `World`."""

    def __init__(self, hosts: dict[str, Host], **options) -> None:
        super().__init__(lambda message, recipient: None, **options)
        rules = [Rule((domain,), Route.smart([f"127.0.0.1:{host.port}"])) for domain, host in hosts.items()]
        self.runner.routes = Routes(directory.local(["local.example"]), rules)
        self.delivery = RemoteDelivery(StaticResolver(), Chance())
        self.runner.agents = lambda route: self.delivery if route.kind is Kind.SMART_HOST else self.local

    async def settle(self) -> None:
        """Wait until no attempt is running."""
        quiet = 0
        while quiet < 30:
            await asyncio.sleep(0)
            quiet = 0 if self.runner._active else quiet + 1


def with_hosts(domains, act, **options) -> None:
    """Run `act(world, *hosts)` with a started queue runner and a host for each domain."""

    async def main() -> None:
        hosts = {domain: Host() for domain in domains}
        for host in hosts.values():
            await host.start()
        world = HostWorld(hosts, **options)
        world.runner.start()
        try:
            await asyncio.wait_for(act(world, *hosts.values()), 60)
        finally:
            await world.stop()
            await world.delivery.close()
            for host in hosts.values():
                host.close()

    asyncio.run(main())
