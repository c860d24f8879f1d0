"""A dialogue with the server under test, as a case holds it: say, expect, count.

Promises: `begin` goes as far as the case's `Start` and no reply is left unread there. `expect` compares one reply with
a specification (`case.codes`) and raises `Failed` with what was due and what came. `in_step` proves that every reply
so far belonged to what was said: it is how a second command sequence that a server made out of content is seen.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.conform.case import Failed, NotApplicable, Profile, Start, codes
from ironpost.conform.connection import Connection, Malformed, Silence, TlsFailed, printable
from ironpost.conform.target import NAME

if TYPE_CHECKING:
    import ssl
    from typing import NoReturn

    from ironpost.conform.target import Survey, Target

SETTLED: Final = 0.3
"""Seconds without another message, after which a case believes that there is no second one."""


class Talk:
    """See the module."""

    def __init__(self, target: Target, survey: Survey, case: str = "survey") -> None:
        self.target = target
        self.survey = survey
        self.case = case
        self.token = secrets.token_hex(8)
        """Stands in every message of this case, so that it can be found again."""
        self.greeting: wire.Reply | None = None
        self.last_hello: wire.Reply | None = None
        """The last reply to EHLO."""
        self.warnings: list[str] = []
        self._connection: Connection | None = None
        self._former: list[str] = []

    # -----------------------------------------------------------------------------------------------------------------
    # Getting there

    @property
    def connection(self) -> Connection:
        """The connection that is open."""
        assert self._connection is not None
        return self._connection

    @property
    def dialogue(self) -> list[str]:
        """What was said, for a person."""
        return self._former + (self._connection.dialogue if self._connection else [])

    async def begin(self, start: Start) -> None:
        """Connects and goes as far as `start`.

        Raises:
            OSError: there is no connection.
            Failed: the way was not open.
        """
        target = self.target
        context = target.context() if target.implicit_tls else None
        self._connection = await Connection.open(target.host, target.port, target.timeout, context, target.host)
        if start >= Start.GREETED:
            self.greeting = await self.expect("220")
        if start >= Start.HELLO:
            await self.ready()
        if start >= Start.MAIL:
            await self.say(b"MAIL FROM:<{from}>\r\n", "250")
        if start >= Start.RCPT:
            await self.say(b"RCPT TO:<{to}>\r\n", "250 251")
        if start >= Start.DATA:
            await self.say(b"DATA\r\n", "354")

    async def ready(self) -> None:
        """From the greeting to where transactions begin: EHLO, and STARTTLS and AUTH if they were asked for."""
        await self.hello()
        if self.target.starttls:
            await self.start_tls()
            await self.hello()
        if self.target.user:
            await self.log_in()

    async def anew(self, start: Start = Start.HELLO) -> None:
        """Another connection instead of this one."""
        self._former = [*self.dialogue, "-- another connection --"]
        await self.close()
        self._connection = None
        await self.begin(start)

    async def hello(self) -> dict[str, str]:
        """EHLO or LHLO; the extensions that are offered."""
        reply = await self.say(b"{ehlo} {name}\r\n", "250")
        assert reply is not None
        self.last_hello = reply
        return wire.parse_ehlo(reply).extensions

    async def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        """STARTTLS and the handshake."""
        await self.say(b"STARTTLS\r\n", "220")
        try:
            await self.connection.start_tls(context or self.target.context(), self.target.host)
        except TlsFailed as error:
            self.fail(f"no TLS handshake behind the 220: {error}")

    async def log_in(self) -> None:
        """AUTH with PLAIN or LOGIN, whichever is offered."""
        offered = self.survey.before_login.get("AUTH", "").upper().split()
        user, password = self.target.user.encode(), self.target.password.encode()
        if "PLAIN" in offered:
            await self.say(b"AUTH PLAIN " + base64.b64encode(b"\0" + user + b"\0" + password) + b"\r\n", "235")
        elif "LOGIN" in offered:
            await self.say(b"AUTH LOGIN\r\n", "334")
            await self.say(base64.b64encode(user) + b"\r\n", "334")
            await self.say(base64.b64encode(password) + b"\r\n", "235")
        else:
            self.fail("neither AUTH PLAIN nor AUTH LOGIN is offered, so --user cannot be used")

    async def close(self) -> None:
        """Drops the connection."""
        if self._connection is not None:
            await self._connection.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Saying and hearing

    def filled(self, octets: bytes) -> bytes:
        """`octets` with the placeholders of `case.say` replaced."""
        target = self.target
        for name, value in (
            (b"{message}", self.message() if b"{message}" in octets else b""),
            (b"{token}", self.token.encode()),
            (b"{from}", target.sender.encode()),
            (b"{to-upper-domain}", _upper_domain(target.recipient).encode()),
            (b"{to-domain}", target.recipient.rpartition("@")[2].encode()),
            (b"{to}", target.recipient.encode()),
            (b"{to2}", target.second.encode()),
            (b"{rejected}", target.rejected.encode()),
            (b"{name}", NAME.encode()),
            (b"{ehlo}", target.hello.encode()),
        ):
            octets = octets.replace(name, value)
        return octets

    def message(self, body: bytes = b"text\r\n") -> bytes:
        """A small message that can be found again; `body` stands behind its header section."""
        return (
            b"From: <%s>\r\nTo: <%s>\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <%s@conform.example>\r\n"
            b"Subject: conform %s\r\nX-Conform: %s\r\n\r\n%s"
        ) % (
            self.target.sender.encode(), self.target.recipient.encode(), secrets.token_hex(8).encode(),
            self.case.encode(), self.token.encode(), body,
        )  # fmt: skip

    async def send(self, *pieces: bytes) -> None:
        """Sends, placeholders filled in."""
        await self.connection.send(*(self.filled(piece) for piece in pieces))

    async def reply(self) -> wire.Reply:
        """The next reply, whatever it is.

        Raises:
            Failed: there is none.
        """
        reply = await self._next()
        if reply is None:
            self.fail("the server closed the connection where a reply was due")
        return reply

    async def expect(self, specification: str) -> wire.Reply | None:
        """The next reply, which must be one of `specification`; None if the server closed and may.

        Raises:
            Failed: it is another, or none.
        """
        wanted = codes(specification)
        reply = await self._next()
        if reply is None:
            if wanted.close:
                return None
            self.fail(f"the server closed the connection where {specification} was due")
        code = str(reply.code)
        if any(pattern.fullmatch(code) for pattern in wanted.asked):
            return reply
        if any(pattern.fullmatch(code) for pattern in wanted.allowed):
            asked = " ".join(word for word in specification.split() if not word.startswith("~"))
            self.warn(f"{code} is allowed, but {asked} is what the section names")
            return reply
        self.fail(f"{specification} was due, and {text(reply)} came")
        return None

    async def say(self, octets: bytes, specification: str) -> wire.Reply | None:
        """Sends one thing and expects one reply."""
        await self.send(octets)
        return await self.expect(specification)

    async def _next(self) -> wire.Reply | None:
        try:
            return await self.connection.reply()
        except Silence:
            self.fail(f"no reply within {self.connection.timeout:g} s")
        except Malformed as error:
            self.fail(f"what came is no reply: {error}")

    async def in_step(self) -> None:
        """QUIT is answered 221: no reply is missing, and none was left over."""
        await self.send(b"QUIT\r\n")
        reply = await self._next()
        if reply is None:
            self.fail("the server closed the connection before QUIT")
        if reply.code != 221:
            self.fail(
                f"behind it QUIT met {text(reply)} instead of 221: the server counted other commands than were sent"
            )

    async def nothing_accepted(self) -> None:
        """No positive reply comes any more: a refusal, the end of the connection, or silence."""
        with contextlib.suppress(Silence):
            reply = await self.connection.reply()
            if reply is not None and reply.code < 400:
                self.fail(f"{text(reply)} came")

    async def closed(self) -> None:
        """The server closes the connection now and says nothing more."""
        reply = await self._next()
        if reply is not None:
            self.fail(f"the connection should be closed, and {text(reply)} came")

    async def finish(self, octets: bytes, specification: str, recipients: int = 1) -> list[wire.Reply]:
        """Content with its end; one reply, or in LMTP one for each recipient (RFC 2033 §4.2)."""
        await self.send(octets)
        count = recipients if self.target.profile is Profile.LMTP else 1
        found = [await self.expect(specification) for _ in range(count)]
        return [reply for reply in found if reply is not None]

    # -----------------------------------------------------------------------------------------------------------------
    # Where messages appear

    async def delivered(self, count: int = 1) -> list[bytes]:
        """The messages of this case, with CRLF line ends, once there are `count` and no more come; none without
        a folder to look in.

        Raises:
            Failed: it is another number.
        """
        if self.target.maildir is None:
            return []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.target.timeout
        found = await asyncio.to_thread(self._found)
        while len(found) < count and loop.time() < deadline:
            await asyncio.sleep(0.02)
            found = await asyncio.to_thread(self._found)
        if count <= len(found):
            await asyncio.sleep(SETTLED)
            found = await asyncio.to_thread(self._found)
        if len(found) != count:
            self.fail(f"{len(found)} messages arrived where {count} should have")
        return found

    def _found(self) -> list[bytes]:
        assert self.target.maildir is not None
        found = []
        for path in sorted(self.target.maildir.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file() and path.parent.name != "tmp":
                    octets = path.read_bytes()
                    if self.token.encode() in octets:
                        found.append(octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        return found

    # -----------------------------------------------------------------------------------------------------------------
    # Judging

    def fail(self, why: str) -> NoReturn:
        """Ends the case: the server did not do it."""
        raise Failed(why)

    def skip(self, why: str) -> NoReturn:
        """Ends the case: it has no question for this server."""
        raise NotApplicable(why)

    def warn(self, why: str) -> None:
        """The case goes on, but does not simply pass."""
        self.warnings.append(why)


def text(reply: wire.Reply) -> str:
    """A reply in one line."""
    words = b" ".join(reply.lines)
    return f"{reply.code} {reply.enhanced + ' ' if reply.enhanced else ''}{printable(words)}".rstrip()


def _upper_domain(address: str) -> str:
    local, at, domain = address.rpartition("@")
    return local + at + domain.upper()
