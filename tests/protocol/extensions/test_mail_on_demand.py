"""ETRN (RFC 1985) and ATRN (RFC 2645) in the session; TURN, EXPN."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, greeted, say

from ironpost.model.verdict import accept, defer, reject, tarpit
from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP, SUBMISSION, Dialect
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import HandOver, Identity
from ironpost.server import BaseHandler

SETTINGS = ServerSettings("mx.example", claims=frozenset({"ETRN", "ATRN", "EXPN"}))
JO = Identity("jo", "PLAIN")
TURN = HandOver(object)


class OnDemand(Open):
    def __init__(self, answer=None, turned: object = TURN) -> None:
        super().__init__()
        self.answer, self.turned = answer, turned
        self.asked: list[object] = []

    def etrn(self, session, argument):
        self.asked.append(argument)
        return self.answer

    def turn(self, session, domains):
        self.asked.append(domains)
        return self.turned

    def expand(self, session, argument):
        self.asked.append(argument)
        return self.answer


def test_an_unclaimed_extension_is_not_offered() -> None:
    session = greeted(OnDemand(), hello=b"")
    hello = say(session, b"EHLO c.example\r\n")
    assert not any(word in hello for word in (b"ETRN", b"ATRN", b"EXPN"))
    session.identity = JO
    assert codes(say(session, b"ETRN b.example\r\nATRN\r\nEXPN staff\r\n")) == [b"502"] * 3
    hello = say(greeted(OnDemand(), SETTINGS, hello=b""), b"EHLO c.example\r\n")
    assert all(b"\r\n250" + line in hello for line in (b"-ETRN\r\n", b"-ATRN\r\n", b"-EXPN\r\n"))


@pytest.mark.parametrize(("dialect", "hello"), [(SUBMISSION, b"EHLO c.example\r\n"), (LMTP, b"LHLO c.example\r\n")])
def test_mail_on_demand_is_not_offered_on_submission(dialect: Dialect, hello: bytes) -> None:  # RFC 6409 §7
    session = greeted(OnDemand(), replace(SETTINGS, dialect=dialect), hello=b"")
    said = say(session, hello)
    assert b"ETRN" not in said
    assert b"ATRN" not in said
    session.identity = JO
    assert codes(say(session, b"ETRN b.example\r\nATRN\r\n")) == [b"502"] * 2


def test_the_hook_claims_the_extension() -> None:
    class Lists(BaseHandler):
        def expand(self, session, argument):
            return None

    plain, lists = BaseHandler(), Lists()
    lists.claims = frozenset({"ATRN"})  # without the hook
    assert SETTINGS.serving(plain).claims == frozenset()
    assert ServerSettings().serving(lists).claims == {"EXPN"}
    session = greeted(plain, SETTINGS.serving(plain))
    session.identity = JO
    assert codes(say(session, b"ETRN b.example\r\nATRN b.example\r\nEXPN list\r\n")) == [b"502"] * 3


# ---------------------------------------------------------------------------------------------------------------------
# ETRN


@pytest.mark.parametrize(
    ("answer", "expected"),  # RFC 1985 §5.1
    [
        (None, b"250 2.0.0"),
        (replies.NOTHING_WAITS, b"251 2.0.0"),
        (replies.waiting(7), b"253 2.0.0 7 pending"),
        (replies.NODE_FAILED, b"458 4.3.0"),
        (replies.NODE_NOT_ALLOWED, b"459 4.7.1"),
    ],
)
def test_the_handler_decides_the_reply_to_etrn(answer, expected) -> None:
    session = greeted(OnDemand(answer), SETTINGS)
    assert say(session, b"ETRN Mail.B.example\r\n").startswith(expected)
    assert session.handler.asked == ["mail.b.example"]


def test_etrn_options() -> None:  # RFC 1985 §5.3
    session = greeted(OnDemand(), SETTINGS)
    assert codes(say(session, b"ETRN @b.example\r\netrn #Uucp_1\r\n")) == [b"250"] * 2
    assert session.handler.asked == ["@b.example", "#uucp_1"]


def test_f27_a_customers_domain_may_have_underscores() -> None:
    session = greeted(OnDemand(), SETTINGS)
    assert codes(say(session, b"ETRN Some_Host.example\r\nETRN @_b.example\r\nETRN -_.example\r\n")) == [
        *(b"250", b"250", b"501")
    ]
    assert session.handler.asked == ["some_host.example", "@_b.example"]


def test_etrn_is_legal_between_transactions() -> None:  # RFC 1985 §5
    session = greeted(OnDemand(), SETTINGS)
    assert codes(say(session, ENVELOPE + b"ETRN b.example\r\nBDAT 1\r\nxETRN b.example\r\nRSET\r\n")) == [
        *(b"250", b"250", b"503", b"250", b"503", b"250")
    ]
    for hello in (b"", b"HELO c.example\r\n"):
        assert codes(say(greeted(OnDemand(), SETTINGS, hello=hello), b"ETRN b.example\r\n")) == [b"503"]
    assert session.handler.asked == []


@pytest.mark.parametrize("verb", [b"ETRN ", b"ETRN @", b"ETRN #", b"ATRN ", b"ATRN b.example,"])
@pytest.mark.parametrize(
    "argument",
    [
        *(
            b"'\";--\0",
            b"b.example';--",
            b"b.example;reboot",
            b"$(reboot).example",
            b"`reboot`",
            b"--help",
            b"-b.example",
        ),
        *(
            b"b.example|x",
            b"b.example x",
            b"../b.example",
            b"b..example",
            b"b.example.",
            b"%",
            b"*",
            b"\xc3\xa9.example",
        ),
        *(
            b"a" * 64 + b".example",
            b"a." * 130 + b"b",
            b"[192.0.2.1]",
            b"b.example,",
            b"@@b.example",
            b"##b",
            b" b.example",
        ),
    ],
)
def test_r41_an_invalid_name_does_not_reach_the_handler(verb, argument) -> None:
    session = greeted(OnDemand(), SETTINGS)
    session.identity = JO
    written = codes(say(session, verb + argument + b"\r\n"))
    assert all(set(asked) <= set("@#abcdefghijklmnopqrstuvwxyz0123456789.-_") for asked in session.handler.asked)
    assert written[0] in ({b"250"} if session.handler.asked else {b"500", b"501"})
    assert session.want is None
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_etrn_requires_a_node() -> None:
    assert codes(say(greeted(OnDemand(), SETTINGS), b"ETRN\r\nETRN @\r\nETRN #\r\nETRN localhost\r\n")) == [b"501"] * 4


# ---------------------------------------------------------------------------------------------------------------------
# ATRN


@pytest.mark.parametrize(
    ("argument", "domains"),
    [
        (b"", ()),
        (b" Example.org,example.com", ("example.org", "example.com")),
        (b" b.example,B.example", ("b.example",)),
    ],
)
def test_atrn_reverses_the_connection(argument, domains) -> None:
    session = greeted(OnDemand(), SETTINGS)
    session.identity = JO
    assert say(session, b"ATRN" + argument + b"\r\n") == b"250 2.0.0 OK, now reversing the connection\r\n"
    assert session.handler.asked == [domains]
    assert session.want is TURN
    assert not session.closing


def test_the_hook_chooses_the_reply_before_the_hand_over() -> None:
    chosen = HandOver(object, replies.reply(250, "0.0", "Reversing for jo"))
    session = greeted(OnDemand(turned=chosen), SETTINGS)
    session.identity = JO
    assert say(session, b"ATRN\r\n") == b"250 2.0.0 Reversing for jo\r\n"
    assert session.want is chosen


def test_a_hand_over_needs_a_positive_reply() -> None:
    with pytest.raises(ValueError, match="positive"):
        HandOver(object, replies.TURN_REFUSED)


def test_atrn_before_auth_is_530() -> None:  # RFC 2645 §5.2.1
    session = greeted(OnDemand(), SETTINGS)
    assert say(session, b"ATRN b.example\r\n") == b"530 5.7.0 Authentication required\r\n"
    assert (session.handler.asked, session.want) == ([], None)


@pytest.mark.parametrize(
    ("refusal", "expected"),  # RFC 2645 §7
    [
        (replies.TURN_REFUSED, b"450"),
        (replies.CANNOT_TURN, b"451"),
        (replies.NO_MAIL, b"453"),
        (reject("Not today"), b"550"),
        (tarpit(0.001, defer("Not now")), b"451"),
    ],
)
def test_the_session_continues_after_atrn_was_refused(refusal, expected) -> None:
    session = greeted(OnDemand(turned=refusal), SETTINGS)
    session.identity = JO
    assert codes(say(session, b"ATRN\r\n")) == [expected]
    assert session.want is None
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


@pytest.mark.parametrize("result", [None, replies.REVERSING, accept(), object()])
def test_a_turn_hook_that_neither_hands_over_nor_refuses_is_451(result) -> None:
    session = greeted(OnDemand(turned=result), SETTINGS)
    session.identity = JO
    assert codes(say(session, b"ATRN\r\n", b"NOOP\r\n")) == [b"451", b"250"]
    assert (session.want, session.failures) == (None, 1)


def test_atrn_is_legal_between_transactions() -> None:
    session = greeted(OnDemand(), SETTINGS)
    session.identity = JO
    assert codes(say(session, ENVELOPE + b"ATRN\r\n", b"BDAT 1\r\nxATRN\r\n")) == [
        b"250",
        b"250",
        b"503",
        b"250",
        b"503",
    ]
    assert session.want is None


def test_r9_octets_after_atrn_are_not_a_greeting() -> None:
    session = greeted(OnDemand(), SETTINGS)
    session.identity = JO
    assert say(session, b"ATRN\r\n220 evil.example\r\n") == b""
    assert session.closing
    assert session.handler.asked == []


def test_r9_octets_during_a_pending_atrn_close() -> None:
    class Slow(OnDemand):
        async def turn(self, session, domains):
            await asyncio.sleep(0)
            session.receive(b"220 evil.example\r\n")
            return super().turn(session, domains)

    session = greeted(Slow(), SETTINGS)
    session.identity = JO
    assert say(session, b"ATRN\r\n") == b""
    assert session.closing
    assert session.want is None


# ---------------------------------------------------------------------------------------------------------------------
# The rest


def test_the_handler_decides_the_reply_to_expn() -> None:  # RFC 5321 §3.5.2
    session = greeted(OnDemand(replies.reply(250, "1.5", "<a@b.example>", "<c@d.example>")), SETTINGS)
    assert say(session, b"EXPN staff SMTPUTF8\r\n") == b"250-2.1.5 <a@b.example>\r\n250 2.1.5 <c@d.example>\r\n"
    assert session.handler.asked == ["staff"]
    assert codes(say(greeted(OnDemand(), SETTINGS), b"EXPN staff\r\nEXPN\r\n")) == [b"252", b"501"]


def test_turn_send_soml_and_saml_are_refused_with_their_reason() -> None:  # RFC 5321 appendices F.1 and F.6
    session = ServerSession(Open(), SETTINGS)
    session.start()
    session.output()
    for hello in (b"", b"EHLO c.example\r\n"):
        say(session, hello)
        session.identity = JO
        said = say(
            session, b"TURN\r\nSEND FROM:<a@b.example>\r\nSOML FROM:<a@b.example>\r\nSAML FROM:<a@b.example>\r\n"
        )
        lines = said.splitlines()
        assert lines[0] == b"502 5.5.1 TURN is insecure and not implemented, use ATRN (RFC 2645)"
        assert lines[1:] == [b"502 5.5.1 Command is obsolete and not implemented, use MAIL"] * 3
