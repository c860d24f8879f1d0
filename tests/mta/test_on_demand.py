"""ETRN and ATRN from end to end: a provider with queue and login on a real socket, and our own code as customer."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.mta.on_demand_kit import Accounts, Customer, Mailbox, Provider
from tests.storage.store_kit import claim

from ironpost import Server
from ironpost.model.patterns import AddressPattern
from ironpost.protocol.dialect import SMTP
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.store import RecipientState
from ironpost.routing.rewriting import RewriteRule, Rewriting
from ironpost.storage.memory import MemoryStore
from ironpost.storage.sqlite.store import SqliteStore

STORES = ["memory", "sqlite"]


def run(kind, path, act, rewriting=None):
    """Run `act(provider, server)`; `rewriting` changes what leaves."""

    async def main():
        store = MemoryStore() if kind == "memory" else SqliteStore.at(path, reserve=0)
        provider = Provider(store, rewriting)
        dialect = SMTP._replace(authenticate=True)
        settings = ServerSettings("provider.example", authenticator=Accounts(), auth_without_tls=True, dialect=dialect)
        async with Server(provider.handler, "127.0.0.1", settings=settings) as server:
            feeder = provider.runner.start()
            try:
                await asyncio.wait_for(act(provider, server), 60)
                assert not feeder.done()
            finally:
                await provider.on_demand.stop()
                await provider.runner.stop()
                await store.close()

    asyncio.run(main())


# ---------------------------------------------------------------------------------------------------------------------
# ATRN


@pytest.mark.parametrize("kind", STORES)
def test_a_customer_fetches_all_its_mail_over_its_own_connection(kind, tmp_path) -> None:
    big = b"Subject: big\r\n\r\n" + b"0123456789\r\n" * 20_000

    async def act(provider, server):
        await provider.queue("a@jo.example", "b@jo.example")
        await provider.queue("c@al.example", "d@Mail.jo.example")
        await provider.queue("e@al.example")
        await provider.queue("f@jo.example", content=big)
        async with Customer.of(server) as customer:
            assert b"250-ATRN\r\n" in customer.offered
            assert await customer.say(b"ATRN\r\n") == b"250 2.0.0 OK, now reversing the connection\r\n"
            await customer.serve()
        kept = customer.handler.messages
        assert [to for to, _ in kept] == [["a@jo.example", "b@jo.example"], ["d@Mail.jo.example"], ["f@jo.example"]]
        assert kept[0][1] == b"Trace: t\r\nSubject: x\r\n\r\nhello\r\n"
        assert kept[2][1] == b"Trace: t\r\n" + big
        states = await provider.states()
        assert {address for address, state in states.items() if state is RecipientState.QUEUED} == {
            "c@al.example",
            "e@al.example",
        }
        async with Customer.of(server) as customer:
            assert await customer.say(b"ATRN\r\n") == b"453 4.0.0 You have no mail\r\n"
            assert (await customer.say(b"QUIT\r\n")).startswith(b"221")

    run(kind, tmp_path, act)


def test_mail_that_a_customer_fetches_is_rewritten(tmp_path) -> None:
    patterns = (AddressPattern("elsewhere.example"), AddressPattern("mail.jo.example"))
    rewriting = Rewriting([RewriteRule(patterns, "jo.example")])

    async def act(provider, server):
        await provider.queue("d@mail.jo.example", content=b"From: from@elsewhere.example\r\n\r\nhello\r\n")
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ATRN\r\n")).startswith(b"250")
            await customer.serve()
        ((to, content),) = customer.handler.messages
        assert to == ["d@jo.example"]
        assert content == b"Trace: t\r\nFrom: from@jo.example\r\n\r\nhello\r\n"
        assert await provider.states() == {}

    run("memory", tmp_path, act, rewriting)


@pytest.mark.parametrize("kind", STORES)
def test_mail_that_the_customer_refuses_is_deferred_or_bounced_and_not_tried_twice(kind, tmp_path) -> None:
    async def act(provider, server):
        first = await provider.queue("later@jo.example", "a@jo.example")
        await provider.queue("never@jo.example")
        async with Customer.of(server, handler=Mailbox(["later@jo.example"], ["never@jo.example"])) as customer:
            assert (await customer.say(b"ATRN jo.example,mail.jo.example\r\n")).startswith(b"250")
            await customer.serve()
            assert [to for to, _ in customer.handler.messages] == [["a@jo.example"]]
        message = await provider.store.get(first)
        by_name = {str(each.recipient.address): each for each in message.recipients}
        assert by_name["a@jo.example"].state is RecipientState.DELIVERED
        assert (by_name["later@jo.example"].state, by_name["later@jo.example"].attempts) == (RecipientState.QUEUED, 1)
        assert "from@elsewhere.example" in await provider.states()  # the report about `never`
        async with Customer.of(server) as customer:  # it is fetched by the next ATRN, due or not
            assert (await customer.say(b"ATRN jo.example\r\n")).startswith(b"250")
            await customer.serve()
            assert [to for to, _ in customer.handler.messages] == [["later@jo.example"]]

    run(kind, tmp_path, act)


@pytest.mark.parametrize("kind", STORES)
def test_a_connection_that_breaks_loses_nothing(kind, tmp_path) -> None:
    async def act(provider, server):
        for number in range(4):
            await provider.queue(f"{number}@jo.example")
        async with Customer.of(server, handler=Mailbox(hang_up_after=1)) as customer:
            assert (await customer.say(b"ATRN\r\n")).startswith(b"250")
            await customer.serve()
            assert [to for to, _ in customer.handler.messages] == [["0@jo.example"]]
        async with Customer.of(server) as customer:
            while (said := await customer.say(b"ATRN\r\n")).startswith(
                b"450"
            ):  # the outcome of the first is being recorded
                assert b"another ATRN" in said
            assert said.startswith(b"250")
            await customer.serve()
            assert sorted(to for to, _ in customer.handler.messages) == [[f"{n}@jo.example"] for n in (1, 2, 3)]

    run(kind, tmp_path, act)


def test_one_atrn_at_a_time_and_stop_aborts_it(tmp_path) -> None:
    async def act(provider, server):
        await provider.queue("a@jo.example")
        async with Customer.of(server) as first, Customer.of(server) as second:
            assert (await first.say(b"ATRN\r\n")).startswith(b"250")  # and then its server stops replying
            assert (await second.say(b"ATRN\r\n")).startswith(b"450 4.7.1 ATRN request refused: another ATRN")
            await provider.on_demand.stop()
            assert await first.reader.read() == b""
            assert (await provider.states())["a@jo.example"] is RecipientState.QUEUED
            assert (await second.say(b"ATRN\r\n")).startswith(b"250")

    run("memory", tmp_path, act)


def test_etrn_probes_a_server_that_was_down(tmp_path) -> None:
    async def act(provider, server):
        await provider.queue("a@jo.example")
        destination = await provider.runner.destinations.of_domain("jo.example")
        destination.window.block(time.time() + 3600, "silent")
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ETRN jo.example\r\n")).startswith(b"253")
        assert destination.window.blocked_until == 0

    run("memory", tmp_path, act)


def test_future_release_mail_is_not_delivered_by_atrn(tmp_path) -> None:  # RFC 4865 §4.2
    async def act(provider, server):
        await provider.queue("a@jo.example", due=time.time() + 3600)
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ATRN\r\n")).startswith(b"453")
            assert (await customer.say(b"ETRN jo.example\r\n")).startswith(b"251")

    run("memory", tmp_path, act)


@pytest.mark.parametrize(
    ("login", "line", "expected"),
    [
        ("", b"ATRN", b"530"),
        ("", b"ETRN jo.example", b"530"),
        ("al", b"ATRN jo.example", b"450"),
        ("al", b"ATRN al.example,jo.example", b"450"),
        ("al", b"ETRN jo.example", b"459"),
        ("al", b"ETRN @jo.example", b"459"),
        ("al", b"ETRN @example", b"501"),
        ("al", b"ETRN #al.example", b"459"),
        ("al", b"ETRN mail.al.example", b"459"),
        ("nobody", b"ATRN", b"450"),
        ("nobody", b"ETRN jo.example", b"459"),
    ],
)
def test_a_customer_cannot_fetch_mail_of_others(login, line, expected, tmp_path) -> None:
    async def act(provider, server):
        await provider.queue("a@jo.example")
        await provider.queue("b@al.example")
        async with Customer.of(server, login) as customer:
            assert (await customer.say(line + b"\r\n")).startswith(expected)
            assert (await customer.say(b"QUIT\r\n")).startswith(b"221")
        assert set((await provider.states()).values()) == {RecipientState.QUEUED}

    run("memory", tmp_path, act)


@pytest.mark.parametrize("kind", STORES)
def test_r41_no_argument_of_etrn_or_atrn_reaches_a_statement(kind, tmp_path) -> None:
    async def act(provider, server):
        await provider.queue("a@jo.example")
        async with Customer.of(server) as customer:
            for verb in (b"ETRN ", b"ATRN "):
                said = await customer.say(verb + b"'\";--\0\r\n")
                assert said[:3] in {b"500", b"501"}
                assert (await customer.say(verb + b"jo.example';--\r\n")).startswith(b"501")
        assert await provider.states() == {"a@jo.example": RecipientState.QUEUED}

    run(kind, tmp_path, act)


# ---------------------------------------------------------------------------------------------------------------------
# ETRN


@pytest.mark.parametrize("kind", STORES)
def test_etrn_makes_the_mail_due(kind, tmp_path) -> None:
    async def act(provider, server):
        for name in ("a@al.example", "b@al.example"):
            await provider.queue(name)
            (message,) = await claim(provider.store, 10)
            await provider.runner.attempt(message, provider.elsewhere)
        assert provider.elsewhere.given == ["a@al.example", "b@al.example"]  # due much later
        async with Customer.of(server, "al") as customer:
            assert await customer.say(b"ETRN AL.example\r\n") == b"253 2.0.0 2 pending messages started\r\n"
        while len(provider.elsewhere.given) < 4:
            await asyncio.sleep(0)
        assert sorted(provider.elsewhere.given[2:]) == ["a@al.example", "b@al.example"]

    run(kind, tmp_path, act)


def test_etrn_with_an_at_sign_covers_subdomains(tmp_path) -> None:  # RFC 1985 §5.3
    async def act(provider, server):
        await provider.queue("a@jo.example")
        await provider.queue("b@mail.jo.example")
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ETRN mail.jo.example\r\n")).startswith(b"253 2.0.0 1 ")
            assert (await customer.say(b"ETRN @jo.example\r\n")).startswith(b"253 2.0.0 2 ")

    run("memory", tmp_path, act)


def test_a_store_that_fails_is_458_and_451(tmp_path) -> None:
    async def act(provider, server):
        async def fails(*_):
            raise OSError("no disk")

        provider.store.waiting = fails
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ETRN jo.example\r\n")).startswith(b"458 4.3.0")
            assert (await customer.say(b"ATRN\r\n")).startswith(b"451 4.3.0")

    run("memory", tmp_path, act)


def test_any_client_may_send_to_a_customer(tmp_path) -> None:
    async def act(provider, server):
        mx = Server(provider.handler, "127.0.0.1", settings=ServerSettings("provider.example"))
        async with mx, Customer.of(mx, "") as stranger:
            assert (await stranger.say(b"MAIL FROM:<a@b.example>\r\n")).startswith(b"250")
            assert (await stranger.say(b"RCPT TO:<x@other.example>\r\n")).startswith(b"550")
            assert (await stranger.say(b"RCPT TO:<a@jo.example>\r\n")).startswith(b"250")
            assert (await stranger.say(b"DATA\r\n")).startswith(b"354")
            assert (await stranger.say(b"Subject: x\r\n\r\nhello\r\n.\r\n")).startswith(b"250")
        while provider.runner.active:
            await asyncio.sleep(0)
        async with Customer.of(server) as customer:
            assert (await customer.say(b"ATRN\r\n")).startswith(b"250")
            await customer.serve()
            ((to, content),) = customer.handler.messages
        assert to == ["a@jo.example"]
        assert content.endswith(b"Subject: x\r\n\r\nhello\r\n")

    run("memory", tmp_path, act)
