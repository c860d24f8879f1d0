"""Our own server keeps every MUST and SHOULD of the suite, and our opinions: the whole program with its Maildir in each
role, and the framework's server with every extension claimed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from ironpost import Server
from ironpost.conform import CaseOutcome, Profile, Target, exit_code
from ironpost.protocol import dialect, replies
from ironpost.protocol.sasl import MECHANISMS
from ironpost.protocol.sasl.scram import credential
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler
from ironpost.server.tls import TlsContext

PATIENCE = 300.0
CLAIMED = frozenset({"DSN", "REQUIRETLS", "DELIVERBY", "MT-PRIORITY", "RRVS", "BINARYMIME"})
STORED = credential("secret", bytes(16), 4096)


class Local(BaseHandler):
    """Takes what is for localhost."""

    claims = CLAIMED

    def recipient(self, session, forward_path, parameters):
        here = forward_path.domain.lower() == "localhost" or forward_path.local_part.lower() == "postmaster"
        return None if here else replies.NOT_ACCEPTED_HERE

    def message(self, session, content, facts):
        content.discard()


class Users:
    """One account, by every mechanism."""

    mechanisms = tuple(mechanism.name for mechanism in MECHANISMS)

    def verify_password(self, session, login, password):
        return login if (login, password) == ("user", "secret") else None

    def scram(self, session, login):
        return STORED if login == "user" else None

    def shared_secret(self, session, login):
        return "secret" if login == "user" else None

    def verify_token(self, session, login, token):
        return None

    def external(self, session, authzid):
        return None

    def may_act_as(self, login, authzid):
        return False


STRAY_DOTS = tuple(f"rfc5321-4.1.2-mail-{name}" for name in ("leading-dot", "trailing-dot", "two-dots"))
"""What `listener.addresses` takes unless it is strict: docs/deviations.md."""


def wanting(results, *known):
    """What does not simply pass, with its reason and dialogue, but for what is known."""
    return {
        name: (result.why, *result.dialogue)
        for name, result in results.items()
        if result.outcome not in {CaseOutcome.PASS, CaseOutcome.NOT_APPLICABLE} and name not in known
    }


def passed(results):
    return sum(result.outcome is CaseOutcome.PASS for result in results.values())


COUNTING = "rfc5321-6.3-loop"
"""A handler's business; this one counts no Received."""
BASE = ServerSettings(max_size=1_000_000, now=time.time, eight_bit="reject", addresses="strict")
KINDS = {
    "mx": (BASE, {}, Target("localhost", 0, insecure=True), 550),
    "mx under TLS": (BASE, {}, Target("localhost", 0, insecure=True, starttls=True), 550),
    "submission": (
        replace(BASE, dialect=dialect.SUBMISSION, authenticator=Users(), newlines="normalise", eight_bit="accept"),
        {},
        Target("localhost", 0, Profile.SUBMISSION, user="user", password="secret", starttls=True, insecure=True),
        640,
    ),
    "submission on 465": (
        replace(BASE, dialect=dialect.SUBMISSION, authenticator=Users(), newlines="normalise", eight_bit="accept"),
        {"implicit_tls": True},
        Target("localhost", 0, Profile.SUBMISSION, user="user", password="secret", implicit_tls=True, insecure=True),
        620,
    ),
    "lmtp": (replace(BASE, dialect=dialect.LMTP), {}, Target("localhost", 0, Profile.LMTP, insecure=True), 500),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_framework(examine, certificate, kind):
    settings, options, target, least = KINDS[kind]

    class Handler(Local):
        claims = CLAIMED | ({"FUTURERELEASE"} if target.profile is Profile.SUBMISSION else set())

    async def scenario():
        tls = TlsContext.load([(certificate, None)])
        async with Server(Handler(), "127.0.0.1", settings=settings, tls=tls, **options) as server:
            return await examine(replace(target, port=server.port))

    results = asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    assert wanting(results, COUNTING) == {}
    assert passed(results) > least


def test_the_program_with_its_maildir(serve, examine):
    running = serve('trusted = ["192.0.2.0/24"]\n')
    target = Target("127.0.0.1", running.port, insecure=True, maildir=running.data / "mail")
    results = asyncio.run(asyncio.wait_for(examine(target), PATIENCE))
    assert wanting(results, *STRAY_DOTS) == {}
    assert {results[name].outcome for name in STRAY_DOTS} == {CaseOutcome.WARN}
    assert exit_code(results.values()) == 0
    assert results["rfc5321-4.4-return-path"].outcome is CaseOutcome.PASS


@pytest.mark.parametrize("pattern", ["rfc5321-4.1.1.4-*", "bdat"])
def test_r1_r5_the_framework_with_normalise_policy(examine, pattern):
    async def scenario():
        async with Server(Local(), "127.0.0.1", settings=ServerSettings(newlines="normalise")) as server:
            return await examine(Target("127.0.0.1", server.port), [pattern])

    results = asyncio.run(asyncio.wait_for(scenario(), PATIENCE))
    assert {name: result.why for name, result in results.items() if result.wrong} == {}
