"""STARTTLS (RFC 3207): the command, the state it resets, and injected commands (SECURITY R6, R9, R11)."""

from __future__ import annotations

import ssl
import warnings
from typing import TYPE_CHECKING

from ironpost.conform.case import SMTP, SUBMISSION, Level, Start, Topic, say
from ironpost.conform.connection import TlsFailed

if TYPE_CHECKING:
    from ironpost.conform.talk import Talk

TOPIC = Topic("starttls", "STARTTLS", needs=("STARTTLS",), wants=("unencrypted connection",))


async def _ehlo_without_tls(talk: Talk) -> None:
    await talk.say(b"{ehlo} {name}\r\n", "250")


async def _upgraded(talk: Talk, context: ssl.SSLContext | None = None) -> None:
    await _ehlo_without_tls(talk)
    await talk.start_tls(context)


@TOPIC.case("rfc3207-4-handshake", Level.MUST, "STARTTLS is answered 220 and a handshake follows.", start=Start.GREETED)
async def _handshake(talk: Talk) -> None:
    await _upgraded(talk)
    await talk.hello()
    await talk.in_step()


@TOPIC.case("rfc3207-4-in-any-case", Level.MUST, "starttls is understood in any case.", start=Start.GREETED)
async def _case(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.say(b"StartTls\r\n", "220")


@TOPIC.case("rfc3207-4-with-argument", Level.MUST, "STARTTLS with an argument is refused 501.", start=Start.GREETED)
async def _argument(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.say(b"STARTTLS now\r\n", "501 ~5xx")
    await talk.in_step()


@TOPIC.case("rfc3207-4-trailing-space", Level.ROBUST, "STARTTLS with a trailing space is accepted or refused.",
            start=Start.GREETED)  # fmt: skip
async def _space(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.say(b"STARTTLS \r\n", "220 501")


@TOPIC.case("rfc3207-4.2-ehlo-works", Level.MUST, "EHLO after the handshake is answered 250.", start=Start.GREETED)
async def _ehlo(talk: Talk) -> None:
    await _upgraded(talk)
    await talk.say(b"{ehlo} {name}\r\n", "250")
    await talk.in_step()


@TOPIC.case("rfc3207-4.2-not-offered-again", Level.MUST, "STARTTLS is not offered under TLS.", start=Start.GREETED)
async def _again(talk: Talk) -> None:
    await _upgraded(talk)
    if "STARTTLS" in await talk.hello():
        talk.fail("STARTTLS is offered")
    await talk.in_step()


@TOPIC.case("rfc3207-4.2-not-twice", Level.SHOULD, "STARTTLS under TLS is refused.", start=Start.GREETED)
async def _twice(talk: Talk) -> None:
    await _upgraded(talk)
    await talk.hello()
    await talk.say(b"STARTTLS\r\n", "5xx 454")
    await talk.in_step()


@TOPIC.case(
    "rfc3207-4.2-forgets-ehlo", Level.MUST,
    "The handshake resets the session to its state after the greeting: MAIL is refused until EHLO.",
    start=Start.GREETED,
)  # fmt: skip
async def _forgets(talk: Talk) -> None:
    await talk.send(b"MAIL FROM:<{from}>\r\n")
    if (await talk.reply()).code == 250:
        talk.skip("the server takes MAIL without EHLO")
    await talk.reconnect(Start.GREETED)
    await _upgraded(talk)
    await talk.say(b"MAIL FROM:<{from}>\r\n", "503 530 ~5xx")
    await talk.in_step()


@TOPIC.case(
    "rfc3207-4.2-forgets-the-transaction", Level.MUST,
    "STARTTLS ends an open transaction, or is refused inside it.", start=Start.GREETED,
)  # fmt: skip
async def _transaction(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.send(b"MAIL FROM:<{from}>\r\n")
    if (await talk.reply()).code != 250:
        talk.skip("MAIL is refused before TLS")
    await talk.send(b"STARTTLS\r\n")
    reply = await talk.expect("220 5xx 454")
    if reply is not None and reply.code == 220:
        await talk.connection.start_tls(talk.target.context(), talk.target.host)
        await talk.say(b"RCPT TO:<{to}>\r\n", "503 530 ~5xx")  # no EHLO before it: that would end a transaction
    await talk.in_step()


def _injected(name: str, octets: bytes, does: str) -> None:
    @TOPIC.case(
        f"rfc3207-6-{name}", Level.MUST,
        f"{does} in the same write as STARTTLS is not executed under TLS (CVE-2011-0411, SECURITY R9).",
        start=Start.GREETED,
    )  # fmt: skip
    async def _(talk: Talk) -> None:
        await _ehlo_without_tls(talk)
        await talk.send(b"STARTTLS\r\n" + octets)
        reply = await talk.expect("220 4xx 5xx close")
        if reply is None or reply.code != 220:
            return
        try:
            await talk.connection.start_tls(talk.target.context(), talk.target.host)
        except TlsFailed:
            return
        await talk.send(b"{ehlo} {name}\r\nQUIT\r\n")
        first = await talk.expect("xxx close")
        if first is None:
            return
        if first.code != 250 or (len(first.lines) < 2 and talk.target.hello in {"EHLO", "LHLO"} and b"NOOP" in octets):
            talk.fail(f"before the reply to EHLO came {first.code}: commands sent before TLS were executed")
        last = await talk.expect("xxx close")
        if last is not None and last.code != 221:
            talk.fail(f"before the reply to QUIT came {last.code}: commands sent before TLS were executed")


_injected("injected-noop", b"NOOP\r\n", "NOOP")
_injected("injected-mail", b"EHLO injected.example\r\nMAIL FROM:<injected@client.example>\r\n", "EHLO and MAIL")
_injected("injected-half-a-command", b"NO", "Half a command")


@TOPIC.case(
    "rfc3207-6-injected-half-is-not-prepended", Level.MUST,
    "Half a verb sent before TLS does not become the beginning of the first command under TLS.", start=Start.GREETED,
)  # fmt: skip
async def _half(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.send(b"STARTTLS\r\nXYZZY ")
    reply = await talk.expect("220 4xx 5xx close")
    if reply is None or reply.code != 220:
        return
    try:
        await talk.connection.start_tls(talk.target.context(), talk.target.host)
    except TlsFailed:
        return
    await talk.send(b"{ehlo} {name}\r\n")
    first = await talk.expect("xxx close")
    if first is not None and first.code != 250:
        talk.fail(f"EHLO got {first.code}: it was appended to what was sent before TLS")


@TOPIC.case(
    "rfc3207-4-no-answer-without-tls", Level.MUST,
    "Unencrypted commands after 220 are not executed.", start=Start.GREETED,
)  # fmt: skip
async def _unencrypted(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.say(b"STARTTLS\r\n", "220")
    await talk.connection.send(b"NOOP\r\nNOOP\r\n" + b"NOOP\r\n" * 20)
    while octets := await talk.connection.read():
        if octets.startswith(b"250"):
            talk.fail("unencrypted NOOP was answered 250")


@TOPIC.case(
    "rfc3207-4-garbage-instead-of-a-handshake", Level.ROBUST,
    "Garbage instead of a handshake ends this connection, and the next one works.", start=Start.GREETED,
)  # fmt: skip
async def _garbage(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    await talk.say(b"STARTTLS\r\n", "220")
    await talk.connection.send(b"\x16\x03\x01\xff\xff" + b"\0" * 200)
    talk.connection.end()
    while await talk.connection.read():
        pass
    await talk.reconnect(Start.GREETED)
    await talk.in_step()


@TOPIC.case(
    "rfc3207-4-before-ehlo", Level.ROBUST, "STARTTLS before EHLO is refused or begins TLS.", start=Start.GREETED
)
async def _before_ehlo(talk: Talk) -> None:
    reply = await talk.say(b"STARTTLS\r\n", "220 503 ~5xx")
    if reply is not None and reply.code == 220:
        await talk.connection.start_tls(talk.target.context(), talk.target.host)
        await talk.hello()
    await talk.in_step()


@TOPIC.case("rfc3207-4-noop-after-a-refusal", Level.MUST, "After a refused STARTTLS the session continues.",
            start=Start.GREETED)  # fmt: skip
async def _refused(talk: Talk) -> None:
    await _ehlo_without_tls(talk)
    reply = await talk.say(b"STARTTLS now\r\n", "xxx")
    if reply is not None and reply.code < 400:
        talk.skip("STARTTLS with an argument is accepted")
    await talk.say(b"NOOP\r\n", "250")
    await talk.in_step()


@TOPIC.case("rfc3207-5-message-under-tls", Level.MUST, "A message is accepted under TLS.", start=Start.GREETED)
async def _message(talk: Talk) -> None:
    if talk.target.profile.value == "submission" and not talk.target.user:
        talk.skip("no --user and --password")
    await _upgraded(talk)
    await talk.hello()
    if talk.target.user:
        await talk.log_in()
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.finish(b"{message}.\r\n", "250")
    await talk.in_step()
    await talk.delivered()


@TOPIC.case(
    "rfc3207-4-end-of-tls-inside-content", Level.ROBUST,
    "The end of TLS inside content ends the transaction: no unencrypted reply (CVE-2026-45185, SECURITY R6).",
    start=Start.GREETED,
)  # fmt: skip
async def _end(talk: Talk) -> None:
    if talk.target.profile.value == "submission" and not talk.target.user:
        talk.skip("no --user and --password")
    await _upgraded(talk)
    await talk.hello()
    if talk.target.user:
        await talk.log_in()
    await talk.say(b"MAIL FROM:<{from}>\r\n", "250")
    await talk.say(b"RCPT TO:<{to}>\r\n", "250 251")
    await talk.say(b"DATA\r\n", "354")
    await talk.send(b"{message}")
    await talk.connection.end_tls()
    await talk.connection.send(b"\r\n.\r\nNOOP\r\n")
    while octets := await talk.connection.read():
        if octets.startswith(b"2"):
            talk.fail("unencrypted commands after the end of TLS were answered")
    if talk.target.maildir is not None:
        await talk.delivered(0)


@TOPIC.case(
    "rfc8996-5-old-versions", Level.MUST, "TLS 1.0 and 1.1 are not negotiated.", start=Start.GREETED, profiles=SMTP
)
async def _old(talk: Talk) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
    except (ssl.SSLError, ValueError):
        talk.skip("this machine's TLS library cannot offer them")
    await _ehlo_without_tls(talk)
    await talk.say(b"STARTTLS\r\n", "220")
    try:
        await talk.connection.start_tls(context, talk.target.host)
    except TlsFailed:
        return
    talk.fail("the handshake succeeded")


@TOPIC.case(
    "rfc8314-4.1-auth-not-without-tls", Level.SHOULD,
    "Mechanisms with plaintext passwords are not offered before STARTTLS.", start=Start.GREETED, profiles=SUBMISSION,
)  # fmt: skip
async def _auth(talk: Talk) -> None:
    offered = set((await talk.hello()).get("AUTH", "").upper().split())
    if offered & {"PLAIN", "LOGIN"}:
        talk.fail(f"offered before STARTTLS: {' '.join(sorted(offered))}")
    await talk.in_step()


TOPIC.row(
    "rfc3207-4-last-in-a-group", Level.MUST, "STARTTLS may be the last command of a group.",
    say(b"{ehlo} {name}\r\n", "250"), say(b"RSET\r\nSTARTTLS\r\n", "250", "220"), start=Start.GREETED, quits=False,
    needs=("PIPELINING",), wants=("unencrypted",),
)  # fmt: skip
