"""The dialects: greetings, requirements, and the replies of LMTP (RFC 2033)."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.protocol.test_server_session import Open, codes, say, settle

from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.replies import NOT_ACCEPTED_HERE, NOT_TAKEN
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, TlsInfo
from ironpost.server import BaseHandler

TWO = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<e@f.example>\r\n"


class Mailboxes(Open):
    """A handler that returns a given result."""

    def __init__(self, answer=None) -> None:
        super().__init__()
        self.answer = answer

    def message(self, session, content, facts):
        super().message(session, content, facts)
        return self.answer


def opened(handler, settings, hello, tls=None):
    session = ServerSession(handler, settings, tls=tls)
    settle(session, session.start())
    greeting = session.output()
    return session, greeting, say(session, hello)


def lmtp(handler=None, **settings):
    return opened(
        handler or Mailboxes(), ServerSettings("mx.example", dialect=LMTP, **settings), b"LHLO c.example\r\n"
    )[0]


@pytest.mark.parametrize(
    ("dialect", "arguments", "expected"),
    # RFC 3848 and RFC 6531 §4.3 register these.
    [
        (SMTP, {"extended": False}, "SMTP"),
        (SMTP, {"extended": True}, "ESMTP"),
        (SMTP, {"extended": True, "secure": True}, "ESMTPS"),
        (SMTP, {"extended": True, "authenticated": True}, "ESMTPA"),
        (SUBMISSION, {"extended": True, "secure": True, "authenticated": True}, "ESMTPSA"),
        (SMTP, {"extended": True, "utf8": True}, "UTF8SMTP"),
        (SMTP, {"extended": True, "utf8": True, "secure": True, "authenticated": True}, "UTF8SMTPSA"),
        (LMTP, {"extended": True}, "LMTP"),
        (LMTP, {"extended": True, "secure": True, "authenticated": True}, "LMTPSA"),
        (LMTP, {"extended": True, "utf8": True, "authenticated": True}, "UTF8LMTPA"),
    ],
)
def test_the_protocol_keyword(dialect, arguments, expected) -> None:
    assert dialect.with_keyword(**arguments) == expected


# ---------------------------------------------------------------------------------------------------------------------
# LMTP


def test_lmtp_is_named_in_the_greeting_and_accepts_lhlo_only() -> None:
    session, greeting, hello = opened(Open(), ServerSettings("mx.example", dialect=LMTP), b"LHLO c.example\r\n")
    assert greeting == b"220 mx.example LMTP ironpost\r\n"
    # RFC 2033 §5 demands these two.
    assert b"250-PIPELINING\r\n" in hello
    assert b"250-ENHANCEDSTATUSCODES\r\n" in hello
    assert session.protocol == "LMTP"
    assert codes(say(session, b"EHLO c.example\r\nHELO c.example\r\n")) == [b"500", b"500"]  # RFC 2033 §4.1
    assert codes(say(opened(Open(), ServerSettings(), b"EHLO c.example\r\n")[0], b"LHLO c.example\r\n")) == [b"502"]


@pytest.mark.parametrize("how", ["data", "bdat", "chunks"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (None, [b"250", b"250"]),
        (NOT_TAKEN, [b"554", b"554"]),
        ([None, NOT_ACCEPTED_HERE], [b"250", b"550"]),
        ((NOT_ACCEPTED_HERE, None), [b"550", b"250"]),
        ([None], [b"451", b"451"]),
        ([None, 7], [b"451", b"451"]),
        ("abc", [b"451", b"451"]),
    ],
)
def test_lmtp_replies_for_each_recipient(how, answer, expected) -> None:
    handler = Mailboxes(answer)
    session = lmtp(handler)
    say(session, TWO)
    if how == "data":
        assert codes(say(session, b"DATA\r\n")) == [b"354"]
        written = say(session, b"x\r\n.\r\n")
    elif how == "bdat":
        written = say(session, b"BDAT 3 LAST\r\nx\r\n")
    else:
        assert codes(say(session, b"BDAT 1\r\nx")) == [b"250"]  # RFC 2033 §4.3: one reply but for the last
        written = say(session, b"BDAT 2 LAST\r\n\r\n")
    assert codes(written) == expected
    assert handler.messages == [b"x\r\n"]
    assert session.messages == (b"250" in expected)
    assert session.errors == (b"250" not in expected and expected[0][:1] == b"5")
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_lmtp_results_may_be_awaitable() -> None:
    class Later(Mailboxes):
        async def message(self, session, content, facts):
            await asyncio.sleep(0)
            return [None, NOT_ACCEPTED_HERE]

    assert codes(say(lmtp(Later()), TWO + b"DATA\r\n", b"x\r\n.\r\nNOOP\r\n")) == [
        *(b"250", b"250", b"250", b"354"),
        *(b"250", b"550", b"250"),
    ]


def test_lmtp_refuses_content_for_each_recipient() -> None:
    session = lmtp(max_size=65536)
    say(session, TWO + b"DATA\r\n")
    assert codes(say(session, b"x" * 70000 + b"\r\n.\r\nNOOP\r\n")) == [b"552", b"552", b"250"]
    say(session, TWO)
    assert codes(say(session, b"BDAT 2 LAST\r\n\0\0NOOP\r\n")) == [b"550", b"550", b"250"]


def test_lmtp_refuses_a_chunk_once_and_the_rest_as_out_of_order() -> None:
    session = lmtp()
    say(session, TWO)
    assert codes(say(session, b"BDAT 2\r\n\0\0BDAT 1 LAST\r\nx")) == [b"550", b"503"]


def test_lmtp_data_without_recipients_is_503() -> None:  # RFC 2033 §4.2; RFC 5321 lets SMTP say 554
    session = lmtp(BaseHandler())
    assert codes(say(session, TWO + b"DATA\r\n")) == [b"250", b"550", b"550", b"503"]


def test_lmtp_counts_a_message_refused_for_all_as_one_error() -> None:
    session = lmtp(Mailboxes(NOT_TAKEN), max_errors=2)
    for expected in ([b"554", b"554"], [b"554", b"554", b"421"]):
        say(session, TWO + b"DATA\r\n")
        assert codes(say(session, b"x\r\n.\r\n")) == expected
    assert session.closing


# ---------------------------------------------------------------------------------------------------------------------
# Requirements of a dialect


def test_submission_refuses_commands_before_authentication() -> None:
    session = opened(Open(), ServerSettings(dialect=SUBMISSION), b"EHLO c.example\r\n")[0]
    before = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nVRFY x\r\n"
    assert say(session, before) == b"530 5.7.0 Authentication required\r\n" * 4  # RFC 4954 §6
    assert codes(say(session, b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\nRSET\r\n")) == [b"530", b"250", b"250"]
    assert codes(say(session, b"XYZZY\r\n")) == [b"500"]
    session.identity = Identity("jo", "PLAIN")
    assert session.protocol == "ESMTPA"
    assert codes(say(session, TWO)) == [b"250"] * 3


def test_a_dialect_that_requires_tls_replies_530() -> None:  # RFC 3207 §4
    settings = ServerSettings(dialect=SUBMISSION._replace(encrypt=True))
    session = opened(Open(), settings, b"EHLO c.example\r\n")[0]
    told = say(session, b"MAIL FROM:<a@b.example>\r\nRSET\r\nHELO c.example\r\nNOOP\r\n")
    assert told == b"530 5.7.0 Must issue a STARTTLS command first\r\n" * 3 + b"250 2.0.0 OK\r\n"
    session = opened(Open(), settings, b"EHLO c.example\r\n", tls=TlsInfo("TLSv1.3"))[0]
    assert codes(say(session, b"MAIL FROM:<a@b.example>\r\nRSET\r\n")) == [b"530", b"250"]
    assert codes(say(opened(Open(), replace(settings, dialect=LMTP), b"LHLO c\r\n")[0], TWO)) == [b"250"] * 3


# ---------------------------------------------------------------------------------------------------------------------
# 8-bit content


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [(b"", b"550"), (b" BODY=7BIT", b"550"), (b" BODY=8bitmime", b"250"), (b" SMTPUTF8", b"250")],
)
def test_undeclared_8_bit_content_is_refused_if_configured(parameters, expected) -> None:
    session = opened(Open(), ServerSettings(eight_bit="reject"), b"EHLO c.example\r\n")[0]
    envelope = b"MAIL FROM:<a@b.example>" + parameters + b"\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
    assert codes(say(session, envelope)) == [b"250", b"250", b"354"]
    assert codes(say(session, "é\r\n.\r\n".encode())) == [expected]
