"""The vectors, over both twins: whole, at every cut, octet by octet, with a tail, and padded across blocks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.wire import interface
from ironpost.wire.interface import Chunk, Limits, Mailbox, WireFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    Cuts = Callable[[bytes], Iterator[list[bytes]]]

FACTS = {"eight_bit": False, "nul": False, "bare_cr": False, "bare_lf": False, "header_size": -1}
PADS = (3, 14, 15, 16, 17, 30, 31, 32, 33, 61, 62, 63, 64, 65, 127, 128, 129)
"""Octets in front of a vector: its octets then lie across the borders of blocks of 16, 32, 64 and 128."""
MODES = {"data": interface.MODE_DATA, "command": 0, "line": interface.MODE_LINE, "closed": interface.MODE_CLOSED}


def fault_of(call: Callable[[], object]) -> tuple[str, int]:
    with pytest.raises(WireFault) as caught:
        call()
    return caught.value.id, caught.value.offset


# ---------------------------------------------------------------------------------------------------------------------
# DATA


def decode(wire: ModuleType, newline: str, pieces: Iterable[bytes]) -> tuple[bytes, int | None, dict[str, Any]]:
    """The body, the octets up to the end (None if it was not reached), the facts."""
    decoder = wire.DataDecoder(newline=newline)
    body, total, end = b"", 0, None
    for piece in pieces:
        got, consumed, finished = decoder.feed(piece)
        body += got
        total += consumed
        if finished:
            end = total
            break
        assert consumed == len(piece)
    facts = {name: getattr(decoder, name) for name in ("size", "longest_line", *FACTS)}
    return body, end, facts


@pytest.mark.vectors("data")
def test_decode(wire: ModuleType, cuts: Cuts, vector: dict[str, Any]) -> None:
    newline = vector.get("newline", "reject")
    expected = vector["body"], vector.get("end"), FACTS | vector["facts"]
    for pieces in cuts(vector["input"]):
        assert decode(wire, newline, pieces) == expected
        if "end" in vector:
            assert decode(wire, newline, [*pieces[:-1], pieces[-1] + b"QUIT\r\n.\r\n"]) == expected
    for pad in PADS:
        line = b"p" * (pad - 2) + b"\r\n"
        facts = FACTS | vector["facts"]
        facts["size"] += pad
        facts["longest_line"] = max(facts["longest_line"], pad - 2)
        facts["header_size"] += pad if facts["header_size"] >= 0 else 0
        end = vector["end"] + pad if "end" in vector else None
        padded = line + vector["input"]
        for pieces in ([padded], [padded[:64], padded[64:]], [line, vector["input"]]):
            assert decode(wire, newline, pieces) == (line + vector["body"], end, facts)


@pytest.mark.vectors("stuffing", having=("plain",))
def test_stuff_and_unstuff(wire: ModuleType, vector: dict[str, Any]) -> None:
    for pad in (0, *PADS):
        line = b"p" * (pad - 2) + b"\r\n" if pad else b""
        assert wire.dot_stuff(line + vector["plain"]) == line + vector["stuffed"]
        assert wire.dot_unstuff(line + vector["stuffed"]) == line + vector["plain"]


def encode(wire: ModuleType, newline: str, pieces: Iterable[bytes]) -> bytes:
    encoder = wire.DataEncoder(newline=newline)
    return b"".join([encoder.feed(piece) for piece in pieces]) + encoder.finish()


@pytest.mark.vectors("stuffing", having=("body",))
def test_encode(wire: ModuleType, cuts: Cuts, vector: dict[str, Any]) -> None:
    newline = vector.get("newline", "normalise")
    for pad in (0, *PADS):
        line = b"p" * (pad - 2) + b"\r\n" if pad else b""
        for pieces in cuts(line + vector["body"]) if pad < 4 else [[line + vector["body"]]]:
            if "fault" in vector:
                name, offset = vector["fault"]
                assert fault_of(lambda pieces=pieces: encode(wire, newline, pieces)) == (name, offset + pad)
            elif pad and not vector["body"]:
                assert encode(wire, newline, pieces) == line + b".\r\n"
            else:
                assert encode(wire, newline, pieces) == line + vector["wire"]


# ---------------------------------------------------------------------------------------------------------------------
# Canonical forms


def canonical(wire: ModuleType, form: str, pieces: Iterable[bytes]) -> bytes:
    canonicaliser = wire.BodyCanonicaliser(form == "relaxed")
    octets = [some for piece in pieces for some in canonicaliser.feed(piece)] + canonicaliser.finish()
    assert b"" not in octets
    return b"".join(octets)


@pytest.mark.vectors("canonical", having=("body",))
@pytest.mark.parametrize("form", ["simple", "relaxed"])
def test_canonical_body(wire: ModuleType, cuts: Cuts, vector: dict[str, Any], form: str) -> None:
    for pieces in cuts(vector["body"]):
        assert canonical(wire, form, pieces) == vector[form]
    for pad in PADS:
        line = b"p" * (pad - 2) + b"\r\n"
        expected = line + (vector[form] if vector[form] != b"\r\n" else b"")
        for pieces in ([line + vector["body"]], [line, vector["body"]]):
            assert canonical(wire, form, pieces) == expected


@pytest.mark.vectors("canonical", having=("field",))
def test_canonical_field(wire: ModuleType, vector: dict[str, Any]) -> None:
    for field in (vector["field"], bytearray(vector["field"]), memoryview(vector["field"])):
        assert wire.canonical_field(field, False) == vector["simple"]
        if "fault" in vector:
            assert fault_of(lambda field=field: wire.canonical_field(field, True)) == vector["fault"]
        else:
            assert wire.canonical_field(field, True) == vector["relaxed"]


# ---------------------------------------------------------------------------------------------------------------------
# Commands


@pytest.mark.vectors("command")
def test_command(wire: ModuleType, vector: dict[str, Any]) -> None:
    line = vector["input"]
    read = partial(wire.parse_command, lenient=vector.get("lenient", False))
    for data in (line, bytearray(line), memoryview(line)):
        if "fault" in vector:
            assert fault_of(lambda data=data: read(data)) == vector["fault"]
            continue
        command = read(data)
        assert command.verb == vector["verb"]
        assert command.argument == vector["argument"]
        assert command.path == (Mailbox(*vector["path"]) if "path" in vector else None)
        assert command.parameters == vector.get("parameters", {}) | dict.fromkeys(vector.get("bare", ()))
        assert command.domain == vector.get("domain")
        chunk = vector.get("chunk")
        assert command.chunk == (Chunk(chunk["size"], chunk["last"]) if chunk else None)
        assert command.fault is None
        assert command.tolerated == tuple(vector.get("tolerated", ()))
    without = line.removesuffix(b"\r\n")
    if "fault" in vector and not without.endswith(b"\r\n"):
        assert fault_of(lambda: read(without)) == vector["fault"]
    elif "fault" not in vector:
        assert read(without) == read(line)
        if "tolerated" in vector:
            assert fault_of(lambda: wire.parse_command(line)) is not None
        else:  # `lenient` changes nothing else
            assert wire.parse_command(line) == wire.parse_command(line, lenient=True) == read(line)


@pytest.mark.vectors("command")
def test_command_through_the_framer(wire: ModuleType, cuts: Cuts, vector: dict[str, Any]) -> None:
    line = vector["input"]
    if not line.endswith(b"\r\n") or b"\r\n" in line[:-2]:
        return  # no line of a stream
    lenient = vector.get("lenient", False)
    impure = any(octet in line[:-2] for octet in b"\r\n\0")
    for pieces in cuts(line):
        framer = wire.ServerFramer(lenient=lenient)
        (event, *_) = [event for piece in pieces for event in framer.feed(piece)]
        if impure:
            assert tuple(event) == vector["fault"]
        elif "fault" in vector:
            assert tuple(event.fault) == vector["fault"]
            assert (event.path, event.parameters, event.domain, event.chunk) == (None, {}, None, None)
        else:
            assert event == wire.parse_command(line, lenient=lenient)
    for pad in PADS[1:]:
        framer = wire.ServerFramer(lenient=lenient)
        (padding, event, *_) = framer.feed(b"NOOP " + b"p" * (pad - 7) + b"\r\n" + line)
        assert padding.argument == b"p" * (pad - 7)
        assert event == wire.ServerFramer(lenient=lenient).feed(line)[0]


@pytest.mark.vectors("mailbox")
def test_mailbox(wire: ModuleType, vector: dict[str, Any]) -> None:
    source = vector["input"]
    lenient = vector.get("lenient", False)
    forms: list[Any] = [source, bytearray(source), memoryview(source)]
    if vector.get("fault", ("",))[0] != "utf8-malformed":
        forms.append(source.decode())
    for form in forms:
        if "fault" in vector:
            assert fault_of(lambda form=form: wire.parse_mailbox(form, lenient=lenient)) == vector["fault"]
        else:
            for either in {lenient, True}:  # what the grammar has means the same when read leniently
                assert wire.parse_mailbox(form, lenient=either) == Mailbox(vector["local_part"], vector["domain"])
    if "fault" not in vector:
        mailbox = Mailbox(vector["local_part"], vector["domain"])
        written = vector.get("written", source.decode())
        assert wire.format_mailbox(mailbox, lenient=lenient) == wire.format_mailbox(mailbox, lenient=True) == written
        assert wire.parse_mailbox(written, lenient=lenient) == mailbox


# ---------------------------------------------------------------------------------------------------------------------
# Replies


@pytest.mark.vectors("reply")
def test_reply(wire: ModuleType, vector: dict[str, Any]) -> None:
    for data in (vector["input"], bytearray(vector["input"]), memoryview(vector["input"])):
        if "fault" in vector:
            assert fault_of(lambda data=data: wire.parse_reply(data)) == vector["fault"]
        else:
            expected = vector["code"], vector.get("enhanced"), vector["lines"]
            assert wire.parse_reply(data) == expected


def read(wire: ModuleType, pieces: Iterable[bytes]) -> tuple[list[Any], int]:
    reader = wire.ReplyReader()
    events = [tuple(event) for piece in pieces for event in reader.feed(piece)]
    return events, reader.buffered


@pytest.mark.vectors("reply")
def test_reply_through_the_reader(wire: ModuleType, cuts: Cuts, vector: dict[str, Any]) -> None:
    data = vector["input"]
    name = vector.get("fault", ("",))[0]
    if name == "reply-trailing" or not data.endswith(b"\n"):
        return
    if name == "reply-incomplete":
        expected: tuple[list[Any], int] = [], len(data)
    elif "fault" in vector:
        expected = [vector["fault"]], 0
    else:
        expected = [(vector["code"], vector.get("enhanced"), vector["lines"])], 0
    for pieces in cuts(data):
        assert read(wire, pieces) == expected
        if name != "reply-incomplete":
            more = [(220, None, (b"x",))] if not name else []
            assert read(wire, [*pieces[:-1], pieces[-1] + b"220 x\r\n"]) == (expected[0] + more, 0)
    for pad in PADS[1:]:
        padding = b"250 " + b"p" * (pad - 6) + b"\r\n"
        events, buffered = read(wire, [padding + data])
        assert (events, buffered) == ([(250, None, (b"p" * (pad - 6),)), *expected[0]], expected[1])


@pytest.mark.vectors("ehlo")
def test_ehlo(wire: ModuleType, vector: dict[str, Any]) -> None:
    reply = wire.parse_reply(vector["reply"])
    if "fault" in vector:
        assert fault_of(lambda: wire.parse_ehlo(reply)) == vector["fault"]
    else:
        assert wire.parse_ehlo(reply) == (vector["domain"], vector["extensions"])


# ---------------------------------------------------------------------------------------------------------------------
# Encodings and header sections


@pytest.mark.vectors("xtext")
def test_xtext(wire: ModuleType, vector: dict[str, Any]) -> None:
    if vector.get("form") == "utf-8-addr":
        encoded = vector["encoded"].decode()
        if "fault" in vector:
            assert fault_of(lambda: wire.utf8_addr_xtext_decode(encoded)) == vector["fault"]
        elif "plain" in vector:
            assert wire.utf8_addr_xtext_encode(vector["plain"].decode()) == encoded
        if "fault" not in vector:
            plain = vector.get("plain", vector.get("decoded")).decode()
            assert wire.utf8_addr_xtext_decode(encoded) == plain
        return
    for encoded in (vector["encoded"], bytearray(vector["encoded"]), vector["encoded"].decode()):
        if "fault" in vector:
            assert fault_of(lambda encoded=encoded: wire.xtext_decode(encoded)) == vector["fault"]
        else:
            assert wire.xtext_decode(encoded) == vector.get("plain", vector.get("decoded"))
    if "plain" in vector:
        assert wire.xtext_encode(vector["plain"]) == vector["encoded"].decode()


@pytest.mark.vectors("header")
def test_header(wire: ModuleType, vector: dict[str, Any]) -> None:
    source = vector["input"]
    limits = Limits(**vector["limits"]) if "limits" in vector else None
    for data in (source, bytearray(source), memoryview(source)):
        section = wire.scan_header(data, limits)
        assert [(field.name, source[field.value : field.end]) for field in section.fields] == vector["fields"]
        assert (section.end, section.received) == (vector["end"], vector["received"])
        assert section.fault == vector.get("fault")
        assert b"".join(source[field.start : field.end] for field in section.fields) == source[: section.end]
        for field, value in zip(section.fields, vector.get("unfolded", ()), strict=False):
            assert wire.unfold(source[field.value : field.end].removesuffix(b"\r\n")) == value
    if limits is None:
        for pad in PADS[1:]:
            padding = b"Pad: " + b"p" * (pad - 7) + b"\r\n"
            if not source.startswith((b" ", b"\t")):  # there a continuation of the padding
                shifted = wire.scan_header(padding + source)
                assert shifted.end == vector["end"] + pad
                assert [field.name for field in shifted.fields] == ["Pad", *(name for name, _ in vector["fields"])]


# ---------------------------------------------------------------------------------------------------------------------
# The framer


def run(wire: ModuleType, vector: dict[str, Any], pieces: Iterable[bytes]) -> tuple[list[Any], Any]:
    """The events, with pieces of body joined, and the framer."""
    limits = Limits(**vector["limits"]) if "limits" in vector else None
    framer = wire.ServerFramer(
        limits,
        vector.get("newline", "reject"),
        lenient=vector.get("lenient", False),
        chunking=vector.get("chunking", True),
    )
    resume = iter(vector.get("resume", ()))
    events: list[Any] = []
    for piece in pieces:
        batch = framer.feed(piece)
        while True:
            for event in batch:
                if isinstance(event, bytes) and events and isinstance(events[-1], bytes):
                    events[-1] += event
                else:
                    events.append(event)
            if not framer.held or (mode := next(resume, None)) is None:
                break
            batch = framer.resume(MODES[mode])
    return events, framer


def as_expected(event: Any) -> dict[str, Any]:
    if isinstance(event, bytes):
        return {"type": "body", "octets": event}
    kind = {"Command": "command", "BodyEnd": "end", "Line": "line", "Fault": "fault"}[type(event).__name__]
    values = event._asdict()
    if kind == "command":
        fault = values["fault"]
        values = {key: values[key] for key in ("verb", "argument", "tolerated")}
        values |= {"fault": fault.id if fault else "", "tolerated": list(values["tolerated"])}
    return {"type": kind, **values}


@pytest.mark.vectors("framer")
def test_framer(wire: ModuleType, cuts: Cuts, vector: dict[str, Any]) -> None:
    defaults = {"command": {"fault": "", "tolerated": []}, "end": FACTS}
    expected = [defaults.get(event["type"], {}) | event for event in vector["events"]]
    for pieces in cuts(vector["input"]):
        events, framer = run(wire, vector, pieces)
        assert [as_expected(event) for event in events] == expected
        assert b"" not in events
        events, framer = run(wire, vector, [*pieces, b"\r\nNOOP\r\n"])  # a tail changes nothing that was said
        tail = [as_expected(event) for event in events]
        assert len(tail) >= len(expected)
        for before, after in zip(expected, tail, strict=False):
            if before["type"] == "body":
                assert after["octets"].startswith(before["octets"])
            else:
                assert before == after
    if "limits" not in vector:
        for pad in PADS[1:]:
            padding = b"NOOP " + b"p" * (pad - 7) + b"\r\n"
            events, framer = run(wire, vector, [padding + vector["input"]])
            assert [as_expected(event) for event in events[1:]] == expected
            assert framer.buffered <= len(vector["input"])
