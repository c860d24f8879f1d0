"""Repairs and refusals of submitted header sections, at every split of the input."""

from __future__ import annotations

import pytest

from ironpost import wire
from ironpost.message.submission import SubmittedHeader

WHOLE = b"From: a@b.example\r\nDate: x\r\nMessage-ID: <1@b.example>\r\nSubject: s\r\n\r\nbody\r\n"
NOW = 880127706.0


def through(content: bytes, cut: int = 0, limits: wire.Limits = wire.DEFAULT_LIMITS) -> tuple[bytes, bytes, str]:
    """The added fields, what is stored, and the fault."""
    header = SubmittedHeader(limits)
    stored = header.feed(content[:cut]) + header.feed(content[cut:]) + header.finish()
    return header.additions(now=NOW, id="Q1", host="mx.example"), stored, header.fault


@pytest.mark.parametrize("cut", range(len(WHOLE) + 1))
def test_a_message_that_is_whole_passes_octet_for_octet(cut: int) -> None:
    assert through(WHOLE, cut) == (b"", WHOLE, "")


def test_a_date_and_a_message_id_are_added_where_they_lack() -> None:
    content = b"from: a@b.example\r\n\r\nbody\r\n"
    date = b"Date: Fri, 21 Nov 1997 15:55:06 +0000\r\n"
    for cut in range(len(content)):
        assert through(content, cut) == (date + b"Message-ID: <Q1@mx.example>\r\n", content, "")
    dated = b"Date: yesterday\r\n" + content
    assert through(dated) == (b"Message-ID: <Q1@mx.example>\r\n", dated, "")


@pytest.mark.parametrize("wrong", [b"", b" none", b" <a>", b" <a@b> <c@d>", b" <a b@c>", b" a@b"])
def test_an_invalid_message_id_is_replaced(wrong: bytes) -> None:
    content = b"From: a@b.example\r\nDate: x\r\nMessage-Id:%b\r\nTo: c@d.example\r\n\r\nbody"
    added, stored, fault = through(content % wrong)
    assert added == b"Message-ID: <Q1@mx.example>\r\n"
    assert stored == b"From: a@b.example\r\nDate: x\r\nTo: c@d.example\r\n\r\nbody"
    assert fault == ""


def test_a_folded_message_id_is_one() -> None:
    content = b"From: a@b.example\r\nDate: x\r\nMessage-ID:\r\n <a.long.one@b.example>\r\n\r\n"
    assert through(content) == (b"", content, "")


def test_blind_recipients_are_not_told() -> None:
    fields = b"From: a@b.example\r\nDate: x\r\nMessage-ID: <1@b>\r\n"
    content = b"Bcc: x@y.example,\r\n z@y.example\r\n" + fields + b"BCC: q@y\r\n\r\nBcc: body\r\n"
    stored = fields + b"\r\nBcc: body\r\n"
    for cut in range(len(content)):
        assert through(content, cut) == (b"", stored, "")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"Subject: x\r\n\r\n", "Message has no From field (RFC 5322 section 3.6)"),
        (b"\r\nbody\r\n", "Message has no From field (RFC 5322 section 3.6)"),
        (b"", "Message has no From field (RFC 5322 section 3.6)"),
        (b"From: a@b\r\nfrom: c@d\r\n\r\n", "Message has several From fields (RFC 5322 section 3.6)"),
        (
            b"From: a@b\r\nhello world\r\n\r\n",
            "Line after header field 1 is neither a field nor an empty line (RFC 5322 section 2.2)",
        ),
        (
            b"body without a header\r\n",
            "Line after header field 0 is neither a field nor an empty line (RFC 5322 section 2.2)",
        ),
    ],
)
def test_an_invalid_message_is_refused_and_nothing_of_it_stored(content: bytes, fault: str) -> None:
    for cut in range(len(content) + 1):
        assert through(content, cut)[1:] == (b"", fault)


def test_r23_a_header_section_is_bounded_in_octets_and_fields() -> None:
    limits = wire.DEFAULT_LIMITS._replace(header_octets=200, header_fields=5)
    assert (
        through(b"From: a@b\r\n" + b"X: y\r\n" * 5 + b"\r\n", limits=limits)[2] == "Header section has too many fields"
    )
    assert through(b"X: " + b"y" * 300 + b"\r\n\r\n", limits=limits)[2] == "Header section is too large"
    endless = SubmittedHeader(limits)
    assert [endless.feed(b"y" * 100) for _ in range(50)] == [b""] * 50
    assert endless.fault
    assert (wire.DEFAULT_LIMITS.header_octets, wire.DEFAULT_LIMITS.header_fields) == (1 << 20, 1000)


def test_a_section_of_exactly_the_limit_is_taken_wherever_its_end_is_cut() -> None:
    section = b"From: a@client.example\r\nBcc: b@client.example\r\n"
    for cut in range(3):
        header = SubmittedHeader(wire.Limits(header_octets=len(section)))
        stored = header.feed(section + b"\r\n"[:cut]) + header.feed(b"\r\nx\r\n"[cut:]) + header.finish()
        assert (header.fault, stored) == ("", b"From: a@client.example\r\n\r\nx\r\n")
