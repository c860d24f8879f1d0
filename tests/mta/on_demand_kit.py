"""A provider of mail on demand, with queue and login, and a customer that can act as a server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time

from tests.policy.policy_kit import checks

from ironpost.delivery.rewriting import DeliveryRewriting
from ironpost.delivery.waiting import WaitingAgent
from ironpost.model import Address, Envelope, Recipient
from ironpost.mta.inbound import Inbound
from ironpost.mta.on_demand import OnDemand
from ironpost.mta.queue_runner import QueueRunner
from ironpost.policy import Policy
from ironpost.processes.clock import SystemClock, SystemRandom
from ironpost.protocol import replies
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.store import NewMessage
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.server import BaseHandler
from ironpost.testing.directory import local

CUSTOMERS = {"jo": frozenset({"jo.example", "mail.jo.example"}), "al": frozenset({"al.example"})}


class Accounts:
    """Accounts whose password is the name."""

    mechanisms = ("PLAIN", "CRAM-MD5")

    def verify_password(self, session, login, password):
        return login if login == password else None

    def shared_secret(self, session, login):
        return login


class Everywhere:
    """The agent for other routes: records what it was given."""

    def __init__(self) -> None:
        self.given = []

    async def deliver(self, message, recipients, route):
        self.given += [str(each.recipient.address) for each in recipients]
        return await WaitingAgent().deliver(message, recipients, route)


class Provider:
    """A provider's mail system, without the command line."""

    def __init__(self, store, rewriting=None) -> None:
        clock, random = SystemClock(), SystemRandom()
        self.store, self.elsewhere = store, Everywhere()
        rules = [Rule(("jo.example", "mail.jo.example"), Route.on_demand())]
        agents = {Kind.ON_DEMAND: WaitingAgent(), Kind.MX: self.elsewhere}
        self.runner = QueueRunner(
            store=store,
            routes=Routes(local(["provider.example"]), rules),
            agents=lambda route: agents[route.kind],
            clock=clock,
            random=random,
            reporting_mta="provider.example",
        )
        self.on_demand = OnDemand(
            CUSTOMERS,
            store=store,
            attempt=self.runner.attempt,
            retry=self.runner.requests.retry,
            local_hostname="provider.example",
            rewriting=DeliveryRewriting(rewriting),
        )
        domains = frozenset(domain for own in CUSTOMERS.values() for domain in own)
        self.handler = Inbound(
            store=store,
            policy=Policy(checks(trusted_networks=(), customer_domains=domains)),
            clock=clock,
            random=random,
            hostname="provider.example",
            accept=self.runner.accept,
            on_demand=self.on_demand,
        )
        self.count = 0

    async def queue(self, *recipients, content=b"Subject: x\r\n\r\nhello\r\n", due=None):
        """Queue a message that was attempted once and is due in an hour."""
        self.count += 1
        spool = self.store.spool()
        spool.write(content)
        envelope = Envelope(
            Address.parse("from@elsewhere.example"), tuple(Recipient(Address.parse(each)) for each in recipients)
        )
        identifier = f"m{self.count}"
        message = NewMessage(identifier, envelope, time.time() - 1, b"Trace: t\r\n", spool, due)
        await self.store.unclaim([await self.store.commit(message)])
        return identifier

    async def states(self):
        return {
            str(each.recipient.address): each.state
            for message in await self.store.list()
            for each in message.recipients
        }


class Customer:
    """A raw client that can act as a server, by a `ServerSession`."""

    def __init__(self, reader, writer, handler) -> None:
        self.reader, self.writer, self.handler = reader, writer, handler

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, server, login="jo", handler=None):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        self = cls(reader, writer, handler or Mailbox())
        try:
            assert (await self.reply()).startswith(b"220")
            self.offered = await self.say(b"EHLO customer.example\r\n")
            if login:
                plain = base64.b64encode(b"\0%b\0%b" % (login.encode(), login.encode()))
                assert (await self.say(b"AUTH PLAIN " + plain + b"\r\n")).startswith(b"235")
            yield self
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def reply(self):
        octets = b""
        while line := await self.reader.readline():
            octets += line
            if line[3:4] != b"-":
                break
        return octets

    async def say(self, octets):
        self.writer.write(octets)
        return await asyncio.wait_for(self.reply(), 10)

    async def serve(self):
        """Act as the server until the connection ends (RFC 2645 §5.3)."""
        session = ServerSession(self.handler, ServerSettings("customer.example"))
        session.start()
        while True:
            self.writer.write(session.output())
            if session.closing:
                return
            data = await asyncio.wait_for(self.reader.read(65536), 10)
            if not data:
                session.lost()
                return
            session.receive(data)


class Mailbox(BaseHandler):
    """The handler of the customer's server."""

    def __init__(self, later=(), never=(), hang_up_after=1000):
        self.later, self.never, self.hang_up_after = later, never, hang_up_after
        self.messages = []

    def recipient(self, session, forward_path, parameters):
        if str(forward_path) in self.later:
            return replies.NO_ROOM
        return replies.NOT_ACCEPTED_HERE if str(forward_path) in self.never else None

    def message(self, session, content, facts):
        if len(self.messages) == self.hang_up_after:
            return replies.SHUTTING_DOWN
        self.messages.append(([str(each.address) for each in session.transaction.recipients], content.content))
        return None
