"""Our own server keeps every MUST and SHOULD of the suite: the whole program with its Maildir, and the framework's
server in each dialect that it speaks."""

from __future__ import annotations

import asyncio

import pytest

from ironpost import Server
from ironpost.conform import Outcome, Target, exit_code
from ironpost.protocol import replies
from ironpost.protocol.settings import Settings
from ironpost.server import BaseHandler

PATIENCE = 240.0


class Local(BaseHandler):
    """Takes what is for localhost."""

    def recipient(self, session, forward_path, parameters):
        here = forward_path.domain.lower() == "localhost" or forward_path.local_part.lower() == "postmaster"
        return None if here else replies.NOT_ACCEPTED_HERE

    def message(self, session, content, facts):
        content.discard()


def wanting(results):
    """What does not simply pass, with its reason and dialogue."""
    return {
        name: (result.why, *result.dialogue)
        for name, result in results.items()
        if result.outcome not in {Outcome.PASS, Outcome.NOT_APPLICABLE}
    }


def test_the_framework_as_mx(examine):
    async def scenario():
        async with Server(Local(), "127.0.0.1", settings=Settings(max_size=1_000_000)) as server:
            return await examine(Target("127.0.0.1", server.port))

    results = asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    results.pop("rfc5321-6.3-loop")  # a handler's business: this one counts no Received
    assert wanting(results) == {}
    assert sum(result.outcome is Outcome.PASS for result in results.values()) > 450


def test_the_program_with_its_maildir(serve, examine):
    running = serve('trusted = ["192.0.2.0/24"]\n')
    target = Target("127.0.0.1", running.port, maildir=running.data / "mail")
    results = asyncio.run(asyncio.wait_for(examine(target), PATIENCE))
    assert wanting(results) == {}
    assert exit_code(results.values()) == 0
    assert results["rfc5321-4.4-return-path"].outcome is Outcome.PASS


@pytest.mark.parametrize("pattern", ["rfc5321-4.1.1.4-*", "bdat"])
def test_r1_r5_the_framework_whose_policy_is_to_mend(examine, pattern):
    async def scenario():
        async with Server(Local(), "127.0.0.1", settings=Settings(newlines="normalise")) as server:
            return await examine(Target("127.0.0.1", server.port), [pattern])

    results = asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    assert {name: result.why for name, result in results.items() if result.wrong} == {}
