"""`Client`: sends mail over one connection, from asyncio programs.

Promises: `send` returns what became of each recipient when at least one was accepted, and raises a typed error when
none was; a message is sent once for each call. Line ends of the content become CRLF, dots are stuffed.
Refuses: addresses that RFC 5321 §4.1.2 does not allow (`wire.WireFault`, before anything is sent), use of a connection
after an error on it; a server whose certificate or name does not verify; to log in without TLS, unless it is asked for
by name (SECURITY R13).
Standards: RFC 5321 §3.3, §4.1.1.1 (what we call ourselves); RFC 3207 §4; RFC 4954 §4; RFC 8314 §3 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from ironpost.client.connection import CONNECT_TIMEOUT, HELD, Connection, connect, words
from ironpost.client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    ContentRefused,
    Insecure,
    LoginRefused,
    PeerFault,
    RecipientsRefused,
    SenderRefused,
    ServiceRefused,
    TimedOut,
    Unsupported,
)
from ironpost.client.reach import own_name, plain_host
from ironpost.model import NULL, Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.model.body import PIECE
from ironpost.protocol import replies
from ironpost.protocol.client import TIMEOUTS, Ending, Security, Step, Transaction, check_hostname
from ironpost.protocol.client_tolerance import TOLERANCES
from ironpost.protocol.client_transaction import header_is_ascii
from ironpost.protocol.extensions import checked_parameters
from ironpost.protocol.sasl import BY_DEFAULT, Credentials

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from ironpost.model import Pieces
    from ironpost.model.ports import Metrics
    from ironpost.protocol.client_tolerance import Tolerance
    from ironpost.protocol.extensions import Parameters

    Content: TypeAlias = "bytes | bytearray | memoryview | Source | AsyncIterator[bytes]"


SUBMISSIONS: Final = 465
"""RFC 8314 §3.3: TLS from the start."""
OWN_NAME_TIMEOUT: Final = 5.0
"""Seconds in which this host's own name must be found; after that our address serves."""
SILENCE: Final = 20.0
"""Seconds to wait for a plaintext greeting on port 465, where a server that expects TLS never sends one."""

TlsUse: TypeAlias = Literal["never", "may", "must", "implicit"]
"""STARTTLS never, where it is offered, or always; or TLS from the start."""


class Source(Protocol):
    """Content that is read once, in pieces; a `model.Body` is one. Its `size` (octets) is declared, if it has one."""

    def pieces(self) -> Pieces:
        """The content from its start, in pieces of any size."""
        ...


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a message of which somebody took a copy."""

    reply: Reply
    """The reply to the end of the content."""
    accepted: tuple[Address, ...]
    refused: Mapping[Address, Reply]
    """Recipients that were refused, each with its reply."""


class Client:
    """`async with Client(host, port) as client: await client.send(...)`. Concurrent sends take turns."""

    def __init__(
        self,
        host: str,
        port: int = 25,
        *,
        local_hostname: str | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeouts: Mapping[Step, float] = TIMEOUTS,
        tls: TlsUse | None = None,
        context: ssl.SSLContext | None = None,
        credentials: Credentials | tuple[str, str] | None = None,
        mechanisms: Collection[str] = BY_DEFAULT,
        login_in_clear: bool = False,
        chunking: bool = True,
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """Describes the server; nothing is opened yet.

        Args:
            host: name or IP address, with or without brackets.
            port: TCP port.
            local_hostname: what we say in EHLO; this host's full name if None, or its address literal if it has none.
            connect_timeout: seconds to wait for TCP.
            timeouts: seconds by step (RFC 5321 §4.5.3.2); steps that are not named keep their usual ones.
            tls: if None, `implicit` at port 465, `must` where there are credentials, and else `may`: where the server
                offers STARTTLS.
            context: how the server is verified; certificate and name, by the system's authorities, if None.
            credentials: to log in with; a name and a password.
            mechanisms: SASL mechanisms that may be used.
            login_in_clear: log in without TLS too; whoever listens then knows what the mechanism shows.
            chunking: use BDAT for small content where the server offers it.
            tolerances: which protocol errors of the server are tolerated.
            metrics: counts the tolerances that were used.

        Raises:
            wire.WireFault: `local_hostname` is neither a domain nor an address literal.
            ValueError: `tls` is never and there are credentials, but not `login_in_clear`; or an unknown `tls`.
            protocol.sasl.PrepareError: a name or password that no server could compare (a ValueError, too).
        """
        if isinstance(credentials, tuple):
            credentials = Credentials(credentials[0], credentials[1], host=host, port=port)
        if tls is None:
            needed: TlsUse = "must" if credentials is not None and not login_in_clear else "may"
            tls = "implicit" if port == SUBMISSIONS else needed
        if tls not in ("never", "may", "must", "implicit"):
            raise ValueError(f'tls is "never", "may", "must" or "implicit", not {tls!r}')
        if tls == "never" and credentials is not None and not login_in_clear:
            raise ValueError("a login needs TLS: leave tls out, or say login_in_clear=True")
        if local_hostname is not None:
            check_hostname(local_hostname)
        self.host = host
        self.port = port
        self._local_hostname = local_hostname
        self._connect_timeout = connect_timeout
        self._timeouts = {**TIMEOUTS, **timeouts}
        self._implicit = tls == "implicit"
        self._security = Security("never" if tls == "implicit" else tls, credentials, login_in_clear, mechanisms)
        self._context = context
        self._chunking = chunking
        self._tolerances = tolerances
        self._metrics = metrics
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Connects, reads the greeting, says EHLO.

        After an error on a connection it makes a new one.

        Raises:
            ConnectFailed: nobody answers there.
            ServiceRefused: the greeting, EHLO or HELO was refused.
            Insecure: the server does not give the protection that was asked for.
            LoginRefused: AUTH was refused.
            TimedOut, ConnectionLost, PeerFault: see there.
            RuntimeError: already connected.
        """
        if self.connected:
            raise RuntimeError("this client is connected already")
        await self.close()
        self._connection = await self._open()

    async def _open(self) -> Connection:
        """A ready connection. Raises: as `connect`."""
        literal = ":" in self.host and not self.host.startswith("[")
        remote = f"[{self.host}]:{self.port}" if literal else f"{self.host}:{self.port}"
        local = self._local_hostname or await own_name(min(OWN_NAME_TIMEOUT, self._connect_timeout))
        timeouts = self._timeouts
        if self.port == SUBMISSIONS and not self._implicit:
            timeouts = {**timeouts, Step.GREETING: min(timeouts[Step.GREETING], SILENCE)}
        try:
            connection = await connect(
                plain_host(self.host), self.port, local,
                remote=remote, timeouts=timeouts, connect_timeout=self._connect_timeout,
                chunking=self._chunking, tolerances=self._tolerances, metrics=self._metrics,
                security=self._security, tls=self._context, implicit_tls=self._implicit,
            )  # fmt: skip
        except TimeoutError as error:
            reply = Reply(451, "4.4.1", (f"No answer within {self._connect_timeout:g} seconds",))
            raise ConnectFailed(reply, remote) from error
        except ssl.SSLError as error:
            raise Insecure(replies.HANDSHAKE_FAILED.because(words(error)), remote) from error
        except OSError as error:
            raise ConnectFailed(Reply(451, "4.4.1", (f"Cannot connect: {_words(error)}",)), remote) from error
        if not connection.ready:
            if connection.session.greeting is None and not self._implicit:
                raise _without_greeting(_ended(connection, Step.GREETING))
            raise _ended(connection, Step.GREETING)
        return connection

    async def close(self) -> None:
        """QUIT, and closes; a send that runs ends in `ConnectionLost`. Harmless when closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._lock.locked():
            connection.abort()
        async with self._lock:
            await connection.quit()

    @property
    def connected(self) -> bool:
        """The connection lives: a message can be sent over it, as far as is known."""
        return self._connection is not None and self._connection.ready

    @property
    def extensions(self) -> Mapping[str, str]:
        """What the server offers: keyword in upper case to its parameters; empty when not connected."""
        return self._connection.session.offered if self._connection is not None else {}

    async def send(
        self,
        reverse_path: str | Address | None,
        recipients: str | Address | Recipient | Iterable[str | Address | Recipient],
        content: Content,
        *,
        smtputf8: bool = False,
        parameters: Parameters | None = None,
    ) -> SendResult:
        """Sends one message.

        Args:
            reverse_path: the sender; the empty string, or None, is the null reverse-path.
            recipients: one, or several; a `Recipient` says what is asked for it, such as NOTIFY. Those beyond what the
                server takes at once (RFC 9422 §4.2) are refused with 452.
            content: header and body. An async iterator may yield pieces of any size.
            smtputf8: the header section needs RFC 6531 (non-ASCII addresses in the envelope are seen without it).
            parameters: what is asked for the message, by the keyword of MAIL, with values of `model.parameters`:
                `{"RET": Return.HDRS, "REQUIRETLS": None}`. SIZE and BODY are added without being asked for.

        Raises:
            ValueError: an address (`wire.WireFault`) or a parameter is malformed; nothing was sent.
            Unsupported: the server does not offer what the message needs; nothing was sent.
            SenderRefused, RecipientsRefused, ContentRefused, ServiceRefused: the server refused.
            TimedOut, ConnectionLost, PeerFault: the connection is of no use any more.
            ConnectFailed, Insecure, LoginRefused: as `connect`, when the server made a new connection necessary.
            RuntimeError: not connected.
        """
        sender = NULL if reverse_path is None else _address(reverse_path)
        if isinstance(recipients, str | Address | Recipient):
            recipients = (recipients,)
        to = tuple(_recipient(each) for each in recipients)
        asked = checked_parameters({**(parameters or {}), **({"SMTPUTF8": None} if smtputf8 else {})})
        envelope = Envelope(sender, to, asked)
        if isinstance(content, bytearray | memoryview):
            content = bytes(content)
        eight_bit: bool | None = None
        header_ascii: bool | None = None
        if isinstance(content, bytes):
            eight_bit = not content.isascii()
            header_ascii = header_is_ascii(content)
            size: int | None = len(content)
            held = content if len(content) <= HELD else None
            pieces: Pieces | None = None if held is not None else _slices(content)
        else:
            held = None
            size = getattr(content, "size", None)
            pieces = content if isinstance(content, AsyncIterator) else content.pieces()
        async with self._lock:
            connection = self._connection
            if connection is None:
                raise RuntimeError("this client is not connected: use `async with`, or `connect`")
            if not connection.ready:
                raise _ended(connection, Step.MAIL)
            if not await connection.reset():
                connection = self._connection = await self._open()
            transaction = Transaction(envelope, size=size, content=held, eight_bit=eight_bit, header_ascii=header_ascii)
            await connection.transact(transaction, pieces)
            if transaction.without_chunks:
                # The server offers CHUNKING and rejects BDAT: DATA, on a connection that is in step.
                self._chunking = False
                connection = self._connection = await self._open()
                transaction = Transaction(
                    envelope, size=size, content=held, eight_bit=eight_bit, header_ascii=header_ascii
                )
                await connection.transact(transaction)
        return _result(connection, transaction)


def _recipient(value: str | Address | Recipient) -> Recipient:
    if isinstance(value, Recipient):
        return Recipient(value.address, checked_parameters(value.parameters))
    return Recipient(_address(value))


def _address(value: str | Address) -> Address:
    return value if isinstance(value, Address) else Address.parse(value)


async def _slices(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _words(error: OSError) -> str:
    """What the system says. asyncio's own text names its calls, and repeats them for each address of a host."""
    numbers = [error.errno] if error.errno else map(int, re.findall(r"\[Errno ([0-9]+)\]", str(error)))
    said = dict.fromkeys(os.strerror(number) for number in numbers if number > 0)
    text = " or ".join(said) or error.strerror or str(error) or type(error).__name__
    return text.replace("\r", " ").replace("\n", " ")


def _ended(connection: Connection, step: Step) -> ClientError:
    """The error for a session that closed."""
    session = connection.session
    reply = session.reason or Reply(451, "4.4.2", ("The server has closed the connection",))
    if session.ending is Ending.INSECURE:
        return Insecure(reply, connection.remote)
    if session.ending is Ending.REFUSED and session.exchange is not None:
        return LoginRefused(reply, connection.remote, session.ended_at or Step.AUTH)
    if session.ending is Ending.REFUSED:
        return ServiceRefused(reply, connection.remote, session.ended_at or step)
    if session.ending is Ending.EXPIRED:
        return TimedOut(reply, connection.remote)
    if session.ending is Ending.FAULT:
        return PeerFault(reply, connection.remote)
    return ConnectionLost(reply, connection.remote)


def _without_greeting(error: ClientError) -> ClientError:
    """The error for a server that said nothing, or nothing readable, and so may be waiting for TLS."""
    if not isinstance(error, TimedOut | PeerFault | ConnectionLost):
        return error
    hint = 'does it expect TLS from the start, as at port 465? Then say tls="implicit"'
    text = (*error.reply.text[:-1], f"{error.reply.text[-1]}: {hint}")
    return type(error)(replace(error.reply, text=text), error.remote)


def _result(connection: Connection, transaction: Transaction) -> SendResult:
    accepted: list[Address] = []
    refused: dict[Address, Reply] = {}
    final: Outcome | None = None
    for recipient, outcome in zip(transaction.recipients, transaction.outcomes, strict=True):
        assert outcome is not None, "transact settles every recipient"
        if outcome.disposition is Disposition.DELIVERED:
            accepted.append(recipient.address)
            final = outcome
        else:
            refused[recipient.address] = outcome.reply
    if final is not None:
        return SendResult(final.reply, tuple(accepted), refused)
    step, reply = transaction.failed_at, transaction.refusal
    assert step is not None, "whoever has no copy was refused somewhere"
    assert reply is not None, "whoever has no copy was refused somewhere"
    if transaction.unsupported:
        raise Unsupported(reply, connection.remote, step)
    session = connection.session
    if reply is session.reason and (session.ending is not Ending.REFUSED or reply.code == 421):
        raise _ended(connection, step)
    if step is Step.MAIL:
        raise SenderRefused(reply, connection.remote, step)
    if step is Step.RCPT:
        raise RecipientsRefused(reply, connection.remote, step, refused)
    raise ContentRefused(reply, connection.remote, step)
