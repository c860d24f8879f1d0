"""The wire from Python: both twins, the rate of copying, and aiosmtpd, smtplib and aiosmtplib on the same input.

Each entry checks its result before it is timed. One line for each promise follows the entries: how many times as fast
as its counterpart, in this run.
"""

from __future__ import annotations

import asyncio
import importlib
import re
import smtplib
from typing import Any

import aiosmtplib.protocol
import pytest
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

from ironpost.wire.interface import MODE_DATA, BodyEnd, Command, Mailbox

PIECE = 65536
TWINS = ["native", "pure"]

SECONDS: dict[tuple[str, str], float] = {}
"""Fastest round, by group and name."""
PROMISES = [
    # group, what is promised, against what, times as fast (against a copy, 5 GB/s are enough)
    ("decode", "native", "copy", 0.5),
    ("decode", "native", "aiosmtpd", 100),
    ("decode", "native", "best Python", 20),
    ("stuff", "native dot_stuff", "copy", 0.5),
    ("stuff", "native DataEncoder", "copy", 0.5),
    ("stuff", "native dot_stuff", "smtplib", 20),
    ("stuff", "native DataEncoder", "smtplib", 20),
    ("stuff", "native dot_stuff", "aiosmtplib", 20),
    ("stuff", "native DataEncoder", "aiosmtplib", 20),
    ("relaxed body of 10 KB", "native", "pure", 15),
    ("MAIL", "native", "aiosmtpd", 30),
    ("MAIL", "native", "pure", 10),
    ("100 transactions", "native", "pure", 15),
    ("one command of 30 octets per feed", "native", "pure", 1),
]
FLOOR = 5e9
"""Octets a second that are enough, however fast the machine copies."""


def twin(name: str) -> Any:
    return importlib.import_module({"native": "ironpost.wire._native", "pure": "ironpost.wire.pure"}[name])


def text_line(number: int) -> bytes:
    line = b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0"[:76]
    return (b"." + line[1:] if number % 64 == 63 else line) + b"\r\n"


PLAIN = b"".join(text_line(number) for number in range(10_000_000 // 78))
STUFFED = re.sub(rb"(?m)^\.", b"..", PLAIN)
WIRE = STUFFED + b".\r\n"


@pytest.fixture(scope="module", autouse=True)
def ratios(request):
    """Print the results of the promises when all entries of this file have run."""
    yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for group, fast, slow, times in PROMISES:
            if (group, fast) in SECONDS and (group, slow) in SECONDS:
                ratio = SECONDS[group, slow] / SECONDS[group, fast]
                rate = len(PLAIN) / SECONDS[group, fast]
                promise, kept = f"{times} x promised", ratio >= times
                if slow == "copy":
                    promise, kept = f"{rate / 1e9:.1f} GB/s; {promise}, or 5 GB/s", kept or rate >= FLOOR
                print(f"\n{group}: {fast} is {ratio:.2f} x {slow} ({promise}{'' if kept else ': NOT KEPT'})", end="")
        for size in CROSSOVER:
            names = [(f"crossover, {size} commands per feed", name) for name in TWINS]
            if all(name in SECONDS for name in names):
                print(f"\n{names[0][0]}: native is {SECONDS[names[1]] / SECONDS[names[0]]:.2f} x pure", end="")
        print()


@pytest.fixture
def measure(benchmark):
    """Times a call and remembers its fastest round."""

    def run(group, name, call, **how):
        benchmark.group = group
        if how:
            benchmark.pedantic(call, **how)
        else:
            benchmark(call)
        if benchmark.stats:
            SECONDS[group, name] = benchmark.stats.stats.min

    return run


# ---------------------------------------------------------------------------------------------------------------------
# Receiving DATA

CHUNKS = [WIRE[at : at + PIECE] for at in range(0, len(WIRE), PIECE)]


def decode(wire):
    decoder = wire.DataDecoder()
    pieces = [decoder.feed(chunk)[0] for chunk in CHUNKS]
    return pieces, decoder


def copy(body=PLAIN):
    return bytes(memoryview(body))


def best_python(chunks):
    """The same checks in as little Python as possible: whole lines at a time, each check one call into C."""
    pieces, rest, longest, header, size = [], b"", 0, -1, 0
    eight_bit = nul = bare_cr = bare_lf = False
    for chunk in chunks:
        data = b"\r\n" + rest + chunk
        cut = data.rfind(b"\r\n") + 2
        end = data.find(b"\r\n.\r\n", 0, cut)
        rest = data[cut:]
        block = data[: end + 2 if end >= 0 else cut].replace(b"\r\n.", b"\r\n")[2:]
        eight_bit = eight_bit or not block.isascii()
        nul = nul or b"\0" in block
        lines = block.split(b"\r\n")
        ends = len(lines) - 1
        bare_cr = bare_cr or block.count(b"\r") > ends
        bare_lf = bare_lf or block.count(b"\n") > ends
        longest = max(longest, max(map(len, lines)))
        if header < 0:
            found = block.find(b"\r\n\r\n")
            header = size + found + 2 if found >= 0 else -1
        size += len(block)
        pieces.append(block)
        if end >= 0:
            break
    return pieces, (size, eight_bit, nul, bare_cr, bare_lf, longest, header)


class Discarding(asyncio.Transport):
    """A transport that counts replies."""

    def __init__(self):
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.replies = 0
        self.closed = False

    def write(self, data):
        self.replies += 1

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def get_write_buffer_size(self):
        return 0


class Keep(Sink):
    """Keeps the size of what came."""

    size = 0

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
        self.size = len(envelope.content)
        return "250 OK"


async def through_aiosmtpd():
    """Its protocol from the first command to the reply after the content, without a socket."""
    handler = Keep()
    server = SMTP(handler, hostname="mx.example", loop=asyncio.get_running_loop(), data_size_limit=None)
    transport = Discarding()
    server.connection_made(transport)
    for command in (b"EHLO a.example", b"MAIL FROM:<a@b.example>", b"RCPT TO:<c@d.example>", b"DATA"):
        server.data_received(command + b"\r\n")
    for chunk in CHUNKS:
        server.data_received(chunk)
        while len(server._reader._buffer) > 2 * PIECE:
            await asyncio.sleep(0)
    while not handler.size or server._reader._buffer:
        await asyncio.sleep(0)
    server.connection_lost(None)
    transport.close()
    return handler.size


@pytest.mark.parametrize("name", TWINS)
def test_decode(measure, name):
    wire = twin(name)
    pieces, decoder = decode(wire)
    assert b"".join(pieces) == PLAIN
    assert (decoder.size, decoder.longest_line, decoder.bare_cr, decoder.bare_lf) == (len(PLAIN), 76, False, False)
    measure("decode", name, lambda: decode(wire))


def test_decode_copy(measure):
    assert copy() == PLAIN
    measure("decode", "copy", copy)


def test_decode_best_python(measure):
    pieces, facts = best_python(CHUNKS)
    assert b"".join(pieces) == PLAIN
    assert facts == (len(PLAIN), False, False, False, False, 76, -1)
    measure("decode", "best Python", lambda: best_python(CHUNKS), rounds=5)


def test_decode_aiosmtpd(measure):
    assert asyncio.run(through_aiosmtpd()) == len(PLAIN)
    measure("decode", "aiosmtpd", lambda: asyncio.run(through_aiosmtpd()), rounds=3)


# ---------------------------------------------------------------------------------------------------------------------
# Sending DATA

BODY_CHUNKS = [PLAIN[at : at + PIECE] for at in range(0, len(PLAIN), PIECE)]
TEXT = PLAIN.decode().replace("\r\n", "\n")


def encode(wire):
    encoder = wire.DataEncoder()
    return [*map(encoder.feed, BODY_CHUNKS), encoder.finish()]


@pytest.mark.parametrize("name", TWINS)
def test_dot_stuff(measure, name):
    wire = twin(name)
    assert wire.dot_stuff(PLAIN) == STUFFED
    measure("stuff", f"{name} dot_stuff", lambda: wire.dot_stuff(PLAIN))


@pytest.mark.parametrize("name", TWINS)
def test_encoder(measure, name):
    wire = twin(name)
    assert b"".join(encode(wire)) == WIRE
    measure("stuff", f"{name} DataEncoder", lambda: encode(wire))


def test_stuff_copy(measure):
    measure("stuff", "copy", copy)


def test_stuff_smtplib(measure):
    """What `smtplib.SMTP.data` does before it sends."""

    def prepare():
        return smtplib._quote_periods(smtplib._fix_eols(TEXT).encode("ascii"))

    assert prepare() == STUFFED
    measure("stuff", "smtplib", prepare, rounds=3)


def test_stuff_aiosmtplib(measure):
    """What aiosmtplib does before it sends."""
    peer = aiosmtplib.protocol

    def prepare():
        return peer.PERIOD_REGEX.sub(b"..", peer.LINE_ENDINGS_REGEX.sub(b"\r\n", PLAIN))

    assert prepare() == STUFFED
    measure("stuff", "aiosmtplib", prepare, rounds=3)


# ---------------------------------------------------------------------------------------------------------------------
# Canonical forms

TEXT_LINE = b"Of runs  of blanks,\tevery line of this body has three, and one at its end.  \r\n"
BODY = TEXT_LINE * (10_000 // len(TEXT_LINE)) + b"\r\n" * 3
CANONICAL = re.sub(rb"[ \t]+", b" ", BODY).replace(b" \r\n", b"\r\n").rstrip() + b"\r\n"


@pytest.mark.parametrize("name", TWINS)
def test_relaxed_body(measure, name):
    wire = twin(name)

    def canonical():
        body = wire.BodyCanonicaliser(True)
        return [*body.feed(BODY), *body.finish()]

    assert b"".join(canonical()) == CANONICAL
    measure("relaxed body of 10 KB", name, canonical)


# ---------------------------------------------------------------------------------------------------------------------
# Commands

MAIL = b"MAIL FROM:<user+tag@mail.example.org> SIZE=12345 BODY=8BITMIME SMTPUTF8\r\n"
PARAMETERS = {"SIZE": "12345", "BODY": "8BITMIME", "SMTPUTF8": None}


@pytest.mark.parametrize("name", TWINS)
def test_mail(measure, name):
    parse = twin(name).parse_command
    command = parse(MAIL)
    assert (command.path, command.parameters) == (Mailbox("user+tag", "mail.example.org"), PARAMETERS)
    measure("MAIL", name, lambda: parse(MAIL))


def test_mail_aiosmtpd(measure):
    """The steps of aiosmtpd's `_handle_client` and `smtp_MAIL` that parse, its own methods called in their order."""
    loop = asyncio.new_event_loop()
    server = SMTP(Sink(), hostname="mx.example", loop=loop, enable_SMTPUTF8=True)

    def parse():
        line = MAIL.rstrip(b"\r\n")
        verb, _, rest = line.partition(b" ")
        argument = server._strip_command_keyword("FROM:", rest.decode("ascii").strip())
        address, parameters = server._getaddr(argument)
        return verb.decode("ascii").upper(), address, server._getparams(parameters.upper().split())

    parameters = {"SIZE": "12345", "BODY": "8BITMIME", "SMTPUTF8": True}
    assert parse() == ("MAIL", "user+tag@mail.example.org", parameters)
    measure("MAIL", "aiosmtpd", parse)
    loop.close()


# ---------------------------------------------------------------------------------------------------------------------
# The framer

TRANSACTIONS = 100
TRANSACTION = (
    b"MAIL FROM:<user+tag@mail.example.org> SIZE=12345 BODY=8BITMIME\r\nRCPT TO:<someone@mail.example.net>\r\n"
    b"DATA\r\nSubject: x\r\n\r\nA line of text.\r\n.\r\n"
)
SESSION = TRANSACTION * TRANSACTIONS
SHORT = b"MAIL FROM:<user@b.example> X\r\n"
CROSSOVER = [1, 2, 4, 16, 64]


def pipelined(wire):
    """Every event, taken in Python, as a session takes it."""
    framer = wire.ServerFramer()
    commands = bodies = 0
    events = framer.feed(SESSION)
    while events:
        for event in events:
            if type(event) is Command:
                commands += 1
            elif type(event) is BodyEnd:
                bodies += 1
        events = framer.resume(MODE_DATA) if framer.held else []
    return commands, bodies


@pytest.mark.parametrize("name", TWINS)
def test_pipelined_transactions(measure, name):
    wire = twin(name)
    assert pipelined(wire) == (3 * TRANSACTIONS, TRANSACTIONS)
    measure("100 transactions", name, lambda: pipelined(wire))


@pytest.mark.parametrize("name", TWINS)
def test_one_command_per_feed(measure, name):
    feed = twin(name).ServerFramer().feed
    (command,) = feed(SHORT)
    assert (len(SHORT), command.path) == (30, Mailbox("user", "b.example"))
    measure("one command of 30 octets per feed", name, lambda: feed(SHORT))


@pytest.mark.parametrize("count", CROSSOVER)
@pytest.mark.parametrize("name", TWINS)
def test_crossover(measure, name, count):
    """From how many short commands in one feed the core in Rust pays: from the first, if every ratio is above one."""
    feed = twin(name).ServerFramer().feed
    block = b"NOOP\r\n" * count
    assert len(feed(block)) == count
    measure(f"crossover, {count} commands per feed", name, lambda: feed(block))
