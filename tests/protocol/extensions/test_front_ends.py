"""XCLIENT and XFORWARD: permitted clients, attributes, and their effect on the session."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, say, settle

from ironpost.protocol import replies
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions.xforward import ForwardedOrigin
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo

SETTINGS = ServerSettings("mx.example", front_ends=(ip_network("192.0.2.0/28"), ip_network("2001:db8::/64")))
FRONT, STRANGER = Peer("192.0.2.5", 40000, "192.0.2.1", 25), Peer("198.51.100.7", 40000)
XCLIENT = b"XCLIENT ADDR=203.0.113.9 PORT=1234 NAME=client.example HELO=hello.example PROTO=ESMTP\r\n"


class Watch(Open):
    def __init__(self) -> None:
        super().__init__()
        self.connected: list[Peer] = []

    def connect(self, session):
        self.connected.append(session.peer)
        return replies.NOT_TAKEN if session.peer.ip == "203.0.113.66" else None


def opened(peer=FRONT, settings=SETTINGS, handler=None, hello=b"EHLO front.example\r\n"):
    session = ServerSession(handler or Watch(), settings, peer)
    settle(session, session.start())
    session.output()
    return session, say(session, hello)


def test_xclient_resets_the_session_for_another_client() -> None:
    session, hello = opened()
    assert b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n" in hello
    assert say(session, XCLIENT) == b"220 mx.example ESMTP ironpost\r\n"
    assert session.peer == Peer("203.0.113.9", 1234, "192.0.2.1", 25, "client.example", "192.0.2.5")
    assert session.handler.connected[-1] == session.peer
    assert session.helo == "hello.example"
    assert codes(say(session, b"MAIL FROM:<a@b.example>\r\n")) == [b"503"]  # EHLO must be sent again
    say(session, b"EHLO client.example\r\n")
    assert codes(say(session, ENVELOPE)) == [b"250"] * 2
    # The front end's address is trusted, not that of its client.
    assert codes(say(session, b"RSET\r\nXCLIENT ADDR=IPV6:2001:DB8::9\r\n")) == [b"250", b"220"]
    assert session.peer == Peer("2001:db8::9", 1234, "192.0.2.1", 25, "", "192.0.2.5")


def test_commands_after_xclient_belong_to_the_new_session() -> None:
    session, _ = opened()
    written = codes(say(session, XCLIENT + b"NOOP\r\nMAIL FROM:<a@b.example>\r\nQUIT\r\n"))
    assert written == [b"220", b"250", b"503", b"221"]


def test_r14_xclient_is_refused_from_unlisted_addresses() -> None:
    for peer in (STRANGER, Peer(), Peer("2001:db8:0:1::1")):
        session, hello = opened(peer)
        assert b"XCLIENT" not in hello
        assert b"XFORWARD" not in hello
        said = say(session, XCLIENT + b"XCLIENT ADDR=192.0.2.5\r\nXFORWARD ADDR=192.0.2.5\r\n")
        assert said == b"550 5.7.1 Insufficient authorization\r\n" * 3
        assert session.peer == peer
    session, hello = opened(settings=ServerSettings())
    assert codes(say(session, XCLIENT)) == [b"502"]


def test_r14_xclient_resets_the_session() -> None:
    session, _ = opened()
    session.identity = Identity("jo", "PLAIN")
    assert codes(say(session, b"XFORWARD NAME=x.example\r\n" + XCLIENT)) == [b"250", b"220"]
    assert (session.identity, session.transaction, session.esmtp) == (None, None, False)
    assert session.state_of(ForwardedOrigin).attributes == {}
    assert codes(say(session, b"MAIL FROM:<a@b.example>\r\n")) == [b"503"]


def test_r14_a_login_named_by_the_front_end_does_not_pass_to_the_next_client() -> None:
    session, _ = opened(settings=ServerSettings(front_ends=SETTINGS.front_ends, dialect=SUBMISSION))
    assert codes(say(session, b"XCLIENT ADDR=203.0.113.9 LOGIN=jo+40b.example\r\nEHLO c.example\r\n"))[0] == b"220"
    assert session.identity == Identity("jo@b.example", "XCLIENT")
    assert codes(say(session, ENVELOPE + b"RSET\r\n")) == [b"250"] * 3
    say(session, b"XCLIENT ADDR=203.0.113.10\r\nEHLO c.example\r\n")
    assert session.identity is None
    assert codes(say(session, ENVELOPE)) == [b"530"] * 2
    say(session, b"XCLIENT LOGIN=[UNAVAILABLE]\r\nEHLO c.example\r\n")
    assert session.identity is None


def test_a_client_that_is_refused_gets_no_session() -> None:
    session, _ = opened()
    said = say(session, b"XCLIENT ADDR=203.0.113.66\r\nEHLO x.example\r\nXCLIENT ADDR=192.0.2.1\r\nQUIT\r\n")
    assert codes(said) == [b"554", b"503", b"503", b"221"]
    assert session.closing


def test_an_unknown_address_is_not_trusted() -> None:
    session, _ = opened()
    assert codes(say(session, b"XCLIENT ADDR=[UNAVAILABLE] PORT=[unavailable] NAME=[TEMPUNAVAIL]\r\n")) == [b"220"]
    assert (session.peer.ip, session.peer.port, session.peer.name) == ("0.0.0.0", 0, "")


def test_both_are_refused_inside_a_transaction() -> None:
    session, _ = opened()
    assert codes(say(session, ENVELOPE + XCLIENT + b"XFORWARD NAME=x.example\r\n")) == [b"250", b"250", b"503", b"503"]
    assert session.peer == FRONT
    assert codes(say(session, b"BDAT 1\r\nx" + XCLIENT + b"RCPT TO:<c@d.example>\r\n")) == [b"250", b"503", b"503"]
    say(session, ENVELOPE)
    assert codes(say(session, b"BDAT 1\r\nxXFORWARD ADDR=203.0.113.9\r\nBDAT 1 LAST\r\nx")) == [b"250", b"503", b"503"]


BAD = [
    *(
        b"",
        b"ADDR",
        b"ADDR=",
        b"ADDR=203.0.113",
        b"ADDR=2001:db8::1",
        b"ADDR=IPV6:203.0.113.9",
        b"ADDR=IPV6:fe80::1%25",
    ),
    *(b"ADDR=203.0.113.9 ADDR=203.0.113.9", b"COLOUR=blue", b"ADDR=203.0.113.9  PORT=1", b"PORT=-1", b"PORT=65536"),
    *(b"PORT=1e3", b"PORT=123456", b"PROTO=LMTP", b"NAME=a+20b", b"NAME=" + b"a" * 256, b"HELO=a+0D+0Ab", b"HELO=a+00"),
    *(b"LOGIN=+C3", b"LOGIN=a+0Ab", b"LOGIN=+e3", b"NAME=a;b", b"DESTPORT=x", b"DESTADDR=x", b"=x", b"\xff=x"),
]


@pytest.mark.parametrize("argument", BAD)
def test_malformed_attributes_are_501_and_change_nothing(argument) -> None:
    session, _ = opened()
    assert codes(say(session, b"XCLIENT " + argument + b"\r\n")) == [b"501"]
    assert session.peer == FRONT
    assert session.esmtp
    if not argument.startswith((b"HELO", b"LOGIN")):  # HELO may be any text there, and a login may be missing
        assert codes(say(session, b"XFORWARD " + argument + b"\r\n")) == [b"501"]
        assert session.state_of(ForwardedOrigin).attributes == {}
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_xforward_applies_to_one_transaction() -> None:
    session, hello = opened()
    assert b"250-XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE\r\n" in hello
    first = b"XFORWARD NAME=spike.example ADDR=203.0.113.9 PORT=[UNAVAILABLE]\r\n"
    assert (
        codes(say(session, first + b"XFORWARD PROTO=esmtp HELO=two+20words IDENT=4F2 SOURCE=remote\r\n"))
        == [b"250"] * 2
    )
    known = {"NAME": "spike.example", "ADDR": "203.0.113.9", "PORT": "", "PROTO": "ESMTP", "HELO": "two words"}
    assert session.state_of(ForwardedOrigin).attributes == known | {"IDENT": "4F2", "SOURCE": "REMOTE"}
    assert session.peer == FRONT
    say(session, ENVELOPE + b"DATA\r\n")
    assert session.state_of(ForwardedOrigin).attributes["IDENT"] == "4F2"
    say(session, b"x\r\n.\r\n")
    assert session.state_of(ForwardedOrigin).attributes == {}
    say(session, first + b"RSET\r\n")
    assert session.state_of(ForwardedOrigin).attributes == {}


def test_r14_the_certificate_of_a_front_end_is_not_its_clients() -> None:
    class Users:
        mechanisms = ("EXTERNAL",)

        def external(self, session, authzid):
            return session.tls.names[0] if session.tls.names else None

    tls = TlsInfo("TLSv1.3", subject="CN=front", names=("front.example",))
    session = ServerSession(Watch(), replace(SETTINGS, authenticator=Users()), FRONT, tls=tls)
    settle(session, session.start())
    assert b"AUTH EXTERNAL" in say(session, b"EHLO front.example\r\n")
    assert b"AUTH" not in say(session, XCLIENT + b"EHLO client.example\r\n")
    assert codes(say(session, b"AUTH EXTERNAL =\r\n"))[0] in {b"502", b"504"}
    assert session.identity is None
