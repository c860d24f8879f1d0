"""LMTP (RFC 2033): LHLO instead of EHLO, and a reply for each recipient after the content."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import LMTP, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("lmtp", "LMTP", profiles=LMTP)

TOPIC.row("rfc2033-4.1-lhlo", Level.MUST, "LHLO is answered 250.", say(b"LHLO {name}\r\n", "250"), start=Start.GREETED)
for _verb in ("EHLO", "HELO"):
    TOPIC.row(
        f"rfc2033-4.1-{_verb.lower()}", Level.MUST, f"{_verb} is refused with 500.",
        say(_verb.encode() + b" {name}\r\n", "500 ~5xx"), start=Start.GREETED,
    )  # fmt: skip
    TOPIC.row(
        f"rfc2033-4.1-{_verb.lower()}-after-lhlo", Level.MUST, f"{_verb} after LHLO is refused as well.",
        say(_verb.encode() + b" {name}\r\n", "500 ~5xx"),
    )  # fmt: skip
TOPIC.row(
    "rfc2033-4.1-lhlo-without-name", Level.SHOULD, "LHLO without a name is refused.", say(b"LHLO\r\n", "501 ~5xx"),
    start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc2033-4.1-lhlo-in-any-case", Level.MUST, "lhlo is understood in any case.", say(b"lHlO {name}\r\n", "250"),
    start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc2033-4.1-lhlo-in-smtp", Level.MUST, "LHLO is refused by an SMTP server.",
    say(b"LHLO {name}\r\n", "500 502 ~5xx"), start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
for _keyword, _level in (("PIPELINING", Level.MUST), ("ENHANCEDSTATUSCODES", Level.MUST), ("8BITMIME", Level.SHOULD)):

    def _offers(keyword: str, level: Level) -> None:
        @TOPIC.case(f"rfc2033-5-offers-{keyword.lower()}", level, f"{keyword} is offered.")
        async def _(talk: Talk) -> None:
            if keyword not in talk.survey.offers:
                talk.fail("not offered")

    _offers(_keyword, _level)


async def _recipients(talk: Talk, *lines: bytes) -> int:
    """Send RCPT for each path and return how many were accepted."""
    taken = 0
    for line in lines:
        await talk.send(b"RCPT TO:<" + line + b">\r\n")
        taken += (await talk.reply()).code // 100 == 2
    return taken


@TOPIC.case("rfc2033-4.2-one-recipient", Level.MUST, "One recipient, one reply.", start=Start.DATA)
async def _one(talk: Talk) -> None:
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-two-recipients", Level.MUST, "Two recipients, two replies.", start=Start.MAIL, wants=("second",)
)
async def _two(talk: Talk) -> None:
    await _recipients(talk, b"{to}", b"{to2}")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=2)
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-the-same-recipient-twice", Level.MUST, "The same recipient twice: a reply for each accepted RCPT.",
    start=Start.MAIL,
)  # fmt: skip
async def _same(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{to}", b"{to}")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=taken)
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-rejected-recipients-get-no-reply", Level.MUST, "A refused recipient gets no reply after the content.",
    start=Start.MAIL, wants=("rejected",),
)  # fmt: skip
async def _rejected(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{rejected}", b"{to}")
    if taken != 2:
        talk.fail(f"{taken} of two recipients were accepted")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=2)
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-refused-content", Level.ROBUST,
    "Refused content gets a reply for each recipient as well.", start=Start.MAIL,
)  # fmt: skip
async def _refused(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{to}")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(talk.message(b"bare\nline\r\n") + b".\r\n", "250 4xx 5xx", recipients=taken)
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-two-messages", Level.MUST, "Two messages with different numbers of recipients.", start=Start.MAIL
)
async def _messages(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{to}")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=taken)
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-replies-in-a-group", Level.MUST, "Replies for each recipient, then those of the next group.",
    start=Start.MAIL, needs=("PIPELINING",),
)  # fmt: skip
async def _group(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{to}")
    await talk.say(b"DATA\r\n", "354")
    await talk.send(b"{message}.\r\nMAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nRSET\r\n")
    for specification in (*["250"] * taken, "250", "250 251", "250"):
        await talk.expect(specification)
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.3-bdat-last", Level.MUST, "BDAT LAST gets one reply for each recipient, other chunks one in all.",
    start=Start.MAIL, needs=("CHUNKING",),
)  # fmt: skip
async def _bdat(talk: Talk) -> None:
    taken = await _recipients(talk, b"{to}", b"{to}")
    message = talk.message()
    await talk.say(b"BDAT 20\r\n" + message[:20], "250")
    await talk.send(b"BDAT %d LAST\r\n%s" % (len(message) - 20, message[20:]))
    for _ in range(taken):
        await talk.expect("250")
    await talk.in_step()


@TOPIC.case(
    "rfc2033-4.2-no-valid-recipient", Level.MUST, "DATA when every recipient was refused is answered 503.",
    start=Start.MAIL, wants=("rejected",),
)  # fmt: skip
async def _none(talk: Talk) -> None:
    await talk.say(b"RCPT TO:<{rejected}>\r\n", "4xx 5xx")
    await talk.say(b"DATA\r\n", "503")
    await talk.in_step()
