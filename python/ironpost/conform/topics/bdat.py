"""Content in counted chunks (RFC 3030). Chunks are octets: dots, line endings and verbs in them have no meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("bdat", "BDAT (CHUNKING, BINARYMIME)", needs=("CHUNKING",))

HIDDEN = b"RSET\r\nMAIL FROM:<hidden@client.example>\r\n"


def chunk(octets: bytes, *, last: bool = False) -> bytes:
    """BDAT with its octets."""
    return b"BDAT %d%s\r\n%s" % (len(octets), b" LAST" if last else b"", octets)


async def _arrived(talk: Talk, body: bytes) -> None:
    """Where messages can be read, one arrived with this body."""
    for message in await talk.delivered():
        if not message.endswith(b"\r\n\r\n" + body):
            talk.fail(f"the body arrived changed: it ends with {message[-60:]!r}")


def _chunks(name: str, sizes: tuple[int, ...], does: str, *, together: bool = False, body: bytes = b"one\r\ntwo\r\n",
            empty_last: bool = False, level: Level = Level.MUST) -> None:  # fmt: skip
    """A message in chunks of these sizes (the rest is the last one)."""

    @TOPIC.case(f"rfc3030-2-{name}", level, does, start=Start.RCPT, needs=("PIPELINING",) if together else ())
    async def _(talk: Talk) -> None:
        message = talk.message(body)
        if 0 < int(talk.survey.offers.get("SIZE") or 0) < len(message):
            talk.skip("it is larger than the announced maximum")
        cut, at = [], 0
        for size in sizes:
            cut.append(message[at : at + size])
            at += size
        cut.append(message[at:])
        if empty_last:
            cut.append(b"")
        commands = [chunk(piece, last=i == len(cut) - 1) for i, piece in enumerate(cut)]
        if together:
            await talk.send(b"".join(commands))
            for _ in commands:
                await talk.expect("250")
        else:
            for command in commands:
                await talk.say(command, "250")
        await talk.in_step()
        await _arrived(talk, body)


_chunks("one-chunk", (), "A message in one chunk with LAST is accepted.")
_chunks("two-chunks", (40,), "A message in two chunks: each is answered 250.")
_chunks("empty-last", (40,), "BDAT 0 LAST after the chunks ends the message.", empty_last=True)
_chunks("empty-chunk-first", (0, 40), "An empty chunk before others changes nothing.", level=Level.ROBUST)
_chunks("one-octet-chunks", (1, 1, 1, 1, 1), "Chunks of one octet each.")
_chunks("chunks-in-one-write", (40, 40), "All chunks in one write are answered one by one.", together=True)
_chunks("dot-line", (), "A line with a single dot in a chunk is text.", body=b"one\r\n.\r\ntwo\r\n")
_chunks("no-transparency", (), "Dots at the beginning of lines are not doubled, so none is removed.",
        body=b"..one\r\n.two\r\n...\r\n")  # fmt: skip
_chunks("verbs-in-a-chunk", (), "Verbs in a chunk are text.", body=b"\r\n.\r\nRSET\r\nNOOP\r\nBDAT 3\r\n")
_chunks("large-chunk", (), "A chunk of 256 KiB.", body=(b"x" * 70 + b"\r\n") * 3641)


@TOPIC.case(
    "rfc3030-2-chunk-ends-inside-crlf", Level.MUST, "A chunk that ends between CR and LF is accepted.", start=Start.RCPT
)
async def _inside_crlf(talk: Talk) -> None:
    message = talk.message(b"one\r\ntwo\r\n")
    cut = message.rindex(b"\r\n", 0, len(message) - 2) + 1
    await talk.say(chunk(message[:cut]), "250")
    await talk.say(chunk(message[cut:], last=True), "250")
    await talk.in_step()
    await _arrived(talk, b"one\r\ntwo\r\n")


@TOPIC.case(
    "rfc3030-2-chunk-in-pieces", Level.MUST, "A chunk that arrives in several reads is one chunk.", start=Start.RCPT
)
async def _pieces(talk: Talk) -> None:
    body = b".\r\n.\r\n"
    octets = chunk(talk.message(body), last=True)
    await talk.send(octets[:4], octets[4:20], octets[20:-5], octets[-5:-1], octets[-1:])
    await talk.expect("250")
    await talk.in_step()
    await _arrived(talk, body)


@TOPIC.case("rfc3030-2-any-case", Level.MUST, "bdat and last are understood in any case.", start=Start.RCPT)
async def _any_case(talk: Talk) -> None:
    message = talk.message()
    await talk.say(b"bDaT 20\r\n" + message[:20], "250")
    await talk.say(b"bdat %d lAsT\r\n%s" % (len(message) - 20, message[20:]), "250")
    await talk.in_step()


TOPIC.row(
    "rfc3030-2-empty-message", Level.ROBUST, "BDAT 0 LAST alone is an empty message: one reply.",
    say(b"BDAT 0 LAST\r\n", "250 4xx 5xx"), start=Start.RCPT,
)  # fmt: skip


@TOPIC.case("rfc3030-4.2-envelope-and-chunk", Level.MUST, "MAIL, RCPT and a chunk in one write.", needs=("PIPELINING",))
async def _envelope(talk: Talk) -> None:
    await talk.send(b"MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\n" + chunk(talk.message(), last=True))
    for specification in ("250", "250 251", "250"):
        await talk.expect(specification)
    await talk.in_step()


@TOPIC.case(
    "rfc3030-2-rset-between-chunks", Level.MUST, "RSET between chunks discards them; another message follows.",
    start=Start.RCPT,
)  # fmt: skip
async def _rset(talk: Talk) -> None:
    await talk.say(chunk(b"X-Gone: yes\r\n"), "250")
    await talk.say(b"RSET\r\n", "250")
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(chunk(talk.message(), last=True), "250")
    await talk.in_step()
    for message in await talk.delivered():
        if b"X-Gone" in message:
            talk.fail("a chunk from before RSET is in the message")


@TOPIC.case("rfc3030-2-data-between-chunks", Level.MUST, "DATA after a chunk is refused 503.", start=Start.RCPT)
async def _data(talk: Talk) -> None:
    await talk.say(chunk(b"Subject: x\r\n"), "250")
    await talk.say(b"DATA\r\n", "503 ~5xx")
    await talk.say(b"RSET\r\n", "250")
    await talk.in_step()


@TOPIC.case("rfc3030-2-mail-between-chunks", Level.MUST, "MAIL after a chunk is refused 503.", start=Start.RCPT)
async def _mail(talk: Talk) -> None:
    await talk.say(chunk(b"Subject: x\r\n"), "250")
    await talk.say(b"MAIL FROM:<{from}>\r\n", "503 ~5xx")
    await talk.say(b"RSET\r\n", "250")
    await talk.in_step()


@TOPIC.case("rfc3030-2-chunk-after-last", Level.MUST, "A chunk after LAST is refused 503.", start=Start.RCPT)
async def _after_last(talk: Talk) -> None:
    await talk.say(chunk(talk.message(), last=True), "250")
    await talk.say(chunk(HIDDEN, last=True), "503 ~5xx")
    await talk.say(b"RSET\r\n", "250")
    await talk.in_step()


def _out_of_order(name: str, start: Start, does: str, spec: str = "503 554 ~5xx") -> None:
    @TOPIC.case(
        f"rfc3030-2-chunk-{name}-is-consumed", Level.MUST,
        f"A chunk {does} is refused, and its octets are not taken for commands (SECURITY R5).", start=start,
    )  # fmt: skip
    async def _(talk: Talk) -> None:
        if await talk.say(chunk(HIDDEN, last=True), f"{spec} close") is not None:
            await talk.send(b"QUIT\r\n")
            last = await talk.expect("xxx close")
            if last is not None and last.code not in {221, 421}:
                talk.fail(f"before the reply to QUIT came {last.code}: octets of the chunk were executed")


_out_of_order("before-mail", Start.HELLO, "without MAIL")
_out_of_order("before-rcpt", Start.MAIL, "without RCPT")


@TOPIC.case(
    "rfc3030-2-chunk-without-valid-rcpt-is-consumed", Level.MUST,
    "A chunk when every recipient was refused is refused itself, and consumed (SECURITY R5).", start=Start.MAIL,
    wants=("rejected",),
)  # fmt: skip
async def _no_rcpt(talk: Talk) -> None:
    await talk.say(b"RCPT TO:<{rejected}>\r\n", "4xx 5xx")
    await talk.say(chunk(HIDDEN, last=True), "503 554 ~5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc3030-2-chunks-after-a-failed-one-are-consumed", Level.MUST,
    "Pipelined chunks after a failed one are consumed and refused (SECURITY R5).", start=Start.MAIL,
    needs=("PIPELINING",),
)  # fmt: skip
async def _pipeline(talk: Talk) -> None:
    await talk.send(chunk(HIDDEN) + chunk(HIDDEN, last=True))
    await talk.expect("5xx 4xx")
    await talk.expect("5xx 4xx")
    await talk.in_step()


for _name, _argument in (
    ("no-size", b""),
    ("word", b"abc"),
    ("negative", b"-1"),
    ("plus", b"+1"),
    ("hex", b"0x10"),
    ("last-only", b"LAST"),
    ("last-last", b"1 LAST LAST"),
    ("other-word", b"1 FIRST"),
    ("20-digits", b"99999999999999999999"),
    ("30-digits", b"9" * 30),
):

    def _malformed(name: str, argument: bytes) -> None:
        @TOPIC.case(
            f"rfc3030-2-size-{name}", Level.ROBUST,
            f"BDAT {argument.decode()[:20]} is refused, and nothing is accepted.".replace("BDAT  ", "BDAT "),
            start=Start.RCPT,
        )  # fmt: skip
        async def _(talk: Talk) -> None:
            await talk.say(b"BDAT " + argument + b"\r\n", "5xx ~4xx close")

    _malformed(_name, _argument)


@TOPIC.case(
    "rfc3030-2-short-chunk-then-end-of-stream", Level.MUST,
    "The connection ends inside a chunk: nothing is accepted (SECURITY R6).", start=Start.RCPT,
)  # fmt: skip
async def _short(talk: Talk) -> None:
    message = talk.message()
    await talk.send(b"BDAT %d LAST\r\n%s" % (len(message) + 5, message))
    talk.connection.end()
    await talk.expect("4xx 5xx close")
    if talk.target.maildir is not None:
        await talk.delivered(0)


@TOPIC.case(
    "rfc3030-2-chunk-after-helo", Level.ROBUST, "BDAT after HELO is refused, and its octets are consumed.",
    start=Start.GREETED, wants=("unencrypted",),
)  # fmt: skip
async def _helo(talk: Talk) -> None:
    await talk.say(b"HELO {name}\r\n", "250 5xx")
    await talk.send(chunk(b"NOOP\r\n", last=True))
    await talk.expect("5xx close")
    await talk.send(b"QUIT\r\n")
    await talk.expect("221 close")


# ---------------------------------------------------------------------------------------------------------------------
# BINARYMIME

BINARY = ("BINARYMIME",)


@TOPIC.case(
    "rfc3030-3-binary", Level.MUST, "BODY=BINARYMIME with NUL, bare CR and bare LF in chunks is accepted.", needs=BINARY
)
async def _binary(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> BODY=BINARYMIME\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    message = talk.message(b"")[:-2] + b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\n\0\r\n\r\xff\n."
    await talk.say(chunk(message, last=True), "250")
    await talk.in_step()


TOPIC.row(
    "rfc3030-3-binary-in-any-case", Level.MUST, "body=binarymime is understood in any case.",
    say(b"MAIL FROM:<{from}> body=binarymime\r\n", "250"), needs=BINARY,
)  # fmt: skip
TOPIC.row(
    "rfc3030-3-binary-by-data", Level.MUST, "DATA after BODY=BINARYMIME is refused 503.",
    say(b"MAIL FROM:<{from}> BODY=BINARYMIME\r\n", "250"), say(b"RCPT TO:<{to}>\r\n", "250 251"),
    say(b"DATA\r\n", "503 ~5xx"), needs=BINARY,
)  # fmt: skip
