"""The server side of one SMTP session, without I/O: it gets octets, and returns replies and awaitables.

    session = ServerSession(handler, settings, peer)
    pending = session.start()                 then transport.write(session.output())
    pending = session.receive(data)           for input
    pending = session.answer(await pending)   or session.fail(exception)

Promises: `pending` is None, or the awaitable that a hook of the handler returned; the driver (the code that owns the
connection) awaits it and passes the result back. Until then nothing is interpreted. Commands are executed and replied
to in the order in which they arrive; `output` returns all queued replies, so that a batch gets one write (RFC 2920
§3.2). Content is read to its true end even if it will be refused, unless it far exceeds the size limit
(`ServerSettings.max_read`), and it is passed to the handler only there. When the session ends, for any reason, content
that was not passed to the handler is discarded.

When `want` is set, the driver performs that action once `output` is written, and calls `receive` only afterwards.

Refuses: verbs out of sequence (503, see `states`), and input beyond the limits of `ServerSettings`. No input raises.

An extension may read the next line uninterpreted (`read_line`). An embedder may replace the handling of a verb or add
one: see `Override` and `ServerSession.standard`.

Standards: RFC 5321 §3.1 to §3.3, §3.8, §4.1 to §4.3, §4.5.3; RFC 2920 §3.2; RFC 3030 §2.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from ironpost import wire
from ironpost.model import Reply, Verdict
from ironpost.protocol import replies
from ironpost.protocol.server import commands, content, states
from ironpost.protocol.server.extension_state import ExtensionState, Lifetime
from ironpost.protocol.server.output import SessionOutput
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.settle import HookStage, settle
from ironpost.protocol.server.states import TRANSACTION, ServerState
from ironpost.protocol.server.transaction import Identity, Peer, PendingAction, TlsInfo, Transaction
from ironpost.wire import MODE_COMMAND, MODE_DATA, MODE_LINE, RESET_VERBS, BodyEnd, Command, Fault, Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping

    from ironpost.model import Recipient
    from ironpost.model.body import Spool
    from ironpost.protocol.server.extension_state import ContentSource
    from ironpost.protocol.server.handler import Handler, HookResult
    from ironpost.protocol.server.states import Handling

Override: TypeAlias = "Callable[[ServerSession, Command], HookResult]"
"""Handles one command instead of the table, in any state after the greeting. It gets the raw verb, argument and fault.

It returns a Reply (`RawReply` for any status), which is written; or None, if it has replied by `ServerSession.reply` or
`standard`; or an awaitable of one of these, during which the session waits. The octets of a chunk that it does not pass
to `standard` are discarded without a further reply.
"""
EVERY_VERB: Final = "*"
"""The key of the override for all commands without an override of their own: known verbs, unknown verbs, and lines
that are malformed or too long, whose verb is empty. It is not called for a BDAT whose octets cannot be counted or
exceed `ServerSettings.max_read`; this ends the session."""
Pending: TypeAlias = "Awaitable[Any] | None"
"""The awaitable for which the session waits; None if there is none."""
Then: TypeAlias = "Callable[[ServerSession, Any], None]"
"""A continuation: called with the session and the result."""
LineThen: TypeAlias = "Callable[[ServerSession, bytes | Fault], None]"
"""Called with a line that is not a command, without its CRLF, or with the Fault if it was malformed or too long."""

StateT = TypeVar("StateT", bound=ExtensionState)

DEFAULT = ServerSettings()
"""The default settings."""
_NONE: Mapping[str, int] = MappingProxyType({})

GREETING: Final = 220
"""The reply code of a positive greeting (RFC 5321 §4.3.2)."""
SAMPLE: Final = 32
"""The number of queued replies between two checks of their total size."""


class _Ending(NamedTuple):
    """How the server ends a session."""

    reply: Reply
    """Sent when the session ends."""
    after: frozenset[ServerState]
    """States that must be left before the session ends."""


_SHUTDOWN: Final = _Ending(replies.SHUTTING_DOWN, frozenset({ServerState.CONTENT}))
_RETIREMENT: Final = _Ending(replies.SHORTAGE, TRANSACTION | {ServerState.CONTENT})


class _Flushed:
    """An awaitable that is already done."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


FLUSHED: Final[Awaitable[None]] = _Flushed()
"""The result of a `flush` after which more output can be written."""


class ServerSession(SessionOutput):
    """One session.

    A handler may read `peer`, `tls`, `secure`, `helo`, `esmtp`, `identity`, `transaction` and `settings`.
    """

    __slots__ = (
        "_converts_result",
        "_disconnected",
        "_ending",
        "_eof",
        "_events",
        "_extension_states",
        "_framer",
        "_handlings",
        "_identity",
        "_line_then",
        "_overrides",
        "_pending",
        "_then",
        "_unread",
        "by_data",
        "chunk_refusal",
        "commands",
        "dropping",
        "esmtp",
        "extra",
        "full",
        "handler",
        "helo",
        "ignores_chunk",
        "input_drained",
        "leniencies",
        "octets",
        "on_flush",
        "proposed_hello",
        "proposed_recipient",
        "proposed_transaction",
        "quarantine",
        "received",
        "refusal",
        "spool",
        "state",
        "table",
        "tls",
        "transaction",
        "transactions",
        "trusted",
        "want",
        "window",
    )

    def __init__(
        self,
        handler: Handler,
        settings: ServerSettings = DEFAULT,
        peer: Peer = Peer(),  # noqa: B008 - immutable
        overrides: Mapping[str, Override] | None = None,
        tls: TlsInfo | None = None,
    ) -> None:
        """Create a session that has not started.

        Args:
            handler: the hooks.
            settings: the settings, which all sessions of the server share.
            peer: the client's address.
            overrides: verbs whose handling is replaced or added.
            tls: the TLS parameters if the connection is protected from its start (implicit TLS, RFC 8314 §3, or as
                stated by a trusted proxy); else None.
        """
        super().__init__(settings, peer)
        self.handler = handler
        self.trusted = settings.trusts(peer.ip)
        """The connection comes from a trusted front end (`ServerSettings.front_ends`), whatever client it names."""
        self.tls = tls
        """The TLS parameters; None if the connection is unencrypted."""
        self._identity: Identity | None = None
        self.want: PendingAction | None = None
        """The action that the driver performs once `output` is written. While it is set, nothing is interpreted."""
        self.helo = ""
        """The client's name; empty before EHLO or HELO."""
        self.leniencies: Mapping[str, int] = _NONE
        """The number of uses of each tolerance, by its name; see `tolerate`."""
        self.esmtp = False
        """The client sent EHLO or LHLO, so that extensions apply."""
        self.transaction: Transaction | None = None
        """The open transaction; None if there is none."""
        self.state = ServerState.GREETING
        """The state in the command table."""
        self.input_drained = False
        """No unread input is known, so the socket can be closed without lingering: after QUIT, or when idle."""
        self.commands = 0
        """The number of commands, including the lines of AUTH."""
        self.transactions = 0
        """The number of MAIL commands, counted if `ServerSettings.max_transactions` is set."""
        self.octets = 0
        """Octets of content received in the session."""
        self.received = 0
        """Octets of content received for the current message."""
        self.extra: Any = None
        """Reserved for the handler."""
        self.quarantine: tuple[str, ...] = ()
        """The reasons to quarantine every message of this session; empty if there are none."""
        self.dropping = False
        """Every message of this session is accepted and discarded, without calling hooks."""
        # The subject of the pending hook, which becomes part of the session if the reply is positive.
        self.proposed_hello: tuple[str, str] = "", ""
        """The verb and the client's name."""
        self.proposed_transaction: Transaction | None = None
        self.proposed_recipient: Recipient | None = None
        """None if the recipient is dropped."""
        self.table = settings.command_table(secure=tls is not None, authenticated=False)
        """The command table; it depends on TLS and authentication."""
        self._handlings: Mapping[str, Handling] = self.table.handlings[ServerState.GREETING]
        self._overrides = overrides
        self._extension_states: dict[type[ExtensionState], ExtensionState] = {}
        """The state of each extension, by its class; see `state_of`."""
        self._framer = self._new_framer()
        self._events: Iterator[wire.ServerEvent] = iter(())
        """The events of the framer that were not handled yet."""
        self.window = 0
        """Approximate octets of queued output after which the session waits for `proceed`; 0 for no limit."""
        self.full = False
        """`window` is reached: the driver writes the output, and calls `proceed` when the client has read it."""
        self._unread: list[bytes] = []
        """Input that arrived while the session was waiting."""
        self._pending: Pending = None
        """The awaitable for which the session waits."""
        self._then: Then | None = None
        """The continuation for the result of `_pending`."""
        self._converts_result = True
        """The result of `_pending` is converted to a reply before it is passed to `_then`."""
        self._line_then: LineThen | None = None
        """The continuation for the next line; None if commands are expected."""
        self.by_data = False
        """The content is sent by DATA, not in chunks."""
        self.spool: Spool | None = None
        """Stores the content that is being received."""
        self.refusal: Reply | None = None
        """The refusal that will be sent at the end of the content; None if it was not refused yet."""
        self.chunk_refusal: Reply | None = None
        """The refusal that will be sent at the end of the current chunk."""
        self.ignores_chunk = False
        """The current chunk belongs to a BDAT that an override handled: it is discarded without a reply."""
        self.on_flush: Callable[[], Awaitable[None]] | None = None
        """The driver's implementation of `flush`; None if it has none."""
        self._ending: _Ending | None = None
        """How the session ends; None before `shutdown` and `retire`."""
        self._eof = False
        """The client has closed its side, but earlier input is still to be handled."""
        self._disconnected = True
        """`connect` has not been called yet, or `disconnect` has been called."""

    # -----------------------------------------------------------------------------------------------------------------
    # For the driver

    def start(self) -> Pending:
        """Call the `connect` hook for a new connection, then greet (RFC 5321 §3.1)."""
        self._disconnected = False
        self.greet()
        return self._pending

    def receive(self, data: bytes) -> Pending:
        """Interpret input, or store it while a hook is pending."""
        if self.closing:
            return None
        if self.want is not None:
            self.close()  # unencrypted octets where TLS, or nothing, was expected (SECURITY R9)
            return None
        if self._pending is not None:
            if self.state is ServerState.GREETING:
                self.early()
            else:
                self._unread.append(data)
            return None
        if self.full:
            self._unread.append(data)
            return None
        if self.state is states.GREETING:
            self.early()
            return None
        self._events = iter(self._framer.feed(data))
        return self._run()

    def proceed(self) -> Pending:
        """Continue after `full`, because the client has read the output."""
        self.full = False
        return self._run()

    def answer(self, value: Any) -> Pending:
        """Continue with the result of the pending awaitable; return the next one."""
        then = self._then
        self._then = self._pending = None
        if self.closing or then is None:
            if then is content.spool_opened and not isinstance(value, Reply | Verdict):
                self.spool = value  # no longer needed
                content.discard(self)
            return None
        self._continue(value, then, converts=self._converts_result)
        return self._run() if self._pending is None else self._pending

    def fail(self, exc: BaseException) -> Pending:
        """Continue after the pending awaitable raised: with 451 4.3.0, or 452 if storage is full (SECURITY R26)."""
        then = self._then
        self._then = self._pending = None
        reply = self.raised(exc, storage=then in _STORAGE)
        if self.closing or then is None:
            return None
        then(self, reply)
        return self._run()

    def eof(self) -> None:
        """Handle the end of the client's input. Content without its end is discarded (SECURITY R6)."""
        self.input_drained = True
        if self.full or (self._pending is not None and self.state is not ServerState.GREETING):
            self._eof = True  # earlier commands still get their replies
        else:
            self.close()

    def expire(self, reply: Reply = replies.TIMED_OUT) -> None:
        """End the session after a timeout (RFC 5321 §4.5.3.2): with 421 4.4.2, or `reply` for another limit."""
        if reply is replies.TIMED_OUT:
            self.input_drained = not self.closing
        self.end_with(reply)

    def early(self) -> None:
        """End the session because the client sent data before the greeting (RFC 5321 §3.1, SECURITY R7)."""
        self.end_with(replies.EARLY_TALKER)

    def shutdown(self) -> None:
        """End the session with 421 4.3.2: at once if no content is being received, else after it (RFC 5321 §3.8).

        A command that the client has sent in the meantime is not carried out, unless it has closed its side; the same
        holds for `retire`.
        """
        self._ending = _SHUTDOWN
        self._end_if_idle()

    def retire(self) -> None:
        """End the session with 421 4.3.2, after the transaction if one is open: resources are short (RFC 5321 §3.8)."""
        self._ending = self._ending or _RETIREMENT
        self._end_if_idle()

    def broken(self) -> None:
        """End the session after an internal error, with 421 4.3.0 (SECURITY R22)."""
        self.end_with(replies.INTERNAL)

    def tls_started(self, tls: TlsInfo) -> None:
        """Continue after the TLS handshake. Everything learned before it is forgotten (SECURITY R11)."""
        self.want = None
        if self.closing:
            return
        self.tls = tls
        self._unread.clear()
        self._events = iter(())
        self._framer = self._new_framer()
        self.restart()
        if self._ending is not None:
            self._end_if_idle()

    def tls_failed(self) -> None:
        """End the session after a failed TLS handshake, without a reply, which could not be sent."""
        self.want = None
        self.input_drained = True
        self.close()

    def lost(self) -> None:
        """Handle the end of the connection: call the `disconnect` hook, once."""
        self.close()
        self.on_flush = None  # it may refer to the driver, which refers to the session
        if not self._disconnected:
            self._disconnected = True
            try:
                self.handler.disconnect(self)
            except BaseException as exc:  # noqa: BLE001 - R26
                self.raised(exc)

    @property
    def pending(self) -> Pending:
        """The awaitable for which the session waits; None if there is none."""
        return self._pending

    @property
    def opening(self) -> bool:
        """Whether the `content` hook is pending."""
        return self._then is content.spool_opened

    @property
    def committing(self) -> bool:
        """Whether the `message` hook is pending."""
        return self._then is content.message_done

    # -----------------------------------------------------------------------------------------------------------------
    # The client

    @property
    def secure(self) -> bool:
        """Whether the connection is protected by TLS."""
        return self.tls is not None

    @property
    def identity(self) -> Identity | None:
        """The authenticated client; None before authentication."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        self._identity = identity
        self._choose_table()

    @property
    def bindings(self) -> Mapping[str, bytes]:
        """The channel bindings of TLS, type to data; empty without TLS, and if a proxy terminates TLS."""
        tls = self.tls
        return {} if tls is None or tls.stated else tls.bindings

    @property
    def certified(self) -> bool:
        """Whether the connection itself identifies the client: by a verified certificate, or as a Unix user."""
        tls = self.tls
        return bool(self.peer.user) or (tls is not None and bool(tls.subject or tls.names))

    @property
    def protocol(self) -> str:
        """The `with` keyword of Received for the open transaction."""
        transaction = self.transaction
        return self.settings.dialect.with_keyword(
            extended=self.esmtp,
            utf8=transaction is not None and "SMTPUTF8" in transaction.parameters,
            secure=self.tls is not None,
            authenticated=self._identity is not None,
        )

    @property
    def input_follows(self) -> bool:
        """Whether more input was received after the current command; known only for verbs at which the framer holds."""
        return bool(self._unread) or self._framer.buffered > 0

    def _choose_table(self) -> None:
        self.table = self.settings.command_table(secure=self.secure, authenticated=self._identity is not None)
        self._handlings = self.table.handlings[self.state]

    def _new_framer(self) -> wire.ServerFramer:
        settings = self.settings
        return wire.ServerFramer(settings.limits, settings.framed_newlines, lenient=settings.addresses == "lenient")

    # -----------------------------------------------------------------------------------------------------------------
    # For commands and overrides

    def state_of(self, kind: type[StateT]) -> StateT:
        """Return the state that an extension keeps in this session, and create it on first use."""
        state = self._extension_states.get(kind)
        if state is None:
            state = self._extension_states[kind] = kind(self.settings)
        return cast("StateT", state)

    def has_state(self, kind: type[ExtensionState]) -> bool:
        """Whether the session has this state, without creating it."""
        return kind in self._extension_states

    def _clear_states(self, lifetime: Lifetime) -> None:
        kept = {kind: state for kind, state in self._extension_states.items() if kind.lifetime is not lifetime}
        self._extension_states = kept

    @property
    def content_source(self) -> ContentSource | None:
        """The state of the extension that supplies content from another source; None if there is no such extension."""
        kind = self.settings.content_source
        return None if kind is None else self.state_of(kind)

    def refuse_chunk(self, reply: Reply) -> None:
        """Refuse the chunk that follows, after its octets."""
        self.chunk_refusal = reply

    def tolerate(self, name: str) -> None:
        """Count a use of a tolerance: `hello`, `eight_bit`, or one of `wire.TOLERATED`."""
        self.leniencies = {**self.leniencies, name: self.leniencies.get(name, 0) + 1}

    def read_line(self, then: LineThen) -> None:
        """Pass the next line uninterpreted to `then`, which may call `read_line` again (RFC 4954 §4).

        Only for verbs at which the framer holds (`wire.HOLD_VERBS`).
        """
        self._line_then = then

    def restart(self) -> None:
        """Return to the state after the greeting: forget EHLO, identity and transaction."""
        self.drop_transaction()
        self._clear_states(Lifetime.SESSION)
        self.helo = ""
        self.esmtp = False
        self._identity = None
        self._line_then = None
        self.enter(ServerState.READY)
        self._choose_table()

    def greet(self) -> None:
        """Call the `connect` hook for the current peer; its reply is the greeting."""
        self.quarantine, self.dropping = (), False  # XCLIENT may have changed the peer
        self.consult("connect", then=ServerSession._connect_done)

    def wait(self, pending: Awaitable[Any], then: Then) -> None:
        """Wait until the driver passes on the result, then continue with `then`, which checks it."""
        self._then, self._pending, self._converts_result = then, pending, False

    def consult(self, hook: str, *arguments: object, then: Callable[[ServerSession, Reply | None], None]) -> None:
        """Call a hook of the handler and continue with its reply, at once or when it is available.

        If the hook raises, the reply is 451 4.3.0, and the session continues (SECURITY R26).
        """
        try:
            result: HookResult = getattr(self.handler, hook)(self, *arguments)
        except BaseException as exc:  # noqa: BLE001 - R26
            result = self.raised(exc)
        if result is None:
            then(self, None)
        else:
            self.ask(result, then)

    def query(self, hook: str, *arguments: object, then: Then) -> None:
        """Call a hook whose result may be more than a reply, and continue with that result; `then` checks it."""
        try:
            result = getattr(self.handler, hook)(self, *arguments)
        except BaseException as exc:  # noqa: BLE001 - R26
            result = self.raised(exc, storage=then in _STORAGE)
        if hasattr(result, "__await__"):
            self.wait(result, then)
        else:
            then(self, result)

    def ask(self, result: HookResult, then: Callable[[ServerSession, Reply | None], None]) -> None:
        """Convert a hook's result to a reply and continue with it, at once or when it is available."""
        if result is None or isinstance(result, Reply):
            then(self, result)
        elif hasattr(result, "__await__"):
            self._then, self._pending, self._converts_result = then, result, True
        else:
            self.ask(settle(self, result, _STAGES.get(then, HookStage.OTHER)), then)

    def _continue(self, value: Any, then: Then, *, converts: bool) -> None:
        """Continue with the result of an awaitable; if `converts` is set, it is converted to a reply first."""
        if not converts or value is None or isinstance(value, Reply):
            then(self, value)
        else:
            self.ask(settle(self, value, _STAGES.get(then, HookStage.OTHER)), then)

    def enter(self, state: ServerState) -> None:
        """Change the state."""
        self.state = state
        self._handlings = self.table.handlings[state]

    def drop_transaction(self) -> None:
        """Discard the transaction and its content, as RSET does (RFC 5321 §4.1.1.5).

        This is also done for a verb between two chunks that does not continue the content, even if it is refused. RFC
        3030 §2 leaves the state open there and requires the client to send RSET. But the framer restarts its facts
        about the content at some of these verbs, and content that was checked only in part must never be accepted.
        """
        content.discard(self)
        self.received = 0
        self.transaction = None
        if self._extension_states:
            self._clear_states(Lifetime.TRANSACTION)
        self.enter(states.IDLE)

    def flush(self) -> Awaitable[None]:
        """Write the queued replies now, not at the end of the command: for hooks and overrides that await.

        If the driver does not support this, or an action is pending (`want`), the replies stay queued for `output`.

        Returns:
            An awaitable that is done when the client has read enough for more output to be written (back-pressure). It
            need not be awaited. While the client does not read, replies stay queued.
        """
        if self.on_flush is None or self.want is not None:
            return FLUSHED
        return self.on_flush()

    def close(self) -> None:
        """End the session: input is no longer interpreted, and the connection closes when the replies are written."""
        content.discard(self)
        self._unread.clear()
        self.closing = True
        self.enter(ServerState.CLOSED)

    def standard(self, command: Command) -> Awaitable[None] | None:
        """Handle a command in the standard way, which queues the reply: for overrides.

        Returns:
            None if the command is done; else an awaitable, which the override must await or return.
        """
        self.ignores_chunk = False
        outer = self._pending, self._then, self._converts_result  # the override itself, if it is a coroutine
        self._pending = self._then = None
        self._by_table(command)
        pending, then, converts = self._pending, self._then, self._converts_result
        self._pending, self._then, self._converts_result = outer
        if pending is None or then is None:
            return None
        return self._finish(pending, then, converts=converts)

    async def _finish(self, pending: Pending, then: Then | None, *, converts: bool) -> None:
        """Await a standard command's hooks, as the driver does for commands without an override."""
        while pending is not None and then is not None:
            try:
                value = await pending
            except BaseException as exc:  # noqa: BLE001 - R26
                value = self.raised(exc, storage=then in _STORAGE)
            if self.closing:
                return
            outer = self._pending, self._then, self._converts_result
            self._pending = self._then = None
            self._continue(value, then, converts=converts)
            # More to await, such as the delay of a verdict.
            pending, then, converts = self._pending, self._then, self._converts_result
            self._pending, self._then, self._converts_result = outer

    # -----------------------------------------------------------------------------------------------------------------
    # Input

    def _connect_done(self, reply: Reply | None) -> None:
        if reply is None or (reply.positive and reply.code != GREETING):
            # Clients wait for the code 220; another positive reply is not a greeting (RFC 5321 §4.3.2).
            self._out.append(self.settings.greeting)
        elif reply.positive:
            self._out.append(reply.octets)
        elif reply.permanent:
            # QUIT remains legal: a client whose connection is closed would try again.
            self._out.append(reply.octets)
            self.table, self._overrides = self.settings.table_after_refusal, None
        else:
            self.end_with(replies.INTERNAL if reply is replies.HOOK_FAILED else reply)
            return
        self.enter(ServerState.READY)

    @property
    def refused(self) -> bool:
        """Whether the greeting was a permanent refusal, after which only QUIT is legal (RFC 5321 §3.1)."""
        return self.table is self.settings.table_after_refusal

    def _run(self) -> Pending:
        """Handle events until a hook is pending or none are left."""
        framer = self._framer
        sample_at = SAMPLE
        while not self.closing:
            for event in self._events:  # an iterator, to resume after a pending hook
                kind = type(event)
                if kind is Command:
                    # Otherwise a client that sends without a pause would never be stopped.
                    if self._ending is not None and not self._eof and self.state not in self._ending.after:
                        self.end_with(self._ending.reply)
                        return None
                    self._command(event)  # type: ignore[arg-type] # by its type
                elif kind is bytes:
                    content.piece(self, event)  # type: ignore[arg-type]
                elif kind is BodyEnd:
                    content.end(self, event)  # type: ignore[arg-type]
                elif kind is Line:
                    self._line(event.octets)  # type: ignore[union-attr]
                elif kind is Fault:
                    if self._line_then is None:
                        self._command(Command("", b"", fault=event))  # type: ignore[arg-type]
                    else:
                        self._line(event)  # type: ignore[arg-type]
                if self._pending is not None:
                    return self._pending
                if self.closing:
                    return None
                if len(self._out) >= sample_at:  # not at every event: the sum costs time
                    if 0 < self.window < sum(map(len, self._out)):
                        self.full = True
                        return None
                    sample_at = len(self._out) + SAMPLE
            if self.want is not None:
                if self._eof:  # the client has closed its side: neither a handshake nor a hand-over is possible
                    self.tls_failed()
                return None
            if framer.held:
                if self._line_then is not None:
                    mode = MODE_LINE
                else:
                    mode = MODE_DATA if self.by_data and self.state is states.CONTENT else MODE_COMMAND
                self._events = iter(framer.resume(mode))
            elif self._unread:
                data = b"".join(self._unread)
                self._unread.clear()
                self._events = iter(framer.feed(data))
            else:
                if self._ending is not None or self._eof:
                    self._end_if_idle()
                break
        return None

    def _line(self, octets: bytes | Fault) -> None:
        self.commands += 1  # counts as progress of the session
        then, self._line_then = self._line_then, None
        assert then is not None  # LINE mode is entered by read_line
        then(self, octets)

    def _command(self, command: Command) -> None:
        self.commands += 1
        if self.commands > self.settings.max_commands:
            self.end_with(replies.TOO_MANY_COMMANDS)
        elif self._overrides is None or not self._override(command, self._overrides):
            self._by_table(command)

    def _by_table(self, command: Command) -> None:
        handling = self._handlings.get(command.verb)
        if handling is not None:
            handling(self, command)
            return
        if not command.verb:
            self.refuse_fault(command, replies.FAULT_REPLIES)
            return
        if self.state is ServerState.CONTENT:
            self.drop_transaction()
        self.refuse(self.settings.unsupported.get(command.verb, replies.UNKNOWN_VERB))

    def _override(self, command: Command, overrides: Mapping[str, Override]) -> bool:
        """Call the override of a command; return whether there is one."""
        verb, chunk = command.verb, command.chunk
        override = overrides.get(verb) or overrides.get(EVERY_VERB)
        if override is None:
            return False
        if verb == "BDAT" and (chunk is None or chunk.size > self.settings.max_read):
            # Its octets must be neither interpreted as commands (SECURITY R5) nor read without limit (R23).
            return False
        if self.state is states.CONTENT and verb in RESET_VERBS:
            # The framer restarts its facts about the content here; content checked only in part must not be accepted.
            self.drop_transaction()
        self.ignores_chunk = chunk is not None
        try:
            result = override(self, command)
        except BaseException as exc:  # noqa: BLE001 - R26
            result = self.raised(exc)
        if result is not None:
            self.ask(result, ServerSession._override_done)
        return True

    def _override_done(self, reply: Reply | None) -> None:
        if reply is not None:
            self.reply(reply)

    def _end_if_idle(self) -> None:
        """End a session that is shutting down, or whose client has closed its side, unless it is still busy."""
        if self.closing or self.full or self._pending is not None or self.want is not None:
            return
        if self._eof:
            self.close()
        elif self._ending is not None and self.state not in self._ending.after:
            self.input_drained = True
            self.end_with(self._ending.reply)


_STAGES: Final[Mapping[Then, HookStage]] = {
    ServerSession._connect_done: HookStage.CONNECT,
    commands.hello_done: HookStage.HELLO,
    commands.mail_done: HookStage.MAIL,
    commands.rcpt_done: HookStage.RECIPIENT,
}
"""The stage of a hook, by its continuation."""
_STORAGE: Final = (content.spool_opened, content.written, content.message_done)
"""The continuations of hooks that store content, whose errors may mean that storage is full."""
