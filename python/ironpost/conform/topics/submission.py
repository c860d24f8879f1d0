"""Message submission (RFC 6409): authentication, and the changes that a server may make to a message."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ironpost.conform.case import SUBMISSION, Level, Start, Topic

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("submission", "Submission", profiles=SUBMISSION)


async def _before_auth(talk: Talk) -> None:
    await talk.hello()
    if talk.target.starttls:
        await talk.start_tls()
        await talk.hello()


@TOPIC.case(
    "rfc6409-4.3-mail-without-auth", Level.SHOULD,
    "MAIL without authentication is refused, unless the client's network is trusted; the code is 530.",
    start=Start.GREETED, wants=("login",),
)  # fmt: skip
async def _without(talk: Talk) -> None:
    await _before_auth(talk)
    await talk.say(b"MAIL FROM:<{from}>\r\n", "530 ~5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc6409-4.3-group-without-auth", Level.SHOULD, "Without authentication, every command of a group is refused.",
    start=Start.GREETED, wants=("login",), needs=("PIPELINING",),
)  # fmt: skip
async def _group(talk: Talk) -> None:
    await _before_auth(talk)
    await talk.send(b"MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nDATA\r\n")
    for specification in ("530 ~5xx", "530 503 ~5xx", "530 503 554 ~5xx"):
        await talk.expect(specification)
    await talk.in_step()


@TOPIC.case(
    "rfc4954-4-other-commands-without-auth", Level.ROBUST, "NOOP, RSET and EHLO work without authentication.",
    start=Start.GREETED,
)  # fmt: skip
async def _others(talk: Talk) -> None:
    await _before_auth(talk)
    await talk.say(b"NOOP\r\n", "250")
    await talk.say(b"RSET\r\n", "250")
    await talk.hello()
    await talk.in_step()


@TOPIC.case("rfc6409-7-auth", Level.MUST, "AUTH is offered, at the latest under TLS.")
async def _auth(talk: Talk) -> None:
    if not talk.survey.before_login.get("AUTH") and "STARTTLS" in talk.survey.before_login:
        talk.skip("STARTTLS is offered and the run does not use it")
    if not talk.survey.before_login.get("AUTH"):
        talk.fail("not offered")


@TOPIC.case("rfc8314-3.3-tls", Level.SHOULD, "TLS is available, implicit or by STARTTLS.")
async def _tls(talk: Talk) -> None:
    if not talk.survey.secure and "STARTTLS" not in talk.survey.unencrypted:
        talk.fail("neither implicit TLS nor STARTTLS")


for _keyword in ("PIPELINING", "ENHANCEDSTATUSCODES", "DSN", "8BITMIME"):

    def _offers(keyword: str) -> None:
        @TOPIC.case(f"rfc6409-7-offers-{keyword.lower()}", Level.SHOULD, f"{keyword} is offered.")
        async def _(talk: Talk) -> None:
            if keyword not in talk.survey.offers:
                talk.fail("not offered")

    _offers(_keyword)


@TOPIC.case(
    "rfc6409-8.3-message-id",
    Level.SHOULD,
    "A message without Message-ID gets one.",
    start=Start.DATA,
    wants=("maildir",),
)
async def _message_id(talk: Talk) -> None:
    await talk.say(
        b"From: <{from}>\r\nTo: <{to}>\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\n"
        b"X-Conform: {token}\r\n\r\nx\r\n.\r\n",
        "250",
    )
    await talk.in_step()
    for message in await talk.delivered():
        if not re.search(rb"(?im)^message-id:\s*<[^<>@\s]+@[^<>\s]+>\r$", message):
            talk.fail("the Message-ID is missing or malformed")


@TOPIC.case("rfc6409-8.2-date", Level.ROBUST, "A message without Date gets one.", start=Start.DATA, wants=("maildir",))
async def _date(talk: Talk) -> None:
    await talk.say(b"From: <{from}>\r\nTo: <{to}>\r\nX-Conform: {token}\r\n\r\nx\r\n.\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        if not re.search(rb"(?im)^date:", message):
            talk.fail("the message has no Date")


@TOPIC.case(
    "rfc6409-8-kept", Level.MUST, "An existing Message-ID and Date are not changed.", start=Start.DATA,
    wants=("maildir",),
)  # fmt: skip
async def _kept(talk: Talk) -> None:
    sent = talk.message()
    await talk.say(sent + b".\r\n", "250")
    await talk.in_step()
    wanted = [line for line in sent.split(b"\r\n") if line.startswith((b"Date:", b"Message-ID:"))]
    for message in await talk.delivered():
        got = [line for line in message.split(b"\r\n") if line.startswith((b"Date:", b"Message-ID:"))]
        if sorted(got) != sorted(wanted):
            talk.fail("the fields were changed or duplicated")


@TOPIC.case("rfc6409-5.1-malformed-sender", Level.SHOULD, "A malformed sender is refused.")
async def _sender(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<con form@@client.example>\r\n", "501 550 553 554 ~5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc6409-6.1-foreign-sender", Level.ROBUST,
    "A sender that does not belong to the user is accepted, or refused with 5yz.", wants=("login",),
)  # fmt: skip
async def _foreign(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<somebody.else@other.example>\r\n", "250 550 553 ~5xx")
    await talk.in_step()
