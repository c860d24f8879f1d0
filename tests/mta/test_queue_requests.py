"""What operators ask of the queue: to retry, return, redirect, hold and suspend."""

from __future__ import annotations

import asyncio

import pytest
from tests.mta.runner_kit import DOWN, LATER, OK, scenario

from ironpost.model import Address
from ironpost.model.envelope import REFUSED
from ironpost.model.patterns import AddressPattern
from ironpost.mta import queue_requests
from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.reply_rules import Action, ReplyRule, ReplyRules
from ironpost.queue.retry import DAY, HOUR
from ironpost.queue.selection import EVERYTHING, Selection
from ironpost.routing.directory import Mailbox, NotLocal
from ironpost.routing.route import Routes


def test_an_operator_returns_mail_that_waits_in_memory_or_in_the_store():
    async def act(world):
        for name in ("m1", "m2"):
            await world.put(name, "a@remote.example", "b@remote.example")
        await world.commit("m3", "a@remote.example", held="odd")
        await world.settle()
        assert await world.runner.requests.bounce(Selection(recipient=AddressPattern("a@remote.example")), "spam") == 3
        await world.settle()
        texts = [body for _, _, to, body in world.local.calls if to == ["from@local.example"]]
        assert len(texts) == 3
        assert all(b"554 5.3.0 Returned by the administrator: spam" in text for text in texts)
        left = [(each.id, [str(to.recipient.address) for to in each.recipients])
                for each in await world.store.select(EVERYTHING)]  # fmt: skip
        assert left == [("m1", ["b@remote.example"]), ("m2", ["b@remote.example"])]

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_a_recipient_gets_another_address_and_an_attempt_at_once():
    async def act(world):
        await world.put("m1", "a@typo.example", "b@typo.example")
        await world.settle()
        selection = Selection(("m1",), recipient=AddressPattern("a@typo.example"))
        assert await world.runner.requests.redirect(selection, Address.parse("a@other.example")) == 1
        await world.settle()
        assert [(name, to) for _, name, to, _ in world.other.calls] == [("m1", ["a@other.example"])]

    scenario({"remote": lambda message, recipient: LATER}, act)


@pytest.mark.parametrize("address", ["a@open.example", "a@closed.example"])
def test_a_held_recipient_that_took_no_mail_is_attempted_after_its_address_was_edited(address):
    async def act(world):
        await world.commit("m1", "a@closed.example", parameters={REFUSED: "5.2.1"}, held="odd")
        assert await world.runner.requests.redirect(Selection(("m1",)), Address.parse(address)) == 1
        await world.settle()
        assert world.remote.calls == []
        await world.store.release(EVERYTHING)
        world.runner.wake()
        await world.settle()
        assert [(name, to) for _, name, to, _ in world.remote.calls] == [("m1", [address])]
        assert await world.store.list() == []

    scenario({}, act)


def test_what_waits_in_memory_is_given_back_when_an_operator_holds_it():
    async def act(world):
        released = asyncio.get_running_loop().create_future()
        world.remote.answer = lambda message, recipient: released
        for number in range(8):
            await world.put(f"m{number}", "a@remote.example")
        await world.settle()
        assert len(world.remote.calls) == DEFAULT.initial
        await world.store.hold(EVERYTHING)
        await world.runner.requests.recall(EVERYTHING)
        released.set_result(LATER)
        await world.settle()
        await world.run(HOUR)
        assert len(world.remote.calls) == DEFAULT.initial

    scenario({"remote": None}, act)


def test_nothing_is_attempted_at_a_suspended_destination():
    async def act(world):
        world.runner.suspended.suspend("remote.example", HOUR, "their request")
        world.runner.suspended.suspend("hub.example", None, "")
        for to in ("a@remote.example", "a@second.example", "a@other.example"):
            await world.put(to.partition("@")[2], to)
        await world.run(HOUR - 1)
        assert [name for _, name, _, _ in world.remote.calls] == ["second.example"]
        assert world.other.calls == []
        await world.run(2)
        assert [name for _, name, _, _ in world.remote.calls] == ["second.example", "remote.example"]
        destination = await world.runner.destinations.of_domain("other.example")
        assert destination.blocked_until > world.clock.time + DAY
        assert world.runner.suspended.resume("hub.example")
        assert not world.runner.suspended.resume("hub.example")
        world.runner.pump()
        await world.run(1)
        assert [name for _, name, _, _ in world.other.calls] == ["other.example"]

    scenario({"remote": lambda message, recipient: OK}, act)


def test_no_reply_rule_changes_what_an_operator_decides():
    async def act(world):
        world.remote.answer = lambda message, recipient: LATER
        await world.put("m1")
        await world.settle()
        assert await world.runner.requests.bounce(Selection(ids=("m1",)), "wrong address") == 1
        await world.settle()
        assert await world.store.list() == []
        assert b"wrong address" in world.local.calls[0][3]

    rule = ReplyRule(("*",), "wrong address", Action.WAIT)
    scenario({"rules": ReplyRules([rule])}, act)


def test_a_retry_probes_only_the_destinations_of_the_selected_mail():
    async def act(world):
        for name in ("one", "two"):
            for number in range(DEFAULT.initial):
                await world.put(f"{name}{number}", f"to@{name}.example")
        await world.settle()
        calls = len(world.remote.calls)

        def probed() -> list[str]:
            return [to[0] for _, _, to, _ in world.remote.calls[calls:]]

        assert (await world.runner.requests.retry(Selection(domain=AddressPattern("nomatch.example")))).recipients == 0
        await world.settle()
        assert probed() == []
        found = await world.runner.requests.retry(Selection(domain=AddressPattern("two.example")))
        assert found.recipients == DEFAULT.initial
        await world.settle()
        assert probed() == ["to@two.example"]
        await world.runner.requests.retry(EVERYTHING)
        await world.settle()
        assert sorted(probed()) == ["to@one.example", "to@two.example", "to@two.example"]

    scenario({"remote": lambda message, recipient: DOWN}, act)


def test_a_retry_says_what_it_leaves_where_it_is():
    async def act(world):
        world.runner.suspended.suspend("remote.example", HOUR, "their request")
        await world.put("m1", "a@remote.example")
        await world.put("m2", "a@early.example", due=world.clock.time + DAY)
        found = await world.runner.requests.retry(Selection(sender=AddressPattern("from@local.example")))
        assert (found.recipients, [each.name for each in found.suspended], found.early) == (1, ["remote.example"], 1)
        assert (await world.runner.requests.retry(Selection.of("m2"))).early == 0
        await world.settle()
        assert [name for _, name, _, _ in world.remote.calls] == ["m2"]

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_a_directory_that_does_not_answer_delays_no_retry(monkeypatch):
    class Hanging:
        has_aliases = False
        hangs = False

        def find(self, address):
            if address.domain != "local.example":
                return NotLocal("elsewhere")
            return asyncio.get_running_loop().create_future() if self.hangs else Mailbox("here")

    async def act(world):
        directory = Hanging()
        world.runner.routes = Routes(directory)
        world.local.answer = world.remote.answer
        await world.put("m1", "a@local.example")
        await world.put("m2", "a@remote.example")
        await world.settle()
        directory.hangs = True
        selection = Selection(sender=AddressPattern("from@local.example"))
        retrying = asyncio.ensure_future(world.runner.requests.retry(selection))
        await world.settle()
        assert [name for _, name, _, _ in world.remote.calls] == ["m2", "m2"], "before the directory answers"
        assert not retrying.done()
        retrying.cancel()
        monkeypatch.setattr(queue_requests, "LOOKUP_SECONDS", 0.0)
        found = await world.runner.requests.retry(EVERYTHING)
        assert found.recipients == 2

    scenario({"remote": lambda message, recipient: LATER}, act)
