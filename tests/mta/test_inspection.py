"""Content passes through scanners, in pieces of every size; fields that policy removes are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ironpost.mta.inspection import InspectedSpool
from ironpost.policy import Check, Context, Facts, Policy
from ironpost.policy.check import NoOptions, Scanner

if TYPE_CHECKING:
    from ironpost.message.section import Header

STRIP = frozenset({"x-secret", "x-other"})


class Spool:
    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.discarded = False

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def write(self, piece: bytes) -> None:
        assert piece
        self.pieces.append(piece)

    def discard(self) -> None:
        self.discarded = True

    @property
    def octets(self) -> bytes:
        return b"".join(self.pieces)


class Seen(Scanner):
    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.bodies: list[bytes] = []

    def header(self, header: Header) -> None:
        assert not self.bodies
        self.headers.append(header.octets)

    def body(self, piece: bytes) -> None:
        assert self.headers
        assert piece
        self.bodies.append(piece)


class Sees(Check):
    name = "sees"

    def __init__(self, scanner: Seen) -> None:
        super().__init__(NoOptions(), Context())
        self._scanner = scanner

    def scanner(self, facts: Facts) -> Seen:
        return self._scanner


def inspected(
    content: bytes, size: int, strip: frozenset[str] = STRIP, services: frozenset[str] = frozenset()
) -> tuple[InspectedSpool, Spool, Seen]:
    spool, seen = Spool(), Seen()
    scan = Policy([Sees(seen)]).scan(Facts())
    through = InspectedSpool(spool, scan, strip, services)
    for at in range(0, len(content), size):
        through.write(content[at : at + size])
    through.finish()
    return through, spool, seen


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (b"A: b\r\n\r\nbody\r\n", b"A: b\r\n\r\nbody\r\n"),
        (b"A: b\r\nX-Secret: c\r\n d\r\nE: f\r\n\r\nX-Secret: g\r\n", b"A: b\r\nE: f\r\n\r\nX-Secret: g\r\n"),
        (b"x-other: a\r\nX-SECRET : b\r\n\r\nbody", b"\r\nbody"),
        (b"X-Secret: a\r\n", b""),
        (b"A: b\r\n", b"A: b\r\n"),
        (b"\r\nX-Secret: body\r\n", b"\r\nX-Secret: body\r\n"),
        (b"no header section\r\nX-Secret: a\r\n\r\nb\r\n", b"no header section\r\nX-Secret: a\r\n\r\nb\r\n"),
        (b"", b""),
    ],
)
def test_scanners_see_the_original_and_the_store_gets_the_remaining_fields(
    content: bytes, stored: bytes, size: int
) -> None:
    through, spool, seen = inspected(content, size)
    assert through.fault == ""
    assert spool.octets == stored
    assert through.size == len(stored)
    (header,) = seen.headers
    assert header + b"".join(seen.bodies) == content


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_without_fields_to_remove_everything_is_stored(size: int) -> None:
    content = b"X-Secret: a\r\nnot a field\r\n\r\nbody\r\n"
    through, spool, seen = inspected(content, size, frozenset())
    assert (through.fault, spool.octets) == ("", content)
    assert seen.headers[0] + b"".join(seen.bodies) == content


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_r23_a_header_section_that_may_hide_a_removed_field_is_refused(size: int) -> None:
    through, spool, seen = inspected(b"A: b\r\nnot a field\r\nX-Secret: c\r\n\r\nbody\r\n", size)
    assert through.fault == "Line after header field 1 is neither a field nor an empty line (RFC 5322 section 2.2)"
    assert spool.pieces == []
    assert seen.headers


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"A: b\r\n" * 1001 + b"\r\n", "Header section has too many fields"),
        ((b"A: " + b"b" * 1990 + b"\r\n") * 600 + b"\r\nbody", "Header section is too large"),
    ],
)
def test_r23_a_header_section_over_the_limits_is_refused_if_fields_are_removed(content: bytes, fault: str) -> None:
    through, spool, _ = inspected(content, 4096)
    assert through.fault == fault
    assert spool.pieces == []
    assert inspected(content, 4096, frozenset())[1].octets == content


FORGED = b"Authentication-Results: US.example; dkim=pass\r\n"
OTHERS = b"Authentication-Results: them.example; dkim=pass\r\n"
US = frozenset({"us.example"})


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("content", "stored"),
    [
        (FORGED + b"A: b\r\n" + OTHERS + FORGED + b"\r\n" + FORGED, b"A: b\r\n" + OTHERS + b"\r\n" + FORGED),
        (b"X-Secret: a\r\n" + FORGED + OTHERS, OTHERS),
        (OTHERS + b"\r\nbody\r\n", OTHERS + b"\r\nbody\r\n"),
    ],
)
def test_r48_results_that_only_we_could_have_written_are_removed(content: bytes, stored: bytes, size: int) -> None:
    through, spool, seen = inspected(content, size, services=US)
    assert (through.fault, spool.octets) == ("", stored)
    assert seen.headers[0] + b"".join(seen.bodies) == content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"A: b\r\nnot a field\r\n" + FORGED + b"\r\nbody\r\n", "Line after header field 1"),
        (b"A: b\r\n" * 1001 + OTHERS + b"\r\n", "Header section has too many fields"),
        ((b"A: " + b"b" * 1990 + b"\r\n") * 600, "Header section is too large"),
    ],
)
def test_r48_a_header_section_that_may_hide_forged_results_is_refused(content: bytes, fault: str) -> None:
    through, spool, _ = inspected(content, 4096, frozenset(), US)
    assert through.fault.startswith(fault)
    assert spool.pieces == []


@pytest.mark.parametrize("content", [b"A: b\r\nnot a field\r\n\r\n" + FORGED, b"A: b\r\n" * 1001 + b"\r\nbody\r\n"])
def test_a_faulty_header_section_without_results_is_stored(content: bytes) -> None:
    through, spool, _ = inspected(content, 4096, frozenset(), US)
    assert (through.fault, spool.octets) == ("", content)


def test_discarded_content_is_forgotten() -> None:
    spool = Spool()
    through = InspectedSpool(spool, None, STRIP)
    through.write(b"X-Secret: a\r\n")
    through.discard()
    assert spool.discarded
    assert spool.pieces == []
