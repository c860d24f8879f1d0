"""The dialogue of one case with the server under test: send commands, check replies, count them.

Promises: `begin` goes as far as the case's `Start` and leaves no reply unread. `expect` compares one reply with a
specification (`case.codes`) and raises `Failed` with the expected and the actual reply. `in_step` checks that there was
exactly one reply to each command: this is how commands are detected that a server executed from content.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.conform.case import Failed, NotApplicable, Profile, Start, codes
from ironpost.conform.connection import MalformedReply, ProbeConnection, Silence, TlsFailed, printable
from ironpost.conform.target import NAME
from ironpost.model.text import counted

if TYPE_CHECKING:
    import ssl
    from typing import NoReturn

    from ironpost.conform.target import Survey, Target

SETTLED: Final = 0.3
"""Seconds to wait for a surplus message before a case concludes that there is none."""


class Talk:
    """The dialogue of one case; see the module."""

    def __init__(self, target: Target, survey: Survey, case: str = "survey") -> None:
        self.target = target
        self.survey = survey
        self.case = case
        self.token = secrets.token_hex(8)
        """Contained in every message of this case, so that it can be found again."""
        self.greeting: wire.Reply | None = None
        self.last_hello: wire.Reply | None = None
        """The last reply to EHLO."""
        self.warnings: list[str] = []
        self._connection: ProbeConnection | None = None
        self._former: list[str] = []

    # -----------------------------------------------------------------------------------------------------------------
    # Opening the session

    @property
    def connection(self) -> ProbeConnection:
        """The open connection."""
        assert self._connection is not None
        return self._connection

    @property
    def dialogue(self) -> list[str]:
        """The dialogue so far as readable lines."""
        return self._former + (self._connection.dialogue if self._connection else [])

    async def begin(self, start: Start) -> None:
        """Connect and go as far as `start`.

        Raises:
            OSError: the connection cannot be opened.
            Failed: an earlier stage was refused.
        """
        target = self.target
        context = target.context() if target.implicit_tls else None
        self._connection = await ProbeConnection.open(target.host, target.port, target.timeout, context, target.host)
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
        """Send EHLO, and STARTTLS and AUTH if the target asks for them, so that a transaction can begin."""
        await self.hello()
        if self.target.starttls:
            await self.start_tls()
            await self.hello()
        if self.target.user:
            await self.log_in()

    async def reconnect(self, start: Start = Start.HELLO) -> None:
        """Close this connection and open another."""
        self._former = [*self.dialogue, "-- another connection --"]
        await self.close()
        self._connection = None
        await self.begin(start)

    async def hello(self) -> dict[str, str]:
        """Send EHLO or LHLO and return the offered extensions."""
        reply = await self.say(b"{ehlo} {name}\r\n", "250")
        assert reply is not None
        self.last_hello = reply
        return wire.parse_ehlo(reply).extensions

    async def start_tls(self, context: ssl.SSLContext | None = None) -> None:
        """Send STARTTLS and complete the handshake."""
        await self.say(b"STARTTLS\r\n", "220")
        try:
            await self.connection.start_tls(context or self.target.context(), self.target.host)
        except TlsFailed as error:
            self.fail(f"the TLS handshake after 220 failed: {error}")

    async def log_in(self) -> None:
        """Authenticate with PLAIN or LOGIN, whichever is offered."""
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
        """Abort the connection."""
        if self._connection is not None:
            await self._connection.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Sending and receiving

    def filled(self, octets: bytes) -> bytes:
        """Return `octets` with the placeholders of `case.say` replaced."""
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
        """Return a small message that can be found again; `body` follows its header section."""
        return (
            b"From: <%s>\r\nTo: <%s>\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <%s@conform.example>\r\n"
            b"Subject: conform %s\r\nX-Conform: %s\r\n\r\n%s"
        ) % (
            self.target.sender.encode(), self.target.recipient.encode(), secrets.token_hex(8).encode(),
            self.case.encode(), self.token.encode(), body,
        )  # fmt: skip

    async def send(self, *pieces: bytes) -> None:
        """Send octets with their placeholders filled in."""
        await self.connection.send(*(self.filled(piece) for piece in pieces))

    async def reply(self) -> wire.Reply:
        """Return the next reply, whatever it is.

        Raises:
            Failed: the server closed the connection instead.
        """
        reply = await self._next()
        if reply is None:
            self.fail("the server closed the connection, expected a reply")
        return reply

    async def expect(self, specification: str) -> wire.Reply | None:
        """Return the next reply, which must match `specification`; None if the server closed and the specification
        allows it.

        Raises:
            Failed: the reply does not match, or there is none.
        """
        wanted = codes(specification)
        reply = await self._next()
        if reply is None:
            if wanted.close:
                return None
            self.fail(f"the server closed the connection, expected {specification}")
        code = str(reply.code)
        if any(pattern.fullmatch(code) for pattern in wanted.asked):
            return reply
        if any(pattern.fullmatch(code) for pattern in wanted.allowed):
            asked = " ".join(word for word in specification.split() if not word.startswith("~"))
            self.warn(f"{code} is allowed, but the section asks for {asked}")
            return reply
        self.fail(f"expected {specification}, got {text(reply)}")
        return None

    async def say(self, octets: bytes, specification: str) -> wire.Reply | None:
        """Send octets and expect one reply."""
        await self.send(octets)
        return await self.expect(specification)

    async def _next(self) -> wire.Reply | None:
        try:
            return await self.connection.reply()
        except Silence:
            self.fail(f"no reply within {self.connection.timeout:g} s")
        except MalformedReply as error:
            self.fail(f"malformed reply: {error}")

    async def in_step(self) -> None:
        """Check that QUIT is answered 221: no reply was missing, and none was surplus."""
        await self.send(b"QUIT\r\n")
        reply = await self._next()
        if reply is None:
            self.fail("the server closed the connection before QUIT")
        if reply.code != 221:
            self.fail(
                f"QUIT afterwards got {text(reply)} instead of 221: the number of replies is not that of commands sent"
            )

    async def closed(self) -> None:
        """Check that the server closes the connection without another reply."""
        reply = await self._next()
        if reply is not None:
            self.fail(f"expected the server to close the connection, got {text(reply)}")

    async def finish(self, octets: bytes, specification: str, recipients: int = 1) -> list[wire.Reply]:
        """Send content with its end and expect one reply, or in LMTP one for each recipient (RFC 2033 §4.2)."""
        await self.send(octets)
        count = recipients if self.target.profile is Profile.LMTP else 1
        found = [await self.expect(specification) for _ in range(count)]
        return [reply for reply in found if reply is not None]

    # -----------------------------------------------------------------------------------------------------------------
    # Delivered messages

    async def delivered(self, count: int = 1) -> list[bytes]:
        """Wait for `count` messages of this case and return them with CRLF line endings; an empty list if no Maildir
        was named.

        Raises:
            Failed: more or fewer messages arrived.
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
            self.fail(f"{counted(len(found), 'message')} arrived, expected {count}")
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
    # Results

    def fail(self, why: str) -> NoReturn:
        """End the case as failed."""
        raise Failed(why)

    def skip(self, why: str) -> NoReturn:
        """End the case as not applicable."""
        raise NotApplicable(why)

    def warn(self, why: str) -> None:
        """Record a warning and continue."""
        self.warnings.append(why)


def text(reply: wire.Reply) -> str:
    """Return a reply as one line."""
    words = b" ".join(reply.lines)
    return f"{reply.code} {reply.enhanced + ' ' if reply.enhanced else ''}{printable(words)}".rstrip()


def _upper_domain(address: str) -> str:
    local, at, domain = address.rpartition("@")
    return local + at + domain.upper()
