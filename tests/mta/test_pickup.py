"""The drop directory is emptied into the queue: each file once, and none in the way of another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from tests.mta.runner_kit import Chance, VirtualClock

from ironpost.message.trace import MAX_RECEIVED
from ironpost.model import Address, Envelope, Recipient
from ironpost.model.patterns import AddressPattern
from ironpost.mta.pickup import CONCURRENCY, RETRY_SECONDS, PickedUp, Pickup
from ironpost.mta.signing import Signing
from ironpost.queue.store import StoreFull
from ironpost.routing.rewriting import RewriteRule, Rewriting
from ironpost.storage import drop
from ironpost.storage.memory import MemoryStore
from ironpost.telemetry.metrics import Counters
from ironpost.testing.directory import TableDirectory

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from ironpost.queue.store import NewMessage, QueuedMessage

CONTENT = b"From: ada@mx.example\r\nSubject: x\r\n\r\nbody\r\n"
OCTETS = 100_000


class Store(MemoryStore):
    """A store that may be full."""

    full = False

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        if self.full:
            raise StoreFull
        return super().commit(message)


class Site:
    """A drop directory with its `Pickup`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = VirtualClock()
        self.store = Store(now=self.clock.now)
        self.failing = ["jo@mx.example"]
        self.accepted: list[QueuedMessage] = []
        self.rewriting: Rewriting | None = None
        self.signing = Signing()
        self.pickup = Pickup(
            store=self.store, accept=self.accepted.append, directory=self.directory, archives=lambda: (),
            rewriting=lambda: self.rewriting, signing=self.signing, clock=self.clock, random=Chance(),
            hostname="mx.example", metrics=Counters(),
        )  # fmt: skip

    def directory(self) -> TableDirectory:
        return TableDirectory(["mx.example"], mailboxes=["jo@mx.example", "ann@mx.example"], failing=self.failing)

    def leave(self, to: str, content: bytes = CONTENT) -> None:
        ada = Address.parse("ada@mx.example")
        drop.leave(self.path, Envelope(ada, (Recipient(Address.parse(to)),)), [content])

    def run(self) -> PickedUp:
        return asyncio.run(self.pickup.run(self.path, octets=OCTETS, recipients=10))

    def recipients(self) -> list[str]:
        return [str(each.recipient.address) for message in self.accepted for each in message.recipients]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_files_whose_recipients_cannot_be_looked_up_wait_and_delay_no_other(site: Site) -> None:
    for _ in range(CONCURRENCY):
        site.leave("jo@mx.example")
    site.leave("ann@mx.example")
    assert site.run() == PickedUp(queued=1, refused=0, waiting=CONCURRENCY)
    assert site.recipients() == ["ann@mx.example"]
    site.failing = []
    assert site.run() == PickedUp(queued=0, refused=0, waiting=CONCURRENCY)
    site.clock.time += RETRY_SECONDS
    assert site.run() == PickedUp(queued=CONCURRENCY, refused=0, waiting=0)
    assert [*site.path.iterdir()] == []


@pytest.mark.parametrize("fault", [OSError("the disk fails"), ZeroDivisionError("a bug")])
def test_r25_files_that_cannot_be_processed_wait_and_delay_no_other(
    site: Site, fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, name: str) -> Path:
        raise fault

    for _ in range(CONCURRENCY):
        site.leave("ann@mx.example", CONTENT + b"\0")
    site.leave("ann@mx.example")
    with monkeypatch.context() as broken:
        broken.setattr(drop, "set_aside", fails)
        assert site.run() == PickedUp(queued=1, refused=0, waiting=CONCURRENCY)
    site.clock.time += RETRY_SECONDS
    assert site.run() == PickedUp(queued=0, refused=CONCURRENCY, waiting=0)


def test_mail_waits_while_the_store_is_full(site: Site) -> None:
    site.leave("ann@mx.example")
    site.store.full = True
    assert site.run() == PickedUp(queued=0, refused=0, waiting=1)
    site.store.full = False
    site.clock.time += RETRY_SECONDS
    assert site.run() == PickedUp(queued=1, refused=0, waiting=0)


def test_the_addresses_of_programs_are_rewritten(site: Site) -> None:
    site.rewriting = Rewriting(
        [RewriteRule((AddressPattern("host.mx.example"), AddressPattern("ada@mx.example")), "mx.example", "ann")]
    )
    site.leave("cron@host.mx.example")
    assert site.run() == PickedUp(queued=1, refused=0, waiting=0)
    (message,) = site.accepted
    assert (str(message.envelope.reverse_path), site.recipients()) == ("ann@mx.example", ["ann@mx.example"])
    content = asyncio.run(message.body.head(1000))
    assert content.endswith(CONTENT.replace(b"ada@", b"ann@"))


@pytest.mark.parametrize("end", [b"", b"\r\n"])
def test_a_large_header_section_that_would_be_rewritten_needs_an_empty_line(site: Site, end: bytes) -> None:
    site.rewriting = Rewriting([RewriteRule((AddressPattern("host.mx.example"),), "mx.example")])
    content = CONTENT.partition(b"\r\n\r\n")[0] + b"\r\n" + b"X: %b\r\n" % (b"x" * 100) * 300 + end
    site.leave("ann@mx.example", content)
    assert site.run() == PickedUp(queued=bool(end), refused=not end, waiting=0)
    assert [asyncio.run(each.body.head(OCTETS)).endswith(content) for each in site.accepted] == [True] * bool(end)


@pytest.mark.parametrize(("fields", "refused"), [(MAX_RECEIVED - 1, 0), (MAX_RECEIVED, 1)])
def test_r48_a_message_in_a_loop_is_refused(site: Site, fields: int, refused: int) -> None:
    site.leave("ann@mx.example", b"Received: x\r\n" * fields + CONTENT)
    assert site.run() == PickedUp(queued=1 - refused, refused=refused, waiting=0)
    assert len([*site.path.glob("*.refused")]) == refused


@pytest.mark.parametrize(("more", "refused"), [(0, 0), (1, 1)])
def test_a_message_above_the_limit_of_size_is_refused(site: Site, more: int, refused: int) -> None:
    site.leave("ann@mx.example", CONTENT + b"x" * (OCTETS - len(CONTENT) - 2 + more) + b"\r\n")
    assert site.run() == PickedUp(queued=1 - refused, refused=refused, waiting=0)
    assert len([*site.path.glob("*.refused")]) == refused
