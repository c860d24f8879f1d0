"""Smuggling and memory: the security requirements of framing, each by its number, over both twins."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ironpost.wire.interface import (
    MODE_CLOSED,
    MODE_COMMAND,
    MODE_DATA,
    MODE_LINE,
    BodyEnd,
    Command,
    Fault,
    Limits,
    WireFault,
)

if TYPE_CHECKING:
    from types import ModuleType

POLICIES = ("reject", "normalise", "accept")
LONGEST = 6
MEBIBYTE = 1 << 20


def true_end(stream: bytes) -> int:
    """The octets up to the end of DATA, by the words of RFC 5321 §4.1.1.4; -1 if there is none. Kept naive."""
    found = (b"\r\n" + stream).find(b"\r\n.\r\n")
    return found + 3 if found >= 0 else -1


def consumed(wire: ModuleType, newline: str, pieces: list[bytes]) -> int:
    decoder = wire.DataDecoder(newline=newline)
    total = 0
    for piece in pieces:
        _, count, finished = decoder.feed(piece)
        total += count
        if finished:
            return total
    return -1


@pytest.mark.parametrize("newline", POLICIES)
def test_r1_only_crlf_dot_crlf_ends_data(wire: ModuleType, newline: str) -> None:
    """Every stream of up to six octets of the six that matter, whole and octet by octet."""
    for length in range(LONGEST + 1):
        for octets in itertools.product(b"\r\n.\0 a", repeat=length):
            stream = bytes(octets)
            for pieces in ([stream], [stream[at : at + 1] for at in range(length)]):
                assert consumed(wire, newline, pieces) == true_end(stream), (stream, pieces)


@pytest.mark.parametrize("newline", POLICIES)
@pytest.mark.parametrize(
    "wrong",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n. \r\n", b"\r\n.\0\r\n", b"\r\n\0.\r\n",
     b"\r\0\n.\r\n", b"\r\n.\r\0\n", b"\r\n.\r\r\n", b"\n\r.\n\r", b"\r\n.\t\r\n", b"\r\r\n\r.\r\n", b"\r\n..\r\n",
     b"\x85.\x85"],
)  # fmt: skip
def test_r1_no_second_message_follows_a_false_end(wire: ModuleType, newline: str, wrong: bytes) -> None:
    hidden = b"x" + wrong + b"MAIL FROM:<evil@a.example>\r\nRCPT TO:<b@c.example>\r\nDATA\r\nhidden\r\n.\r\n"
    stream = b"DATA\r\n" + hidden + b"QUIT\r\n"
    for cut in range(len(stream)):
        framer = wire.ServerFramer(newline=newline)
        events = framer.feed(stream[:cut])
        if framer.held:
            events += framer.resume(MODE_DATA)
        events += framer.feed(stream[cut:])
        if framer.held and events[-1].verb == "DATA":
            events += framer.resume(MODE_DATA)
        assert [event.verb for event in events if isinstance(event, Command)] == ["DATA", "QUIT"]
        assert [event.last for event in events if isinstance(event, BodyEnd)] == [True]


def test_r2_bare_cr_and_lf_are_reported_after_the_true_end(wire: ModuleType) -> None:
    for newline, body in (("reject", b"a\nb\rc\r\n"), ("accept", b"a\nb\rc\r\n"), ("normalise", b"a\r\nb\r\nc\r\n")):
        decoder = wire.DataDecoder(newline=newline)
        assert decoder.feed(b"a\nb\rc\r\n.\r\n") == (body, 10, True)
        assert (decoder.bare_cr, decoder.bare_lf) == (True, True)


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000])
def test_r4_bdat_counts_octets(wire: ModuleType, size: int) -> None:
    octets = (b"\r\n.\r\nQUIT\r\n\0\n" * 100)[:size]
    framer = wire.ServerFramer()
    events = framer.feed(b"BDAT %d LAST\r\n" % size + octets + b"NOOP\r\n")
    assert b"".join(event for event in events if isinstance(event, bytes)) == octets
    assert [event.verb for event in events if isinstance(event, Command)] == ["BDAT", "NOOP"]


@pytest.mark.parametrize(
    "argument", [b"9223372036854775808", b"-1", b"1 LAST LAST", b"", b"1x", b" 1", b"99999999999999999999999"]
)
def test_r4_nothing_is_read_after_an_invalid_chunk_size(wire: ModuleType, argument: bytes) -> None:
    framer = wire.ServerFramer()
    (event,) = framer.feed(b"BDAT " + argument + b"\r\nMAIL FROM:<evil@a.example>\r\n")
    assert event.fault is not None
    assert framer.held
    assert framer.resume(MODE_CLOSED) == []


def test_r5_a_chunk_that_nobody_asked_for_is_consumed_exactly(wire: ModuleType) -> None:
    framer = wire.ServerFramer()
    events = framer.feed(b"BDAT 10\r\nRSET\r\nRSETBDAT 4 LAST\r\nQUITNOOP\r\n")
    assert [event.verb for event in events if isinstance(event, Command)] == ["BDAT", "BDAT", "NOOP"]


def test_r6_a_body_that_is_cut_off_has_no_end(wire: ModuleType) -> None:
    for stream in (b"BDAT 9 LAST\r\nabcdefgh", b"BDAT 9223372036854775807 LAST\r\nabc"):
        assert not [event for event in wire.ServerFramer().feed(stream) if isinstance(event, BodyEnd)]
    framer = wire.ServerFramer()
    framer.feed(b"DATA\r\nabc\r\n.\r")
    assert framer.resume(MODE_DATA) == [b"abc\r\n"]


@pytest.mark.parametrize("verb", [b"STARTTLS", b"QUIT"])
def test_r7_octets_after_starttls_and_quit_are_never_read(wire: ModuleType, verb: bytes) -> None:
    framer = wire.ServerFramer()
    (event,) = framer.feed(verb + b"\r\nMAIL FROM:<evil@a.example>\r\n")
    assert event.verb.encode() == verb
    assert (framer.held, framer.buffered) == (True, 28)
    assert framer.feed(b"RCPT TO:<b@c.example>\r\n") == []
    assert framer.resume(MODE_CLOSED) == []
    assert (framer.held, framer.buffered, framer.mode) == (False, 0, MODE_CLOSED)
    assert framer.feed(b"DATA\r\n") == []
    assert framer.buffered == 0


def test_r8_a_held_framer_stores_no_more_than_its_limit(wire: ModuleType) -> None:
    framer = wire.ServerFramer(Limits(held=10))
    framer.feed(b"DATA\r\n")
    assert framer.feed(b"1234567") == []
    with pytest.raises(BufferError):
        framer.feed(b"8901")
    assert framer.buffered == 7
    assert framer.feed(b"890") == []
    assert framer.resume(MODE_DATA) == [b"1234567890"]


ENDLESS = """
import resource, sys
from importlib import import_module
wire = import_module(sys.argv[1])
def grown(feed):
    for _ in range(4):
        feed()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(1024):
        feed()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
block = b"x" * 65536
command, line, data, chunk = (wire.ServerFramer() for _ in range(4))
for framer, start in ((line, b"AUTH X\\r\\n"), (data, b"DATA\\r\\n")):
    framer.feed(start)
line.resume(2)
data.resume(1)
chunk.feed(b"BDAT 9223372036854775807 LAST\\r\\n")
def feed_line():
    line.feed(block)
    if line.held:
        line.resume(2)
reader = wire.ReplyReader()
decoder = wire.DataDecoder()
canonicaliser = wire.BodyCanonicaliser(True)
print(max(grown(feed) for feed in (
    lambda: command.feed(block), feed_line, lambda: data.feed(block), lambda: chunk.feed(block),
    lambda: reader.feed(b"250-" + block), lambda: decoder.feed(block), lambda: canonicaliser.feed(block),
    lambda: canonicaliser.feed(b"\\r\\n" * 32768), lambda: canonicaliser.feed(b" " * 65536),
    lambda: canonicaliser.feed(b"x"),
)))
"""


def test_r8_endless_lines_cost_no_memory(wire: ModuleType) -> None:
    """64 MiB without a line end, and of empty lines, to each decoder: the process grows by less than 8 MiB."""
    program = [sys.executable, "-c", ENDLESS, wire.__name__]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 8 * 1024  # ru_maxrss is in KiB


def test_r8_a_peer_that_pipelines_many_holds_costs_time_in_proportion(wire: ModuleType) -> None:
    """A megabyte of `DATA` and empty messages: 100,000 holds. Copying what is stored at each would take minutes."""
    framer = wire.ServerFramer()
    framer.feed(b"DATA\r\n" + b".\r\nDATA\r\n" * (MEBIBYTE // 10))
    messages = 0
    while framer.held:
        messages += sum(isinstance(event, BodyEnd) for event in framer.resume(MODE_DATA))
    assert messages == MEBIBYTE // 10


def test_r8_single_octets_cost_time_in_proportion(wire: ModuleType) -> None:
    framer = wire.ServerFramer(Limits(auth_line=MEBIBYTE))
    framer.feed(b"AUTH X\r\n")
    framer.resume(MODE_LINE)
    for _ in range(MEBIBYTE // 8):
        framer.feed(b"x")
    (event,) = framer.feed(b"\r\n")
    assert len(event.octets) == MEBIBYTE // 8


def test_r18_a_fault_in_a_reply_is_the_last_thing_a_reader_says(wire: ModuleType) -> None:
    reader = wire.ReplyReader()
    events = reader.feed(b"250 a\r\n250-b\r\n251 c\r\n250 d\r\n")
    assert [type(event).__name__ for event in events] == ["Reply", "Fault"]
    assert reader.feed(b"250 e\r\n") == []
    assert reader.buffered == 0


def test_r18_replies_are_bounded_in_lines_and_octets(wire: ModuleType) -> None:
    reader = wire.ReplyReader()
    assert [event for _ in range(200) for event in reader.feed(b"250-x\r\n")] == [Fault("reply-too-many-lines", 0)]
    reader = wire.ReplyReader()
    assert [event for _ in range(70) for event in reader.feed(b"x" * 1024)] == [Fault("reply-too-long", 0)]
    full = b"250 " + b"x" * (65536 - 6) + b"\r\n"
    assert len(wire.ReplyReader().feed(full)[0].lines[0]) == 65536 - 6
    assert wire.ReplyReader().feed(b"250 x" + full[4:]) == [Fault("reply-too-long", 0)]


def test_r20_text_of_a_reply_cannot_end_its_line(wire: ModuleType) -> None:
    for bad in (b"a\rb", b"a\nb", b"a\0b", "a\r\n550 no"):
        with pytest.raises(ValueError, match=r"CR|LF|NUL"):
            wire.format_reply(250, None, ["fine", bad])


def test_a_faulty_line_never_becomes_a_command(wire: ModuleType) -> None:
    framer = wire.ServerFramer(Limits(command_line=64))
    for wrong in (b"\n", b"\0", b"\r", b"x" * 64):
        events = framer.feed(b"NOOP" + wrong + b"QUIT\r\n")
        assert [type(event).__name__ for event in events] == ["Fault"]
        assert framer.mode == MODE_COMMAND
        assert not framer.held


@pytest.mark.parametrize("verb", ["QUIT", "RSET", "NOOP", "DATA", "HELP"])
@pytest.mark.parametrize("blanks", ["\t", " \t", "\t ", "\t\t"])
def test_f81_white_space_after_a_verb_is_ignored(wire: ModuleType, verb: str, blanks: str) -> None:
    command = wire.parse_command((verb + blanks).encode())
    assert (command.verb, command.argument.strip(b" \t"), command.fault) == (verb, b"", None)
    with pytest.raises(WireFault, match="verb"):
        wire.parse_command((verb + "\tx" + blanks).encode())
