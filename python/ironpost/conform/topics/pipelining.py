"""Commands in groups (RFC 2920). Replies are matched by counting, as the standard requires."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("pipelining", "PIPELINING", needs=("PIPELINING",))

MAIL = b"MAIL FROM:<{from}>\r\n"
RCPT = b"RCPT TO:<{to}>\r\n"
ENVELOPE = MAIL + RCPT
END = b"{message}.\r\n"

TOPIC.row(
    "rfc2920-3.1-envelope-and-data", Level.MUST, "MAIL, RCPT and DATA in one write are answered in order.",
    say(ENVELOPE + b"DATA\r\n", "250", "250 251", "354"), say(END, "250"),
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.1-two-transactions", Level.MUST,
    "The envelope of the next message in the same write as the content of the last.",
    say(ENVELOPE + b"DATA\r\n", "250", "250 251", "354"),
    say(END + ENVELOPE + b"DATA\r\n", "250", "250", "250 251", "354"), say(END, "250"),
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.1-rset-in-a-group", Level.MUST, "RSET, MAIL, RCPT in one write.",
    say(b"RSET\r\n" + ENVELOPE, "250", "250", "250 251"), start=Start.RCPT,
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.1-many-rset", Level.MUST, "Six RSET in one write get six replies.", say(b"RSET\r\n" * 6, *["250"] * 6)
)
TOPIC.row(
    "rfc2920-3.1-quit-at-the-end", Level.MUST, "A group that ends with QUIT.",
    say(ENVELOPE + b"QUIT\r\n", "250", "250 251", "221"), quits=False,
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.1-noop-at-the-end", Level.MUST, "A group that ends with NOOP.",
    say(ENVELOPE + b"NOOP\r\n", "250", "250 251", "250"),
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.1-content-and-quit", Level.MUST, "Content and QUIT in one write.",
    say(END + b"QUIT\r\n", "250", "221"), start=Start.DATA, quits=False,
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.2-an-error-loses-nothing", Level.MUST, "Commands after a malformed RCPT in a group are still read.",
    say(MAIL + b"RCPT TO:<conform@>\r\n" + RCPT + b"DATA\r\n", "250", "5xx", "250 251", "354"), say(END, "250"),
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.2-a-refused-mail-in-a-group", Level.MUST, "After a refused MAIL, RCPT and DATA are refused one by one.",
    say(b"MAIL FROM:<conform@>\r\n" + RCPT + b"DATA\r\n", "5xx", "503 ~5xx", "503 554 ~5xx"),
)  # fmt: skip
TOPIC.row(
    "rfc2920-3.2-a-rejected-recipient-in-a-group", Level.MUST, "A refused recipient between two commands of a group.",
    say(MAIL + b"RCPT TO:<{rejected}>\r\n" + RCPT + b"DATA\r\n", "250", "5xx 4xx", "250 251", "354"), say(END, "250"),
    wants=("rejected",),
)  # fmt: skip


@TOPIC.case(
    "rfc2920-3.2-no-valid-recipient", Level.MUST,
    "DATA in a group without an accepted recipient is refused, or 354 and then the empty message is refused.",
    wants=("rejected",),
)  # fmt: skip
async def _no_recipient(talk: Talk) -> None:
    await talk.send(MAIL + b"RCPT TO:<{rejected}>\r\nDATA\r\n")
    await talk.expect("250")
    await talk.expect("4xx 5xx")
    reply = await talk.expect("503 554 ~5xx ~4xx ~354")
    if reply is not None and reply.code == 354:
        await talk.say(b".\r\n", "5xx")
    await talk.in_step()


for _name, _pieces in (
    ("cut-in-a-verb", (b"MAIL FROM:<{from}>\r\nRC", b"PT TO:<{to}>\r\nDA", b"TA\r\n")),
    ("cut-in-crlf", (b"MAIL FROM:<{from}>\r", b"\nRCPT TO:<{to}>\r", b"\nDATA\r", b"\n")),
    ("cut-in-a-path", (b"MAIL FROM:<", b"{from}>\r\nRCPT TO:<{to}", b">\r\nDATA\r\n")),
):
    TOPIC.row(
        f"rfc2920-3.2-{_name}", Level.MUST, "A group that arrives in several reads gets the same replies as in one.",
        say(_pieces, "250", "250 251", "354"), say(END, "250"),
    )  # fmt: skip
TOPIC.row(
    "rfc2920-3.2-content-cut-into-the-next-group", Level.MUST,
    "The read that ends the content contains the beginning of the next command.",
    say((b"{message}", b".\r\nMAIL FR", b"OM:<{from}>\r\n"), "250", "250"), start=Start.DATA,
)  # fmt: skip


@TOPIC.case("rfc2920-3.2-many-recipients", Level.MUST, "MAIL, 50 RCPT and RSET in one write get 52 replies in order.")
async def _many(talk: Talk) -> None:
    await talk.send(MAIL + RCPT * 50 + b"RSET\r\n")
    await talk.expect("250")
    for _ in range(50):
        await talk.expect("250 251 4xx 5xx")
    await talk.expect("250")
    await talk.in_step()


@TOPIC.case(
    "rfc2920-3.2-answers-when-the-buffer-is-empty", Level.MUST,
    "Replies are not held back when only part of the next command has arrived.",
)  # fmt: skip
async def _at_once(talk: Talk) -> None:
    await talk.send(ENVELOPE + b"RS")
    await talk.expect("250")
    await talk.expect("250 251")
    await talk.say(b"ET\r\n", "250")
    await talk.in_step()


@TOPIC.case(
    "rfc2920-3.1-content-without-waiting", Level.ROBUST,
    "A client that does not wait for 354 is served or refused; content after 354 is not executed.",
    profiles=SMTP,
)  # fmt: skip
async def _impatient(talk: Talk) -> None:
    await talk.send(ENVELOPE + b"DATA\r\n" + b"{message}RSET\r\n.\r\n")
    await talk.expect("250")
    await talk.expect("250 251")
    reply = await talk.expect("354 5xx 4xx close")
    if reply is not None and reply.code == 354 and (await talk.expect("250 5xx 4xx close")) is not None:
        await talk.send(b"QUIT\r\n")
        await talk.expect("221 421 close")
