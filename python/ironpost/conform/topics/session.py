"""Start, basic commands and end of a session (RFC 5321 §3.1, §3.2, §4.1.1, §4.2, §4.3.1)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ironpost.conform.case import MX, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost import wire
    from ironpost.conform.talk import Talk

TOPIC = Topic("session", "Greeting, EHLO, NOOP, RSET, QUIT")

_NAME: Final = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?)*|\[[^\]]+\]"
)


def _named(talk: Talk, reply: wire.Reply | None, what: str) -> None:
    words = reply.lines[0].decode("ascii", "replace").split() if reply is not None else []
    if not words or not _NAME.fullmatch(words[0]):
        talk.fail(f"the first word of {what} is not a domain or address literal: {words[0] if words else 'nothing'!r}")


@TOPIC.case("rfc5321-3.1-greeting", Level.MUST, "The server sends its greeting first: 220.", start=Start.CONNECTED)
async def _greeting(talk: Talk) -> None:
    await talk.expect("220")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-4.3.1-greeting-name", Level.MUST, "The first word of the greeting is the server's domain or literal.",
    start=Start.GREETED,
)  # fmt: skip
async def _greeting_name(talk: Talk) -> None:
    _named(talk, talk.greeting, "the greeting")


@TOPIC.case(
    "rfc5321-4.1.1.1-ehlo-name", Level.MUST, "The first word of the reply to EHLO is the server's domain or literal.",
    start=Start.GREETED,
)  # fmt: skip
async def _ehlo_name(talk: Talk) -> None:
    _named(talk, await talk.say(b"{ehlo} {name}\r\n", "250"), "the reply to EHLO")
    await talk.in_step()


TOPIC.row(
    "rfc5321-3.2-ehlo", Level.MUST, "EHLO is answered 250.", say(b"EHLO {name}\r\n", "250"),
    start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-3.2-helo", Level.MUST, "HELO is answered 250.", say(b"HELO {name}\r\n", "250"),
    start=Start.GREETED, profiles=SMTP,
)  # fmt: skip


@TOPIC.case(
    "rfc5321-4.1.1.1-helo-lists-nothing", Level.MUST, "The reply to HELO does not list extensions.",
    start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
async def _helo_plain(talk: Talk) -> None:
    reply = await talk.say(b"HELO {name}\r\n", "250")
    if reply is not None and len(reply.lines) > 1:
        listed = {line.split()[0].upper() for line in reply.lines[1:] if line.split()}
        if listed & {keyword.encode() for keyword in talk.survey.unencrypted}:
            talk.fail("the reply to HELO lists extensions as the one to EHLO does")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-3.2-mail-after-helo", Level.MUST, "A whole transaction works after HELO.",
    start=Start.GREETED, profiles=MX, wants=("unencrypted",),
)  # fmt: skip
async def _after_helo(talk: Talk) -> None:
    await talk.say(b"HELO {name}\r\n", "250")
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.say(b"{message}.\r\n", "250")
    await talk.in_step()
    await talk.delivered()


for _kind, _argument in (
    ("ipv4-literal", b"[127.0.0.1]"),
    ("ipv6-literal", b"[IPv6:2001:db8::1]"),
    ("unknown-name", b"no-such-host.invalid"),
    ("single-label", b"localhost"),
    ("digits", b"4.example"),
    ("upper-case", b"CONFORM.EXAMPLE"),
    ("long-name", b".".join([b"a" * 60] * 4)),
):
    TOPIC.row(
        f"rfc5321-4.1.1.1-ehlo-{_kind}", Level.MUST, f"EHLO with {_argument[:32].decode()} is answered 250.",
        say(b"{ehlo} " + _argument + b"\r\n", "250"), start=Start.GREETED,
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-mail-after-unverifiable-ehlo", Level.MUST,
    "A transaction is not refused because the EHLO name does not belong to the client.",
    say(b"EHLO no-such-host.invalid\r\n", "250"), say(b"MAIL FROM:<{from}>\r\n", "250"),
    say(b"RCPT TO:<{to}>\r\n", "250 251"), start=Start.GREETED, profiles=MX, wants=("unencrypted",),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.1-ehlo-without-name", Level.SHOULD, "EHLO without its argument is refused 501.",
    say(b"{ehlo}\r\n", "501 ~5xx"), start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.1-helo-without-name", Level.SHOULD, "HELO without its argument is refused 501.",
    say(b"HELO\r\n", "501 ~5xx"), start=Start.GREETED, profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.1-ehlo-after-a-refused-one", Level.MUST, "After a refused EHLO a valid one is answered 250.",
    say(b"{ehlo}\r\n", "xxx"), say(b"{ehlo} {name}\r\n", "250"), start=Start.GREETED,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.4-ehlo-again", Level.MUST, "EHLO may be sent again: 250, or a code allowed for a refusal.",
    say(b"{ehlo} {name}\r\n", "250 500 501 502 550"), say(b"{ehlo} {name}\r\n", "250 500 501 502 550"),
)  # fmt: skip


@TOPIC.case("rfc5321-4.1.4-ehlo-again-says-the-same", Level.ROBUST, "A second EHLO lists the same extensions.")
async def _same(talk: Talk) -> None:
    reply = await talk.say(b"{ehlo} {name}\r\n", "250 5xx")
    if reply is not None and reply.code != 250:
        talk.skip("the server refuses EHLO inside a session")
    first, second = await talk.hello(), await talk.hello()
    if first != second:
        differing = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
        talk.fail(f"they differ in {', '.join(differing)}")
    await talk.in_step()


TOPIC.row(
    "rfc5321-4.1.4-helo-after-ehlo", Level.MUST, "HELO after EHLO is answered 250, or refused with a code of EHLO.",
    say(b"HELO {name}\r\n", "250 500 501 502 503 550"), profiles=SMTP,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# NOOP, RSET, HELP, VRFY, EXPN

for _verb, _spec in (("NOOP", "250"), ("RSET", "250")):
    TOPIC.row(
        f"rfc5321-4.1.1.9-{_verb.lower()}" if _verb == "NOOP" else "rfc5321-4.1.1.5-rset", Level.MUST,
        f"{_verb} is answered 250.", say(_verb.encode() + b"\r\n", _spec),
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.9-noop-with-argument", Level.SHOULD, "NOOP with an argument is answered 250.",
    say(b"NOOP any words\r\n", "250"),
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.5-rset-twice", Level.MUST, "RSET with nothing to reset is answered 250.",
    say(b"RSET\r\n", "250"), say(b"RSET\r\n", "250"),
)  # fmt: skip
for _verb, _spec in (
    ("NOOP", "250 ~500 ~502 ~550"),
    ("RSET", "250 ~500 ~502"),
    ("VRFY {to}", "25x 4xx 530 550 551 553 ~500 ~502 ~504"),
    ("EXPN conform", "25x 4xx 530 550 500 502 504"),
    ("HELP", "2xx 500 502 504 530"),
):
    _name = _verb.split()[0]
    TOPIC.row(
        f"rfc5321-4.1.4-{_name.lower()}-before-ehlo", Level.SHOULD,
        f"{_name} before EHLO is processed: no 503.", say(_verb.encode() + b"\r\n", _spec), start=Start.GREETED,
        profiles=SMTP,
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.5.1-vrfy", Level.MUST, "VRFY is supported: a reply about the name, or 252, but neither 500 nor 503.",
    say(b"VRFY {to}\r\n", "25x 4xx 550 551 553 ~502 ~504"), profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-7.3-vrfy-disabled", Level.MUST, "Disabled VRFY is answered 252, not 5yz.",
    say(b"VRFY {to}\r\n", "25x 4xx 550 551 553"), profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.6-vrfy-without-argument", Level.SHOULD, "VRFY without its argument is refused 501.",
    say(b"VRFY\r\n", "501 ~5xx ~252"), profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.8-help", Level.SHOULD, "HELP is answered 211 or 214.", say(b"HELP\r\n", "211 214"), profiles=SMTP,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.8-help-with-argument", Level.ROBUST, "HELP MAIL is answered or refused with an ordinary reply.",
    say(b"HELP MAIL\r\n", "211 214 500 501 502 504"), profiles=SMTP,
)  # fmt: skip

# ---------------------------------------------------------------------------------------------------------------------
# QUIT


def _quit(name: str, start: Start) -> None:
    @TOPIC.case(
        f"rfc5321-4.1.1.10-quit-{name}", Level.MUST, "QUIT is answered 221 and the connection closes.", start=start
    )
    async def _(talk: Talk) -> None:
        await talk.say(b"QUIT\r\n", "221")
        await talk.closed()


_quit("before-ehlo", Start.GREETED)
_quit("after-ehlo", Start.HELLO)
_quit("after-mail", Start.MAIL)
_quit("after-rcpt", Start.RCPT)
for _verb in ("RSET", "DATA", "QUIT"):
    TOPIC.row(
        f"rfc5321-4.1.1-{_verb.lower()}-with-argument", Level.SHOULD,
        f"{_verb} with an argument is refused as a syntax error.",
        say(_verb.encode() + b" now\r\n", "501 ~5xx"), start=Start.RCPT,
    )  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.1.10-open-after-an-error", Level.MUST,
    "An unknown command, a refused one and one out of order do not close the connection.",
    say(b"XYZZY\r\n", "5xx"), say(b"DATA\r\n", "5xx"), say(b"NOOP\r\n", "250"),
)  # fmt: skip
