"""The ledger of a run: the messages sent, the replies to them, and the copies that the receiver got.

Promises: each message is sent once. Its reply is one of three: `ACCEPTED` (250), `REFUSED` (4yz or 5yz) or
`SILENT` (the connection ended without a reply). The receiver hashes each copy from its identifying field on, past the
trace fields that the server adds, so that a copy with altered content is not counted as the message.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ACCEPTED, REFUSED, SILENT = "250", "refused", "no reply"
SENDER, RECIPIENT = "sender@client.example", "someone@far.example"
REPLY_SECONDS = 120.0
"""Seconds without a reply after which a server is considered hung."""

_TEXT = random.Random(5322).randbytes(8 << 20).hex().encode()
_LINE = 76


def sizes(chance: random.Random) -> int:
    """Return the size of a message in octets: mostly small, some of 65 to 4,000 KiB, few of up to 6 MiB."""
    kind = chance.random()
    if kind < 0.72:
        return chance.randint(1 << 10, 64 << 10)
    if kind < 0.95:
        return chance.randint(65 << 10, 400 << 10)
    if kind < 0.985:
        return chance.randint(400 << 10, 4000 << 10)
    return chance.randint(4000 << 10, 6 << 20)


def content(name: str, size: int) -> bytes:
    """Return about `size` octets of content: CRLF lines, some of which start with a dot."""
    start = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
    lines = [
        b"X-Torture: " + name.encode(),
        b"Date: Fri, 27 Nov 2026 08:00:00 +0000",
        b"From: <sender@client.example>",
        b"Message-ID: <" + name.encode() + b"@client.example>",
        b"",
    ]
    for number, at in enumerate(range(start, start + size, _LINE)):
        line = _TEXT[at : at + _LINE]
        lines.append(b"." + line[1:] if number % 50 == 7 else line)
    return b"\r\n".join(lines) + b"\r\n"


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


@dataclass
class Sent:
    """One message of the load."""

    name: str
    digest: str
    reply: str = SILENT
    text: str = ""
    """The deciding reply, or the reason why the connection ended."""
    recipients: tuple[str, ...] = ()
    record: int = 0
    """Number of the disk's records when the reply was read: a power cut at this record or later is after the reply."""


@dataclass
class Copy:
    """A copy that the receiver read completely."""

    digest: str
    epoch: int
    """The number of server processes that had ended when its DATA was read, to which the sender waits for a reply.

    A copy can be read completely after the process that sent it has ended.
    """
    record: int
    """Number of the disk's records before the receiver replied."""
    answered: bool = True
    """False: the receiver closed the connection instead of replying."""
    at: float = field(default_factory=time.time)
    """When it was read, in seconds since 1970."""


class Progress:
    """A count that others wait for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def advance(self) -> None:
        """Count one more."""
        self.count += 1
        self._changed.set()

    async def reach(self, count: int) -> None:
        """Wait until the count is that high."""
        while self.count < count:
            await self.change()

    async def change(self) -> None:
        """Wait until the count rises."""
        self._changed.clear()
        await self._changed.wait()


@dataclass
class Ledger:
    """Both sides of a run."""

    records: Callable[[], int] = lambda: 0
    epoch: Callable[[], int] = lambda: 0
    sent: dict[str, Sent] = field(default_factory=dict)
    copies: dict[str, list[Copy]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with each copy."""

    def of(self, reply: str) -> list[Sent]:
        return [sent for sent in self.sent.values() if sent.reply == reply]

    def missing(self) -> list[str]:
        """Messages with a 250 that have not arrived."""
        return [sent.name for sent in self.of(ACCEPTED) if sent.name not in self.copies]

    def refused_but_delivered(self) -> list[str]:
        return [sent.name for sent in self.of(REFUSED) if sent.name in self.copies]

    def altered(self) -> list[str]:
        """Messages with a copy whose content differs from what was sent."""
        return [
            name
            for name, copies in self.copies.items()
            if any(name not in self.sent or copy.digest != self.sent[name].digest for copy in copies)
        ]

    def duplicates(self, since: int = 0) -> dict[str, list[str]]:
        """Return the names of duplicates by the window of the second copy: `kill`, `lost reply` or `unexplained`.

        Copies of an epoch before `since` count as first ones only.
        """
        found: dict[str, list[str]] = {"kill": [], "lost reply": [], "unexplained": []}
        for name, copies in self.copies.items():
            for first, second in pairwise(copies):
                if second.epoch < since:
                    continue
                if not first.answered:
                    found["lost reply"].append(name)
                elif first.epoch != second.epoch:
                    found["kill"].append(name)
                else:
                    found["unexplained"].append(name)
        return found


class Peer:
    """An SMTP server in this process that connections of a killed client do not disturb."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, ports: int = 1) -> None:
        """Listen on this number of ports."""
        for _ in range(ports):
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=16 << 20)
            self._servers.append(server)
            self.ports.append(server.sockets[0].getsockname()[1])

    @property
    def port(self) -> int:
        """The first port."""
        return self.ports[0]

    async def close(self) -> None:
        """End all connections, and listen no more."""
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; it is closed afterwards."""
        raise NotImplementedError


def identify(text: bytes) -> tuple[str, str]:
    """Return the name and the digest of content as it was received with DATA."""
    text = text[:-3].replace(b"\r\n.", b"\r\n")
    at = max(text.find(b"X-Torture: "), 0)
    found = re.match(rb"X-Torture: (\S+)\r\n", text[at : at + 200])
    return found[1].decode() if found else "unidentified", digest(text[at:])


class Receiver(Peer):
    """The next hop: an SMTP server that records copies in the ledger and stores nothing else."""

    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        super().__init__()
        self.ledger = ledger
        self.defers = 0.0
        """Probability of 451 to RCPT or to the content."""
        self.vanishes = 0.0
        """Probability that the content is taken and the connection closed without a reply."""
        self._chance = chance

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        recipients = 0
        writer.write(b"220 receiver.example\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-receiver.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n")
            elif verb == b"RCPT":
                if self._chance.random() < self.defers:
                    writer.write(b"451 4.2.1 Later\r\n")
                else:
                    recipients += 1
                    writer.write(b"250 2.1.5 Yes\r\n")
            elif verb == b"DATA":
                if not recipients:
                    writer.write(b"554 5.5.1 Nobody\r\n")
                    continue
                recipients, epoch = 0, self.ledger.epoch()
                writer.write(b"354 Go on\r\n")
                text = await reader.readuntil(b"\r\n.\r\n")
                if self._chance.random() < self.defers:
                    writer.write(b"451 4.2.1 Later\r\n")
                elif self._chance.random() < self.vanishes:
                    self._take(text, epoch, answered=False)
                    return
                else:
                    self._take(text, epoch)
                    writer.write(b"250 2.6.0 Taken\r\n")
            elif verb == b"QUIT":
                writer.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                if verb == b"RSET":
                    recipients = 0
                writer.write(b"250 2.0.0 Yes\r\n")

    def _take(self, text: bytes, epoch: int, *, answered: bool = True) -> None:
        name, what = identify(text)
        ledger = self.ledger
        ledger.copies.setdefault(name, []).append(Copy(what, epoch, ledger.records(), answered))
        ledger.arrived.set()


class Load:
    """Clients that send messages to a server that may die at any moment, and record the replies."""

    def __init__(
        self,
        ledger: Any,
        chance: random.Random,
        port: Callable[[], Awaitable[int]],
        prefix: str,
        progress: Progress | None = None,
    ) -> None:
        """Create the clients.

        Args:
            ledger: has `sent`, for the messages and their replies, and `records`.
            chance: decides sizes, and when a client connects again.
            port: returns the server's port, once it runs.
            prefix: of the names of messages.
            progress: counts the messages whose reply is known, or will not come.
        """
        self.ledger = ledger
        self.size = sizes
        self.envelope: Callable[[str], tuple[str, tuple[str, ...]]] = lambda _: (SENDER, (RECIPIENT,))
        """Returns the reverse-path and the recipients of a message by its name."""
        self._chance = chance
        self._port = port
        self._prefix = prefix
        self._number = 0
        self._progress = progress or Progress()

    async def send(self, count: int, clients: int) -> None:
        """Send `count` messages over `clients` connections at a time."""
        left = iter(range(count))
        await asyncio.gather(*(self._client(left) for _ in range(clients)))

    async def _client(self, left: object) -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        try:
            for _ in left:  # type: ignore[attr-defined]
                while writer is None:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                        reader, writer = await self._connected()
                assert reader is not None
                self._number += 1
                name = f"{self._prefix}{self._number}"
                text = content(name, self.size(self._chance))
                sender, recipients = self.envelope(name)
                sent = Sent(name, digest(text), recipients=recipients)
                self.ledger.sent[name] = sent
                try:
                    await asyncio.wait_for(self._transact(reader, writer, sender, sent, text), REPLY_SECONDS)
                    closes = sent.text.startswith("421") or self._chance.random() < 0.05
                except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                    sent.text = sent.text or f"{type(error).__name__}: {error}"
                    closes = True
                self._progress.advance()
                if closes:
                    writer.close()
                    writer = None
        finally:  # also of a client that is cancelled
            if writer is not None:
                writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", await self._port())
        try:
            await asyncio.wait_for(_reply(reader), REPLY_SECONDS)
            writer.write(b"EHLO client.example\r\n")
            await asyncio.wait_for(_reply(reader), REPLY_SECONDS)
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def _transact(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sender: str, sent: Sent, text: bytes
    ) -> None:
        for command in (f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{to}>" for to in sent.recipients), "DATA"):
            writer.write(command.encode() + b"\r\n")
            reply = await _reply(reader)
            if reply[:1] not in b"23":
                self._note(sent, reply)
                writer.write(b"RSET\r\n")
                await _reply(reader)
                return
        writer.write(text.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        await writer.drain()
        self._note(sent, await _reply(reader))

    def _note(self, sent: Sent, reply: bytes) -> None:
        sent.text = reply.decode("ascii", "replace").strip()
        sent.reply = ACCEPTED if reply[:1] == b"2" else REFUSED
        sent.record = self.ledger.records()


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """Read a reply; return its last line."""
    while True:
        line = await reader.readuntil(b"\n")
        if line[3:4] != b"-":
            return line
