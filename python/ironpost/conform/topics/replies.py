"""The form of replies (RFC 5321 §4.2, §4.2.1, §4.5.3.1.5; RFC 2034 §4 and RFC 3463 §2 for enhanced codes)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ironpost.conform.case import SMTP, Level, Start, Topic

if TYPE_CHECKING:
    from ironpost import wire
    from ironpost.conform.talk import Talk

TOPIC = Topic("replies", "The form of replies")

DIALOGUE = (
    b"NOOP\r\n",
    b"XYZZY\r\n",
    b"MAIL FROM:<{from}>\r\n",
    b"RCPT TO:<{to}>\r\n",
    b"RCPT TO:<conform@>\r\n",
    b"RSET\r\n",
)
"""Commands that produce every class of reply except 3yz."""


async def _talked(talk: Talk) -> list[wire.Reply]:
    """The replies to `DIALOGUE` and to a message."""
    found = []
    for line in DIALOGUE:
        await talk.send(line)
        found.append(await talk.reply())
    for line in (b"MAIL FROM:<{from}>\r\n", b"RCPT TO:<{to}>\r\n", b"DATA\r\n", b"{message}.\r\n", b"QUIT\r\n"):
        await talk.send(line)
        found.append(await talk.reply())
    return found


@TOPIC.case(
    "rfc5321-4.2-grammar", Level.MUST,
    "Every reply line is three digits, a space or hyphen, text and CRLF; all lines of a reply have the same code.",
    start=Start.GREETED,
)  # fmt: skip
async def _grammar(talk: Talk) -> None:
    await talk.ready()
    await _talked(talk)  # the reader is strict: a malformed reply fails the case


@TOPIC.case(
    "rfc5321-4.2-code-digits", Level.MUST, "The first digit of a code is 2 to 5, the second 0 to 5.",
    start=Start.GREETED,
)  # fmt: skip
async def _digits(talk: Talk) -> None:
    await talk.ready()
    for reply in await _talked(talk):
        if not (2 <= reply.code // 100 <= 5 and reply.code // 10 % 10 <= 5):
            talk.fail(f"not a valid reply code: {reply.code}")


@TOPIC.case(
    "rfc5321-4.2-text-octets", Level.MUST, "The text of replies is printable ASCII, spaces and tabs.",
    start=Start.GREETED,
)  # fmt: skip
async def _printable(talk: Talk) -> None:
    await talk.ready()
    for reply in await _talked(talk):
        for line in reply.lines:
            if any(octet != 9 and not 32 <= octet <= 126 for octet in line):
                talk.fail(f"the reply {reply.code} contains an octet outside printable ASCII")


@TOPIC.case(
    "rfc5321-4.5.3.1.5-length", Level.SHOULD, "No reply line is longer than 512 octets with its CRLF.",
    start=Start.GREETED,
)  # fmt: skip
async def _length(talk: Talk) -> None:
    await talk.ready()
    await _talked(talk)
    longest = max(len(line) for line in bytes(talk.connection.octets).split(b"\n"))
    if longest + 1 > 512:
        talk.fail(f"a reply line has {longest + 1} octets")


@TOPIC.case(
    "rfc5321-4.5.3.1.5-length-of-an-echo", Level.SHOULD,
    "A long command that is refused does not make a reply line longer than 512 octets.", start=Start.MAIL,
)  # fmt: skip
async def _echo(talk: Talk) -> None:
    await talk.say(b"RCPT TO:<" + b"a" * 480 + b"@client.example>\r\n", "xxx close")
    if any(len(line) + 1 > 512 for line in bytes(talk.connection.octets).split(b"\n")):
        talk.fail("a reply line is longer than 512 octets")


@TOPIC.case(
    "rfc5321-4.2-no-echo-of-octets",
    Level.MUST,
    "Control characters and 8-bit octets of a command are not echoed in the reply.",
)
async def _no_echo(talk: Talk) -> None:
    await talk.send(b"XY\x1b[31m\xff\xfe\x07ZZY a\x1b[0m\r\n")
    reply = await talk.expect("5xx 4xx close")
    if reply is not None and any(o != 9 and not 32 <= o <= 126 for line in reply.lines for o in line):
        talk.fail("the reply contains octets of the command that are outside printable ASCII")


@TOPIC.case("rfc5321-4.2-one-reply-each", Level.MUST, "Ten commands, sent one by one, get exactly ten replies.")
async def _each(talk: Talk) -> None:
    for line in (*DIALOGUE, b"MAIL FROM:<{from}>\r\n", b"RSET\r\n", b"NOOP\r\n", b"RSET\r\n"):
        await talk.send(line)
        await talk.reply()
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.2.1-multiline-hello", Level.MUST,
    "All lines of a multiline reply have the same code, with a hyphen on all but the last.", start=Start.GREETED,
)  # fmt: skip
async def _multiline(talk: Talk) -> None:
    await talk.say(b"{ehlo} {name}\r\n", "250")
    last = bytes(talk.connection.octets).splitlines()[1:]
    if not (all(line.startswith(b"250-") for line in last[:-1]) and last[-1].startswith(b"250")):
        talk.fail("the lines of the reply to EHLO have different codes or lack a hyphen")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-7.5-greeting-names-no-version", Level.ROBUST,
    "The greeting names no software version.", start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
async def _version(talk: Talk) -> None:
    words = b" ".join(talk.greeting.lines if talk.greeting is not None else ()).decode("ascii", "replace").split()[1:]
    numbers = [word for word in words if word[:1].isdigit() and "." in word and not word.startswith("127.")]
    if numbers:
        talk.fail(f"the greeting contains {numbers[0]}")


# ---------------------------------------------------------------------------------------------------------------------
# Enhanced status codes

ENHANCED = ("ENHANCEDSTATUSCODES",)
_ANY_CODE = re.compile(rb"\d\.\d{1,3}\.\d{1,3}(?: |$)")
_WITH_CODE = re.compile(rb"([245])\d\d[ -]\1\.\d{1,3}\.\d{1,3}(?: |$)")


def _looks_enhanced(reply: wire.Reply) -> bool:
    """Return whether the text begins like an enhanced code of any class; the reader does not parse one after 3yz."""
    return reply.enhanced is not None or _ANY_CODE.match(reply.lines[0]) is not None


def _enhanced(talk: Talk, reply: wire.Reply) -> None:
    if reply.code // 100 == 3:
        if _looks_enhanced(reply):
            talk.fail(f"{reply.code} has an enhanced code")
    elif reply.enhanced is None:
        words = reply.lines[0].decode("ascii", "replace")
        talk.fail(f"no enhanced code of its class in: {reply.code} {words}")


for _name, _start, _line in (
    ("mail", Start.HELLO, b"MAIL FROM:<{from}>\r\n"),
    ("rcpt", Start.MAIL, b"RCPT TO:<{to}>\r\n"),
    ("content", Start.DATA, b"{message}.\r\n"),
    ("data", Start.RCPT, b"DATA\r\n"),
    ("rset", Start.HELLO, b"RSET\r\n"),
    ("noop", Start.HELLO, b"NOOP\r\n"),
    ("quit", Start.HELLO, b"QUIT\r\n"),
    ("unknown-verb", Start.HELLO, b"XYZZY\r\n"),
    ("bad-sequence", Start.HELLO, b"RCPT TO:<{to}>\r\n"),
    ("malformed-mail", Start.HELLO, b"MAIL FROM:<conform@>\r\n"),
    ("malformed-rcpt", Start.MAIL, b"RCPT TO:<conform@>\r\n"),
    ("unknown-parameter", Start.HELLO, b"MAIL FROM:<{from}> FROBNICATE=1\r\n"),
):

    def _add(name: str, start: Start, line: bytes) -> None:
        @TOPIC.case(
            f"rfc2034-4-{name}", Level.MUST,
            "3yz has no enhanced code." if name == "data" else
            "The reply begins with an enhanced code whose class is its first digit.",
            start=start, needs=ENHANCED,
        )  # fmt: skip
        async def _(talk: Talk) -> None:
            await talk.send(line)
            _enhanced(talk, await talk.reply())

    _add(_name, _start, _line)


@TOPIC.case(
    "rfc2034-4-rejected-recipient", Level.MUST, "The refusal of a recipient begins with an enhanced code.",
    start=Start.MAIL, needs=ENHANCED, wants=("rejected",),
)  # fmt: skip
async def _rejected(talk: Talk) -> None:
    await talk.send(b"RCPT TO:<{rejected}>\r\n")
    _enhanced(talk, await talk.reply())


@TOPIC.case(
    "rfc2034-3-no-code-in-greeting-and-hello", Level.MUST,
    "Neither the greeting nor the positive reply to EHLO has an enhanced code.", start=Start.GREETED,
)  # fmt: skip
async def _none(talk: Talk) -> None:
    hello = await talk.say(b"{ehlo} {name}\r\n", "250")
    for reply in (talk.greeting, hello):
        if reply is not None and _looks_enhanced(reply):
            talk.fail(f"{reply.code} has an enhanced code")
    await talk.in_step()


@TOPIC.case(
    "rfc2034-4-every-line", Level.MUST, "Each line of a multiline reply begins with the same enhanced code.",
    needs=ENHANCED, profiles=SMTP,
)  # fmt: skip
async def _lines(talk: Talk) -> None:
    for line in (b"HELP\r\n", b"XYZZY\r\n", b"MAIL FROM:<conform@>\r\n"):
        before = len(talk.connection.octets)
        await talk.send(line)
        reply = await talk.reply()
        for received in bytes(talk.connection.octets[before:]).splitlines():
            if not _WITH_CODE.match(received):
                talk.fail(f"a line of {reply.code} lacks the enhanced code: {received.decode('ascii', 'replace')}")
    await talk.in_step()
