"""Logging in over real sockets and TLS: smtplib, SCRAM with channel binding, a Unix socket, and failures."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import smtplib
import ssl
import threading
from base64 import b64encode

import pytest
from server_kit import Client, Open, codes

from ironpost import Server
from ironpost.accounts.authenticator import User, Users, new_user
from ironpost.protocol.sasl import BY_NAME, ChannelContext, ClientExchange, Credentials
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import Timeouts, TlsContext
from ironpost.server.self_signed import write_self_signed

ADA = new_user("ada", "pencil")._replace(secret="pencil")
PLAIN = b"AUTH PLAIN " + b64encode(b"\0ada\0pencil") + b"\r\n"
WRONG = b"AUTH PLAIN " + b64encode(b"\0ada\0pen") + b"\r\n"


class Accounts:
    """A source of accounts in memory."""

    secrets = True

    def __init__(self, *users):
        self.users = {user.name: user for user in users}

    def find(self, login):
        return self.users.get(login)


class Seen(Open):
    """Records the identity of senders, and the protocol for Received."""

    def __init__(self):
        super().__init__()
        self.senders = []

    def content(self, session):
        self.senders.append((session.identity, session.protocol))
        return super().content(session)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    write_self_signed(folder / "chain.pem", folder / "key.pem", ["localhost", "127.0.0.1"])
    return folder / "chain.pem", folder / "key.pem"


@pytest.fixture
def trusting(certificate):
    return ssl.create_default_context(cafile=str(certificate[0]))


@pytest.fixture
def serving(certificate):
    def server(handler=None, authenticator=None, **more):
        users = authenticator or Users([Accounts(ADA)], mechanisms=BY_NAME)
        settings = ServerSettings(hostname="mx.example", authenticator=users)
        return Server(handler or Seen(), "127.0.0.1", settings=settings, tls=TlsContext.load([certificate]), **more)

    return server


async def upgraded(server, context):
    """Return a client after STARTTLS and EHLO, and the offered extensions."""
    client = await Client.to(server)
    await client.say(b"EHLO client.example\r\n")
    await client.say(b"STARTTLS\r\n")
    await client.writer.start_tls(context, server_hostname="localhost")
    return client, await client.say(b"EHLO client.example\r\n")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("implicit", [False, True])
def test_smtplib_logs_in(run, serving, trusting, mechanism, implicit):
    def talk(port):
        def method():
            return getattr(client, "auth_" + mechanism.lower().replace("-", "_"))

        secure = lambda: smtplib.SMTP_SSL("localhost", port, context=trusting)  # noqa: E731
        with secure() if implicit else smtplib.SMTP("localhost", port) as client:
            if not implicit:
                client.ehlo()
                assert "auth" not in client.esmtp_features
                client.starttls(context=trusting)
            client.ehlo()
            assert mechanism in client.esmtp_features["auth"].split()
            client.user, client.password = "ada", "pen"
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.auth(mechanism, method())
            assert refused.value.args == (535, b"5.7.8 Authentication credentials invalid")
            client.password = "pencil"
            assert client.auth(mechanism, method()) == (235, b"2.7.0 Authentication succeeded")
            client.sendmail("ada@client.example", ["b@mail.example"], b"Subject: x\r\n\r\ny\r\n")

    async def scenario():
        handler = Seen()
        async with serving(handler, implicit_tls=implicit) as server:
            await asyncio.to_thread(talk, server.port)
        assert [(who.name, who.mechanism, by) for who, by in handler.senders] == [("ada", mechanism, "ESMTPSA")]

    run(scenario())


async def scram(server, context, mechanism, binding=None):
    """Log in with SCRAM, bound to the client's channel or to `binding`; return the last reply."""
    client, offered = await upgraded(server, context)
    assert b"SCRAM-SHA-256-PLUS" in offered
    secured = client.writer.get_extra_info("ssl_object")
    if binding is None:
        binding = {"tls-server-end-point": hashlib.sha256(secured.getpeercert(binary_form=True)).digest()}
        if secured.version() == "TLSv1.2":
            binding["tls-unique"] = secured.get_channel_binding("tls-unique")
    facts = ChannelContext("fyko+d2lbbFgONRv9qkx", binding, offers_binding=True)
    ours = ClientExchange(BY_NAME[mechanism], Credentials("ada", "pencil"), facts)
    reply = await client.say(b"AUTH %b %b\r\n" % (mechanism.encode(), ours.first))
    while reply.startswith(b"334 "):
        reply = await client.say(ours.respond(reply[4:].strip()) + b"\r\n")
    await client.close()
    return reply[:3]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_r53_scram_over_tls_binds_to_the_channel_that_the_client_sees(run, serving, trusting, version):
    trusting.maximum_version = version

    async def scenario():
        async with serving() as server:
            assert await scram(server, trusting, "SCRAM-SHA-256") == b"235"
            assert await scram(server, trusting, "SCRAM-SHA-256-PLUS") == b"235"
            # An attacker in the middle has another certificate, or another connection.
            for kind in ("tls-server-end-point", "tls-unique", "tls-exporter"):
                assert await scram(server, trusting, "SCRAM-SHA-256-PLUS", {kind: b"m" * 32}) == b"535"

    run(scenario())


def test_r11_identity_does_not_outlive_starttls(run, serving, trusting, certificate):
    async def scenario():
        settings = ServerSettings(authenticator=Users([Accounts(ADA)]), auth_without_tls=True)
        async with Server(Seen(), "127.0.0.1", settings=settings, tls=TlsContext.load([certificate])) as server:
            client = await Client.to(server)
            assert codes(await client.say(b"EHLO client.example\r\n" + PLAIN, 2)) == [b"250", b"235"]
            assert codes(await client.say(b"STARTTLS\r\n")) == [b"220"]
            await client.writer.start_tls(trusting, server_hostname="localhost")
            assert codes(await client.say(b"EHLO client.example\r\n" + PLAIN, 2)) == [b"250", b"235"]
            await client.close()

    run(scenario())


def test_external_over_a_unix_socket_identifies_the_connecting_user(run, tmp_path):
    async def scenario():
        me = getpass.getuser()
        settings = ServerSettings(authenticator=Users([Accounts(User(me))]))
        handler = Seen()
        async with Server(handler, path=tmp_path / "submit.sock", settings=settings):
            client = Client(*await asyncio.open_unix_connection(tmp_path / "submit.sock"))
            await client.reply()
            assert b"AUTH EXTERNAL\r\n" in await client.say(b"EHLO client.example\r\n")
            somebody = b64encode(b"somebody")
            assert codes(await client.say(b"AUTH EXTERNAL " + somebody + b"\r\n")) == [b"535"]
            assert codes(await client.say(b"AUTH EXTERNAL =\r\n")) == [b"235"]
            envelope = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
            assert codes(await client.say(envelope, 3))[-1] == b"354"
            await client.close()
        assert handler.senders[0][0].name == me

    run(scenario())


def test_checking_a_password_does_not_delay_other_sessions(run, serving, trusting):
    """Passwords are hashed in a thread, so that other sessions get their replies meanwhile."""

    class Slow(Accounts):
        def __init__(self):
            super().__init__(ADA)
            self.asked, self.go = threading.Event(), threading.Event()

        def find(self, login):
            self.asked.set()
            assert self.go.wait(10)
            return super().find(login)

    async def scenario():
        slow = Slow()
        async with serving(authenticator=Users([slow])) as server:
            one, _ = await upgraded(server, trusting)
            other, _ = await upgraded(server, trusting)
            login = asyncio.create_task(one.say(PLAIN))
            await asyncio.to_thread(slow.asked.wait)
            assert codes(await other.say(b"NOOP\r\n")) == [b"250"]
            assert not login.done()
            slow.go.set()
            assert codes(await login) == [b"235"]
            await one.close()
            await other.close()

    run(scenario())


def test_an_authenticator_that_never_returns_is_454_after_the_timeout(run, serving, trusting):
    class Never:
        mechanisms = ("PLAIN",)

        async def verify_password(self, session, login, password):
            await asyncio.Event().wait()

    async def scenario():
        async with serving(authenticator=Never(), timeouts=Timeouts(hook=0.05)) as server:
            client, _ = await upgraded(server, trusting)
            assert await client.say(PLAIN) == b"454 4.7.0 Temporary authentication failure\r\n"
            assert codes(await client.say(b"NOOP\r\n")) == [b"250"]
            await client.close()

    run(scenario())


def test_a_client_that_disconnects_while_its_password_is_checked_leaves_nothing_in_the_queue(run, serving, trusting):
    async def scenario():
        users = Users([Accounts(ADA)])
        async with serving(authenticator=users) as server:
            for _ in range(100):  # more than may be queued
                client, _ = await upgraded(server, trusting)
                client.writer.write(WRONG)
                await client.writer.drain()
                client.reset()
            client, _ = await upgraded(server, trusting)
            reply = await client.say(PLAIN)
            while codes(reply) == [b"454"]:  # earlier logins are still being checked
                reply = await client.say(PLAIN)
            assert codes(reply) == [b"235"]
            await client.close()

    run(scenario())


def test_r22_bad_base64_in_one_session_ends_no_other(run, serving, trusting):
    """CVE-2025-59028."""

    async def scenario():
        async with serving() as server:
            clients = [(await upgraded(server, trusting))[0] for _ in range(4)]
            for client in clients:
                assert codes(await client.say(b"AUTH LOGIN\r\n")) == [b"334"]
            assert codes(await clients[0].say(b"%%%\r\n")) == [b"501"]
            for client in clients[1:]:
                assert codes(await client.say(b64encode(b"ada") + b"\r\n")) == [b"334"]
                assert codes(await client.say(b64encode(b"pencil") + b"\r\n")) == [b"235"]
            assert codes(await clients[0].say(PLAIN)) == [b"235"]
            for client in clients:
                await client.close()

    run(scenario())
