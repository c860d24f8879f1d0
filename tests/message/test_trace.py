"""Final delivery leaves exactly one Return-Path and one Delivered-To (RFC 5321 §4.4, RFC 9228)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost import wire
from ironpost.message.trace import FinalContent, delivered_to, return_path
from ironpost.model import NULL, Address

SENDER = Address.parse("sender@example.org")
LINE = b"Return-Path: <sender@example.org>\r\nDelivered-To: jo@here.example\r\n"
RECIPIENT = Address.parse("jo@here.example")


def final(content: bytes, *cuts: int) -> bytes:
    rewriter = FinalContent(return_path(SENDER) + delivered_to(RECIPIENT, "mx.here.example"))
    out, at = b"", 0
    for cut in sorted(cuts):
        out += rewriter.feed(content[at:cut])
        at = max(at, cut)
    return out + rewriter.feed(content[at:]) + rewriter.finish()


def test_the_null_path_and_utf8_paths_are_written() -> None:
    assert return_path(NULL) == b"Return-Path: <>\r\n"
    assert return_path(Address("jö", "example.org")) == "Return-Path: <jö@example.org>\r\n".encode()


def test_a_return_path_comes_first_and_the_rest_is_untouched() -> None:
    content = b"Received: a\r\nSubject: x\r\n\r\nbody\r\n\r\n.\r\nReturn-Path: <body@example.org>\r\n"
    assert final(content) == LINE + content


def test_f60_delivered_to_names_the_recipient_as_the_envelope_has_it() -> None:
    def line(text: str) -> bytes:
        return delivered_to(Address.parse(text), "mx.here.example")

    assert line("Jo+tag@Here.EXAMPLE") == b"Delivered-To: Jo+tag@Here.EXAMPLE\r\n"
    assert line('"a b"@here.example') == b'Delivered-To: "a b"@here.example\r\n'
    assert line("jö@here.example") == "Delivered-To: jö@here.example\r\n".encode()
    assert line("postmaster") == b"Delivered-To: postmaster@mx.here.example\r\n"
    assert line("jo@[192.0.2.1]") == b"Delivered-To: jo@[192.0.2.1]\r\n"


def test_f27_trace_fields_hold_addresses_in_their_valid_form() -> None:
    address = Address.parse(".a..b.@some_host.example")
    assert delivered_to(address, "mx.here.example") == b'Delivered-To: ".a..b."@some_host.example\r\n'
    assert return_path(address) == b'Return-Path: <".a..b."@some_host.example>\r\n'


def test_f30_a_forged_delivered_to_goes() -> None:
    content = (
        b"Delivered-To: eve@here.example\r\nA: 1\r\ndelivered-to:\r\n flo@here.example\r\n\r\nDelivered-To: body\r\n"
    )
    assert final(content) == LINE + b"A: 1\r\n\r\nDelivered-To: body\r\n"


def test_every_other_return_path_in_the_header_section_goes() -> None:
    content = b"return-path: <a@example.org>\r\nA: 1\r\nReturn-Path:\r\n <b@example.org>\r\nB: 2\r\n\r\nbody\r\n"
    assert final(content) == LINE + b"A: 1\r\nB: 2\r\n\r\nbody\r\n"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from([b"A: 1\r\n", b"Return-Path: <x@y.example>\r\n", b"\r\n", b"text\r\n", b"\r", b"\n", b"."])
    ),
    st.lists(st.integers(0, 120)),
)
def test_where_the_pieces_are_cut_does_not_matter(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(lines)
    assert final(content, *cuts) == final(content)


def test_content_without_a_header_section_is_kept() -> None:
    for content in (b"", b"\r\n", b"\r\nReturn-Path: <a@example.org>\r\n", b"A: 1"):
        assert final(content) == LINE + content


def test_f30_text_without_a_header_section_becomes_no_part_of_one() -> None:
    for content in (b"no header\r\n", b"From jo\r\nA: 1\r\n", b"From"):
        assert final(content) == LINE + b"\r\n" + content


def test_r8_a_header_section_without_end_is_passed_on_at_the_limit() -> None:
    rewriter = FinalContent(return_path(SENDER) + delivered_to(RECIPIENT, "mx.here.example"))
    piece = b"X: " + b"a" * 65000 + b"\r\n"
    limit = wire.DEFAULT_LIMITS.header_octets
    fed = given_back = 0
    held = 0
    for _ in range(40):
        fed += len(piece)
        given_back += len(rewriter.feed(piece))
        held = max(held, fed - given_back)
    assert held < limit + len(piece)
    assert given_back + len(rewriter.finish()) == fed + len(LINE)
