"""Any argument or parameter is parsed or refused, and the session continues (SECURITY R22)."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocol.extensions.parameter_kit import Keeper, settings
from tests.protocol.test_server_session import codes, greeted, say

from ironpost.model import parameters
from ironpost.protocol import replies
from ironpost.protocol.extensions import typed_parameters, wire_parameters, with_options
from ironpost.protocol.extensions.no_soliciting import NoSoliciting
from ironpost.protocol.extensions.xforward import ForwardedOrigin
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo

EVERYTHING = settings(extensions=with_options(NoSoliciting(())))
ALL = [("MAIL", keyword) for keyword in EVERYTHING.mail_parameters] + [
    ("RCPT", keyword) for keyword in EVERYTHING.rcpt_parameters
]
PIECES = [
    *("NEVER", "SUCCESS", "FAILURE,DELAY", "FULL", "HDRS", "rfc822;", "utf-8;", "\\x{20AC}", "+3D", "+", "+0a", "+00"),
    *(
        "120;R",
        "-1;N",
        "999999999;RT",
        ";",
        "2026-11-25T07:10:00Z",
        "2026-02-30T24:61:60+99:99",
        "9999-12-31T23:59:60Z",
    ),
    *(
        "-9",
        "9",
        "10",
        "0",
        "99999999999999999999",
        "8BITMIME",
        "BINARYMIME",
        "<>",
        "a@b.example",
        "org.example:ADV:ADLT",
    ),
    *(",", ":", "C", "R", "\u200b", "\u0660", "\u0131", "\x7f", "__proto__", "'\";--", "%s{0}", "$(x)"),
]
WORDS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=6)), max_size=4).map("".join)
VALUES = WORDS.map(lambda text: text.encode("utf-8", "replace").translate(None, b"\r\n\0 "))


@pytest.mark.parametrize(("verb", "keyword"), ALL, ids=[f"{verb} {keyword}" for verb, keyword in ALL])
@given(value=st.none() | VALUES, utf8=st.booleans())
def test_r22_any_parameter_is_a_value_or_refused(verb, keyword, value, utf8) -> None:
    session = greeted(Keeper(), EVERYTHING, hello=b"")
    session.tls = TlsInfo("TLSv1.3")
    session.identity = Identity("ada", "PLAIN")
    say(session, b"EHLO client.example\r\n")
    said = keyword.encode() + (b"" if value is None else b"=" + value)
    extra = b" SMTPUTF8" if utf8 and keyword != "SMTPUTF8" else b""
    if verb == "MAIL":
        written = say(session, b"MAIL FROM:<a@a.example> " + said + extra + b"\r\n")
    else:
        say(session, b"MAIL FROM:<a@a.example>" + extra + b"\r\n")
        written = say(session, b"RCPT TO:<b@b.example> " + said + b"\r\n")
    assert re.fullmatch(rb"(250|45\d|5\d\d) [245]\.\d\.\d+ [ -~]*\r\n", written), written
    assert session.failures == 0
    assert not session.closing
    if written.startswith(b"250"):
        transaction = session.transaction
        assert transaction is not None
        held = transaction.parameters if verb == "MAIL" else transaction.recipients[0].parameters
        kept = wire_parameters(held)
        assert wire_parameters(typed_parameters(kept)) == kept
        assert all(text is None or not re.search(r"[\r\n\0 ]", text) for text in kept.values())
    assert codes(say(session, b"RSET\r\nNOOP\r\n")) == [b"250", b"250"]


PARSERS: list[Any] = [
    parameters.Notify.parse,
    parameters.Return.parse,
    parameters.EnvelopeId.parse,
    parameters.OriginalRecipient.parse,
    parameters.DeliverBy.parse,
    parameters.HoldUntil.parse,
    parameters.ValidSince.parse,
    parameters.Solicitation.parse,
]


@pytest.mark.parametrize("parse", PARSERS, ids=[parse.__self__.__name__ for parse in PARSERS])
@given(text=WORDS)
def test_r22_any_text_is_a_typed_value_or_a_value_error(parse, text) -> None:
    try:
        value = parse(text)
    except ValueError:
        return
    assert parse(str(value)) == value


FRONT = Peer("192.0.2.9", 25)
FRONTED = settings(front_ends=(ip_network("192.0.2.0/24"),))
ITEMS = [
    *(b"ADDR=203.0.113.9", b"ADDR=IPV6:2001:db8::1", b"ADDR=IPV6:::ffff:1.2.3.4%1", b"ADDR=[UNAVAILABLE]", b"ADDR=1"),
    *(b"NAME=x.example", b"NAME=[TEMPUNAVAIL]", b"HELO=[1]", b"PORT=65536", b"PORT=0", b"PORT=+3A", b"PROTO=ESMTP"),
    *(
        b"LOGIN=ada",
        b"LOGIN=+00",
        b"DESTADDR=::1",
        b"DESTPORT=-1",
        b"IDENT=1",
        b"SOURCE=LOCAL",
        b"=",
        b"ADDR",
        b"+0D+0A",
    ),
]
ATTRIBUTES = st.lists(st.one_of(st.sampled_from(ITEMS), VALUES, VALUES.map(lambda value: b"NAME=" + value)), max_size=4)


@given(verb=st.sampled_from([b"XCLIENT", b"XFORWARD"]), items=ATTRIBUTES)
def test_r22_any_front_end_attribute_is_printable_or_refused(verb, items) -> None:
    session = ServerSession(Keeper(), FRONTED, FRONT)
    session.start()
    session.output()
    say(session, b"EHLO front.example\r\n")
    (code,) = codes(say(session, b" ".join([verb, *items]) + b"\r\n"))
    assert code in {b"220", b"250", b"501", b"500"}
    assert session.failures == 0
    assert not session.closing
    if code in {b"500", b"501"}:
        assert (session.peer, session.state_of(ForwardedOrigin).attributes, session.identity) == (FRONT, {}, None)
    else:
        ip_address(session.peer.ip)
        assert 0 <= session.peer.port < 65536
        known = [session.peer.name, session.helo, *session.state_of(ForwardedOrigin).attributes.values()]
        known += [session.identity.name] if session.identity else []
        assert all(text.isprintable() and len(text) <= 255 for text in known)
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


class Asked(Keeper):
    """Records the domains for which mail is requested."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def etrn(self, session, argument):
        self.words.append(argument)

    def turn(self, session, domains):
        self.words.extend(domains)
        return replies.NO_MAIL


ON_DEMAND = settings(claims=frozenset({"ETRN", "ATRN"}))
NAMES = st.lists(
    st.one_of(
        st.sampled_from([b"b.example", b"@", b"#", b",", b"-", b".", b"_", b"'\";--", b"*", b"[1.2.3.4]"]), VALUES
    ),
    max_size=5,
).map(b"".join)


@given(verb=st.sampled_from([b"ETRN", b"ATRN"]), argument=NAMES)
def test_r22_etrn_and_atrn_pass_only_valid_names_to_the_handler(verb, argument) -> None:
    session = greeted(Asked(), ON_DEMAND)
    session.identity = Identity("ada", "PLAIN")
    (code,) = codes(say(session, verb + b" " + argument + b"\r\n"))
    assert code in {b"250", b"453", b"500", b"501"}
    assert session.failures == 0
    assert all(re.fullmatch(r"[@#]?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?", word) for word in session.handler.words)
    assert not session.closing
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]
