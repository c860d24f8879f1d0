"""Content arrives unchanged (RFC 5321 §4.5.2, §2.3.8, §4.1.1.4). With --maildir the delivered octets are compared,
otherwise only the replies are checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import MX, Level, Start, Topic

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("transparency", "DATA: dots, lines, octets")


def _body(name: str, sent: bytes, arrives: bytes, does: str, level: Level = Level.MUST, section: str = "4.5.2") -> None:
    @TOPIC.case(f"rfc5321-{section}-{name}", level, does, start=Start.DATA)
    async def _(talk: Talk) -> None:
        await talk.finish(talk.message(sent) + b".\r\n", "250")
        await talk.in_step()
        for message in await talk.delivered():
            if not message.endswith(b"\r\n\r\n" + arrives):
                got = message.partition(b"\r\n\r\n")[2]
                talk.fail(f"the body arrived changed: {got[:80]!r} instead of {arrives[:80]!r}")


_body("stuffed-dot", b"..one\r\n", b".one\r\n", "One dot of a line that begins with two is removed.")
_body("only-a-stuffed-dot", b"one\r\n..\r\ntwo\r\n", b"one\r\n.\r\ntwo\r\n", "A line of two dots is a line of one dot.")
_body("three-dots", b"...\r\n", b"..\r\n", "One dot of a line of three is removed.")
_body("unstuffed-dot", b".one\r\n", b"one\r\n", "A leading dot followed by other text is removed.")
_body(
    "dots-inside",
    b"a.b..c\r\na.\r\na..\r\n",
    b"a.b..c\r\na.\r\na..\r\n",
    "Dots inside and at the end of a line are unchanged.",
)
_body("dot-first", b"..first\r\nsecond\r\n", b".first\r\nsecond\r\n", "A stuffed dot in the first line of the body.")
_body("stuffed-line-last", b"one\r\n..last\r\n", b"one\r\n.last\r\n", "A stuffed dot in the last line.")
_body("many-stuffed", b"..\r\n" * 50, b".\r\n" * 50, "Fifty lines of a single dot.")
_body("blank-lines", b"\r\n\r\none\r\n\r\n", b"\r\n\r\none\r\n\r\n", "Empty lines at both ends are unchanged.",
      section="4.1.1.4")  # fmt: skip
_body("trailing-space", b"one \r\ntwo\t\r\n", b"one \r\ntwo\t\r\n", "White space at the end of lines is unchanged.",
      section="2.3.1")  # fmt: skip
_body("from-line", b"From here on\r\n>From there\r\n", b"From here on\r\n>From there\r\n", "From lines are unchanged.",
      Level.SHOULD, "2.3.1")  # fmt: skip
_body("commands-in-text", b"QUIT\r\nDATA\r\nRSET\r\n", b"QUIT\r\nDATA\r\nRSET\r\n", "Verbs in content are text.",
      section="4.1.1.4")  # fmt: skip
_body("line-of-998", b"x" * 998 + b"\r\n", b"x" * 998 + b"\r\n", "A line of 998 octets arrives unchanged.",
      section="4.5.3.1.6")  # fmt: skip
_body("stuffed-line-of-998", b".." + b"x" * 997 + b"\r\n", b"." + b"x" * 997 + b"\r\n",
      "A line of 998 octets and the dot that was doubled.", section="4.5.3.1.6")  # fmt: skip
_body("control-octets", b"\x01\x08\x0b\x0c\x1b\x7f\r\n", b"\x01\x08\x0b\x0c\x1b\x7f\r\n",
      "Control characters other than NUL, CR and LF arrive.", Level.SHOULD, "2.3.1")  # fmt: skip

for _size in (512, 1024, 2048, 4096, 8192, 16384, 65536):

    def _boundary(size: int) -> None:
        @TOPIC.case(
            f"rfc5321-4.5.2-dots-around-{size}", Level.MUST,
            f"Stuffed dots and cuts at and around octet {size} of the content change nothing.", start=Start.DATA,
        )  # fmt: skip
        async def _(talk: Talk) -> None:
            head = talk.message(b"")
            for_lines = size - len(head) - 3
            filler = (b"x" * 62 + b"\r\n") * (for_lines // 64) + b"y" * max(0, for_lines % 64 - 2) + b"\r\n"
            # CR LF dot dot CR LF is split by the boundary.
            content = head + filler + b"..\r\n..\r\nend\r\n"
            cut = min(size, len(content) - 1)
            await talk.send(content[:cut], content[cut:] + b".\r\n")
            await talk.expect("250")
            await talk.in_step()
            for message in await talk.delivered():
                if not message.endswith(filler[-60:] + b".\r\n.\r\nend\r\n"):
                    talk.fail(f"the content arrived changed: it ends with {message[-40:]!r}")

    _boundary(_size)


@TOPIC.case("rfc5321-4.5.3.1.7-64k", Level.MUST, "A message of 64 KiB is accepted.", start=Start.DATA)
async def _64k(talk: Talk) -> None:
    head = talk.message(b"")
    lines = (65536 - len(head)) // 72
    await talk.finish(head + (b"x" * 70 + b"\r\n") * lines + b".\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        if message.count(b"x" * 70 + b"\r\n") != lines:
            talk.fail("lines of the message are missing")


@TOPIC.case(
    "rfc5321-4.1.1.4-no-header", Level.ROBUST, "Content without a header section is accepted or refused: one reply.",
    start=Start.DATA,
)  # fmt: skip
async def _no_header(talk: Talk) -> None:
    await talk.say(b"just a line\r\n.\r\n", "250 4xx 5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.1.1.4-header-only", Level.ROBUST, "A header section without a body is accepted or refused: one reply.",
    start=Start.DATA,
)  # fmt: skip
async def _header_only(talk: Talk) -> None:
    await talk.say(talk.message(b"").removesuffix(b"\r\n") + b".\r\n", "250 4xx 5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.4-received", Level.MUST, "A Received field is prepended to the header section.", start=Start.DATA,
    wants=("maildir",),
)  # fmt: skip
async def _received(talk: Talk) -> None:
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        before = message.partition(b"\r\nFrom: ")[0]
        if b"received:" not in before.lower():
            talk.fail("no Received field was prepended to the header section")


@TOPIC.case(
    "rfc5321-4.4-return-path", Level.MUST, "Final delivery writes the reverse-path into one Return-Path.",
    start=Start.DATA, wants=("maildir",), profiles=MX,
)  # fmt: skip
async def _return_path(talk: Talk) -> None:
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        header = message.partition(b"\r\n\r\n")[0].split(b"\r\n")
        fields = [line.partition(b":")[2].strip() for line in header if line.lower().startswith(b"return-path:")]
        if fields != [talk.filled(b"<{from}>")]:
            talk.fail(f"Return-Path: {fields}")


@TOPIC.case(
    "rfc5321-3.6.3-header-is-kept", Level.MUST, "The fields of the header section are unchanged.", start=Start.DATA,
    wants=("maildir",), profiles=MX,
)  # fmt: skip
async def _kept(talk: Talk) -> None:
    odd = b"X-Odd:one\r\n two\r\n\tthree\r\nX-Empty:\r\nx-lower: a:b\r\n"
    await talk.finish(odd + talk.message() + b".\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        if odd not in message:
            talk.fail("header fields were refolded, rewritten or reordered")


@TOPIC.case(
    "rfc5321-6.3-loop", Level.ROBUST, "A message with more than a hundred Received fields is not accepted.",
    start=Start.DATA,
)  # fmt: skip
async def _loop(talk: Talk) -> None:
    hop = b"Received: from a.example by b.example with ESMTP id x; Mon, 05 Jan 2026 10:00:00 +0000\r\n"
    await talk.say(hop * 150 + talk.message() + b".\r\n", "5xx 4xx")
    await talk.in_step()
