"""The load that smtp-source cannot make: pipelined transactions, TLS, and connections that only stay open.

    driver.py PORT --way conn|reuse|pipelined [--tls no|starttls|implicit] [--messages N | --seconds N] [--size N]
              [--connections N] [--count] [--lmtp] [--file FILE]
    driver.py PORT --way handshakes [--tls starttls|implicit] [--messages N]        one after the other
    driver.py PORT --way idle --connections N        holds them after EHLO until standard input closes

`conn` is a connection for each message, `reuse` four round trips for each message on connections that stay, `pipelined`
one: the content goes out together with the next MAIL, RCPT and DATA (RFC 2920 §3.1). Every reply is checked; a wrong
one ends the run with an error. Prints one JSON line: messages; start by `time.perf_counter`, which all processes share
on Linux; seconds; and the driver's CPU seconds since then.

`--seconds N` begins no message after that time and finishes those it has begun. `--count` prints how many messages were
begun so far, each number followed by CR, as `smtp-source -c` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = b"EHLO load.example\r\n"
LMTP_HELLO = b"LHLO load.example\r\n"
MAIL = b"MAIL FROM:<ada@load.example>\r\n"
DATA = b"DATA\r\n"
QUIT = b"QUIT\r\n"
PATIENCE = 60.0
"""Seconds that a load may take, or continue after `--seconds`."""
COUNT_EVERY = 0.1
"""Seconds between two numbers of `--count`."""
WAVE = 200
"""Idle connections that are opened at a time."""

Exchange = tuple[bytes, int]
"""Octets to write, and how many replies they are owed."""


class WrongReplyError(Exception):
    """The server said what it should not."""


def content(size: int) -> bytes:
    """A message of about that many octets as DATA has it: lines of 76, one in 64 begins with a stuffed dot."""
    line = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/ABCDEFGHIJKL\r\n"
    head = b"From: <ada@load.example>\r\nTo: <grace@localhost>\r\nSubject: load\r\n"
    head += b"Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@load.example>\r\n\r\n"
    block = line * 63 + b".." + line[2:]
    body = block * (max(size - len(head), 0) // len(block) + 1)
    body = body[: max(size - len(head) - 2, 0)].removesuffix(b"\r")
    return head + body + b"\r\n.\r\n"


class Work:
    """How many messages were begun, and whether there are more, over all connections.

    Args:
        messages: at most.
        size: octets of a message.
        to: the recipient.
        end: on the clock of `time.monotonic`; nothing is begun after it.
        file: the content as DATA has it; None to make one of `size`.
    """

    def __init__(self, messages: int, size: int, to: str, end: float = math.inf, file: Path | None = None) -> None:
        self.begun = 0
        self.messages = messages
        self.end = end
        self.rcpt = f"RCPT TO:<{to}>\r\n".encode()
        self.content = file.read_bytes() if file else content(size)

    def take(self) -> bool:
        """Whether there is one more, which is then begun."""
        if self.begun == self.messages or time.monotonic() >= self.end:
            return False
        self.begun += 1
        return True


def one(work: Work) -> Iterator[Exchange]:
    """A connection for one message."""
    yield from _transaction(work)
    yield QUIT, 1


def many(work: Work) -> Iterator[Exchange]:
    """A connection for many, a command for each round trip."""
    while work.take():
        yield from _transaction(work)
    yield QUIT, 1


def pipelined(work: Work) -> Iterator[Exchange]:
    """A connection for many, a round trip for each message."""
    if not work.take():
        yield QUIT, 1
        return
    yield MAIL + work.rcpt + DATA, 3
    while work.take():
        yield work.content + MAIL + work.rcpt + DATA, 4
    yield work.content + QUIT, 2


def nothing(work: Work) -> Iterator[Exchange]:
    """A connection that says goodbye."""
    del work
    yield QUIT, 1


def _transaction(work: Work) -> Iterator[Exchange]:
    yield MAIL, 1
    yield work.rcpt, 1
    yield DATA, 1
    yield work.content, 1


class Connection(asyncio.Protocol):
    """One connection that follows a script and checks each reply."""

    def __init__(self, script: Iterator[Exchange]) -> None:
        self.script = script
        self.transport: asyncio.Transport
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._owed = 1
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        lines = (self._tail + data).split(b"\r\n")
        self._tail = lines.pop()
        for line in lines:
            if line[:1] not in b"23":
                self._end(WrongReplyError(line.decode(errors="replace")))
                return
            if line[3:4] != b"-":
                self._owed -= 1
        if self._owed == 0:
            exchange = next(self.script, None)
            if exchange is None:
                self._end(None)
            else:
                octets, self._owed = exchange
                self.transport.write(octets)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(None if self._owed == 0 else exc or WrongReplyError("the server closed the connection"))

    def _end(self, error: Exception | None) -> None:
        self.transport.close()
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


def hello(script: Iterator[Exchange], line: bytes = HELLO) -> Iterator[Exchange]:
    """EHLO, then the script."""
    yield line, 1
    yield from script


async def converse(asked: argparse.Namespace, context: ssl.SSLContext, script: Iterator[Exchange]) -> Connection:
    """One connection from its greeting to the end of its script."""
    loop, tls = asyncio.get_running_loop(), asked.tls
    secure = context if tls == "implicit" else None
    first = iter([(b"STARTTLS\r\n", 1)]) if tls == "starttls" else script
    start = hello(first, LMTP_HELLO if asked.lmtp else HELLO)
    _, connection = await loop.create_connection(lambda: Kept(start, tls), "127.0.0.1", asked.port, ssl=secure)
    await connection.done
    if tls == "starttls":
        inner = connection.transport
        later = Connection(hello(script))
        later._owed = 0
        upgraded = await loop.start_tls(inner, later, context, server_hostname="localhost")
        assert upgraded is not None
        later.connection_made(upgraded)
        later.data_received(b"")
        await later.done
        return later
    return connection


class Kept(Connection):
    """A connection that stays open after its script when TLS follows."""

    def __init__(self, script: Iterator[Exchange], tls: str) -> None:
        super().__init__(script)
        self._stays = tls == "starttls"

    def _end(self, error: Exception | None) -> None:
        if self._stays and error is None:
            if not self.done.done():
                self.done.set_result(None)
        else:
            super()._end(error)


async def load(asked: argparse.Namespace, context: ssl.SSLContext) -> int:
    """Messages, over as many connections at a time as asked; how many."""
    end = time.monotonic() + asked.seconds if asked.seconds else math.inf
    work = Work(asked.messages, asked.size, asked.to, end, asked.file)

    async def worker() -> None:
        if asked.way == "conn":
            while work.take():
                await converse(asked, context, one(work))
        else:
            script = pipelined if asked.way == "pipelined" else many
            await converse(asked, context, script(work))

    counter = asyncio.create_task(count(work)) if asked.count else None
    async with asyncio.timeout(asked.seconds + PATIENCE), asyncio.TaskGroup() as group:
        for _ in range(min(asked.connections, asked.messages)):
            group.create_task(worker())
    if counter:
        counter.cancel()
    return work.begun


async def count(work: Work) -> None:
    """Prints how many messages were begun."""
    while True:
        await asyncio.sleep(COUNT_EVERY)
        print(work.begun, end="\r", flush=True)


async def handshakes(asked: argparse.Namespace, context: ssl.SSLContext) -> int:
    """Connections one after the other: only what the server does counts."""
    work = Work(0, 0, asked.to)
    for _ in range(asked.messages):
        await converse(asked, context, nothing(work))
    return asked.messages


async def idle(asked: argparse.Namespace, context: ssl.SSLContext) -> int:
    """Connections that stay after EHLO."""
    loop = asyncio.get_running_loop()
    secure = context if asked.tls == "implicit" else None
    held: list[Kept] = []
    while len(held) < asked.connections:
        wave = [
            loop.create_connection(lambda: Kept(hello(iter(())), "starttls"), "127.0.0.1", asked.port, ssl=secure)
            for _ in range(min(WAVE, asked.connections - len(held)))
        ]
        opened = [connection for _, connection in await asyncio.gather(*wave)]
        await asyncio.gather(*(connection.done for connection in opened))
        held += opened
    print(json.dumps({"idle": len(held)}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    return 0


def main() -> None:
    """Runs one load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--way", choices=["conn", "reuse", "pipelined", "handshakes", "idle"], default="reuse")
    parser.add_argument("--tls", choices=["no", "starttls", "implicit"], default="no")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1000, help="octets of a message")
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.0, help="begin nothing after that time")
    parser.add_argument("--count", action="store_true", help="print a running count")
    parser.add_argument("--lmtp", action="store_true", help="LHLO instead of EHLO")
    parser.add_argument("--file", type=Path, help="with the content as DATA has it")
    parser.add_argument("--to", default="grace@localhost", help="the recipient")
    asked = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # it measures, it does not trust
    start, before = time.perf_counter(), time.process_time()
    messages = uvloop.run({"handshakes": handshakes, "idle": idle}.get(asked.way, load)(asked, context))
    seconds, spent = time.perf_counter() - start, time.process_time() - before
    print(json.dumps({"messages": messages, "start": start, "seconds": round(seconds, 4), "cpu": round(spent, 4)}))


if __name__ == "__main__":
    main()
