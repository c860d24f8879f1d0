"""Internationalised mail to a peer without SMTPUTF8: ASCII forms are used, and each address is judged alone (f42)."""

from __future__ import annotations

import sys

import pytest
from tests.protocol.test_client import EHLO, EVERYTHING, D, F, opened, transaction

from ironpost.model import Address, Disposition
from ironpost.model.idna import a_labels
from ironpost.protocol.client.session import ClientState
from ironpost.protocol.client.transaction import header_is_ascii

SEVEN = EHLO + "S: 250-mx.example\nS: 250-PIPELINING\nS: 250 8BITMIME\n"
ASCII_HEADER = b"Subject: x\r\n\r\n"


def outcomes(
    *recipients: str, sender: str = "a@a.example", content: bytes = ASCII_HEADER, **asked: None
) -> list[object]:
    """Return the dispositions at a peer without SMTPUTF8 that accepts everything."""
    session = opened(SEVEN)
    sent = transaction(*recipients, sender=sender, content=content, **asked)
    session.begin(sent)
    if session.state is ClientState.READY:
        return [outcome and outcome.disposition for outcome in sent.outcomes]
    commands = session.output()
    assert commands.isascii()
    assert b"SMTPUTF8" not in commands
    session.receive(b"250 ok\r\n" * (commands.count(b"\r\n") - 1) + b"354 go\r\n")
    session.receive(b"250 taken\r\n")
    return [outcome and outcome.disposition for outcome in sent.outcomes]


def test_f42_a_domain_is_sent_as_a_labels_to_a_hop_without_smtputf8() -> None:  # RFC 6531 §3.2
    session = opened(SEVEN)
    session.begin(transaction("info@bücher.example", sender="i@Straße.example"))
    assert session.output().startswith(
        b"MAIL FROM:<i@xn--strae-oqa.example>\r\nRCPT TO:<info@xn--bcher-kva.example>\r\n"
    )
    session = opened(EVERYTHING)
    session.begin(transaction("info@bücher.example"))
    assert "RCPT TO:<info@bücher.example>\r\n".encode() in session.output()


def test_f27_an_underscore_in_one_label_does_not_concern_another() -> None:
    session = opened(SEVEN)
    session.begin(transaction("info@b_c.bücher.example", sender="i..@b_c.example"))
    assert session.output().startswith(b'MAIL FROM:<"i.."@b_c.example>\r\nRCPT TO:<info@b_c.xn--bcher-kva.example>\r\n')


def test_f42_one_address_that_needs_smtputf8_costs_the_others_nothing() -> None:
    assert outcomes("b@b.example", "jürgen@b.example", "info@bücher.example") == [D, F, D]


def test_f42_a_domain_without_an_ascii_form_is_refused_alone() -> None:
    assert outcomes("x@☃☃.example", "b@b.example") == [F, D]
    assert outcomes("b@b.example", sender="x@☃☃.example") == [F]


def test_f42_a_sender_that_needs_smtputf8_decides_for_all() -> None:
    assert outcomes("b@b.example", "c@c.example", sender="jürgen@a.example") == [F, F]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ASCII_HEADER + "Grüße".encode(), D),
        ("Subject: Grüße\r\n\r\nhi".encode(), F),
        ("Subject: x\n\nGrüße".encode(), D),
        ("\r\nGrüße".encode(), D),
        ("Subject: Grüße".encode(), F),
    ],
)
def test_f42_content_with_an_ascii_header_section_needs_no_smtputf8(content: bytes, expected: Disposition) -> None:
    assert outcomes("b@b.example", content=content, SMTPUTF8=None) == [expected]


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\r\r", b"\n\r\n"])
def test_f42_the_header_section_ends_at_the_first_empty_line(end: bytes) -> None:
    assert header_is_ascii(b"A: b\r\nC: d" + end + b"\xc3\xa9") is True
    assert header_is_ascii(b"A: \xc3\xa9" + end) is False
    assert header_is_ascii(b"A: b\r\nC: \xc3\xa9\r\n", whole=False) is None


def test_f42_streamed_content_is_assumed_to_need_smtputf8() -> None:
    session = opened(SEVEN)
    sent = transaction(content=None, SMTPUTF8=None)
    session.begin(sent)
    assert sent.outcomes[0] is not None
    assert sent.outcomes[0].disposition is F


@pytest.mark.parametrize("name", ["bücher.example", "BÜCHER.example", "bu\u0308cher.example"])
def test_f42_a_labels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert a_labels(name) == "xn--bcher-kva.example"
    assert a_labels("straße.example") == "xn--strae-oqa.example"
    monkeypatch.setitem(sys.modules, "idna", None)
    assert a_labels(name) == "xn--bcher-kva.example"
    with pytest.raises(ValueError, match="package idna"):
        a_labels("straße.example")
    with pytest.raises(ValueError):
        Address.parse("jürgen@a.example").in_ascii()
