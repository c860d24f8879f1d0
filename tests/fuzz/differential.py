"""Native against pure: random octets that look like SMTP, cut at random, must give the same values and faults.

    python tests/fuzz/differential.py --seconds 60
    python tests/fuzz/differential.py --seed 17 --cases 1     (a case that failed, again)

Promises: a case depends on its seed alone; a difference ends the run with the seed, the target and what each twin said.
Compared after every call: the values returned, the exception raised with its id and offset, and the state that can
be seen. Each case also checks what must hold for one twin alone: another cut changes nothing, no octet is lost.
"""

from __future__ import annotations

import argparse
import importlib
import random
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from ironpost.wire.interface import DEFAULT_LIMITS, Command, Limits, Mailbox, Reply, WireFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    Target = Callable[[ModuleType, random.Random], Iterator[Any]]

WORDS = (
    b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b".", b"..", b".\r\n", b"\r\n.\r\n", b"\0", b" ", b" ", b"\t", b"  ",
    b"a", b"b.example", b"x" * 15, b"y" * 63, b"z" * 64, b"-", b"_", b"\xff", b"\xc3", b"\xc3\xa9", b"\xe4\xb8\xad",
    b"\xed\xa0\x80", b"\xf0\x9f\x93\xab", b"<", b">", b"<>", b"@", b":", b",", b'"', b"\\", b"=", b"+", b"(", b"\x7f",
    b"[", b"]", b"[192.0.2.1]", b"[IPv6:::1]", b"[IPv6:1:2:3:4:5:6:7::]", b"1:2::3", b"::", b"ffff", b"[tag:x]", b"256",
    b"MAIL", b"MAIL FROM:", b"mail from:<a@b.example>", b"RCPT TO:", b"RCPT TO:<", b"<postmaster>", b"@a.example:",
    b"@a.example,@b.example:", b'"a b"@', b"a@b.example", b" SIZE=1", b" SMTPUTF8", b" BODY=8BITMIME", b" X=",
    b"EHLO ", b"HELO ", b"LHLO x", b"DATA", b"DATA\r\n", b"BDAT 3\r\n", b"BDAT 0 LAST\r\n", b"BDAT 20 LAST\r\n",
    b"BDAT ", b"LAST", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"STARTTLS\r\n", b"AUTH PLAIN\r\n", b"AUTH ", b"VRFY ",
    b"ATRN\r\n", b"HELP", b"XFOO", b"9223372036854775807", b"9223372036854775808", b"00000000000000000000", b"1",
    b"250 ", b"250-", b"250-", b"250-2.1.0 ", b"550 5.1.1", b"4.2.2", b"354", b"25", b"260 ", b"SIZE 10",
    b"AUTH PLAIN LOGIN", b"From: ", b"Received:", b"received : ", b"Subject: x\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n",
    b"a..b@", b".a@b_c",
    b"+2B", b"+2b", b"+", b"\\x{E9}", b"\\x{", b"}", b"\\x{0A}", b"\\x{10FFFF}", b"\\x{D800}", b"\\x{1F4EB}", b"41",
)  # fmt: skip


def soup(rng: random.Random, most: int = 12) -> bytes:
    """Octets that look like SMTP."""
    data = bytearray().join(rng.choices(WORDS, k=rng.randrange(most)))
    if data and rng.random() < 0.1:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


LABELS = ("a", "b.example", "-", "_", ".", "é", "x" * 63, "x" * 64, "1")
LITERALS = (
    "[192.0.2.1]", "[192.0.2.256]", "[1.2.3]", "[IPv6:::1]", "[IPv6:1:2:3:4:5:6:7::]", "[IPv6:1:2:3:4:5:6:7]",
    "[ipv6:::]", "[IPv6:1::2::3]", "[IPv6:::ffff:192.0.2.1]", "[IPv6:::ffff:192.0.2.01]",
    "[IPv6:1:2:3:4:5:6:7:1.2.3.4]",
    "[tag:x]", "[IPv6:fe80::1%1]", "[tag-:x]", "[2001:db8::1]", "[]", "[::1]", "[tag:]", "[x:y", "[IPv6:12345::]",
    "[IPv6:0000:::1]",
)  # fmt: skip
LOCAL_PARTS = (
    "a",
    "a.b",
    "a..b",
    ".a",
    "a.",
    '"a b"',
    '""',
    '"a\\"b"',
    '"a>b"',
    '"a',
    "é",
    "postmaster",
    "a" * 70,
    "",
    "a(b)",
)
PARAMETERS = (
    " SIZE=1",
    " size=2",
    " SIZE",
    " X=a=b",
    " X=",
    "  Y=z",
    " SMTPUTF8",
    " -A",
    " A_B",
    "\tC",
    " Z=é",
    " Z=\x7f",
    "D=1",
)


def domain(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return rng.choice(LITERALS)
    if rng.random() < 0.05:  # about as long as a domain may be
        return ".".join(["x" * 50] * 4 + ["y" * rng.randrange(45, 58)])
    return rng.choice(["", "", "", "."]).join(rng.choices(LABELS, k=rng.randrange(7)))


def command_line(rng: random.Random) -> bytes:
    """A command that is almost right."""
    verb = rng.choice(
        ["MAIL", "mail", "RCPT", "EHLO", "HELO", "LHLO", "BDAT", "DATA", "RSET", "AUTH", "VRFY", "NOOP", "XFOO"]
    )
    if verb.upper() in ("MAIL", "RCPT"):
        route = rng.choice(["", "", "", f"@{domain(rng)}:", f"@a,@{domain(rng)}:", "@a", "@a,b:"])
        mailbox = rng.choice(LOCAL_PARTS) + rng.choice(["@", "@", "@", "@", "", "@@"]) + domain(rng)
        path = rng.choice([f"<{route}{mailbox}>"] * 5 + ["<>", f"<{mailbox}", f" <{mailbox}>", mailbox, "<postmaster>"])
        keyword = rng.choice(["FROM:" if verb.upper() == "MAIL" else "TO:"] * 8 + ["to:", "FROM", ""])
        argument = keyword + path + "".join(rng.choices(PARAMETERS, k=rng.choice([0, 0, 1, 1, 2, 3, 20])))
    elif verb == "BDAT":
        size = rng.choice(
            ["0", "3", "86", "-1", "", str(1 << 63), str((1 << 63) - 1), "0" * 20, "0" * 21, "9" * 20, "x"]
        )
        argument = size + rng.choice(["", "", " LAST", " last", "  LAST", " LAST LAST", " X", "LAST"])
    else:
        argument = domain(rng) + rng.choice(["", "", " x"])
    space, tail = rng.choice([" "] * 9 + ["", "  "]), rng.choice(["", "", " ", " \t"])
    line = bytearray(f"{verb}{space}{argument}{tail}".encode())
    if rng.random() < 0.1:
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line)


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    """`data` in pieces, empty ones among them."""
    how = rng.random()
    if how < 0.2:
        return [data]
    if how < 0.3:
        return [data[at : at + 1] for at in range(len(data))]
    points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    return [data[start:end] for start, end in zip([0, *points], [*points, len(data)], strict=True)]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or what it raises."""
    try:
        return call()
    except WireFault as fault:
        return "WireFault", fault.id, fault.offset
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        return (type(error).__name__,)


def joined(events: list[Any]) -> list[Any]:
    """Events with neighbouring pieces of body joined: how a body is cut is not part of the contract."""
    result: list[Any] = []
    for event in events:
        if isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result


def decoder(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    """DataDecoder, at random cuts; the whole input again in one piece."""
    newline = rng.choice(["reject", "normalise", "accept"])
    content = rng.choice([DEFAULT_LIMITS.content, rng.randrange(20)])
    data = soup(rng, 25)
    ends = []
    for pieces in (cut(rng, data), [data]):
        one = wire.DataDecoder(Limits(content=content), newline)
        body, total, finished = b"", 0, False
        for piece in pieces:
            got, consumed, finished = one.feed(piece)
            body += got
            total += consumed
            yield got, consumed, finished, facts(one)
            if finished:
                yield outcome(lambda one=one: one.feed(b""))
                break
            assert consumed == len(piece), "octets were neither consumed nor left after an end"
        ends.append((body, total, finished, facts(one)))
    assert ends[0] == ends[1], f"the cut changed the result: {ends}"


def facts(one: Any) -> tuple[Any, ...]:
    return one.size, one.eight_bit, one.nul, one.bare_cr, one.bare_lf, one.longest_line, one.header_size


def encoder(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    """DataEncoder, and what a receiver makes of it."""
    newline = rng.choice(["normalise", "reject"])
    data = soup(rng, 25)
    one = wire.DataEncoder(newline)
    octets = b""
    for piece in cut(rng, data):
        got = outcome(lambda piece=piece: one.feed(piece))
        yield got
        if not isinstance(got, bytes):
            yield outcome(one.finish)
            return
        octets += got
    got = outcome(one.finish)
    yield got, outcome(one.finish)
    if isinstance(got, bytes):
        body, consumed, finished = wire.DataDecoder().feed(octets + got)
        assert (consumed, finished) == (len(octets + got), True), "the encoder's output does not end where it should"
        yield body


def stuffing(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    data = soup(rng, 25)
    yield wire.dot_unstuff(data)
    stuffed = wire.dot_stuff(data)
    assert wire.dot_unstuff(stuffed) == data, "stuffing cannot be undone"
    yield stuffed


def command(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    line = (command_line(rng) if rng.random() < 0.8 else soup(rng, 6)) + rng.choice([b"", b"\r\n"])
    strict, lenient = (outcome(lambda mode=mode: wire.parse_command(line, lenient=mode)) for mode in (False, True))
    yield line, strict, lenient
    if isinstance(lenient, Command):
        assert (strict == lenient) == (not lenient.tolerated), "what only leniency lets pass is not named"
        if lenient.path is not None and lenient.path.domain:
            written = wire.format_mailbox(lenient.path, lenient=True)
            again = wire.parse_command(b"MAIL FROM:<%b>" % written.encode(), lenient=True)
            assert (again.path, "stray_dots" in again.tolerated) == (lenient.path, False), "a path cannot be written"
    else:
        assert strict == lenient or not isinstance(strict, Command), "leniency refuses what the grammar has"


def mailbox(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    data = soup(rng, 6) + rng.choice([b"", b"@b.example", b"@["])
    if rng.random() < 0.5:
        data = f"{rng.choice(LOCAL_PARTS)}@{domain(rng)}".encode()
    mode = rng.random() < 0.5
    read = outcome(lambda: wire.parse_mailbox(data, lenient=mode))
    yield data, read
    text = data.decode(errors=rng.choice(["replace", "surrogateescape"]))
    yield outcome(lambda: wire.parse_mailbox(text, lenient=mode))
    mailbox = Mailbox(text, soup(rng, 3).decode(errors="replace"))
    written = outcome(lambda: wire.format_mailbox(mailbox, lenient=mode))
    yield written
    if isinstance(read, Mailbox):
        written = wire.format_mailbox(read, lenient=mode)
        assert wire.parse_mailbox(written, lenient=mode) == read, "a mailbox that was read cannot be written"


def reply(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    data = rng.choice([b"", b"250 ", b"250-"]) + soup(rng, 8)
    read = outcome(lambda: wire.parse_reply(data))
    yield data, read
    if isinstance(read, Reply):
        yield outcome(lambda: wire.parse_ehlo(read))
    lines = soup(rng, 8).split(b"\n")
    enhanced = rng.choice([None, None, "2.0.0", "5.1.10", "4.1000.1", "2.0", "", "2.0.0 "])
    code = rng.choice([250, 251, 354, 450, 554, 199, 260, 600, 99, 2500, -1])
    yield outcome(lambda: wire.format_reply(code, enhanced, lines))


def reader(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    """ReplyReader with small limits, at random cuts; the whole input again in one piece."""
    limits = Limits(reply_lines=rng.randrange(1, 5), reply_octets=rng.randrange(1, 80))
    data = b"".join(rng.choice([b"250 a\r\n", b"250-b\r\n", b"250-2.0.0 c\r\n", soup(rng, 3)]) for _ in range(6))
    ends = []
    for pieces in (cut(rng, data), [data]):
        one = wire.ReplyReader(limits)
        events: list[Any] = []
        for piece in pieces:
            events += one.feed(piece)
            assert one.buffered <= limits.reply_octets, "more is held than the limit allows"
            yield list(events), one.buffered
        ends.append((events, one.buffered))
    assert ends[0] == ends[1], f"the cut changed the result: {ends}"


def encodings(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    data = soup(rng, 8)
    text = data.decode(errors=rng.choice(["replace", "surrogateescape"]))
    yield outcome(lambda: wire.xtext_decode(data)), outcome(lambda: wire.xtext_decode(text))
    yield outcome(lambda: wire.xtext_encode(text))
    encoded = wire.xtext_encode(data)
    assert wire.xtext_decode(encoded) == data, "xtext cannot be undone"
    yield encoded, outcome(lambda: wire.utf8_addr_xtext_decode(text))
    address = outcome(lambda: wire.utf8_addr_xtext_encode(text))
    yield address
    if isinstance(address, str):
        assert wire.utf8_addr_xtext_decode(address) == text, "utf-8-addr-xtext cannot be undone"


def header(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    limits = Limits(header_octets=rng.randrange(120), header_fields=rng.randrange(5))
    data = b"".join(
        rng.choice([b"A: b\r\n", b" c\r\n", b"Received: d\r\n", soup(rng, 4)]) for _ in range(rng.randrange(7))
    )
    for bounds in (None, limits):
        section = wire.scan_header(data, bounds)
        assert b"".join(data[field.start : field.end] for field in section.fields) == data[: section.end]
        yield section
    yield wire.unfold(data)


def canonical(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    """BodyCanonicaliser at random cuts and in one piece, against the words of RFC 6376 §3.4; and one field."""
    relaxed = rng.random() < 0.7
    words = [b"\r\n", b"\r\n", b" ", b"\t", b" " * rng.randrange(70), b"a", b"b" * rng.randrange(70), soup(rng, 2)]
    data = b"".join(rng.choices(words, k=rng.randrange(30)))
    forms = []
    for pieces in (cut(rng, data), [data]):
        one = wire.BodyCanonicaliser(relaxed)
        octets = b""
        for piece in pieces:
            octets += b"".join(one.feed(piece))
            yield octets
        forms.append(octets + b"".join(one.finish()))
        yield forms[-1], outcome(one.finish), outcome(lambda one=one: one.feed(b""))
    assert forms[0] == forms[1], f"the cut changed the result: {forms}"
    lines = data.split(b"\r\n")
    if relaxed:
        lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in lines]
    while lines and not lines[-1]:
        del lines[-1]
    body = b"".join(line + b"\r\n" for line in lines)
    assert forms[0] == (body if body or relaxed else b"\r\n"), f"not the canonical form: {forms[0]!r}"
    field = b"".join(rng.choices([b"A", b":", *words, b"\r\n ", b"\r\n\t", b"\xff"], k=rng.randrange(12)))
    for text in (field, b"Name :" + field + b"\r\n"):
        yield outcome(lambda text=text: wire.canonical_field(text, relaxed))


def framer(wire: ModuleType, rng: random.Random) -> Iterator[Any]:
    """ServerFramer with small limits, resumed in random modes, at two random cuts."""
    limits = Limits(
        command_line=rng.choice([2048, rng.randrange(1, 40)]),
        auth_line=rng.choice([12288, rng.randrange(1, 20)]),
        content=rng.choice([DEFAULT_LIMITS.content, rng.randrange(20)]),
        held=rng.choice([1 << 20, 1 << 20, rng.randrange(20)]),
    )
    newline = rng.choice(["reject", "normalise", "accept"])
    lenient, chunking = rng.random() < 0.5, rng.random() < 0.8
    data = b"".join(
        rng.choice([soup(rng, 4), soup(rng, 4), command_line(rng) + b"\r\n", b"BDAT 2\r\na\r", b"BDAT 1 LAST\r\n\n"])
        for _ in range(rng.randrange(9))
    )
    modes = rng.choices([0, 1, 1, 2, 2, 3], weights=[4, 4, 4, 3, 3, 1], k=40)
    early = rng.random()
    ends = []
    for pieces in (cut(rng, data), cut(rng, data)):
        one = wire.ServerFramer(limits, newline, lenient=lenient, chunking=chunking)
        answers = iter(modes)
        events: list[Any] = []
        yield outcome(lambda one=one: one.resume(0)), outcome(lambda one=one: one.resume(9))
        lost = False
        for piece in pieces:
            batch = outcome(lambda one=one, piece=piece: one.feed(piece))
            yield batch if isinstance(batch, tuple) else joined(batch), one.held, one.mode, one.buffered
            lost = lost or isinstance(batch, tuple)
            events += [] if isinstance(batch, tuple) else batch
            while one.held and early < 0.7:
                batch = one.resume(next(answers, 3))
                events += batch
                yield joined(batch), one.held, one.mode, one.buffered
        while one.held:
            batch = one.resume(next(answers, 3))
            events += batch
            yield joined(batch), one.held, one.mode, one.buffered
        assert b"" not in events, "an empty piece of body"
        ends.append((joined(events), one.mode, lost))
    assert ends[0] == ends[1] or ends[0][2] or ends[1][2], f"the cut changed the result: {ends}"


TARGETS: tuple[Target, ...] = (
    decoder, encoder, stuffing, command, command, mailbox, reply, reader, encodings, header, canonical, framer, framer,
)  # fmt: skip


def compare(twins: tuple[ModuleType, ModuleType], seed: int) -> None:
    """One case.

    Raises:
        AssertionError: if the twins differ, or one of them breaks a law.
    """
    target = TARGETS[seed % len(TARGETS)]
    results = []
    for wire in twins:
        try:
            results.append(list(target(wire, random.Random(seed))))
        except Exception as error:
            error.add_note(f"seed {seed}, target {target.__name__}, {wire.IMPLEMENTATION}")
            raise
    native, pure = results
    for step, (one, other) in enumerate(zip(native, pure, strict=False)):
        assert one == other, f"seed {seed}, target {target.__name__}, step {step}:\n native {one!r}\n pure   {other!r}"
    assert len(native) == len(pure), f"seed {seed}, target {target.__name__}: {len(native)} and {len(pure)} steps"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="stop after this time (default 10)")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="stop after this many cases")
    parser.add_argument("--seed", type=int, default=None, help="the first case's seed (default: from the clock)")
    options = parser.parse_args()
    twins = importlib.import_module("ironpost.wire._native"), importlib.import_module("ironpost.wire.pure")
    first = time.time_ns() // 1000 if options.seed is None else options.seed
    end = time.monotonic() + options.seconds
    done = 0
    while done < options.cases and time.monotonic() < end:
        compare(twins, first + done)
        done += 1
    print(f"{done} cases from seed {first}: native and pure agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
