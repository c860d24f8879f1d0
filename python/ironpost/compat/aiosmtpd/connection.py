"""The native connection below one `SMTP` protocol: a host for one client, and commands that read input while they run.

Promises: a native session frames commands and content, and its driver handles back-pressure, STARTTLS and the last
reply before the close. Every command goes to `SMTP._command`. A command that needs a line or the content waits for it
as a coroutine, while the session reads on. Content beyond `data_size_limit` is counted and not stored.
"""

from __future__ import annotations

import threading
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, cast

from ironpost.model import Address, BodyType, RawReply
from ironpost.model.ports import Uncounted
from ironpost.protocol.server.session import EVERY_VERB
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.states import CONTENT
from ironpost.protocol.server.transaction import TlsInfo, Transaction
from ironpost.server.connection import ServerConnection
from ironpost.server.fairness import CLOSES, READS, CallQueue
from ironpost.server.timeouts import Timeouts
from ironpost.server.tls_transport import BUFFER
from ironpost.wire import Limits

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine

    from ironpost.compat.aiosmtpd.smtp import SMTP
    from ironpost.model import Reply
    from ironpost.protocol.server.session import ServerSession
    from ironpost.server.host import HostedConnection
    from ironpost.server.tls import TlsContext
    from ironpost.server.tls_transport import TlsTransport
    from ironpost.wire import BodyEnd, Fault

UNLIMITED: Final = 1 << 62
"""A limit that is never reached: the limits are those of `SMTP`."""
LINE: Final = 16384
"""Maximum octets of a command line that is read; `SMTP.command_size_limits` are lower."""


class _Settings(ServerSettings):
    """No limits but the length of a line, and content as it arrives."""

    @cached_property
    def limits(self) -> Limits:
        """The framer's limits."""
        return Limits(command_line=LINE)


SETTINGS: Final = _Settings(
    max_size=UNLIMITED, max_errors=UNLIMITED, max_commands=UNLIMITED, long_lines="accept", newlines="accept"
)


class _Replied(RawReply):
    """The result of a hook that has queued its replies itself."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("250 OK")
        object.__setattr__(self, "octets", b"")


REPLIED: Final = _Replied()


class _Shared(threading.local):
    """What the connections of one thread share, for its latest event loop."""

    loop: asyncio.AbstractEventLoop | None = None
    reads: CallQueue
    closes: CallQueue

    def use(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.loop is not loop:
            self.loop, self.reads, self.closes = loop, CallQueue(loop, READS), CallQueue(loop, CLOSES)

    @cached_property
    def buffer(self) -> memoryview:
        """What is read from a socket, or decrypted, until it is copied at once."""
        return memoryview(bytearray(BUFFER))


_shared = _Shared()


class _Tls:
    """A program's `SSLContext` as the `TlsContext` of a `TlsTransport`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def new(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        return self.context.wrap_bio(incoming, outgoing, server_side=True)

    def facts(self, connection: ssl.SSLObject) -> TlsInfo:
        cipher = connection.cipher()
        return TlsInfo(connection.version() or "", cipher[0] if cipher else "")


class Content:
    """A `Spool` that keeps at most `limit` octets."""

    __slots__ = ("_connection", "_first", "_limit", "_octets", "size")

    def __init__(self, connection: Connection, limit: int) -> None:
        self.size = 0
        self._limit = limit
        self._first = b""
        """The first piece, which is usually the only one."""
        self._octets: BytesIO | None = None
        """All pieces, if there are more: they grow in place, where joining them would copy everything once more."""
        self._connection: Connection | None = connection

    def write(self, piece: bytes) -> None:
        """Append a piece."""
        room = self._limit - self.size
        self.size += len(piece)
        if room < len(piece):
            piece = piece[: max(room, 0)]
        if not self._first:
            self._first = piece
        else:
            if self._octets is None:
                self._octets = BytesIO()
                self._octets.write(self._first)
            self._octets.write(piece)

    def take(self) -> bytes:
        """Return the octets that were kept."""
        self._connection = None
        return self._first if self._octets is None else self._octets.getvalue()

    def discard(self) -> None:
        """Tell the command that waits for this content that there is none."""
        connection, self._connection = self._connection, None
        self._first, self._octets = b"", None
        if connection is not None:
            connection.content_lost()


class Host:
    """The host port for one connection, and the handler port of its session."""

    settings = SETTINGS
    timeouts = Timeouts()
    metrics = Uncounted()
    stopping = False
    implicit_tls = False
    greeting_delay = None
    claims: frozenset[str] = frozenset()

    def __init__(self, smtp: SMTP) -> None:
        self.smtp = smtp
        self.loop = smtp.loop
        _shared.use(self.loop)
        self.read_queue, self.close_queue = _shared.reads, _shared.closes
        self.read_buffer = _shared.buffer
        """The buffer of this thread, for encrypted connections and for others."""
        self.overrides = {EVERY_VERB: smtp._command}
        self.connection: Connection

    @property
    def handler(self) -> Host:
        """The hooks of the session."""
        return self

    @property
    def tls(self) -> TlsContext | None:
        """The certificates."""
        context = self.smtp.tls_context
        return None if context is None else cast("TlsContext", _Tls(context))

    def is_proxy(self, ip: str) -> bool:  # noqa: ARG002 - a port
        """Nobody: `SMTP` reads the PROXY header itself."""
        return False

    def greet_later(self, greet: Callable[[], None]) -> None:
        """Greet at once."""
        greet()

    def admit(self, connection: HostedConnection) -> Reply | None:  # noqa: ARG002 - a port
        """Admit everyone, as aiosmtpd does."""
        return None

    def admit_client(self, ip: str) -> tuple[str, Reply | None]:  # noqa: ARG002 - a port
        """Admit everyone."""
        return "", None

    def replace(self, old: HostedConnection, new: HostedConnection) -> None:
        """Nothing is counted."""

    def release(self, connection: HostedConnection, network: str = "", failures: int = 0) -> None:
        """Nothing is counted."""

    def connect(self, session: ServerSession) -> Reply:  # noqa: ARG002 - a hook
        """Greet."""
        return RawReply(self.smtp._greeting)

    def message(self, session: ServerSession, content: Content, facts: BodyEnd) -> Reply | Awaitable[Reply]:  # noqa: ARG002 - a hook
        """Pass on the content."""
        return self.connection.content_read(content, facts)

    def disconnect(self, session: ServerSession) -> None:
        """`Connection.connection_lost` tells the protocol."""


class Connection(ServerConnection):
    """The connection of one client, and the command that is running."""

    def __init__(self, smtp: SMTP) -> None:
        self._host = Host(smtp)
        super().__init__(self._host)  # type: ignore[arg-type] # it has the hooks that a session without extensions calls
        self._host.connection = self
        self.smtp = smtp
        self._task: asyncio.Task[Reply] | None = None
        """The command that runs in a task, because it may need input."""
        self._input: asyncio.Future[Any] | None = None
        """The input for which the command waits."""
        self.immediate = False
        """A command runs that may not wait for the client to read."""
        self._turn: asyncio.Future[Reply] | None = None
        """The command's turn: the session waits until it is done."""

    # -----------------------------------------------------------------------------------------------------------------
    # Running a command

    def run(self, command: Coroutine[Any, Any, Reply]) -> Awaitable[Reply]:
        """Run a command that may need input; return its turn."""
        turn = self._begin_turn()
        self._task = self.host.loop.create_task(command)
        self._task.add_done_callback(self._done)
        return turn

    def run_now(self, command: Coroutine[Any, Any, None]) -> None:
        """Run a command that waits for nothing, as replies need not be read while it runs."""
        self.immediate = True
        try:
            command.send(None)
        except StopIteration:
            return
        finally:
            self.immediate = False
        raise RuntimeError("a command waits that may not")

    @property
    def reads_lines(self) -> bool:
        """Whether the command that runs may call `line`: it has a task, and is not DATA with its content."""
        return self._task is not None and self.session.transaction is None

    async def line(self) -> bytes | None:
        """Return the next line without its CRLF; None if it is malformed. Only for AUTH."""
        self.session.read_line(self._line_read)
        octets = await self._wait()
        return octets if isinstance(octets, bytes) else None

    def begin_content(self, limit: int | None) -> None:
        """Read content after the reply to this command, which is 354."""
        session = self.session
        session.transaction = _TRANSACTION
        session.by_data = True
        session.spool = Content(self, UNLIMITED if limit is None else limit)
        session.enter(CONTENT)

    async def content(self, limit: int | None) -> tuple[Content, BodyEnd]:
        """Return the content that follows 354."""
        self.begin_content(limit)
        return cast("tuple[Content, BodyEnd]", await self._wait())

    def _begin_turn(self) -> asyncio.Future[Reply]:
        self._turn = turn = self.host.loop.create_future()
        return turn

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and not turn.done():
            turn.set_result(REPLIED)

    def _wait(self) -> asyncio.Future[Any]:
        self._input = self.host.loop.create_future()
        self._end_turn()
        return self._input

    def _done(self, task: asyncio.Task[Reply]) -> None:
        if self._task is not task:  # its content was lost
            return
        self._task = None
        if task.cancelled():
            self.transport.abort()
        elif (error := task.exception()) is not None:
            self._fail(error)
        self._end_turn()

    def _line_read(self, session: ServerSession, octets: bytes | Fault) -> None:
        session.wait(self._begin_turn(), _continue)
        self._resume(octets)

    def content_read(self, content: Content, facts: BodyEnd) -> Reply | Awaitable[Reply]:
        """Pass content to the command that waits for it, or to the protocol."""
        if self._task is None:
            return self.smtp._content_read(content, facts)
        turn = self._begin_turn()
        self._resume((content, facts))
        return turn

    def _resume(self, value: object) -> None:
        waiting, self._input = self._input, None
        if waiting is not None and not waiting.done():
            waiting.set_result(value)

    def content_lost(self) -> None:
        """End the command that waits for content: the session refused it, or the client has gone."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self.smtp._set_post_data_state()

    # -----------------------------------------------------------------------------------------------------------------
    # asyncio.Protocol and TlsOwner

    def handshake_done(self, transport: TlsTransport, tls: TlsInfo, *, early: bool) -> None:
        """See `TlsOwner`."""
        super().handshake_done(transport, tls, early=early)
        self.smtp._tls_started(transport)

    def handshake_failed(self, reason: str) -> None:
        """See `TlsOwner`."""
        super().handshake_failed(reason)
        self.smtp._tls_failed(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on the end of a TLS connection to the protocol, which calls `end`."""
        self.smtp.connection_lost(exc)

    def end(self, exc: Exception | None) -> None:
        """Handle the end of the connection. A command that has its input is not cancelled, as in `ServerConnection`."""
        if self._task is not None and self._input is not None:
            self._task.cancel()
        super().connection_lost(exc)


def _continue(session: ServerSession, result: object) -> None:
    """The command has its line and has replied."""


_TRANSACTION: Final = Transaction(Address("", ""), {"BODY": BodyType.EIGHT_BIT})
"""The transaction of every native session, which only reads of it that content may have octets above 127."""
