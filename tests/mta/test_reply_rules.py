"""Reply rules in the queue, in virtual time."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from tests.mta.runner_kit import LATER, NEVER, OK, scenario

from ironpost.model import Disposition, Outcome, Reply
from ironpost.queue.reply_rules import Action, ReplyRule, ReplyRules
from ironpost.queue.retry import DAY, HOUR

BUSY = Outcome.of(Reply(451, "4.3.2", ("Too many messages from you",)), "mx.example [192.0.2.1]")
WAIT = ReplyRule(("remote.example",), "too many messages", Action.WAIT, 2 * HOUR)
FAIL = ReplyRule(("*",), "^451 4.7.1 come", Action.FAIL)


def test_a_rule_makes_the_queue_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ironpost")

    async def act(world):
        await world.put("m1", *(f"r{number}@remote.example" for number in range(5)))
        await world.run(3 * HOUR)
        first, second = world.times()
        assert 2 * HOUR <= second - first <= 2.4 * HOUR
        assert {len(recipients) for _, _, recipients, _ in world.remote.calls} == {5}
        (message,) = await world.store.list()
        assert message.recipients[0].last == "451 4.3.2 Too many messages from you (queue.reply[1]: wait)"

    scenario({"remote": lambda message, to: BUSY, "rules": ReplyRules([WAIT])}, act)
    rules = {each.fields["rule"] for each in caplog.records if getattr(each, "event", "") == "deferred"}
    assert rules == {"queue.reply[1]"}


def test_the_next_attempt_is_when_the_receiver_asked_unless_a_rule_says_otherwise() -> None:
    asked = replace(BUSY, wait=HOUR)

    async def act(world):
        await world.put("m1")
        await world.run(1.5 * HOUR)
        first, second = world.times()
        assert HOUR <= second - first <= 1.2 * HOUR

    async def ruled(world):
        await world.put("m1")
        await world.run(1.9 * HOUR)
        assert len(world.times()) == 1

    scenario({"remote": lambda message, to: asked}, act)
    scenario({"remote": lambda message, to: asked, "rules": ReplyRules([WAIT])}, ruled)


def test_a_rule_makes_a_deferral_a_failure_and_the_bounce_names_it() -> None:
    async def act(world):
        await world.put("m1")
        await world.settle()
        assert await world.store.list() == []
        ((_, _, _, bounce),) = world.local.calls
        assert b"(queue.reply[2]: fail)" in b" ".join(bounce.split())

    scenario({"remote": lambda message, to: LATER, "rules": ReplyRules([WAIT, FAIL])}, act)


def test_a_rule_defers_a_permanent_reply_until_the_message_expires() -> None:
    rule = ReplyRule(("remote.example",), "nobody", Action.WAIT, 6 * HOUR)

    async def act(world):
        await world.put("m1")
        await world.run(DAY)
        assert 4 <= len(world.times()) <= 5
        await world.run(4 * DAY + HOUR)
        assert await world.store.list() == []
        ((_, _, _, bounce),) = world.local.calls
        assert b"Status: 4.4.7" in bounce
        assert b"550 5.1.1 Nobody" in b" ".join(bounce.split())

    scenario({"remote": lambda message, to: NEVER, "rules": ReplyRules([rule])}, act)


@pytest.mark.parametrize(
    ("outcome", "rule"),
    [
        (OK, ReplyRule(("*",), "taken", Action.FAIL)),
        (NEVER, ReplyRule(("*",), "nobody", Action.FAIL)),
        (LATER, ReplyRule(("other.example",), "come", Action.FAIL)),
        (LATER, ReplyRule(("*",), "go away", Action.FAIL)),
    ],
)
def test_a_rule_changes_nothing_else(outcome: Outcome, rule: ReplyRule) -> None:
    async def act(world):
        await world.put("m1")
        await world.settle()
        left = [message.recipients[0].state.value for message in await world.store.list()]
        assert left == (["queued"] if outcome.disposition is Disposition.DEFERRED else [])

    scenario({"remote": lambda message, to: outcome, "rules": ReplyRules([rule])}, act)
