"""An attempt that raises for one recipient of a message affects no other, whatever agent makes it."""

from __future__ import annotations

import asyncio
import sys

import pytest
from tests.delivery.mailbox_kit import Tokens
from tests.mta.runner_kit import OK, scenario

from ironpost.delivery.maildir import Maildir, MaildirOptions
from ironpost.delivery.mbox import Mbox, MboxOptions
from ironpost.delivery.path_template import PathTemplate
from ironpost.delivery.pipe import Pipe, PipeOptions
from ironpost.delivery.post import Post, PostOptions
from ironpost.delivery.remote import RemoteDelivery
from ironpost.model import Address
from ironpost.mta.recorder import POISON_CRASHES
from ironpost.queue.retry import DAY
from ironpost.queue.store import QueuedMessage, RecipientState
from ironpost.routing.profile import SecretSource
from ironpost.routing.route import Kind, Route, Routes
from ironpost.testing.directory import local
from ironpost.testing.resolver import StaticResolver

GOOD, BAD = "good@local.example", "bad@other.example"
KINDS = ["maildir", "maildir of a user", "mbox", "pipe", "post", "remote"]


def agent(kind, clock, folder):
    """An agent, its options, and the name of the method that makes an attempt for some recipients."""
    path = PathTemplate(f"{folder}/{{domain}}/{{local}}")
    maildir = Maildir(clock=clock, random=Tokens())
    (folder / "secret").write_text("key\n")
    post = PostOptions("https://hooks.example/", SecretSource("file", str(folder / "secret")))
    return {
        "maildir": (maildir, MaildirOptions(path), "_write"),
        "maildir of a user": (maildir, MaildirOptions(path, user="nobody"), "_write_as_user"),
        "mbox": (Mbox(clock=clock), MboxOptions(path), "_deliver"),
        "pipe": (Pipe("mx.example"), PipeOptions((sys.executable,), user="nobody"), "_run"),
        "post": (Post(None, clock, "mx.example"), post, "_one"),
        "remote": (RemoteDelivery(StaticResolver(), Tokens()), None, "_send"),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_r25_an_attempt_that_raises_does_not_repeat_or_hold_the_mail_of_others(kind, tmp_path, monkeypatch):
    attempts = []

    async def here(function, *values):
        return function(*values)

    monkeypatch.setattr(asyncio, "to_thread", here)  # in virtual time, a thread would be late

    async def act(world):
        made, options, method = agent(kind, world.clock, tmp_path)
        ours = Route.mx() if options is None else Route.local(Kind.LOCAL, options)

        async def attempt(*values):
            of_recipients = str([each for each in values if not isinstance(each, QueuedMessage)])
            address = BAD if "bad" in of_recipients else GOOD
            attempts.append(address)
            if address == BAD:
                raise KeyError("unforeseen")
            await asyncio.sleep(0)  # it ends after the other has raised
            return {"_send": [(1, OK)], "_write": {Address.parse(GOOD): OK}}.get(method, OK)

        class Routed:
            async def deliver(self, message, recipients, route):
                return await made.deliver(message, recipients, ours)

        monkeypatch.setattr(made, method, attempt)
        world.runner.agents = lambda route: Routed()
        world.runner.routes = Routes(local(["local.example", "other.example"]))
        await world.put("m1", BAD, GOOD)
        await world.run(DAY)
        assert attempts.count(GOOD) == 1
        assert attempts.count(BAD) == POISON_CRASHES
        (left,) = await world.store.list()
        assert [to.state for to in left.recipients] == [RecipientState.HELD, RecipientState.DELIVERED]

    scenario({}, act)
