"""A provider of mail on demand, with queue and login, and a customer that can become a server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time

from ironpost.delivery.waiting import Waiting
from ironpost.model import Address, Envelope, Recipient
from ironpost.policy import Policy
from ironpost.policy.checks import configured
from ironpost.policy.settings import Settings as PolicySettings
from ironpost.protocol import replies
from ironpost.protocol.server import ServerSession
from ironpost.protocol.settings import Settings
from ironpost.queue.store import NewMessage
from ironpost.routing.route import Kind, Route, Routes, Rule
from ironpost.server import BaseHandler
from ironpost.service.clock import SystemClock, SystemRandom
from ironpost.service.inbound import Inbound
from ironpost.service.on_demand import OnDemand
from ironpost.service.queue_runner import QueueRunner

CUSTOMERS = {"jo": frozenset({"jo.example", "mail.jo.example"}), "al": frozenset({"al.example"})}


class Accounts:
    """Everybody's password is the name."""

    mechanisms = ("PLAIN", "CRAM-MD5")

    def verify_password(self, session, login, password):
        return login if login == password else None

    def shared_secret(self, session, login):
        return login


class Everywhere:
    """The agent for mail that does not wait: keeps what it was given."""

    def __init__(self) -> None:
        self.given = []

    async def deliver(self, message, recipients):
        self.given += [str(each.recipient.address) for each in recipients]
        return await Waiting().deliver(message, recipients)


class Provider:
    """The system of a provider, without its command line."""

    def __init__(self, store) -> None:
        clock, random = SystemClock(), SystemRandom()
        self.store, self.elsewhere = store, Everywhere()
        rules = [Rule(("jo.example", "mail.jo.example"), Route.on_demand())]
        agents = {Kind.ON_DEMAND: Waiting(), Kind.MX: self.elsewhere}
        self.runner = QueueRunner(
            store=store,
            routes=Routes(["provider.example"], rules),
            agents=lambda route: agents[route.kind],
            clock=clock,
            random=random,
            reporting_mta="provider.example",
        )
        self.on_demand = OnDemand(
            CUSTOMERS,
            store=store,
            attempt=self.runner.attempt,
            wake=self.runner.wake,
            clock=clock,
            local_hostname="provider.example",
        )
        domains = frozenset(domain for own in CUSTOMERS.values() for domain in own)
        policy = PolicySettings(trusted_networks=(), customer_domains=domains)
        self.handler = Inbound(
            store=store,
            policy=Policy(configured(policy)),
            clock=clock,
            random=random,
            hostname="provider.example",
            accept=self.runner.accept,
            on_demand=self.on_demand,
        )
        self.count = 0

    async def queue(self, *recipients, content=b"Subject: x\r\n\r\nhello\r\n", due=None):
        """A message that was tried, and is due in an hour."""
        self.count += 1
        spool = self.store.spool()
        spool.write(content)
        envelope = Envelope(
            Address.parse("from@elsewhere.example"), tuple(Recipient(Address.parse(each)) for each in recipients)
        )
        identifier = f"m{self.count}"
        await self.store.commit(NewMessage(identifier, envelope, time.time() - 1, b"Trace: t\r\n", spool, due))
        await self.store.release([identifier])
        return identifier

    async def states(self):
        return {
            str(each.recipient.address): each.state
            for message in await self.store.list()
            for each in message.recipients
        }


class Customer:
    """A raw client that can become a server: its other side is a `ServerSession`."""

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
        """The reversed state, to its end (RFC 2645 §5.3)."""
        session = ServerSession(self.handler, Settings("customer.example"))
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
    """What the customer's server does with the mail."""

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
