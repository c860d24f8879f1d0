"""The queue runner with routes that depend on the sender or the login, in virtual time."""

from __future__ import annotations

from tests.mta.runner_kit import DOWN, LATER, OK, scenario

from ironpost.model import Outcome, Reply
from ironpost.model.envelope import Origin
from ironpost.model.patterns import AddressPattern
from ironpost.mta.queue_runner import BLOCKED_LONGEST, SCAN_SECONDS, WAITING_PARTS
from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.retry import DAY, HOUR
from ironpost.routing.route import Route, Routes, Rule
from ironpost.testing.directory import local

HUB = Route.smart(["hub.example"])
BULK = Rule(("*",), HUB, senders=(AddressPattern("bulk.example"),))


def by_sender(world) -> None:
    """Mail from bulk.example goes to a smart host (`world.other`), all other mail by MX (`world.remote`)."""
    world.runner.routes = Routes(local(["local.example"]), [BULK])


def attempted(script) -> list[str]:
    return [identifier for _, identifier, *_ in script.calls]


def test_each_sender_has_its_route_also_for_retries():
    async def act(world):
        by_sender(world)
        await world.put("m1", sender="news@bulk.example")
        await world.put("m2")
        await world.run(HOUR)
        assert (set(attempted(world.other)), set(attempted(world.remote))) == ({"m1"}, {"m2"})
        assert len(attempted(world.other)) == len(attempted(world.remote)) > 1

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_a_bounce_takes_the_route_of_the_null_reverse_path():
    async def act(world):
        world.runner.routes = Routes(local([]), [BULK, Rule(("*",), HUB, senders=(None,))])
        world.remote.answer = lambda message, recipient: Outcome.of(Reply(550, "5.1.1", ("Nobody",)))
        await world.put("m1", sender="jo@other.example")
        await world.settle()
        ((_, identifier, to, _),) = world.other.calls
        assert (identifier != "m1", to) == (True, ["jo@other.example"])

    scenario({}, act)


def test_recipients_of_many_domains_stay_one_copy_for_a_smart_host():
    async def act(world):
        by_sender(world)
        await world.put("m1", *(f"x@d{number}.example" for number in range(20)), sender="news@bulk.example")
        await world.run(HOUR)
        assert len(world.other.calls) > 1
        assert [len(to) for _, _, to, _ in world.other.calls] == [20] * len(world.other.calls)

    scenario({"remote": lambda message, recipient: LATER}, act)


def test_a_destination_that_is_down_delays_only_the_mail_of_its_senders():
    async def act(world):
        by_sender(world)
        world.other.answer = lambda message, recipient: DOWN
        for number in range(50):
            await world.put(f"bulk{number}", sender="news@bulk.example")
        await world.run(4 * DEFAULT.longest_wait)
        await world.put("m1")
        await world.run(1)
        assert attempted(world.remote) == ["m1"]
        tried = len(world.other.calls)
        await world.run(6 * HOUR)
        assert len(world.other.calls) - tried < 6 * HOUR / DEFAULT.longest_wait * 1.2 + DEFAULT.initial
        world.other.answer = lambda message, recipient: OK
        await world.run(4 * HOUR)
        assert await world.store.list() == []

    scenario({}, act)


def test_stored_mail_of_other_senders_is_attempted_while_one_destination_is_down():
    """After a start all mail is in the store, where its destination is not known."""

    async def act(world):
        by_sender(world)
        world.other.answer = lambda message, recipient: DOWN
        await world.runner.stop()
        for number in range(200):
            await world.store.unclaim([await world.commit(f"bulk{number}", sender="news@bulk.example")])
        for number in range(20):
            await world.store.unclaim([await world.commit(f"m{number}")])
        world.runner.start()
        await world.run(3 * SCAN_SECONDS)
        assert sorted(attempted(world.remote)) == sorted(f"m{number}" for number in range(20))

    scenario({}, act)


def test_mail_expires_while_the_destination_of_its_sender_is_down():
    async def act(world):
        by_sender(world)
        world.other.answer = lambda message, recipient: DOWN
        for number in range(20):
            await world.put(f"m{number}", sender="jo@bulk.example")
        await world.run(5 * DAY + 2 * SCAN_SECONDS + HOUR)
        reports = [message for message in await world.store.list() if message.envelope.reverse_path.is_null]
        assert len(reports) + len(world.remote.calls) == 20
        assert [message.id for message in await world.store.list() if message not in reports] == []

    scenario({}, act)


def test_mail_of_a_sender_whose_destination_was_suspended_follows_when_it_is_resumed():
    async def act(world):
        by_sender(world)
        world.runner.suspended.suspend("hub.example", None, "maintenance")
        await world.put("m1", sender="news@bulk.example")
        await world.put("m2")
        await world.run(6 * HOUR)
        assert (attempted(world.other), attempted(world.remote)) == ([], ["m2"])
        assert world.runner.suspended.resume("hub.example")
        await world.run(BLOCKED_LONGEST + SCAN_SECONDS)
        assert attempted(world.other) == ["m1"]

    scenario({}, act)


def test_more_mail_than_memory_holds_is_delivered():
    async def act(world):
        by_sender(world)
        await world.runner.stop()
        for number in range(WAITING_PARTS // 2):
            await world.store.unclaim([await world.commit(f"m{number}", sender="news@bulk.example")])
        world.runner.start()
        await world.run(HOUR)
        assert await world.store.list() == []
        assert len(world.other.calls) == WAITING_PARTS // 2

    scenario({}, act)


def test_a_login_has_its_route_also_for_stored_mail():
    async def act(world):
        rule = Rule(("*",), HUB, logins=frozenset({"ada"}))
        world.runner.routes = Routes(local(["local.example"]), [rule])
        await world.runner.stop()
        for login in ("ada", "grace"):
            await world.store.unclaim([await world.commit(f"for-{login}", origin=Origin(identity=login))])
        world.runner.start()
        await world.run(HOUR)
        assert (set(attempted(world.other)), set(attempted(world.remote))) == ({"for-ada"}, {"for-grace"})
        message = await world.store.get("for-ada")
        decision, _ = await world.runner.destinations.decide(message.envelope, message.recipients[0].recipient.address)
        assert decision.route == HUB

    scenario({"remote": lambda message, recipient: LATER}, act)
