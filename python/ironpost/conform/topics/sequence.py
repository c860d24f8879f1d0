"""The order of commands, and the state that they clear (RFC 5321 §3.3, §4.1.1.5, §4.1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import LMTP, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("sequence", "Order of commands, transactions")

MAIL = say(b"MAIL FROM:<{from}>\r\n", "250")
RCPT = say(b"RCPT TO:<{to}>\r\n", "250 251")
DATA = say(b"DATA\r\n", "354")
MESSAGE = say(b"{message}.\r\n", "250")
NO_MAIL = say(b"RCPT TO:<{to}>\r\n", "503 ~5xx")
"""RCPT without MAIL: MUST be 503 (§3.3 and §4.1.4)."""

TOPIC.row(
    "rfc5321-4.1.4-mail-before-ehlo", Level.ROBUST, "MAIL before EHLO is refused: a session is initialised first.",
    say(b"MAIL FROM:<{from}>\r\n", "503 530 ~5xx"), start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-rcpt-before-ehlo", Level.MUST, "RCPT before EHLO, and so without MAIL, is refused.",
    say(b"RCPT TO:<{to}>\r\n", "503 530 ~5xx"), start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-data-before-ehlo", Level.MUST, "DATA before EHLO is refused.",
    say(b"DATA\r\n", "503 530 554 ~5xx"), start=Start.GREETED,
)  # fmt: skip
TOPIC.row("rfc5321-3.3-rcpt-without-mail", Level.MUST, "RCPT without MAIL is refused 503.", NO_MAIL)
for _name, _start, _does in (
    ("mail", Start.HELLO, "DATA without MAIL is refused 503 or 554."),
    ("rcpt", Start.MAIL, "DATA without RCPT is refused 503 or 554."),
):
    TOPIC.row(f"rfc5321-3.3-data-without-{_name}", Level.MUST, _does, say(b"DATA\r\n", "503 554 ~5xx"), start=_start)
TOPIC.row(
    "rfc5321-4.1.4-mail-in-a-transaction", Level.SHOULD, "MAIL inside a transaction is refused 503.",
    say(b"MAIL FROM:<{from}>\r\n", "503 ~5xx"), start=Start.MAIL,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-mail-after-rcpt", Level.SHOULD, "MAIL after RCPT is refused 503.",
    say(b"MAIL FROM:<{from}>\r\n", "503 ~5xx"), start=Start.RCPT,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-nested-mail-changes-nothing", Level.MUST,
    "A MAIL that is refused inside a transaction does not change it: 503, and the state is the same.",
    say(b"MAIL FROM:<{from}>\r\n", "xxx"), DATA, MESSAGE, start=Start.RCPT,
)  # fmt: skip


async def _resets(talk: Talk, line: bytes) -> None:
    """Says something that ends the transaction; skips where an EHLO inside a session is refused, which is allowed."""
    reply = await talk.say(line + b"\r\n", "250" if line == b"RSET" else "250 5xx")
    if reply is not None and reply.code != 250:
        talk.skip(f"the server refuses {line.split()[0].decode()} inside a session: {reply.code}")


def _forgets(verb: str, section: str, line: bytes) -> None:
    @TOPIC.case(
        f"rfc5321-{section}-{verb}-forgets-the-sender", Level.MUST, f"After {verb.upper()} RCPT requires a new MAIL.",
        start=Start.MAIL,
    )  # fmt: skip
    async def _sender(talk: Talk) -> None:
        await _resets(talk, line)
        await talk.say(b"RCPT TO:<{to}>\r\n", "503 ~5xx")
        await talk.in_step()

    @TOPIC.case(
        f"rfc5321-{section}-{verb}-forgets-the-recipients", Level.MUST,
        f"After {verb.upper()} and a new MAIL, DATA requires a new RCPT.", start=Start.RCPT,
    )  # fmt: skip
    async def _recipients(talk: Talk) -> None:
        await _resets(talk, line)
        await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
        await talk.say(b"DATA\r\n", "503 554 ~5xx")
        await talk.in_step()

    @TOPIC.case(
        f"rfc5321-{section}-{verb}-then-a-transaction", Level.MUST,
        f"After {verb.upper()} inside a transaction another one works.", start=Start.RCPT,
    )  # fmt: skip
    async def _another(talk: Talk) -> None:
        await _resets(talk, line)
        await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
        await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
        await talk.say(b"DATA\r\n", "354")
        await talk.say(b"{message}.\r\n", "250")
        await talk.in_step()


_forgets("rset", "4.1.1.5", b"RSET")
_forgets("ehlo", "4.1.4", b"{ehlo} {name}")


@TOPIC.case(
    "rfc5321-4.1.4-helo-forgets-the-transaction", Level.MUST, "HELO that is accepted ends the transaction.",
    start=Start.RCPT, profiles=SMTP,
)  # fmt: skip
async def _helo_forgets(talk: Talk) -> None:
    await _resets(talk, b"HELO {name}")
    await talk.say(b"RCPT TO:<{to}>\r\n", "503 ~5xx")
    await talk.in_step()


TOPIC.row(
    "rfc5321-4.1.1.5-rset-before-ehlo", Level.MUST, "RSET is answered 250 at any time, also before EHLO.",
    say(b"RSET\r\n", "250"), start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.5-rset-keeps-ehlo", Level.MUST, "RSET does not undo EHLO.",
    say(b"RSET\r\n", "250"), MAIL, RCPT,
)  # fmt: skip


@TOPIC.case(
    "rfc5321-4.1.4-refused-ehlo-keeps-the-transaction", Level.MUST,
    "A refused EHLO does not change the state: RCPT is still accepted.", start=Start.MAIL,
)  # fmt: skip
async def _refused_ehlo(talk: Talk) -> None:
    reply = await talk.say(b"{ehlo}\r\n", "xxx")
    if reply is not None and reply.code < 400:
        talk.skip("EHLO without an argument is accepted")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.in_step()


for _name, _line, _spec in (
    ("noop", b"NOOP", "250"),
    ("vrfy", b"VRFY conform", "xxx"),
    ("expn", b"EXPN conform", "xxx"),
    ("help", b"HELP", "xxx"),
):
    TOPIC.row(
        f"rfc5321-4.1.1.{ {'noop': 9, 'vrfy': 6, 'expn': 7, 'help': 8}[_name]}-{_name}-changes-nothing", Level.MUST,
        f"{_name.upper()} between MAIL, RCPT and DATA does not affect the transaction.",
        say(_line + b"\r\n", _spec), RCPT, say(_line + b"\r\n", _spec), DATA, MESSAGE, start=Start.MAIL,
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-unknown-verb-changes-nothing", Level.ROBUST, "An unknown verb does not affect the transaction.",
    say(b"XYZZY\r\n", "5xx"), RCPT, say(b"XYZZY\r\n", "5xx"), DATA, MESSAGE, start=Start.MAIL,
)  # fmt: skip


@TOPIC.case(
    "rfc5321-4.1.1.3-malformed-rcpt-changes-nothing", Level.MUST,
    "A malformed RCPT does not affect the recipient before it.", start=Start.RCPT,
)  # fmt: skip
async def _malformed_rcpt(talk: Talk) -> None:
    reply = await talk.say(b"RCPT TO:<conform@>\r\n", "2xx 5xx 4xx")
    if reply is not None and reply.code < 300:
        talk.skip("RCPT TO:<conform@> is accepted")
    await talk.say(b"DATA\r\n", "354")
    await talk.say(b"{message}.\r\n", "250")
    await talk.in_step()


TOPIC.row(
    "rfc5321-3.3-rejected-rcpt-changes-nothing", Level.MUST,
    "A refused recipient does not affect those before and after it.",
    say(b"RCPT TO:<{rejected}>\r\n", "4xx 5xx"), RCPT, DATA, MESSAGE, start=Start.MAIL, wants=("rejected",),
)  # fmt: skip
TOPIC.row(
    "rfc5321-3.3-rejected-rcpt-first-then-data", Level.MUST, "DATA after only refused recipients is refused.",
    say(b"RCPT TO:<{rejected}>\r\n", "4xx 5xx"), say(b"DATA\r\n", "503 554 ~5xx ~4xx"), start=Start.MAIL,
    wants=("rejected",),
)  # fmt: skip


@TOPIC.case("rfc5321-4.1.4-refused-mail-opens-nothing", Level.MUST, "After a malformed MAIL, RCPT is refused 503.")
async def _refused_mail(talk: Talk) -> None:
    reply = await talk.say(b"MAIL FROM:<conform@>\r\n", "2xx 5xx 4xx")
    if reply is not None and reply.code < 300:
        talk.skip("MAIL FROM:<conform@> is accepted")
    await talk.say(b"RCPT TO:<{to}>\r\n", "503 ~5xx")
    await talk.in_step()


TOPIC.row(
    "rfc5321-4.1.1.4-data-ends-the-transaction", Level.MUST, "After accepted content RCPT requires a new MAIL.",
    MESSAGE, NO_MAIL, start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-two-transactions", Level.MUST, "Two transactions in one session.",
    MESSAGE, MAIL, RCPT, DATA, MESSAGE, start=Start.DATA,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-three-transactions-two-aborted", Level.MUST, "RSET twice, then a complete transaction.",
    say(b"RSET\r\n", "250"), MAIL, say(b"RSET\r\n", "250"), MAIL, RCPT, DATA, MESSAGE, start=Start.RCPT,
)  # fmt: skip


@TOPIC.case(
    "rfc5321-4.1.1.5-rset-delivers-nothing", Level.MUST, "A transaction that RSET ended delivers nothing.",
    start=Start.RCPT, wants=("maildir",),
)  # fmt: skip
async def _rset_delivers(talk: Talk) -> None:
    message = talk.message()
    if "CHUNKING" in talk.survey.offers:
        await talk.say(b"BDAT %d\r\n%b" % (len(message), message), "250")
    await talk.say(b"RSET\r\n", "250")
    reply = await talk.say(b"DATA\r\n", "503 554 ~5xx ~4xx 354")
    if reply is not None and reply.code == 354:
        await talk.finish(message + b".\r\n", "2xx 4xx 5xx")
    await talk.in_step()
    await talk.delivered(0)


@TOPIC.case(
    "rfc5321-3.3-two-recipients", Level.MUST, "One message to two recipients is accepted.", start=Start.RCPT,
    wants=("second",),
)  # fmt: skip
async def _two_recipients(talk: Talk) -> None:
    await talk.say(b"RCPT TO:<{to2}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=2)
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.1.1.3-the-same-recipient-twice", Level.MUST, "The same recipient twice: both RCPT are answered.",
    start=Start.RCPT,
)  # fmt: skip
async def _same_recipient(talk: Talk) -> None:
    second = await talk.say(b"RCPT TO:<{to}>\r\n", "250 251 4xx 5xx")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250", recipients=2 if second is not None and second.code < 300 else 1)
    await talk.in_step()


TOPIC.row(
    "rfc2033-4.2-data-without-rcpt", Level.MUST, "In LMTP, DATA without a recipient is refused with 503 exactly.",
    say(b"DATA\r\n", "503"), start=Start.MAIL, profiles=LMTP,
)  # fmt: skip
