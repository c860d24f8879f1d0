"""`Client`: sends mail over one connection, from asyncio programs.

Promises: `send` returns the result for each recipient if at least one was accepted, and raises a typed error if none
was; a message is sent once for each call. Line endings of the content become CRLF, dots are stuffed.
Refuses: addresses that RFC 5321 §4.1.2 does not allow (`wire.WireFault`, before anything is sent); to use a connection
after an error on it; a server whose certificate or name is not valid, also where TLS is optional: unlike delivery
between servers, a client never continues unencrypted after a failed handshake; to log in without TLS, unless
`login_without_tls` is set (SECURITY R13).
Standards: RFC 5321 §3.3, §4.1.1.1 (the name in EHLO); RFC 3207 §4; RFC 4954 §4; RFC 8314 §3 (implicit TLS).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from ironpost.client.connection import CONNECT_TIMEOUT, HELD, Connection, connect
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
from ironpost.client.reach import connect_text, own_name, plain_host
from ironpost.client.tls import failure_text
from ironpost.model import NULL, Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.model.body import PIECE
from ironpost.model.network import SUBMISSIONS
from ironpost.protocol import replies
from ironpost.protocol.client.session import TIMEOUTS, ClientStep, Ending, OutgoingTransaction, Security, check_hostname
from ironpost.protocol.client.tolerance import TOLERANCES
from ironpost.protocol.client.transaction import header_is_ascii
from ironpost.protocol.extensions import checked_parameters
from ironpost.protocol.sasl import BY_DEFAULT, Credentials

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from ironpost.model import Pieces
    from ironpost.model.ports import Metrics
    from ironpost.protocol.client.tolerance import Tolerance
    from ironpost.protocol.extensions import Parameters

    Content: TypeAlias = "bytes | bytearray | memoryview | ContentSource | AsyncIterator[bytes]"


OWN_NAME_TIMEOUT: Final = 5.0
"""Seconds to look up this host's name; after that its address literal is used in EHLO."""
SILENCE: Final = 20.0
"""Seconds to wait for an unencrypted greeting on port 465: a server that expects TLS never sends one."""

TlsUse: TypeAlias = Literal["never", "may", "must", "implicit"]
"""STARTTLS never, if offered, or always; or TLS from the first octet."""


class ContentSource(Protocol):
    """Content that is read once, in pieces, such as a `model.Body`. If it has a `size` (octets), that is declared."""

    def pieces(self) -> Pieces:
        """The content from the beginning, in pieces of any size."""
        ...


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of a message that was accepted for at least one recipient."""

    reply: Reply
    """The reply to the end of the content."""
    accepted: tuple[Address, ...]
    refused: Mapping[Address, Reply]
    """Refused recipients and the reply to each."""


class Client:
    """`async with Client(host, port) as client: await client.send(...)`. Concurrent sends are queued."""

    def __init__(
        self,
        host: str,
        port: int = 25,
        *,
        local_hostname: str | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        timeouts: Mapping[ClientStep, float] = TIMEOUTS,
        tls: TlsUse | None = None,
        context: ssl.SSLContext | None = None,
        credentials: Credentials | tuple[str, str] | None = None,
        mechanisms: Collection[str] = BY_DEFAULT,
        login_without_tls: bool = False,
        chunking: bool = True,
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """Describe the server; no connection is opened yet.

        Args:
            host: name or IP address, with or without brackets.
            port: TCP port.
            local_hostname: our name in EHLO. If None: this host's full name, or its address literal if it has none.
            connect_timeout: seconds to wait for TCP.
            timeouts: seconds by step (RFC 5321 §4.5.3.2); steps that are missing have their default.
            tls: if None, `implicit` for port 465, `must` with credentials, and otherwise `may` (if the server offers
                STARTTLS).
            context: verifies the server; if None, certificate and name by the system's authorities.
            credentials: a name and a password to log in with.
            mechanisms: SASL mechanisms that may be used.
            login_without_tls: allow a login without TLS; an eavesdropper can then read what the mechanism sends.
            chunking: use BDAT for small content if the server offers it.
            tolerances: which protocol errors of the server are tolerated.
            metrics: counts the tolerances used.

        Raises:
            wire.WireFault: `local_hostname` is neither a domain nor an address literal.
            ValueError: unknown `tls`; or `tls` is "never" with credentials and without `login_without_tls`.
            protocol.sasl.PrepareError: a name or password that SASLprep does not allow (a ValueError).
        """
        if isinstance(credentials, tuple):
            credentials = Credentials(credentials[0], credentials[1], host=host, port=port)
        if tls is None:
            needed: TlsUse = "must" if credentials is not None and not login_without_tls else "may"
            tls = "implicit" if port == SUBMISSIONS else needed
        if tls not in ("never", "may", "must", "implicit"):
            raise ValueError(f'tls is "never", "may", "must" or "implicit", not {tls!r}')
        if tls == "never" and credentials is not None and not login_without_tls:
            raise ValueError("a login needs TLS: leave tls out, or set login_without_tls=True")
        if local_hostname is not None:
            check_hostname(local_hostname)
        self.host = host
        self.port = port
        self._local_hostname = local_hostname
        self._connect_timeout = connect_timeout
        self._timeouts = {**TIMEOUTS, **timeouts}
        self._implicit = tls == "implicit"
        self._security = Security("never" if tls == "implicit" else tls, credentials, login_without_tls, mechanisms)
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
        """Connect, and send EHLO after the greeting, with TLS and AUTH as configured.

        After an error on a connection this opens a new one.

        Raises:
            ConnectFailed: no TCP connection.
            ServiceRefused: the greeting, EHLO or HELO was refused.
            Insecure: the server does not provide the required security.
            LoginRefused: AUTH was refused.
            TimedOut: a step took too long.
            ConnectionLost: the server closed the connection.
            PeerFault: the server sent an invalid reply.
            RuntimeError: already connected.
        """
        if self.connected:
            raise RuntimeError("this client is already connected")
        await self.close()
        self._connection = await self._open()

    async def _open(self) -> Connection:
        """A ready connection. Raises: as `connect`."""
        literal = ":" in self.host and not self.host.startswith("[")
        remote = f"[{self.host}]:{self.port}" if literal else f"{self.host}:{self.port}"
        local = self._local_hostname or await own_name(min(OWN_NAME_TIMEOUT, self._connect_timeout))
        timeouts = self._timeouts
        if self.port == SUBMISSIONS and not self._implicit:
            timeouts = {**timeouts, ClientStep.GREETING: min(timeouts[ClientStep.GREETING], SILENCE)}
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
            raise Insecure(replies.HANDSHAKE_FAILED.because(failure_text(error)), remote) from error
        except OSError as error:
            raise ConnectFailed(Reply(451, "4.4.1", (f"Cannot connect: {connect_text(error)}",)), remote) from error
        if not connection.ready:
            if connection.session.greeting is None and not self._implicit:
                raise _without_greeting(_ended(connection, ClientStep.GREETING))
            raise _ended(connection, ClientStep.GREETING)
        return connection

    async def close(self) -> None:
        """Send QUIT and close; a running `send` raises `ConnectionLost`. No effect if closed."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._lock.locked():
            connection.abort()
        async with self._lock:
            await connection.quit()

    @property
    def connected(self) -> bool:
        """A message can be sent over the connection, as far as is known."""
        return self._connection is not None and self._connection.ready

    @property
    def extensions(self) -> Mapping[str, str]:
        """The server's extensions: keyword in upper case to parameters; empty if not connected."""
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
        """Send one message.

        Args:
            reverse_path: the sender; the empty string, or None, is the null reverse-path.
            recipients: one or several; a `Recipient` can have parameters of RCPT, such as NOTIFY. Those above the
                server's limit (RFC 9422 §4.2) are refused with 452.
            content: header section and body. An async iterator may yield pieces of any size.
            smtputf8: the header section needs RFC 6531 (non-ASCII addresses in the envelope are detected anyway).
            parameters: parameters of MAIL, by keyword, with values of `model.parameters`:
                `{"RET": Return.HDRS, "REQUIRETLS": None}`. SIZE and BODY are added automatically.

        Raises:
            ValueError: an address (`wire.WireFault`) or a parameter is malformed; nothing was sent.
            Unsupported: the server does not support what the message requires; nothing was sent.
            SenderRefused, RecipientsRefused, ContentRefused, ServiceRefused: the server refused.
            TimedOut, ConnectionLost, PeerFault: the connection cannot be used any more.
            ConnectFailed, Insecure, LoginRefused: as `connect`, if the server made a new connection necessary.
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
                raise _ended(connection, ClientStep.MAIL)
            if not await connection.reset():
                connection = self._connection = await self._open()
            while True:
                transaction = OutgoingTransaction(
                    envelope, size=size, content=held, eight_bit=eight_bit, header_ascii=header_ascii
                )
                await connection.transact(transaction, pieces)
                if not transaction.without_chunks:
                    break
                # The server offers CHUNKING but rejects BDAT: use DATA on a new connection.
                self._chunking = False
                connection = self._connection = await self._open()
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


def _ended(connection: Connection, step: ClientStep) -> ClientError:
    """The error for a session that closed."""
    session = connection.session
    reply = session.reason or Reply(451, "4.4.2", ("The server has closed the connection",))
    if session.ending is Ending.INSECURE:
        return Insecure(reply, connection.remote)
    if session.ending is Ending.REFUSED and session.exchange is not None:
        return LoginRefused(reply, connection.remote, session.ended_at or ClientStep.AUTH)
    if session.ending is Ending.REFUSED:
        return ServiceRefused(reply, connection.remote, session.ended_at or step)
    if session.ending is Ending.EXPIRED:
        return TimedOut(reply, connection.remote)
    if session.ending is Ending.FAULT:
        return PeerFault(reply, connection.remote)
    return ConnectionLost(reply, connection.remote)


def _without_greeting(error: ClientError) -> ClientError:
    """The error for a server that sent no valid greeting, perhaps because it waits for TLS."""
    if not isinstance(error, TimedOut | PeerFault | ConnectionLost):
        return error
    hint = 'does it expect TLS from the start, as at port 465? Then use tls="implicit"'
    text = (*error.reply.text[:-1], f"{error.reply.text[-1]}: {hint}")
    return type(error)(replace(error.reply, text=text), error.remote)


def _result(connection: Connection, transaction: OutgoingTransaction) -> SendResult:
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
    assert step is not None, "a message without an accepted recipient was refused at some step"
    assert reply is not None, "a message without an accepted recipient was refused at some step"
    if transaction.unsupported:
        raise Unsupported(reply, connection.remote, step)
    session = connection.session
    if reply is session.reason and (session.ending is not Ending.REFUSED or reply.code == 421):
        raise _ended(connection, step)
    if step is ClientStep.MAIL:
        raise SenderRefused(reply, connection.remote, step)
    if step is ClientStep.RCPT:
        raise RecipientsRefused(reply, connection.remote, step, refused)
    raise ContentRefused(reply, connection.remote, step)
