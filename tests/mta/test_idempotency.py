"""Submissions with an Idempotency-Key, through server sessions over a store in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.mta.test_inbound import World
from tests.policy.policy_kit import checks

from ironpost.mta.inbound import Inbound
from ironpost.policy import Policy
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo
from ironpost.queue.store import SubmissionPending
from ironpost.storage.memory import MemoryStore
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from ironpost.queue.store import NewMessage, QueuedMessage

KEY = "Idempotency-Key: 7f0c\r\n"
FIELDS = "From: ada@example.org\r\nDate: x\r\nMessage-ID: <1@b.example>\r\n"
REUSED = "554 5.6.0 Idempotency-Key was used for another message: use a new key for this one\r\n"
INVALID = "554 5.6.0 Idempotency-Key must be one field of 1 to 255 printable ASCII octets\r\n"
DIALECTS = {"mx": SMTP, "submission": SUBMISSION, "lmtp": LMTP}


class Site:
    """One store with a handler; every `submit` opens a session."""

    def __init__(self, role: str = "submission", *, idempotency: bool = True, store: MemoryStore | None = None) -> None:
        self.world = World()
        self.store = store or MemoryStore(now=self.world.now)
        self.accepted: list[QueuedMessage] = []
        self.metrics = Counters()
        self.role = role
        self.inbound = Inbound(
            store=self.store, policy=Policy(checks(local_domains=["example.org"])), clock=self.world,
            random=self.world, hostname="mx.example", accept=self.accepted.append, role=role,
            idempotency=idempotency, metrics=self.metrics,
        )  # fmt: skip

    async def submit(
        self, content: str, *, login: str | None = "ada@example.org", to: str = "jo@example.org"
    ) -> str:  # fmt: skip
        """Submit content; return the reply."""
        dialect = DIALECTS[self.role]._replace(authenticate=login is not None and self.role == "submission")
        settings = ServerSettings("mx.example", dialect=dialect)
        session = ServerSession(self.inbound, settings, Peer("127.0.0.1", 25))
        pending = session.start()
        session.tls = TlsInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256")
        session.identity = None if login is None else Identity(login, "PLAIN")
        hello = "LHLO" if self.role == "lmtp" else "EHLO"
        lines = f"{hello} a.example\r\nMAIL FROM:<{login or 'ada@example.org'}>\r\nRCPT TO:<{to}>\r\nDATA\r\n"
        pending = session.receive(lines.encode())
        assert b"354" in session.output()
        pending = session.receive(f"{content}.\r\n".encode())
        while pending is not None:
            pending = session.answer(await pending)
        return session.output().decode()

    async def stored(self) -> list[bytes]:
        return [await message.body.head(10_000) for message in await self.store.list()]


def test_a_submission_that_is_repeated_is_acknowledged_and_queued_once():
    async def run():
        site = Site()
        first = await site.submit(f"{FIELDS}{KEY}\r\nbody\r\n")
        assert first == "250 2.0.0 Queued as Q1\r\n"
        assert await site.submit(f"{KEY}{FIELDS}\r\nbody\r\n") == first
        (stored,) = await site.stored()
        assert stored.endswith(f"{FIELDS}\r\nbody\r\n".encode()), "without the key"
        assert b"Idempotency" not in stored
        assert [message.id for message in site.accepted] == ["Q1"]
        counted = site.metrics.snapshot()["messages"]
        assert (counted["accepted"], counted["repeated"]) == (1, 1)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("content", "options", "reply"),
    [
        (f"{FIELDS}{KEY}\r\nother body\r\n", {}, REUSED),
        (f"{FIELDS}Subject: x\r\n{KEY}\r\nbody\r\n", {}, REUSED),
        (f"{FIELDS}{KEY}\r\nbody\r\n", {"to": "al@example.org"}, REUSED),
        (f"{FIELDS}{KEY}\r\nbody\r\n", {"login": "bob@example.org"}, "250 2.0.0 Queued as Q2\r\n"),
        (f"{FIELDS}{KEY.strip()}8\r\n\r\nbody\r\n", {}, "250 2.0.0 Queued as Q2\r\n"),
        (f"{FIELDS}\r\nbody\r\n", {}, "250 2.0.0 Queued as Q2\r\n"),
        (f"{FIELDS}{KEY}{KEY}\r\nbody\r\n", {}, INVALID),
        (f"{FIELDS}Idempotency-Key:\r\n\r\nbody\r\n", {}, INVALID),
        (f"{FIELDS}Idempotency-Key: {'k' * 256}\r\n\r\nbody\r\n", {}, INVALID),
        (f"{FIELDS}Idempotency-Key: kéy\r\n\r\nbody\r\n", {}, INVALID),
        (f"{FIELDS}Idempotency-Key: a\tb\r\n\r\nbody\r\n", {}, INVALID),
    ],
)
def test_other_content_under_the_key_and_invalid_keys(content, options, reply):
    async def run():
        site = Site()
        await site.submit(f"{FIELDS}{KEY}\r\nbody\r\n")
        assert (await site.submit(content, **options)).replace("Q3", "Q2") == reply
        assert len(site.accepted) == 1 + reply.startswith("250")

    asyncio.run(run())


def test_the_longest_key_and_a_folded_one_are_read():
    async def run():
        site = Site()
        for key in ("k" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'):
            replies = [await site.submit(f"{FIELDS}Idempotency-Key:\r\n {key}\r\n\r\nx\r\n") for _ in range(2)]
            assert replies[0] == replies[1]
        assert len(site.accepted) == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("role", "options", "login"),
    [
        ("mx", {}, "ada@example.org"),
        ("lmtp", {}, None),
        ("submission", {"idempotency": False}, "ada@example.org"),
        ("submission", {}, None),
    ],
)
def test_the_field_is_left_alone_elsewhere(role, options, login):
    async def run():
        site = Site(role, **options)
        replies = {await site.submit(f"{FIELDS}{KEY}\r\nbody\r\n", login=login) for _ in range(2)}
        assert len(replies) == 2
        assert all(reply.startswith("250") for reply in replies)
        assert [KEY.encode() in stored for stored in await site.stored()] == [True, True]

    asyncio.run(run())


def test_the_same_submissions_at_the_same_time_are_one():
    async def run():
        site = Site()
        replies = await asyncio.gather(*(site.submit(f"{FIELDS}{KEY}\r\nbody\r\n") for _ in range(10)))
        assert set(replies) == {f"250 2.0.0 Queued as {site.accepted[0].id}\r\n"}
        assert len(site.accepted) == 1

    asyncio.run(run())


def test_a_key_that_another_process_is_committing_is_deferred():
    class Busy(MemoryStore):
        def commit(self, message: NewMessage):
            future = asyncio.get_running_loop().create_future()
            future.set_exception(SubmissionPending(message.submission.key))
            return future

    async def run():
        site = Site(store=Busy())
        reply = await site.submit(f"{FIELDS}{KEY}\r\nbody\r\n")
        assert reply == "451 4.3.0 A message with this Idempotency-Key is being stored: submit it again later\r\n"
        assert site.metrics.snapshot()["messages"]["deferred"] == 1
        assert not any(site.metrics.snapshot()["store_faults"].values())

    asyncio.run(run())


def test_a_submission_that_was_refused_may_be_corrected_under_its_key():
    async def run():
        site = Site()
        assert (await site.submit(f"{KEY}\r\nno From\r\n")).startswith("554")
        assert (await site.submit(f"{FIELDS}{KEY}\r\nbody\r\n")).startswith("250")

    asyncio.run(run())
