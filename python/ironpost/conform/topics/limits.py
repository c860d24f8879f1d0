"""Sizes that every server must accept, and larger ones (RFC 5321 §4.5.3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("limits", "Limits")

UNDERSTOOD = "250 251 4xx 521 550 551 552 553 554 556"
LONG_DOMAIN = b".".join([b"a" * 60, b"b" * 60, b"c" * 60, b"example"])

TOPIC.row(
    "rfc5321-4.5.3.1.1-sender-of-64", Level.MUST, "A local part of 64 octets is not refused as a syntax error.",
    say(b"MAIL FROM:<" + b"a" * 64 + b"@client.example>\r\n", UNDERSTOOD),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.1-recipient-of-64", Level.MUST, "A recipient with 64 octets of local part is not a syntax error.",
    say(b"RCPT TO:<" + b"a" * 64 + b"@client.example>\r\n", UNDERSTOOD), start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.1-sender-of-65", Level.ROBUST, "A local part of 65 octets: an ordinary reply.",
    say(b"MAIL FROM:<" + b"a" * 65 + b"@client.example>\r\n", "250 4xx 5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.2-long-domain", Level.MUST, "A domain of 190 octets is not refused as a syntax error.",
    say(b"MAIL FROM:<a@" + LONG_DOMAIN + b">\r\n", UNDERSTOOD),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.2-label-of-63", Level.MUST, "A label of 63 octets is not refused as a syntax error.",
    say(b"MAIL FROM:<a@" + b"b" * 63 + b".example>\r\n", UNDERSTOOD),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.3-path-of-256", Level.MUST, "A path of 256 octets is not refused as a syntax error.",
    say(b"MAIL FROM:<" + b"a" * (256 - 3 - len(LONG_DOMAIN)) + b"@" + LONG_DOMAIN + b">\r\n", UNDERSTOOD),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.3.1.3-path-of-400", Level.ROBUST, "A path of 400 octets is refused.",
    say(b"MAIL FROM:<" + b"a" * 385 + b"@client.example>\r\n", "5xx"),
)  # fmt: skip
for _octets in (510, 512):

    def _long_line(octets: int) -> None:
        @TOPIC.case(
            f"rfc5321-4.5.3.1.4-line-of-{octets}", Level.MUST, f"A command line of {octets} octets is understood."
        )
        async def _(talk: Talk) -> None:
            reply = await talk.say(b"NOOP x\r\n", "2xx 5xx")
            if reply is not None and reply.code != 250:
                talk.skip("NOOP with an argument is refused")
            await talk.say(b"NOOP " + b"x" * (octets - 7) + b"\r\n", "250")
            await talk.in_step()

    _long_line(_octets)
for _octets in (4096, 65536, 1048576):
    TOPIC.row(
        f"rfc5321-4.5.3.1.9-line-of-{_octets}", Level.ROBUST,
        f"A command line of {_octets} octets gets one reply, 500 or 501 if it is too long, or the connection closes.",
        say(b"NOOP " + b"x" * (_octets - 7) + b"\r\n", "250 500 501 ~5xx 421 close"), quits=False,
    )  # fmt: skip


@TOPIC.case(
    "rfc5321-4.5.3.1.9-one-answer-to-a-long-line", Level.MUST,
    "The end of an overlong line is not executed: one reply to one line.",
)  # fmt: skip
async def _long(talk: Talk) -> None:
    await talk.send(b"x" * 8192 + b" NOOP RSET MAIL FROM:<{from}>\r\n")
    if await talk.expect("5xx 421 close") is not None:
        await talk.send(b"QUIT\r\n")
        last = await talk.expect("xxx close")
        if last is not None and last.code not in {221, 421}:
            talk.fail(f"two replies to one line, the second {last.code}")


@TOPIC.case(
    "rfc5321-4.5.3.1.8-100-recipients", Level.MUST, "A transaction may have 100 recipients.",
    start=Start.MAIL,
)  # fmt: skip
async def _recipients(talk: Talk) -> None:
    local, _, domain = talk.target.recipient.partition("@")
    del local
    taken = 0
    for number in range(100):
        # The same recipient: some servers merge equal ones, but each RCPT counts.
        await talk.send(b"RCPT TO:<{to}>\r\n")
        reply = await talk.reply()
        if reply.code // 100 == 2:
            taken += 1
        elif number < 100:
            talk.fail(f"recipient {number + 1} of {domain} got {reply.code}")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=taken)
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.5.3.1.10-too-many-recipients", Level.SHOULD,
    "Recipients beyond the server's limit are answered 452, and the accepted ones remain.", start=Start.MAIL,
    needs=("PIPELINING",),
)  # fmt: skip
async def _too_many(talk: Talk) -> None:
    taken = 0
    for _ in range(22):
        await talk.send(b"RCPT TO:<{to}>\r\n" * 50)
        before = taken
        for _ in range(50):
            reply = await talk.reply()
            if reply.code // 100 == 2:
                taken += 1
            elif reply.code == 421:
                return
            elif reply.code != 452:
                talk.fail(f"recipient {taken + 1} got {reply.code}")
        if taken < before + 50:
            break
    else:
        talk.skip(f"no limit reached: {taken} accepted")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=taken)
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.5.3.1.6-line-of-2000", Level.ROBUST, "A line of 2000 octets in content: one reply.", start=Start.DATA
)
async def _text_line(talk: Talk) -> None:
    await talk.say(talk.message(b"x" * 2000 + b"\r\n") + b".\r\n", "250 4xx 5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.5.3.1.6-endless-line", Level.ROBUST,
    "A line of 3 MB in content: one reply, at the end of the content (SECURITY R8).", start=Start.DATA,
)  # fmt: skip
async def _endless(talk: Talk) -> None:
    await talk.send(talk.message(b""))
    for _ in range(48):
        await talk.send(b"x" * 65536)
    await talk.send(b"\r\n.\r\n")
    if await talk.expect("250 4xx 5xx close") is not None:
        await talk.send(b"QUIT\r\n")
        await talk.expect("221 421 close")


@TOPIC.case(
    "rfc5321-4.5.3.1.6-endless-field", Level.ROBUST,
    "A header field of 3 MB: one reply, at the end of the content (SECURITY R8).", start=Start.DATA,
)  # fmt: skip
async def _field(talk: Talk) -> None:
    await talk.send(b"X-Long: ")
    for _ in range(48):
        await talk.send(b"y" * 65536)
    await talk.send(b"\r\n{message}.\r\n")
    if await talk.expect("250 4xx 5xx close") is not None:
        await talk.send(b"QUIT\r\n")
        await talk.expect("221 421 close")


@TOPIC.case(
    "rfc5321-4.5.3.1.7-many-fields", Level.ROBUST, "A header section of 2000 fields: one reply.", start=Start.DATA
)
async def _fields(talk: Talk) -> None:
    await talk.say(b"X-Many: x\r\n" * 2000 + talk.message() + b".\r\n", "250 4xx 5xx")
    await talk.in_step()


@TOPIC.case("rfc5321-4.1.1.9-fifty-noop", Level.ROBUST, "Fifty NOOP are answered 250, or 421 ends the session.")
async def _noops(talk: Talk) -> None:
    for _ in range(50):
        reply = await talk.say(b"NOOP\r\n", "250 421")
        if reply is not None and reply.code == 421:
            return await talk.closed()
    return await talk.in_step()


TOPIC.row(
    "rfc5321-4.2-parameters-to-512", Level.ROBUST, "MAIL with parameters up to 512 octets is parsed completely.",
    say(b"MAIL FROM:<{from}> " + b"X=" + b"y" * 440 + b"\r\n", "555 501 ~5xx"),
)  # fmt: skip
