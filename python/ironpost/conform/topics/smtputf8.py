"""Internationalised addresses and messages (RFC 6531)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.conform.case import ANY, MX, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("smtputf8", "SMTPUTF8")
NEEDS: Final = ("SMTPUTF8",)
LACKS: Final = ("!SMTPUTF8",)
UNDERSTOOD: Final = "250 251 4xx 550 551 552 553 554 556"
LOCAL: Final = "grüße".encode()
DOMAIN: Final = "müller.example".encode()


def _mail(name: str, line: bytes, does: str, spec: str, level: Level = Level.MUST, section: str = "3.4",
          needs: tuple[str, ...] = NEEDS) -> None:  # fmt: skip
    TOPIC.row(f"rfc6531-{section}-{name}", level, does, say(b"MAIL FROM:" + line + b"\r\n", spec), needs=needs)


_mail("parameter", b"<{from}> SMTPUTF8", "SMTPUTF8 is accepted.", "250")
_mail("parameter-in-any-case", b"<{from}> smtputf8", "smtputf8 is understood in any case.", "250")
_mail("parameter-with-value", b"<{from}> SMTPUTF8=yes", "SMTPUTF8 with a value is refused.", "501 555 ~5xx")
_mail("parameter-with-empty-value", b"<{from}> SMTPUTF8=", "SMTPUTF8= is refused.", "501 555 ~5xx", Level.SHOULD)
_mail("null-path", b"<> SMTPUTF8", "SMTPUTF8 with the null reverse-path.", "250")
_mail("with-body", b"<{from}> SMTPUTF8 BODY=8BITMIME", "SMTPUTF8 and BODY together.", "250", section="3.6")
_mail(
    "local-part", b"<" + LOCAL + b"@client.example> SMTPUTF8", "A local part outside ASCII.", UNDERSTOOD, section="3.3"
)
_mail("domain", b"<conform@" + DOMAIN + b"> SMTPUTF8", "A U-label as domain.", UNDERSTOOD, section="3.3")
_mail("a-label", b"<conform@xn--mller-kva.example> SMTPUTF8", "An A-label as domain.", UNDERSTOOD, section="3.3")
_mail("quoted", b'<"' + LOCAL + b' x"@client.example> SMTPUTF8', "A quoted local part outside ASCII.", UNDERSTOOD,
      section="3.3")  # fmt: skip
_mail("four-octets", "<\U0001f4e7@client.example> SMTPUTF8".encode(), "A character of four octets.", UNDERSTOOD,
      section="3.3")  # fmt: skip
for _name, _octets in (
    ("lone-continuation", b"\x80"),
    ("cut-sequence", b"\xc3"),
    ("overlong", b"\xc0\xaf"),
    ("surrogate", b"\xed\xa0\x80"),
    ("beyond-unicode", b"\xf4\x90\x80\x80"),
    ("latin1", b"gr\xfc\xdfe"),
):
    _mail(
        f"malformed-{_name}", b"<x" + _octets + b"@client.example> SMTPUTF8", "Invalid UTF-8 is refused.",
        "500 501 550 553 ~5xx ~4xx", Level.SHOULD, "3.3",
    )  # fmt: skip
_mail("undeclared-local-part", b"<" + LOCAL + b"@client.example>",
      "A sender outside ASCII without SMTPUTF8 is refused.", "500 501 550 ~5xx", Level.SHOULD, "3.5")  # fmt: skip
_mail("undeclared-domain", b"<conform@" + DOMAIN + b">",
      "A domain outside ASCII without SMTPUTF8 is refused.", "500 501 550 553 ~5xx", Level.SHOULD, "3.5")  # fmt: skip
_mail("not-offered-parameter", b"<{from}> SMTPUTF8", "SMTPUTF8 is refused where it is not offered.", "555 ~5xx",
      section="3.1", needs=LACKS)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.2-eight-bit-sender-not-offered", Level.SHOULD,
    "A sender outside ASCII is refused where SMTPUTF8 is not offered.",
    say(b"MAIL FROM:<" + LOCAL + b"@client.example>\r\n", "501 550 553 ~5xx"), needs=LACKS,
)  # fmt: skip
TOPIC.row(
    "rfc5321-4.1.2-eight-bit-recipient-not-offered", Level.SHOULD,
    "A recipient outside ASCII is refused where SMTPUTF8 is not offered.",
    say(b"RCPT TO:<" + LOCAL + b"@client.example>\r\n", "501 550 553 ~5xx"), start=Start.MAIL, needs=LACKS,
)  # fmt: skip
TOPIC.row(
    "rfc6531-3.3-recipient", Level.MUST, "A recipient outside ASCII after MAIL with SMTPUTF8 is not a syntax error.",
    say(b"MAIL FROM:<{from}> SMTPUTF8\r\n", "250"), say(b"RCPT TO:<" + LOCAL + b"@client.example>\r\n", UNDERSTOOD),
    needs=NEEDS,
)  # fmt: skip
TOPIC.row(
    "rfc6531-3.5-undeclared-recipient", Level.SHOULD,
    "A recipient outside ASCII without SMTPUTF8 is refused.",
    say(b"RCPT TO:<" + LOCAL + b"@{to-domain}>\r\n", "500 501 550 553 ~5xx"), start=Start.MAIL, needs=NEEDS,
)  # fmt: skip
TOPIC.row(
    "rfc6531-3.5-of-the-former-transaction", Level.SHOULD, "SMTPUTF8 applies to one transaction: RSET ends it.",
    say(b"MAIL FROM:<{from}> SMTPUTF8\r\n", "250"), say(b"RSET\r\n", "250"), say(b"MAIL FROM:<{from}>\r\n", "250"),
    say(b"RCPT TO:<" + LOCAL + b"@{to-domain}>\r\n", "500 501 550 553 ~5xx"), needs=NEEDS,
)  # fmt: skip
TOPIC.row(
    "rfc6531-3.7.4.2-vrfy", Level.ROBUST, "VRFY with SMTPUTF8 and a name outside ASCII: an ordinary reply.",
    say(b"VRFY " + LOCAL + b" SMTPUTF8\r\n", "25x 4xx 5xx"), needs=NEEDS, profiles=SMTP,
)  # fmt: skip


@TOPIC.case("rfc6531-3.6-message", Level.MUST, "A message with header fields outside ASCII is accepted.", needs=NEEDS,
            profiles=ANY)  # fmt: skip
async def _message(talk: Talk) -> None:
    await talk.say(b"MAIL FROM:<{from}> SMTPUTF8\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    field = "X-Note: grüße\r\n".encode()
    await talk.finish(field + talk.message("grüße\r\n".encode()) + b".\r\n", "250")
    await talk.in_step()
    for message in await talk.delivered():
        if field not in message:
            talk.fail("the field arrived changed")


@TOPIC.case(
    "rfc6531-3.7.1-greeting-is-ascii", Level.MUST, "Greeting and reply to EHLO are ASCII.", start=Start.GREETED,
    profiles=MX,
)  # fmt: skip
async def _ascii(talk: Talk) -> None:
    await talk.say(b"{ehlo} {name}\r\n", "250")
    if any(octet > 126 for octet in talk.connection.octets):
        talk.fail("octets outside ASCII in the greeting or the reply to EHLO")
    await talk.in_step()
