"""The ledger of deliveries: for each recipient what was accepted, asked, delivered, bounced and recorded.

Promises: `violations` lists the recipients for which a guarantee does not hold, `counts` the figures of a run. Four
sources are compared, none of which is the server's memory: the replies that clients read, what the remote hosts
were asked and took, the bounces in the Maildir, and the events in the server's database, with its log. Recipients are
identified by their addresses, each of which occurs in one message only.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ledger import ACCEPTED, REFUSED, Copy, Sent
from remote import BOUNCED, conduct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

WATCH_SECONDS = 0.002
FINAL = frozenset({"delivered", "failed"})
VIOLATIONS = (
    "lost",
    "refused and delivered",
    "altered",
    "delivered and bounced",
    "bounced twice",
    "bounced without a reason",
    "final twice",
    "second copy without a reason",
    "attempt without a request",
    "logged and not recorded",
)


@dataclass(frozen=True)
class Ask:
    """A remote host was asked to accept a recipient."""

    epoch: int
    record: int
    at: float


@dataclass(frozen=True)
class Bounce:
    """A file of the Maildir."""

    message_id: str
    process: str
    """The server process that wrote it."""
    at: float
    """When it was written, in seconds since 1970."""


@dataclass(frozen=True)
class Event:
    """The recorded result of an attempt."""

    kind: str
    at: float
    attempts: int


@dataclass(frozen=True)
class Logged:
    """A result that the server logged, which it does after it recorded it."""

    recipient: str
    kind: str
    record: int
    """Number of the disk's records when the line was read, which is not before it was written."""
    at: float
    """When it was read."""


@dataclass
class DeliveryLedger:
    """All sides of a run."""

    records: Callable[[], int] = lambda: 0
    epoch: Callable[[], int] = lambda: 0
    ended: list[float] = field(default_factory=list)
    """When each server process had ended, in seconds since 1970: the end of an epoch."""
    sent: dict[str, Sent] = field(default_factory=dict)
    asks: defaultdict[str, list[Ask]] = field(default_factory=lambda: defaultdict(list))
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    bounces: defaultdict[str, list[Bounce]] = field(default_factory=lambda: defaultdict(list))
    events: defaultdict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    logged: list[Logged] = field(default_factory=list)
    queued: set[str] = field(default_factory=set)
    """Recipients that are still in the queue."""
    unreadable: list[str] = field(default_factory=list)
    """Files in the Maildir that cannot be read as bounces."""
    _files: set[str] = field(default_factory=set)

    def of(self, reply: str) -> list[Sent]:
        return [sent for sent in self.sent.values() if sent.reply == reply]

    def asked(self, recipient: str) -> int:
        """Note a request; return their number so far."""
        asks = self.asks[recipient]
        asks.append(Ask(self.epoch(), self.records(), time.time()))
        return len(asks)

    # -- the other sources

    def read_maildir(self, folder: Path) -> None:
        """Read the bounces that are new since the last call."""
        names = {path.name for path in (folder / "new").glob("*")} - self._files
        self._files |= names
        for name in names:
            text = (folder / "new" / name).read_text("utf-8", "replace")
            failed = re.findall(r"^Final-Recipient: rfc822; (\S+)$", text, re.M)
            message_id = re.search(r"^Message-ID: (\S+)$", text, re.M)
            written = re.match(r"(\d+)\.M(\d+)P(\d+)", name)
            if not (failed and message_id and written):
                self.unreadable.append(name)
                continue
            bounce = Bounce(message_id[1], written[3], int(written[1]) + int(written[2]) / 1e6)
            for recipient in failed:
                self.bounces[recipient].append(bounce)

    def read_events(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take the events from rows with `address`, `kind`, `at` and `attempts`, in the order of their recording."""
        self.events.clear()
        for row in rows:
            self.events[row["address"]].append(Event(row["kind"], row["at"], row["attempts"]))

    async def watch(self, log: Path) -> None:
        """Read the server's log as it is written, until cancelled."""
        log.touch()
        with log.open("rb") as file:
            rest = b""
            while True:
                rest += file.read()
                record, _ = self.records(), self.epoch()  # an end of a worker is noted when it is looked for
                *lines, rest = rest.split(b"\n")
                for line in lines:
                    found = json.loads(line) if line.startswith(b"{") else {}
                    if found.get("event") in FINAL:
                        self.logged.append(Logged(found["recipient"], found["event"], record, time.time()))
                await asyncio.sleep(WATCH_SECONDS)

    # -- results

    def accepted(self) -> list[str]:
        """Recipients of messages with a 250."""
        return [recipient for sent in self.of(ACCEPTED) for recipient in sent.recipients]

    def unsettled(self) -> list[str]:
        """Recipients of messages with a 250 that are neither delivered nor bounced."""
        return [each for each in self.accepted() if each not in self.copies and each not in self.bounces]

    def unrecorded(self, recipient: str, first: Copy, second: Copy) -> bool:
        """Whether a server process ended between two copies while the delivery of the first one was not recorded.

        One worker can send a copy and another one record it, so it may be any process.
        """
        return any(
            not any(event.kind == "delivered" and first.at <= event.at <= ended for event in self.events[recipient])
            for ended in self.ended[first.epoch : second.epoch]
        )

    def duplicates(self, since: int = 0) -> dict[str, list[str]]:
        """Return the recipients of second copies by their window: `kill`, `lost reply` or `unexplained`.

        Copies of an epoch before `since` count as first ones only.
        """
        found: dict[str, list[str]] = {"kill": [], "lost reply": [], "unexplained": []}
        for recipient, copies in self.copies.items():
            for first, second in pairwise(copies):
                if second.epoch < since:
                    continue
                if not first.answered:
                    found["lost reply"].append(recipient)
                elif self.unrecorded(recipient, first, second):
                    found["kill"].append(recipient)
                else:
                    found["unexplained"].append(recipient)
        return found

    def in_progress(self) -> int:
        """The number of recipients that remote hosts were asked about, or took, without a result before the end of
        the process, added up over all ends: no more copies than these can be second ones because of an end.
        """
        return sum(
            not any(ask.at <= event.at <= self.ended[ask.epoch] for event in self.events[recipient])
            for recipient, asks in self.asks.items()
            for ask in {each.epoch: each for each in asks if each.epoch < len(self.ended)}.values()
        )

    def violations(self, since: int = 0, *, until: float = math.inf) -> dict[str, list[str]]:
        """Return what contradicts the guarantees, by kind.

        Args:
            since: copies of an epoch before are first copies only.
            until: the record up to which the log binds the server.
        """
        found: dict[str, list[str]] = {kind: [] for kind in VIOLATIONS}
        recipients = {each: sent for sent in self.sent.values() for each in sent.recipients}
        found["lost"] = [each for each in self.unsettled() if each not in self.queued]
        found["refused and delivered"] = [
            each for sent in self.of(REFUSED) for each in sent.recipients if each in self.asks or each in self.bounces
        ]
        found["altered"] = self.unreadable + [
            each
            for each, copies in self.copies.items()
            if each not in recipients or any(copy.digest != recipients[each].digest for copy in copies)
        ]
        found["second copy without a reason"] = self.duplicates(since)["unexplained"]
        for each, bounces in self.bounces.items():
            if each in self.copies:
                found["delivered and bounced"].append(each)
            if len({bounce.message_id for bounce in bounces}) > 1 or self.repeated(bounces) is None:
                found["bounced twice"].append(each)
            if conduct(each) not in BOUNCED:
                found["bounced without a reason"].append(each)
        for each, events in self.events.items():
            if each not in recipients:
                continue
            if sum(event.kind in FINAL for event in events) > 1:
                found["final twice"].append(each)
            if any(event.attempts > len(self.asks[each]) for event in events):
                found["attempt without a request"].append(each)
        found["logged and not recorded"] = [
            logged.recipient
            for logged in self.logged
            if logged.recipient in recipients
            and logged.record <= until
            and not any(event.kind == logged.kind and event.at <= logged.at for event in self.events[logged.recipient])
        ]
        return found

    def repeated(self, bounces: list[Bounce]) -> int | None:
        """The number of second copies of a bounce in the Maildir; None if one process wrote two and none ended
        meanwhile."""
        for first, second in pairwise(sorted(bounces, key=lambda bounce: bounce.at)):
            if first.process == second.process and not any(first.at <= ended <= second.at for ended in self.ended):
                return None
        return len(bounces) - 1

    def counts(self, since: int = 0) -> Counter[str]:
        """Return the figures."""
        duplicates = self.duplicates(since)
        events = [event for each in self.accepted() for event in self.events[each]]
        return Counter(
            {
                "recipients": len(self.accepted()),
                "delivered": sum(each in self.copies for each in self.accepted()),
                "bounced": sum(each in self.bounces for each in self.accepted()),
                "requests": sum(map(len, self.asks.values())),
                "deferrals recorded": sum(event.kind == "deferred" for event in events),
                "in progress at an end": self.in_progress(),
                "second copies: kill": len(duplicates["kill"]),
                "second copies: lost reply": len(duplicates["lost reply"]),
                "second copies of bounces": sum(self.repeated(each) or 0 for each in self.bounces.values()),
            }
        )


@dataclass
class DeliveryFigures:
    """The totals of a run."""

    counts: Counter[str] = field(default_factory=Counter)
    violations: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in VIOLATIONS})

    def judge(self, ledger: DeliveryLedger, where: str, since: int = 0, *, until: float = math.inf) -> None:
        """Add the results of a ledger (`DeliveryLedger.violations`)."""
        self.counts.update(ledger.counts(since))
        for kind, names in ledger.violations(since, until=until).items():
            self.violations[kind] += [f"{where}: {name}" for name in names]

    def table(self) -> str:
        """Return the figures as a table for docs/reliability.md."""
        rows = [*self.counts.items(), *((kind, len(names)) for kind, names in self.violations.items())]
        return "\n".join(
            ["| recipients of the delivery rounds | count |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]
        )
