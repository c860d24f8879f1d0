"""The Received field (RFC 5321 §4.4, RFC 6531 §3.7.3): what it says, and that no client can make it say more."""

from __future__ import annotations

import re
import ssl
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message.header import HeaderError
from ironpost.message.received import cipher, received
from ironpost.model import Address, Origin

NOW = 880127706.25
DATE = "Fri, 21 Nov 1997 15:55:06 +0000"


def field(
    ip: str = "192.0.2.1", helo: str = "client.example", recipient: str | None = None, *, utf8: bool = False
) -> str:
    address = None if recipient is None else Address.parse(recipient)
    octets = received(
        Origin(ip, helo, "UTF8SMTP" if utf8 else "ESMTP"),
        by="mx.example",
        id="Q1",
        now=NOW,
        recipient=address,
        utf8=utf8,
    )
    assert octets.endswith(b"\r\n")
    assert all(len(line) <= 78 for line in octets.split(b"\r\n"))
    return octets.decode().replace("\r\n ", " ").removesuffix("\r\n")


def test_it_names_the_client_us_the_protocol_and_the_time() -> None:
    assert field() == f"Received: from client.example ([192.0.2.1]) by mx.example with ESMTP id Q1; {DATE}"


def test_it_names_the_recipient_if_given() -> None:
    assert field(recipient="jo@example.org").endswith(f" id Q1 for <jo@example.org>; {DATE}")
    # RFC 5321 §4.4: For = Path / Mailbox, and <postmaster> is neither.
    assert field(recipient="postmaster").endswith(f" id Q1; {DATE}")


def test_it_names_the_cipher_suite_by_its_registered_name() -> None:
    origin = Origin("192.0.2.1", "client.example", "ESMTPS", cipher("ECDHE-RSA-AES256-GCM-SHA384"))
    for recipient in (None, Address.parse("a.recipient.with.a.long.name@example.org")):
        octets = received(origin, by="mx.example", id="Q1", now=NOW, recipient=recipient)
        # RFC 8314 §4.3: the clause comes last, before the date.
        assert octets.endswith(b"\r\n tls TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384;\r\n %b\r\n" % DATE.encode())
        assert all(len(line) <= 78 for line in octets.split(b"\r\n"))


def test_it_names_a_priority_that_is_not_0() -> None:  # RFC 6710 §4.1, §7
    origin = Origin("192.0.2.1", "client.example", "ESMTPSA", "TLS_AES_128_GCM_SHA256")
    for priority, clause in ((5, b"\r\n PRIORITY 5"), (-9, b"\r\n PRIORITY -9"), (0, b"")):
        octets = received(origin, by="mx.example", id="Q1", now=NOW, priority=priority)
        assert octets.endswith(b" id Q1%b\r\n tls TLS_AES_128_GCM_SHA256;\r\n %b\r\n" % (clause, DATE.encode()))


def test_every_cipher_that_python_offers_has_its_registered_name() -> None:
    offered = [each["name"] for each in ssl.create_default_context().get_ciphers()]
    assert [name for name in offered if not re.fullmatch(r"TLS_[A-Z0-9_]+", cipher(name))] == []
    assert cipher("TLS_AES_256_GCM_SHA384") == "TLS_AES_256_GCM_SHA384"
    assert cipher("NULL-MD5") == cipher("") == ""


@pytest.mark.parametrize("hostile", ["TLS_A; x", "TLS_A\r\nX: y", "TLS_(", "TLS_A for <a@b>", "TLS_" + "A" * 200])
def test_r43_an_invalid_cipher_name_is_left_out_or_refused(hostile: str) -> None:
    assert cipher(hostile) == ""
    with pytest.raises(HeaderError):
        received(Origin("192.0.2.1", "a.example", "ESMTPS", hostile), by="mx.example", id="Q1", now=NOW)


@pytest.mark.parametrize(
    ("ip", "clause"),
    [
        ("192.0.2.1", "from client.example ([192.0.2.1]) by "),
        ("::ffff:192.0.2.1", "from client.example ([192.0.2.1]) by "),
        ("fe80::1%eth0", "from client.example ([IPv6:fe80::1]) by "),
        ("[192.0.2.1]) by evil (", "from client.example by "),
    ],
)
def test_the_address_of_the_client_is_a_literal(ip: str, clause: str) -> None:
    assert f" {clause}" in field(ip=ip)


def test_the_clients_name_may_be_a_literal() -> None:
    assert " from [IPv6:2001:db8::2] ([192.0.2.1]) by " in field(helo="[IPv6:2001:db8::2]")


def test_a_client_without_an_address_is_named_alone() -> None:
    assert field(ip="").startswith("Received: from client.example by mx.example ")


def test_a_message_made_here_has_no_from_clause() -> None:
    assert field(ip="", helo="").startswith("Received: by mx.example with ")


def test_r43_an_invalid_helo_name_is_put_into_a_comment() -> None:
    text = field(helo="x) by bad.example (y")
    assert text.startswith(r"Received: from [192.0.2.1] ([192.0.2.1]) (helo=x\) by bad.example \(y) by mx.example with")


def test_r48_a_forged_clause_or_field_cannot_be_said() -> None:
    for helo in ("a;b", "a\r\nReceived: by x", "a by b with c", "a_b", "a..b", "-a", "[1.2.3.4] (x)", "(", "\\", "é"):
        text = field(helo=helo)
        assert text.startswith("Received: from [192.0.2.1] ([192.0.2.1]) (helo="), helo
        assert len(message_from_bytes(text.encode() + b"\r\n\r\n", policy=policy.compat32).keys()) == 1
        assert _without_comments(text) == f"Received: from [192.0.2.1]   by mx.example with ESMTP id Q1; {DATE}"


@settings(deadline=None)
@given(st.text(max_size=120), st.booleans())
def test_r43_whatever_the_client_calls_itself_the_clauses_are_ours(helo: str, utf8: bool) -> None:
    octets = received(Origin("192.0.2.1", helo, "ESMTP"), by="mx.example", id="Q1", now=NOW, utf8=utf8)
    assert octets.count(b"\n") == octets.count(b"\r\n") == 1 + octets.count(b"\r\n ")
    text = _without_comments(octets.decode().replace("\r\n ", " "))
    match = re.fullmatch(r"Received: from (\S+) +by mx\.example with ESMTP id Q1; (.*)\r\n", text)
    assert match is not None
    assert parsedate_to_datetime(match[2]).timestamp() == NOW // 1
    assert match[1] in {helo, "[192.0.2.1]"}


def _without_comments(text: str) -> str:
    """A reader of RFC 5322 §3.2.2 comments, written for this test alone."""
    out, depth, at = "", 0, 0
    while at < len(text):
        c = text[at]
        if depth and c == "\\":
            at += 2
            continue
        if c == "(":
            depth += 1
        elif c == ")" and depth:
            depth -= 1
        elif not depth:
            out += c
        at += 1
    assert depth == 0
    return out


def test_utf8_stands_only_under_smtputf8() -> None:
    text = field(helo="münchen.example", recipient="jö@münchen.example", utf8=True)
    assert text.startswith("Received: from münchen.example ([192.0.2.1]) by mx.example with UTF8SMTP id Q1 for ")
    assert " for <jö@münchen.example>; " in text
    plain = field(helo="münchen.example", recipient="jö@münchen.example")
    assert plain.isascii()
    assert " for " not in plain


def test_a_quoted_recipient_is_one_token() -> None:
    assert ' for <"a b; c"@example.org>; ' in field(recipient='"a b; c"@example.org')


@pytest.mark.parametrize(("by", "id"), [("mx example", "Q"), ("", "Q"), ("mx.example", "Q 1"), ("mx.example", "Q;")])
def test_our_own_names_are_checked_too(by: str, id: str) -> None:  # noqa: A002
    with pytest.raises(HeaderError):
        received(Origin("192.0.2.1", "a"), by=by, id=id, now=NOW)
