"""Input from clients that do not speak SMTP or are hostile: the server refuses it or closes the connection, and the
next connection works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.conform.case import MX, SMTP, Level, Start, Topic, say

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("robustness", "Robustness")

REFUSED = "5xx 4xx 221 close"
"""Some servers answer 221 to input that is not SMTP."""


def _odd(name: str, octets: bytes, does: str, start: Start = Start.GREETED) -> None:
    @TOPIC.case(f"rfc5321-7.8-{name}", Level.ROBUST, f"{does}: refused, and the next connection works.", start=start)
    async def _(talk: Talk) -> None:
        await talk.send(octets)
        await talk.expect(REFUSED)
        await talk.reconnect(Start.GREETED)
        await talk.in_step()


_odd("http", b"GET / HTTP/1.1\r\nHost: conform.example\r\n\r\n", "An HTTP request")
_odd(
    "http-post-with-commands",
    b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<>\r\n",
    "SMTP inside an HTTP POST",
)
_odd("eight-bit-verb", b"\xc3\xa4\xff\xfe\r\n", "A verb of 8-bit octets")
_odd("nul-verb", b"\0\0\0\0\r\n", "A line of NUL")
_odd("all-octets", bytes(o for o in range(256) if o not in (10, 13)) + b"\r\n", "A line of every octet")
_odd("shell", b"MAIL FROM:<`id`@$(id)>\r\n", "A path with shell commands")
_odd("sql", b"ETRN ';DROP TABLE x;--\r\n", "An argument with SQL")
_odd("format", b"%s%s%s%n%n%n\r\n", "A verb with format specifiers")
_odd("path-traversal", b"RCPT TO:<../../../../etc/passwd>\r\n", "A path traversal in RCPT")
_odd("angle-brackets", b"MAIL FROM:" + b"<" * 400 + b"\r\n", "Many opening brackets")
_odd("many-routes", b"MAIL FROM:<" + b"@a," * 100 + b":x@y.example>\r\n", "A malformed source route of a hundred hosts")
_odd(
    "many-parameters",
    b"MAIL FROM:<a@b.example> " + b"X=1 " * 100 + b"\r\n",
    "A hundred unknown parameters",
    Start.HELLO,
)
_odd("long-parameter", b"MAIL FROM:<a@b.example> X=" + b"y" * 400 + b"\r\n", "A long parameter", Start.HELLO)


@TOPIC.case(
    "rfc5321-7.8-tls-hello-without-tls", Level.ROBUST,
    "A TLS ClientHello on a connection without TLS gets an error, or the connection closes.",
    start=Start.GREETED, wants=("unencrypted connection",),
)  # fmt: skip
async def _client_hello(talk: Talk) -> None:
    await talk.send(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(32)) * 4 + b"\r\n")
    await talk.expect(REFUSED)
    await talk.reconnect(Start.GREETED)
    await talk.in_step()


@TOPIC.case(
    "rfc5321-7.8-slow-octets",
    Level.ROBUST,
    "A command whose octets arrive slowly, one by one, is understood.",
)
async def _slow(talk: Talk) -> None:
    await talk.send(*(bytes([octet]) for octet in b"NOOP\r\n"))
    await talk.expect("250")
    await talk.in_step()


@TOPIC.case("rfc5321-7.8-gone-at-once", Level.ROBUST, "The server survives connections that send nothing and close.",
            start=Start.CONNECTED)  # fmt: skip
async def _gone(talk: Talk) -> None:
    for _ in range(5):
        await talk.reconnect(Start.CONNECTED)
    await talk.reconnect(Start.GREETED)
    await talk.in_step()


@TOPIC.case("rfc5321-7.8-gone-in-content", Level.ROBUST, "The server survives a connection reset inside content.",
            start=Start.DATA)  # fmt: skip
async def _gone_in_content(talk: Talk) -> None:
    await talk.send(b"{message}")
    await talk.reconnect(Start.DATA)
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()


@TOPIC.case(
    "rfc5321-3.8-half-closed", Level.ROBUST, "A client that sent QUIT and ended its stream still gets 221.",
    wants=("unencrypted",),
)  # fmt: skip
async def _half_closed(talk: Talk) -> None:
    await talk.send(b"QUIT\r\n")
    talk.connection.end()
    await talk.expect("221")


@TOPIC.case(
    "rfc5321-3.8-half-closed-group", Level.ROBUST, "A group is answered although the stream ends after it.",
    wants=("unencrypted",), needs=("PIPELINING",),
)  # fmt: skip
async def _half_closed_group(talk: Talk) -> None:
    await talk.send(b"MAIL FROM:<{from}>\r\nRCPT TO:<{to}>\r\nRSET\r\n")
    talk.connection.end()
    for specification in ("250", "250 251", "250"):
        await talk.expect(specification)


@TOPIC.case("rfc5321-7.8-many-errors", Level.ROBUST, "A client that makes forty errors is delayed or disconnected.")
async def _errors(talk: Talk) -> None:
    for _ in range(40):
        await talk.send(b"XYZZY\r\n")
        try:
            reply = await talk.connection.reply()
        except Exception:  # noqa: BLE001 - slowed down: what it says is not the question
            return
        if reply is None or reply.code in {421, 521, 554}:
            return
    talk.fail("forty errors were answered at once")


@TOPIC.case(
    "rfc5321-7.9-open-relay", Level.ROBUST, "An untrusted client cannot relay from one foreign domain to another.",
    start=Start.MAIL, profiles=MX, wants=("rejected",),
)  # fmt: skip
async def _relay(talk: Talk) -> None:
    for address in (b"conform@relay.invalid", b"@{to}:conform@relay.invalid", b"conform%relay.invalid@relay.invalid"):
        await talk.say(b"RCPT TO:<" + address + b">\r\n", "5xx 4xx")


TOPIC.row(
    "rfc5321-7.9-bang-path", Level.ROBUST, "A bang path is not relayed.",
    say(b"RCPT TO:<relay.invalid!conform>\r\n", "5xx 4xx"), start=Start.MAIL, profiles=SMTP,
)  # fmt: skip
