"""8BITMIME (RFC 6152) and 8-bit content without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("8bitmime", "8BITMIME")
NEEDS = ("8BITMIME",)


def _mail(name: str, parameter: bytes, does: str, spec: str, level: Level = Level.MUST) -> None:
    TOPIC.row(f"rfc6152-2-{name}", level, does, say(b"MAIL FROM:<{from}> " + parameter + b"\r\n", spec), needs=NEEDS)


_mail("8bitmime", b"BODY=8BITMIME", "BODY=8BITMIME is accepted.", "250")
_mail("7bit", b"BODY=7BIT", "BODY=7BIT is accepted.", "250")
_mail("in-any-case", b"body=8bitmime", "body=8bitmime is understood in any case.", "250")
_mail("7bit-in-any-case", b"Body=7bit", "Body=7bit is understood in any case.", "250")
_mail("unknown", b"BODY=9BIT", "BODY with an unknown value is refused.", "501 555 ~5xx ~4xx")
_mail("empty", b"BODY=", "BODY= without a value is refused.", "501 555 ~5xx", Level.SHOULD)
_mail("bare", b"BODY", "BODY without a value is refused.", "501 555 ~5xx", Level.SHOULD)
_mail("longer", b"BODY=8BITMIMES", "A value that begins like a known one is refused.", "501 555 ~5xx ~4xx")
_mail("twice", b"BODY=7BIT BODY=8BITMIME", "BODY given twice is refused.", "501 555 ~5xx", Level.ROBUST)
TOPIC.row(
    "rfc6152-2-null-path", Level.MUST, "BODY with the null reverse-path.",
    say(b"MAIL FROM:<> BODY=8BITMIME\r\n", "250"), needs=NEEDS,
)  # fmt: skip
TOPIC.row(
    "rfc6152-2-with-size", Level.MUST, "BODY and SIZE together, in either order.",
    say(b"MAIL FROM:<{from}> BODY=8BITMIME SIZE=1000\r\n", "250"), say(b"RSET\r\n", "250"),
    say(b"MAIL FROM:<{from}> SIZE=1000 BODY=8BITMIME\r\n", "250"), needs=("8BITMIME", "SIZE"),
)  # fmt: skip

EIGHT = bytes(range(128, 256)) + "äöü €\r\n".encode()


@TOPIC.case("rfc6152-3-octets", Level.MUST, "Every 8-bit octet of a message with BODY=8BITMIME arrives.", needs=NEEDS)
async def _octets(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> BODY=8BITMIME\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    mime = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    await talk.finish(mime + talk.message(EIGHT) + b".\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        if EIGHT not in message:
            talk.fail("octets are missing or changed")


@TOPIC.case(
    "rfc6152-3-undeclared", Level.ROBUST, "Undeclared 8-bit content is accepted or refused: one reply.",
    start=Start.DATA,
)  # fmt: skip
async def _undeclared(talk: Talk) -> None:
    await talk.say(talk.message(EIGHT) + b".\r\n", "250 5xx 4xx")
    await talk.in_step()


@TOPIC.case(
    "rfc6152-3-declared-7bit", Level.ROBUST, "8-bit content declared as 7BIT is accepted or refused: one reply.",
    needs=NEEDS,
)  # fmt: skip
async def _declared(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> BODY=7BIT\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.say(talk.message(EIGHT) + b".\r\n", "250 5xx 4xx")
    await talk.in_step()
