"""Laws of the wire that hold for every input, over both twins."""

from __future__ import annotations

import re
import smtplib
from email import message_from_bytes
from email.policy import compat32
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironpost.wire.interface import Mailbox, Reply

if TYPE_CHECKING:
    from types import ModuleType

settings.register_profile(
    "wire", settings.get_profile("untimed"), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("wire")

SHARP = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0", b"\xff", b"\r\n.\r\n", b"b" * 70]), max_size=30
).map(b"".join)
"""Bodies made of what matters."""
BODIES = SHARP | st.binary(max_size=300)
POINTS = st.lists(st.integers(0, 300), max_size=5).map(sorted)


def pieces(data: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *(min(point, len(data)) for point in points), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def encode(wire: ModuleType, body: bytes, points: list[int]) -> bytes:
    encoder = wire.DataEncoder()
    return b"".join(map(encoder.feed, pieces(body, points))) + encoder.finish()


@given(body=BODIES)
def test_unstuffing_undoes_stuffing(wire: ModuleType, body: bytes) -> None:
    assert wire.dot_unstuff(wire.dot_stuff(body)) == body


@given(text=st.text(alphabet="a.\r\n é", max_size=60))
def test_stuffing_is_that_of_smtplib(wire: ModuleType, text: str) -> None:
    """An independent oracle: `smtplib.quotedata` normalises and stuffs."""
    ours = wire.dot_stuff(re.sub("\r\n|\r|\n", "\r\n", text).encode())
    assert ours == smtplib.quotedata(text).encode()


@given(body=BODIES, points=POINTS, others=POINTS)
def test_r3_a_strict_receiver_gets_the_normalised_body(
    wire: ModuleType, body: bytes, points: list[int], others: list[int]
) -> None:
    sent = encode(wire, body, points)
    decoder = wire.DataDecoder()
    got, total, finished = b"", 0, False
    for piece in pieces(sent, others):
        assert not finished or not piece
        if not finished:
            part, consumed, finished = decoder.feed(piece)
            got, total = got + part, total + consumed
    normal = re.sub(rb"\r\n|\r|\n", b"\r\n", body)
    if normal and not normal.endswith(b"\r\n"):
        normal += b"\r\n"
    assert (got, total, finished) == (normal, len(sent), True)
    assert not decoder.bare_cr
    assert not decoder.bare_lf


@given(body=BODIES, points=POINTS)
def test_r3_a_lax_receiver_sees_exactly_one_message(wire: ModuleType, body: bytes, points: list[int]) -> None:
    """A receiver to which CR and LF end lines too finds one line that is a dot, the last one."""
    sent = encode(wire, body, points)
    ends = [found.end() for found in re.finditer(rb"(?:\A|[\r\n])\.(?:\r\n|\r|\n)", sent)]
    assert ends == [len(sent)]
    assert re.split(rb"\r\n|\r|\n", sent).count(b".") == 1


@given(data=BODIES, points=POINTS, newline=st.sampled_from(["reject", "normalise", "accept"]))
def test_decoding_does_not_depend_on_the_cut(wire: ModuleType, data: bytes, points: list[int], newline: str) -> None:
    whole = wire.DataDecoder(newline=newline)
    expected = whole.feed(data)
    decoder = wire.DataDecoder(newline=newline)
    body, total, finished = b"", 0, False
    for piece in pieces(data, points):
        part, consumed, finished = decoder.feed(piece)
        body, total = body + part, total + consumed
        if finished:
            break
    assert (body, total, finished) == expected
    for name in ("size", "eight_bit", "nul", "bare_cr", "bare_lf", "longest_line", "header_size"):
        assert getattr(decoder, name) == getattr(whole, name)


def run(wire: ModuleType, data: bytes, points: list[int]) -> tuple[list[Any], Any]:
    framer = wire.ServerFramer()
    events: list[Any] = []
    for piece in pieces(data, points):
        events += framer.feed(piece)
    return events, framer


STREAM = st.lists(
    st.sampled_from([b"NOOP\r\n", b"MAIL FROM:<a@b.example>\r\n", b"DATA\r\n", b"BDAT 3\r\n", b"AUTH X\r\n"]) | SHARP,
    max_size=8,
).map(b"".join)


@given(data=STREAM, points=POINTS)
def test_octets_fed_while_held_are_kept(wire: ModuleType, data: bytes, points: list[int]) -> None:
    """What was fed during a hold is read as if it had been fed when the hold was over."""
    _, framer = run(wire, data, points)
    if not framer.held:
        assert framer.buffered == 0
        return
    kept = data[len(data) - framer.buffered :]
    _, again = run(wire, data[: len(data) - framer.buffered], [])
    assert again.held
    assert again.buffered == 0
    assert again.resume(0) == []
    assert framer.resume(0) == again.feed(kept)


@given(data=STREAM, points=POINTS)
def test_bdat_hands_on_each_octet_and_no_other(wire: ModuleType, data: bytes, points: list[int]) -> None:
    stream = b"BDAT %d LAST\r\n%sNOOP\r\n" % (len(data), data)
    events, _ = run(wire, stream, points)
    assert b"".join(event for event in events if isinstance(event, bytes)) == data
    assert [type(event).__name__ for event in events if not isinstance(event, bytes)] == [
        "Command",
        "BodyEnd",
        "Command",
    ]
    assert events[-2].size == len(data)


PRINTABLE = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1)
LABELS = st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?\Z")
DOMAINS = st.lists(LABELS, min_size=1, max_size=5).map(".".join)


@given(local_part=PRINTABLE, domain=DOMAINS)
def test_a_mailbox_that_is_written_is_read_the_same(wire: ModuleType, local_part: str, domain: str) -> None:
    mailbox = Mailbox(local_part, domain)
    text = wire.format_mailbox(mailbox)
    assert wire.parse_mailbox(text) == mailbox
    if len(text.encode()) <= 254:
        command = wire.parse_command(f"MAIL FROM:<{text}>\r\n".encode())
        assert command.path == mailbox


DOTTED = st.from_regex(r"\A[a-z.]{1,12}\Z")
UNDERSCORED = st.lists(st.from_regex(r"\A[a-z_]{1,5}\Z"), min_size=1, max_size=3).map(".".join)


@given(local_part=DOTTED, domain=UNDERSCORED)
def test_f27_what_is_read_leniently_is_written_with_quotes(wire: ModuleType, local_part: str, domain: str) -> None:
    mailbox = Mailbox(local_part, domain)
    text = wire.format_mailbox(mailbox, lenient=True)
    for written in (f"{local_part}@{domain}", text):
        assert wire.parse_mailbox(written, lenient=True) == mailbox
    stray = not all(local_part.split("."))
    assert text == (f'"{local_part}"@{domain}' if stray else f"{local_part}@{domain}")
    command = wire.parse_command(f"RCPT TO:<{local_part}@{domain}>".encode(), lenient=True)
    assert command.tolerated == ("stray_dots",) * stray + ("underscore",) * ("_" in domain)
    assert wire.parse_mailbox(f'"{local_part}"@b.example') == Mailbox(local_part, "b.example")


@given(text=st.text(), where=st.integers(0, 60), bad=st.sampled_from("\r\n\0"))
def test_r17_no_mailbox_holds_a_line_end(wire: ModuleType, text: str, where: int, bad: str) -> None:
    text = text[:where] + bad + text[where:]
    for call in (
        lambda: wire.parse_mailbox(text),
        lambda: wire.parse_mailbox(f'"{text}"@b.example'),
        lambda: wire.format_mailbox(Mailbox(text, "b.example")),
        lambda: wire.format_mailbox(Mailbox("a", text)),
    ):
        try:
            mailbox = call()
        except ValueError:
            continue
        raise AssertionError(mailbox)


@given(data=st.binary(max_size=80))
def test_xtext_can_be_undone(wire: ModuleType, data: bytes) -> None:
    encoded = wire.xtext_encode(data)
    assert re.fullmatch(r"([!-*,-<>-~]|\+[0-9A-F]{2})*", encoded)
    assert wire.xtext_decode(encoded) == data


@given(text=PRINTABLE)
def test_utf8_addr_xtext_can_be_undone(wire: ModuleType, text: str) -> None:
    encoded = wire.utf8_addr_xtext_encode(text)
    assert re.fullmatch(r"([!-*,-<>-\[\]-~]|\\x\{[0-9A-F]{2,6}\})*", encoded)
    assert wire.utf8_addr_xtext_decode(encoded) == text


CODES = st.sampled_from([220, 221, 250, 354, 421, 450, 550, 554])
LINES = st.lists(st.binary(max_size=40).map(lambda line: re.sub(rb"[\r\n\0]", b"", line)), min_size=1, max_size=6)


@given(code=CODES, lines=LINES, detailed=st.booleans(), points=POINTS)
def test_a_reply_that_is_written_is_read_the_same(
    wire: ModuleType, code: int, lines: list[bytes], detailed: bool, points: list[int]
) -> None:
    enhanced = f"{code // 100}.1.10" if detailed and code != 354 else None
    octets = wire.format_reply(code, enhanced, lines)
    read = wire.parse_reply(octets)
    if enhanced or not re.match(rb"[245]\.", lines[0]):
        assert read == Reply(code, enhanced, tuple(lines))
    reader = wire.ReplyReader()
    assert [event for piece in pieces(octets, points) for event in reader.feed(piece)] == [read]
    assert reader.buffered == 0


NAMES = st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,10}\Z")
VALUES = st.lists(st.from_regex(r"\A[!-~][ -~]{0,20}[!-~]\Z"), min_size=1, max_size=3).map("\r\n ".join)


@given(fields=st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_header_fields_are_those_of_the_email_package(wire: ModuleType, fields: list[tuple[str, str]]) -> None:
    """An independent oracle: `email`, with its raw values."""
    data = "".join(f"{name}: {value}\r\n" for name, value in fields).encode() + b"\r\nbody\r\n"
    section = wire.scan_header(data)
    message = message_from_bytes(data, policy=compat32)
    ours = [(field.name, data[field.value : field.end].strip().decode()) for field in section.fields]
    assert ours == message.items()
    assert section.received == len(message.get_all("Received", []))
    assert data[section.end :] == b"\r\nbody\r\n"


@given(data=st.binary(max_size=200) | SHARP)
def test_a_header_section_is_covered_by_its_fields(wire: ModuleType, data: bytes) -> None:
    section = wire.scan_header(data)
    assert b"".join(data[field.start : field.end] for field in section.fields) == data[: section.end]
