"""Queue life against hosts that greylist or refuse service (421), in virtual time: connections, order and attempts."""

from __future__ import annotations

import pytest
from tests.mta.host_kit import with_hosts
from tests.mta.runner_kit import NOW

from ironpost.queue.concurrency import DEFAULT
from ironpost.queue.retry import GREYLIST_WAIT, HOUR, MINUTE
from ironpost.telemetry.metrics import Counters


async def attempts(world) -> dict[str, list[int]]:
    """The attempts of each recipient in the queue, by message."""
    return {message.id: [to.attempts for to in message.recipients] for message in await world.store.list(10_000)}


@pytest.mark.parametrize("text", ["450 4.7.1 Greylisted for 300 seconds", "451 4.7.1 Please try again later"])
def test_greylisted_mail_is_one_copy_at_the_second_attempt_and_delays_nobody(text):
    metrics = Counters()
    seen = set()

    def greylist(address):
        known = address in seen or address.startswith("known")
        seen.add(address)
        return None if known else text

    async def act(world, host):
        host.replies["RCPT"] = greylist
        addresses = [f"r{number}@grey.example" for number in range(20)]
        await world.put("m1", *addresses)
        await world.settle()
        assert (host.connections, len(host.recipients), host.copies) == (1, 20, [])
        assert await attempts(world) == {"m1": [1] * 20}
        await world.put("m2", "known@grey.example")
        await world.settle()
        assert [to for _, to in host.copies] == [["known@grey.example"]], "the host was reached, so it is not probed"
        assert metrics.snapshot()["recipients_greylisted"] == {"": 20}

        host.hang_up()  # it was idle
        before = host.connections
        await world.run(GREYLIST_WAIT - 1)
        assert host.connections == before, "no attempt before the wait is over"
        await world.run(MINUTE + 2)
        assert host.connections == before + 1
        assert [to for _, to in host.copies[1:]] == [addresses]
        assert len(host.recipients) == 41
        assert await world.store.list() == []
        assert metrics.snapshot()["recipients_greylisted"] == {"": 20}

    with_hosts(["grey.example"], act, metrics=metrics)


def test_a_host_that_greylists_only_some_recipients_gets_the_others_at_once():
    seen = set()

    def greylist(address):
        known = address in seen or not address.startswith("new")
        seen.add(address)
        return None if known else "450 4.7.1 Greylisted"

    async def act(world, host):
        host.replies["RCPT"] = greylist
        await world.put("m1", *(f"{kind}{number}@grey.example" for kind in ("new", "old") for number in range(3)))
        await world.settle()
        assert [to for _, to in host.copies] == [[f"old{number}@grey.example" for number in range(3)]]
        await world.run(GREYLIST_WAIT * 1.2)
        assert [to for _, to in host.copies[1:]] == [[f"new{number}@grey.example" for number in range(3)]]
        assert await world.store.list() == []

    with_hosts(["grey.example"], act)


STORM = 4 * HOUR
MESSAGES = 100


@pytest.mark.parametrize("step", ["greeting", "EHLO", "MAIL", "RCPT", "content"])
def test_a_storm_of_421_costs_one_connection_for_each_probe(step):
    async def act(world, storm, calm):
        raging = True
        storm.replies[step] = lambda *_: "421 4.3.2 Too busy" if raging else None
        for number in range(MESSAGES):
            await world.put(f"m{number:03}", "to@storm.example", sender=f"s{number:03}@local.example")
            await world.put(f"c{number:03}", "to@calm.example", sender=f"c{number:03}@local.example")
        await world.settle()
        assert len(calm.copies) == MESSAGES, "mail for others is not delayed"
        first = storm.connections
        assert first < 2 * DEFAULT.initial, "a window of failures, and what had begun by then"

        await world.run(STORM)
        assert storm.copies == []
        probes = storm.connections - first
        # 60, 120, 240, 480 s, and then the longest wait, without jitter.
        assert STORM / DEFAULT.longest_wait <= probes <= STORM / DEFAULT.longest_wait + 5
        counted = await attempts(world)
        assert len(counted) == MESSAGES
        assert sum(sum(each) for each in counted.values()) == storm.connections, "one message for each connection"
        assert (await world.store.get("m099")).recipients[0].attempts == 0, "it was never the message of a probe"
        await world.put("late", "to@calm.example")
        await world.settle()
        assert len(calm.copies) == MESSAGES + 1

        raging = False
        at = storm.connections
        await world.run(DEFAULT.longest_wait + 1)
        waited = [sender for sender, _ in storm.copies if counted[f"m{sender[1:4]}"] == [0]]
        assert len(waited) == sum(each == [0] for each in counted.values()), "all that was never attempted"
        assert all(abs(waited.index(name) - place) <= DEFAULT.maximum for place, name in enumerate(sorted(waited)))
        await world.run(2 * HOUR)
        assert sorted(sender for sender, _ in storm.copies) == [f"s{n:03}@local.example" for n in range(MESSAGES)]
        assert storm.connections - at <= DEFAULT.maximum * 3, "connections are reused"
        assert await world.store.list() == []
        assert world.local.calls == [], "no bounce"
        assert world.clock.time - NOW < 8 * HOUR

    with_hosts(["storm.example", "calm.example"], act)
