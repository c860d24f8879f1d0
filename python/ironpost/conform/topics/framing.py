"""Where lines and content end: SMTP smuggling and its relatives (RFC 5321 §2.3.8, §4.1.1.4; SECURITY R1, R2, R6 to R8).

Only CRLF ends a line and only CRLF.CRLF ends content. The first cases send content with a false end that is followed by
a second, hidden transaction. The server may accept or refuse such content, but it must send one reply at the true end
(or close the connection), and must not execute the hidden commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.conform.case import ANY, LMTP, MX, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("framing", "Lines, the end of content, smuggling")

FALSE_ENDS: Final = {
    "lf.lf": b"\n.\n",
    "lf.crlf": b"\n.\r\n",
    "lf.cr": b"\n.\r",
    "cr.cr": b"\r.\r",
    "cr.crlf": b"\r.\r\n",
    "cr.lf": b"\r.\n",
    "crlf.lf": b"\r\n.\n",
    "crlf.cr": b"\r\n.\r",
    "crlf.crcrlf": b"\r\n.\r\r\n",
    "crcrlf.crcrlf": b"\r\r\n.\r\r\n",
    "lfcr.lfcr": b"\n\r.\n\r",
    "lflf.lflf": b"\n\n.\n\n",
    "crlf.sp.crlf": b"\r\n. \r\n",
    "crlf.ht.crlf": b"\r\n.\t\r\n",
    "crlf..crlf": b"\r\n..\r\n",
    "crlf.nul.crlf": b"\r\n.\0\r\n",
    "crlf.nul.dot": b"\r\n\0.\r\n",
    "cr.nul.lf": b"\r\0\n.\r\n",
    "crlf.cr.nul.lf": b"\r\n.\r\0\n",
    "nul-everywhere": b"\0\r\0\n\0.\0\r\0\n\0",
    "crlf.vt": b"\r\n.\x0b\r\n",
    "nel.nel": b"\x85.\x85",
    "u2028": "\u2028.\u2028".encode(),
}
"""False ends that a server accepted or might accept; most of them are in the public smuggling tools."""

CUT: Final = ("lf.lf", "lf.crlf", "crlf.lf", "cr.cr", "crlf.cr", "crlf.crcrlf", "crlf.sp.crlf")
"""False ends that are also sent in two writes."""

HIDDEN: Final = (
    b"MAIL FROM:<hidden@client.example>\r\nRCPT TO:<{to}>\r\nDATA\r\nX-Conform: {token}\r\n\r\nhidden\r\n.\r\n"
)
"""The octets after the false end. Their last line is the true end of the content."""


async def _one_answer(talk: Talk, *pieces: bytes) -> None:
    """Send the pieces and check that there is one reply and that nothing in them was executed."""
    await talk.send(*pieces)
    reply = await talk.expect("250 4xx 5xx close")
    if reply is None:
        return
    await talk.send(b"QUIT\r\n")
    last = await talk.expect("xxx close")
    if last is None:
        if reply.code == 250:
            talk.fail("the message was accepted, and then the connection was closed without a reply to QUIT")
    elif last.code != 221 and not (reply.code >= 400 and last.code == 421):
        talk.fail(f"two replies: {reply.code} and, before the reply to QUIT, {last.code}: the false end was accepted")
    if reply.code == 250:
        await talk.delivered()


def _false_end(name: str, end: bytes, *, cut: bool) -> None:
    how = ", split across two reads" if cut else ""
    where = "4.1.1.4"

    @TOPIC.case(
        f"rfc5321-{where}-{name}-does-not-end{'-cut' if cut else ''}",
        Level.MUST,
        f"Content contains {name.upper()} followed by a hidden transaction{how}: one reply, at the true end.",
        start=Start.DATA,
    )
    async def _(talk: Talk) -> None:
        content = talk.message(b"one")
        if cut:
            middle = max(1, len(end) // 2)
            await _one_answer(talk, content + end[:middle], end[middle:] + HIDDEN)
        else:
            await _one_answer(talk, content + end + HIDDEN)


for _name, _end in FALSE_ENDS.items():
    _false_end(_name, _end, cut=False)
for _name in CUT:
    _false_end(_name, FALSE_ENDS[_name], cut=True)

# ---------------------------------------------------------------------------------------------------------------------
# The true end


def _true_end(cut: int) -> None:
    end = b"\r\n.\r\n"

    @TOPIC.case(
        f"rfc5321-4.1.1.4-end-cut-at-{cut}",
        Level.MUST,
        f"CRLF.CRLF ends content when it is split across two reads after octet {cut}.",
        start=Start.DATA,
    )
    async def _(talk: Talk) -> None:
        await talk.send(talk.message(b"one") + end[:cut], end[cut:])
        await talk.expect("250")
        await talk.in_step()
        await talk.delivered()


for _cut in range(1, 5):
    _true_end(_cut)


@TOPIC.case(
    "rfc5321-4.1.1.4-end-octet-by-octet",
    Level.MUST,
    "CRLF.CRLF ends content when each of its octets arrives in a separate read.",
    start=Start.DATA,
)
async def _octets(talk: Talk) -> None:
    await talk.send(talk.message(b"one"), *(bytes([octet]) for octet in b"\r\n.\r\n"))
    await talk.expect("250")
    await talk.in_step()
    await talk.delivered()


TOPIC.row(
    "rfc5321-4.1.1.4-ends-at-crlf.crlf", Level.MUST, "An ordinary message is accepted at CRLF.CRLF.",
    say(b"{message}.\r\n", "250"), start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.4-nothing-before-the-end", Level.MUST,
    "Content is not answered before its end: NOOP and QUIT inside it are text.",
    say((b"{message}NOOP\r\nQUIT\r\n", b"RSET\r\n.\r\n"), "250"), start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.4-dot-crlf-only", Level.ROBUST,
    ".CRLF immediately after 354 ends an empty message: one reply.",
    say(b".\r\n", "250 5xx 4xx"), start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.4-crlf-dot-crlf-only", Level.ROBUST,
    "CRLF.CRLF immediately after 354 is one empty message: one reply.",
    say(b"\r\n.\r\n", "250 5xx 4xx"), start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.4-two-ends", Level.SHOULD,
    "A second .CRLF after the end is read as an unknown command: 5xx.",
    say(b"{message}.\r\n", "250"), say(b".\r\n", "500 ~5xx"), start=Start.DATA,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Command lines


def _line(name: str, octets: bytes, does: str) -> None:
    @TOPIC.case(f"rfc5321-2.3.8-{name}", Level.MUST, does)
    async def _(talk: Talk) -> None:
        await talk.send(octets)
        if await talk.expect("xxx close") is None:
            return
        await talk.send(b"QUIT\r\n")
        last = await talk.expect("xxx close")
        if last is not None and last.code not in {221, 421, 521}:
            talk.fail(f"two replies to one line, the second {last.code}: something other than CRLF ended a line")


_line(
    "lf-does-not-end-command", b"NOOP one\nRSET\r\n", "Two verbs with a bare LF between them are one line: one reply."
)
_line(
    "cr-does-not-end-command", b"NOOP one\rRSET\r\n", "Two verbs with a bare CR between them are one line: one reply."
)
_line(
    "crcr-does-not-end-command", b"NOOP one\r\rRSET\r\n", "Two verbs with CR CR between them are one line: one reply."
)
_line(
    "lfcr-does-not-end-command", b"NOOP one\n\rRSET\r\n", "Two verbs with LF CR between them are one line: one reply."
)
_line("nul-does-not-end-command", b"NOOP one\0RSET\r\n", "Two verbs with a NUL between them are one line: one reply.")
_line(
    "nel-does-not-end-command",
    b"NOOP one\x85RSET\r\n",
    "Two verbs with octet 0x85 between them are one line: one reply.",
)


@TOPIC.case(
    "rfc5321-2.3.8-lf-in-a-path-adds-no-recipient",
    Level.MUST,
    "Two RCPT with a bare LF between them are one line: one reply.",
    start=Start.MAIL,
)
async def _two_rcpt(talk: Talk) -> None:
    await talk.send(b"RCPT TO:<{to}>\nRCPT TO:<{to}>\r\n")
    if await talk.expect("xxx close") is None:
        return
    await talk.send(b"QUIT\r\n")
    last = await talk.expect("xxx close")
    if last is not None and last.code not in {221, 421, 521}:
        talk.fail(f"two replies to one line, the second {last.code}: a bare LF ended a line")


@TOPIC.case(
    "rfc5321-2.3.8-lone-lf-is-not-answered",
    Level.MUST,
    "A line that ends with a bare LF is not answered before CRLF arrives.",
)
async def _lone(talk: Talk) -> None:
    await talk.send(b"NOOP\n", b"NOOP\n", b"\r\n")
    if await talk.expect("xxx close") is None:
        return
    await talk.send(b"QUIT\r\n")
    last = await talk.expect("xxx close")
    if last is not None and last.code not in {221, 421, 521}:
        talk.fail(f"more than one reply to one line, the second {last.code}: a bare LF ended a line")


TOPIC.row(
    "rfc5321-2.3.8-crlf-cut", Level.MUST, "A command whose CR and LF arrive in two reads is one command.",
    say((b"NOOP\r", b"\n"), "250"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-2.3.8-command-octet-by-octet", Level.MUST, "A command whose octets arrive one by one is one command.",
    say((b"N", b"O", b"O", b"P", b"\r", b"\n"), "250"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-2.3.8-command-cut-in-the-verb", Level.MUST, "A command split within its verb is one command.",
    say((b"RS", b"ET\r\n"), "250"),
)  # fmt: skip
for _name, _octets_ in (("cr", b"\r"), ("nul", b"\0"), ("esc", b"\x1b"), ("del", b"\x7f")):
    TOPIC.row(
        f"rfc5321-4.1.2-{_name}-in-a-path", Level.ROBUST,
        f"A path that contains the control character {_name.upper()} is refused.",
        say(b"MAIL FROM:<con" + _octets_ + b"form@client.example>\r\n", "5xx close"), quits=False,
    )  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# Forbidden octets in content, and content that does not end


def _odd(name: str, body: bytes, does: str, level: Level = Level.MUST) -> None:
    @TOPIC.case(f"rfc5321-2.3.8-{name}", level, does, start=Start.DATA)
    async def _(talk: Talk) -> None:
        await _one_answer(talk, talk.message(body) + b"\r\n.\r\n")


_odd("bare-lf-in-content", b"one\ntwo", "Content with a bare LF is accepted or refused as one message: one reply.")
_odd("bare-cr-in-content", b"one\rtwo", "Content with a bare CR is accepted or refused as one message: one reply.")
_odd("cr-cr-lf-in-content", b"one\r\r\ntwo", "Content with CR CR LF is accepted or refused as one message: one reply.")
_odd("nul-in-content", b"one\0two", "Content with NUL is accepted or refused as one message: one reply.")


@TOPIC.case(
    "rfc5321-2.3.8-bare-lf-in-content-refused",
    Level.ROBUST,
    "Content with a bare LF is refused at its end, not passed on or normalised: other servers may read it differently.",
    start=Start.DATA,
    profiles=MX | LMTP,
)
async def _refused_lf(talk: Talk) -> None:
    await talk.say(talk.message(b"one\ntwo\r\n") + b".\r\n", "5xx close")


@TOPIC.case(
    "rfc5321-2.3.8-bare-cr-in-content-refused",
    Level.ROBUST,
    "Content with a bare CR is refused at its end, not passed on or normalised.",
    start=Start.DATA,
    profiles=MX | LMTP,
)
async def _refused_cr(talk: Talk) -> None:
    await talk.say(talk.message(b"one\rtwo\r\n") + b".\r\n", "5xx close")


@TOPIC.case(
    "rfc5321-4.1.1.10-end-of-stream-in-content",
    Level.MUST,
    "The connection ends inside content: the server closes it too, accepts nothing and delivers nothing.",
    start=Start.DATA,
)
async def _cut_off(talk: Talk) -> None:
    await talk.send(b"{message}")
    talk.connection.end()
    if (reply := await talk.expect("4xx 5xx close")) is not None:
        await talk.closed()
        assert reply.code >= 400
    if talk.target.maildir is not None:
        await talk.delivered(0)


@TOPIC.case(
    "rfc5321-4.1.1.10-end-of-stream-after-the-dot",
    Level.ROBUST,
    "The connection ends after CRLF and a dot, which do not end the content: nothing is accepted.",
    start=Start.DATA,
)
async def _cut_off_dot(talk: Talk) -> None:
    await talk.send(b"{message}.")
    talk.connection.end()
    await talk.expect("4xx 5xx close")


@TOPIC.case(
    "rfc5321-4.1.1.10-end-of-stream-after-dot-cr",
    Level.ROBUST,
    "The connection ends after CRLF, a dot and a CR, which do not end the content: nothing is accepted.",
    start=Start.DATA,
)
async def _cut_off_dot_cr(talk: Talk) -> None:
    await talk.send(b"{message}.\r")
    talk.connection.end()
    await talk.expect("4xx 5xx close")


@TOPIC.case(
    "rfc5321-4.1.1.10-end-of-stream-in-a-command",
    Level.ROBUST,
    "The connection ends inside a command: it is not executed, and the server closes.",
)
async def _cut_off_command(talk: Talk) -> None:
    await talk.send(b"NOOP")
    talk.connection.end()
    await talk.expect("4xx 5xx close")


@TOPIC.case(
    "rfc5321-4.1.1.10-nothing-after-quit",
    Level.MUST,
    "Commands after QUIT are not executed: 221, and the connection closes.",
    profiles=SMTP,
)
async def _after_quit(talk: Talk) -> None:
    await talk.send(b"QUIT\r\nNOOP\r\nMAIL FROM:<{from}>\r\n")
    await talk.expect("221 554 ~5xx")
    await talk.closed()


@TOPIC.case(
    "rfc2033-4-nothing-after-quit",
    Level.MUST,
    "Commands after QUIT are not executed: 221, and the connection closes.",
    profiles=LMTP,
)
async def _after_quit_lmtp(talk: Talk) -> None:
    await talk.send(b"QUIT\r\nNOOP\r\nMAIL FROM:<{from}>\r\n")
    await talk.expect("221 ~5xx")
    await talk.closed()


@TOPIC.case(
    "rfc5321-3.1-early-talker",
    Level.ROBUST,
    "A client that sends commands before the greeting gets 220 and then one reply for each command, or is refused.",
    start=Start.CONNECTED,
    profiles=ANY,
)
async def _early(talk: Talk) -> None:
    await talk.send(b"{ehlo} {name}\r\n")
    greeting = await talk.expect("220 421 5xx close")
    if greeting is None or greeting.code != 220:
        return
    await talk.expect("250 5xx 421 close")
