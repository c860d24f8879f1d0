"""The server's side of one SMTP conversation, without I/O: octets go in, replies and questions come out.

    session = ServerSession(handler, settings, peer)
    pending = session.start()             then transport.write(session.output())
    pending = session.receive(data)       for what was read
    pending = session.answer(await pending)   or session.fail(exception)

Promises: `pending` is None, or the awaitable that a hook of the handler returned; the outer ring awaits it and gives
the result back. While it is out, nothing is interpreted. Commands are executed in the order in which they came, and
answered in it; `output` returns everything that is to be written, so that a batch is answered with one write (RFC 2920
§3.2). Content is read to its true end even when it will be refused, and handed over only there. However the
conversation ends, content that was not handed over is discarded.

Refuses: what `commands.TABLE` does not hold (503), and whatever breaks a limit of `Settings`. No peer's error raises.

An embedder may replace the handling of a command or add a verb: see `Override` and `ServerSession.standard`.

Standards: RFC 5321 §3.1 to §3.3, §3.8, §4.1 to §4.3, §4.5.3; RFC 2920 §3.2; RFC 3030 §2.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from ironpost import wire
from ironpost.model import Reply
from ironpost.protocol import replies
from ironpost.protocol.commands import KNOWN, RESTARTING, SEQUENCE, State
from ironpost.protocol.settings import Settings
from ironpost.protocol.transaction import Peer, Transaction
from ironpost.wire import MODE_COMMAND, MODE_DATA, BodyEnd, Command, Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from ironpost.model.body import Spool
    from ironpost.protocol.handler import Answer, ContentAnswer, Handler

Override: TypeAlias = "Callable[[ServerSession, Command], Answer]"
"""Handles one command instead of the table, in any state after the greeting. It sees the raw verb, argument and fault.

It returns a Reply, which is written; or None, when it has replied by `ServerSession.reply` or `standard`; or an
awaitable of one of these, during which the session waits.
"""
Pending: TypeAlias = "Awaitable[Any] | None"
Then: TypeAlias = "Callable[[ServerSession, Any], None]"
"""What happens with an answer."""

LOG = logging.getLogger("ironpost.protocol")
DEFAULT = Settings()


class ServerSession:
    """One conversation. Attributes that a handler may read: `peer`, `helo`, `esmtp`, `transaction`, `settings`."""

    __slots__ = (
        "_by_data",
        "_chunk_refusal",
        "_eof",
        "_events",
        "_framer",
        "_gone",
        "_out",
        "_overrides",
        "_pending",
        "_refusal",
        "_spool",
        "_stopping",
        "_then",
        "_unread",
        "_verbs",
        "candidate",
        "closing",
        "commands",
        "dialogue",
        "errors",
        "esmtp",
        "extra",
        "failures",
        "handler",
        "heard_out",
        "helo",
        "messages",
        "octets",
        "peer",
        "settings",
        "state",
        "transaction",
    )

    def __init__(
        self,
        handler: Handler,
        settings: Settings = DEFAULT,
        peer: Peer = Peer(),  # noqa: B008 - immutable
        overrides: Mapping[str, Override] | None = None,
    ) -> None:
        self.handler = handler
        self.settings = settings
        self.peer = peer
        self.helo = ""
        """What the client called itself; empty before EHLO or HELO."""
        self.esmtp = False
        """The client said EHLO, so extensions apply."""
        self.transaction: Transaction | None = None
        self.state = State.GREETING
        self.closing = False
        """Write what `output` holds, then close the connection. Nothing that comes is interpreted."""
        self.heard_out = False
        """It closes with nothing of the client's unread that we know of: after QUIT, in silence, or in a pause."""
        self.commands = 0
        self.errors = 0
        """Negative replies (5yz) since the last accepted message."""
        self.failures = 0
        """Hooks that raised."""
        self.messages = 0
        """Messages accepted."""
        self.octets = 0
        """Octets of content received."""
        self.extra: Any = None
        """For the handler: whatever it wants to remember about this session."""
        self.candidate: Any = None
        """What the question that is out is about; becomes part of the session if the answer is positive."""
        self.dialogue = settings.dialogue
        self._verbs = self.dialogue.verbs[State.GREETING]
        self._overrides = overrides
        self._framer = wire.ServerFramer(settings.limits, settings.newlines)
        self._events: Iterator[wire.ServerEvent] = iter(())
        self._unread: list[bytes] = []
        self._out: list[bytes] = []
        self._pending: Pending = None
        self._then: Then | None = None
        self._by_data = False
        """Content comes by DATA, not by BDAT."""
        self._spool: Spool | None = None
        self._refusal: Reply | None = None
        """What the content that is coming will be told at its end, whatever it is."""
        self._chunk_refusal: Reply | None = None
        """What the chunk that is coming will be told at its end; the transaction, if any, is not concerned."""
        self._stopping = False
        self._eof = False
        self._gone = False

    # -----------------------------------------------------------------------------------------------------------------
    # For the outer ring

    def start(self) -> Pending:
        """The client connected: asks the handler, then greets (RFC 5321 §3.1)."""
        try:
            answer = self.handler.connect(self)
        except Exception as exc:  # noqa: BLE001 - R26
            answer = self.raised(exc)
        self.ask(answer, ServerSession._connect_answered)
        return self._pending

    def receive(self, data: bytes) -> Pending:
        """Octets that were read. While a question is out they are kept."""
        if self.closing:
            return None
        if self._pending is not None:
            if self.state is State.GREETING:
                self._early()
            else:
                self._unread.append(data)
            return None
        if self.state is State.GREETING:
            self._early()
            return None
        self._events = iter(self._framer.feed(data))
        return self._run()

    def answer(self, value: Any) -> Pending:
        """What the awaitable of the last question gave; returns the next one."""
        then = self._then
        self._then = self._pending = None
        if self.closing or then is None:
            if then is ServerSession._content_answered and not isinstance(value, Reply):
                self._spool = value  # that nobody waits for any more
                self._discard()
            return None
        if not (value is None or isinstance(value, Reply) or then is ServerSession._content_answered):
            value = self.raised(TypeError(f"a hook answered {type(value).__name__}, not Reply or None"))
        then(self, value)
        return self._run()

    def fail(self, exc: BaseException) -> Pending:
        """The awaitable of the last question raised: 451 4.3.0, or 452 where storage was full (SECURITY R26)."""
        then = self._then
        self._then = self._pending = None
        reply = self.raised(exc, storage=then in _STORAGE)
        if self.closing or then is None:
            return None
        then(self, reply)
        return self._run()

    def eof(self) -> None:
        """The client sends no more. Content without its end is discarded (SECURITY R6)."""
        if self._pending is not None and self.state is not State.GREETING:
            self._eof = True  # what came before is still answered
        else:
            self.close()

    def expire(self) -> None:
        """Nothing came in time (RFC 5321 §4.5.3.2): 421 4.4.2."""
        self.heard_out = not self.closing
        self._end_with(replies.TIMED_OUT)

    def shutdown(self) -> None:
        """The server stops: 421 4.3.2, at once if nothing is going on, else behind what is (RFC 5321 §3.8)."""
        self._stopping = True
        self._settle()

    def broken(self) -> None:
        """Something in our own code raised: 421 4.3.0 (SECURITY R22)."""
        self._end_with(replies.INTERNAL)

    def lost(self) -> None:
        """The connection is gone. Tells the handler, once."""
        self.close()
        if not self._gone:
            self._gone = True
            try:
                self.handler.disconnect(self)
            except Exception as exc:  # noqa: BLE001 - R26
                self.raised(exc)

    def output(self) -> bytes:
        """What is to be written; empties it."""
        out = self._out
        if len(out) == 1:
            octets = out[0]
        elif out:
            octets = b"".join(out)
        else:
            return b""
        out.clear()
        return octets

    @property
    def pending(self) -> Pending:
        """The question that is out."""
        return self._pending

    @property
    def committing(self) -> bool:
        """The handler was asked to take responsibility for a message, and has not answered."""
        return self._then is ServerSession._message_answered

    # -----------------------------------------------------------------------------------------------------------------
    # For handlings and overrides

    def write(self, octets: bytes) -> None:
        """Queues a positive reply that is rendered already."""
        self._out.append(octets)

    def reply(self, reply: Reply) -> None:
        """Queues a reply. 5yz counts as an error; 421 closes (RFC 5321 §4.2.3)."""
        if reply.code >= 500:
            self.refuse(reply)
            return
        self._out.append(reply.octets)
        if reply.code == 421:
            self.close()

    def refuse(self, reply: Reply) -> None:
        """Queues a reply that counts as an error; at the limit 421 instead, and closes."""
        self.errors += 1
        if self.errors >= self.settings.max_errors:
            self._end_with(replies.TOO_MANY_ERRORS)
        else:
            self._out.append(reply.octets)

    def refuse_fault(self, command: Command, table: Mapping[str, Reply]) -> None:
        """Refuses a command for its fault."""
        fault = command.fault.id if command.fault is not None else "argument-missing"
        self.refuse(table[fault])

    def ask(self, answer: Answer, then: Callable[[ServerSession, Reply | None], None]) -> None:
        """Goes on with `then` and the handler's answer, now or when it is there."""
        if answer is None or isinstance(answer, Reply):
            then(self, answer)
        elif hasattr(answer, "__await__"):
            self._then, self._pending = then, answer
        else:
            then(self, self.raised(TypeError(f"a hook answered {type(answer).__name__}, not Reply or None")))

    def raised(self, exc: BaseException, *, storage: bool = False) -> Reply:
        """Counts and logs what a hook raised; the reply that stands for it."""
        self.failures += 1
        LOG.error("hook raised %s for %s", type(exc).__name__, self.peer.ip, exc_info=exc)
        # ConnectionError and TimeoutError are OSErrors too, but say nothing about room.
        if storage and isinstance(exc, OSError) and not isinstance(exc, ConnectionError | TimeoutError):
            return replies.NO_ROOM
        return replies.HOOK_FAILED

    def enter(self, state: State) -> None:
        """Changes the state."""
        self.state = state
        self._verbs = self.dialogue.verbs[state]

    def drop_transaction(self) -> None:
        """Forgets the transaction with its content, as RSET does (RFC 5321 §4.1.1.5)."""
        self._discard()
        self.transaction = None
        self.enter(State.IDLE)

    def close(self) -> None:
        """Interprets nothing more; the connection closes when the replies are written."""
        self._discard()
        self._unread.clear()
        self.closing = True
        self.enter(State.CLOSED)

    def standard(self, command: Command) -> Awaitable[None] | None:
        """For overrides: handles the command as the table says. The reply is queued when it is done.

        Returns:
            None if it is done; else an awaitable, to be awaited or returned by the override.
        """
        outer = self._pending, self._then  # the override itself, if it is a coroutine
        self._pending = self._then = None
        self._by_table(command)
        pending, then = self._pending, self._then
        self._pending, self._then = outer
        if pending is None or then is None:
            return None
        return self._finish(pending, then)

    async def _finish(self, pending: Awaitable[Any], then: Then) -> None:
        try:
            value = await pending
        except Exception as exc:  # noqa: BLE001 - R26
            value = self.raised(exc, storage=then in _STORAGE)
        if not self.closing:
            then(self, value)

    # -----------------------------------------------------------------------------------------------------------------
    # Content

    def begin_data(self) -> None:
        """DATA in its place: asks where the content goes, then 354."""
        self._by_data = True
        self._ask_content()

    def chunk(self) -> None:
        """BDAT with a size: the octets follow, whatever we think of it (RFC 3030 §2, SECURITY R5)."""
        if not self.esmtp or self.state not in {State.RCPT, State.CONTENT}:
            self._chunk_refusal = replies.RECIPIENT_FIRST if self.state is State.MAIL else replies.BAD_SEQUENCE
        elif self.state is State.RCPT:
            self._by_data = False
            self._ask_content()

    def _ask_content(self) -> None:
        try:
            answer: ContentAnswer = self.handler.content(self)
        except Exception as exc:  # noqa: BLE001 - R26
            answer = self.raised(exc, storage=True)
        if isinstance(answer, Reply):
            self._content_answered(answer)
        elif hasattr(answer, "__await__"):
            self._then, self._pending = ServerSession._content_answered, cast("Awaitable[Any]", answer)
        else:
            self._content_answered(answer)

    def _content_answered(self, answer: Spool | Reply | None) -> None:
        if answer is None:
            answer = self.raised(TypeError("the content hook answered None, not Spool or Reply"))
        if isinstance(answer, Reply):
            if self._by_data:  # refused instead of 354: no content comes
                self.reply(answer)
            else:  # the octets of the chunk come all the same
                self._refusal = answer
                self.enter(State.CONTENT)
            return
        self._spool = answer
        self.enter(State.CONTENT)
        if self._by_data:
            self._out.append(_START_CONTENT)

    def _piece(self, piece: bytes) -> None:
        self.octets += len(piece)
        spool = self._spool
        if spool is None or self._chunk_refusal is not None:
            return
        try:
            wait = spool.write(piece)
        except Exception as exc:  # noqa: BLE001 - R26
            self._spoil(self.raised(exc, storage=True))
            return
        if wait is not None:
            self._then, self._pending = ServerSession._written, wait

    def _written(self, failure: Reply | None) -> None:
        if failure is not None:
            self._spoil(failure)

    def _spoil(self, refusal: Reply) -> None:
        self._discard()
        self._refusal = refusal

    def _discard(self) -> None:
        self._refusal = None
        spool, self._spool = self._spool, None
        if spool is not None:
            try:
                spool.discard()
            except Exception as exc:  # noqa: BLE001 - R26
                self.raised(exc)

    def _content_end(self, facts: BodyEnd) -> None:
        """The true end of DATA, or the end of a chunk: only here content is judged and answered."""
        refusal = self._chunk_refusal
        if refusal is not None:
            self._chunk_refusal = None
            self.refuse(refusal)
            return
        refusal = self._judge(facts) or self._refusal
        if refusal is not None:
            self.drop_transaction()
            self.reply(refusal)
            return
        if not facts.last:
            self._out.append(_CHUNK_OK)
            return
        spool, self._spool = self._spool, None
        assert spool is not None
        try:
            answer = self.handler.message(self, spool, facts)
        except Exception as exc:  # noqa: BLE001 - R26
            answer = self.raised(exc, storage=True)
        self.ask(answer, ServerSession._message_answered)

    def _judge(self, facts: BodyEnd) -> Reply | None:
        settings = self.settings
        if facts.size > settings.max_size:
            return replies.TOO_LARGE
        # DATA under `normalise` was mended by the framer; chunks are counted octets and cannot be (R2, R4).
        bare_allowed = settings.newlines == "accept" or (settings.newlines == "normalise" and self._by_data)
        if (facts.bare_cr or facts.bare_lf) and not bare_allowed:
            return replies.BARE_NEWLINE
        if facts.nul:
            return replies.NUL_OCTET
        if facts.longest_line > settings.max_body_line and settings.long_lines == "reject":
            return replies.LINE_TOO_LONG
        return None

    def _message_answered(self, answer: Reply | None) -> None:
        self.drop_transaction()
        if answer is None or answer.positive:
            self.errors = 0
            self.messages += 1
            self._out.append(_ACCEPTED if answer is None else answer.octets)
        else:
            self.reply(answer)

    # -----------------------------------------------------------------------------------------------------------------
    # The dialogue

    def _connect_answered(self, answer: Reply | None) -> None:
        if answer is None:
            self._out.append(self.settings.greeting)
        elif answer.positive:
            self._out.append(answer.octets)
        else:
            self._end_with(replies.INTERNAL if answer is replies.HOOK_FAILED else answer)
            return
        self.enter(State.READY)

    def _early(self) -> None:
        """Octets before the greeting: a client that does not listen (RFC 5321 §3.1, SECURITY R7)."""
        self._end_with(replies.EARLY_TALKER)

    def _run(self) -> Pending:
        """Handles events until a question is out or nothing is left."""
        framer = self._framer
        while not self.closing:
            for event in self._events:  # an iterator: it stays where it is while a question is out
                kind = type(event)
                if kind is Command:
                    self._command(event)  # type: ignore[arg-type] # by its type
                elif kind is bytes:
                    self._piece(event)  # type: ignore[arg-type]
                elif kind is BodyEnd:
                    self._content_end(event)  # type: ignore[arg-type]
                elif kind is Fault:
                    self.refuse(replies.FAULT_REPLIES[event.id])  # type: ignore[union-attr]
                if self._pending is not None:
                    return self._pending
                if self.closing:
                    return None
            if framer.held:
                data_now = self._by_data and self.state is State.CONTENT
                self._events = iter(framer.resume(MODE_DATA if data_now else MODE_COMMAND))
            elif self._unread:
                data = b"".join(self._unread)
                self._unread.clear()
                self._events = iter(framer.feed(data))
            else:
                if self._stopping or self._eof:
                    self._settle()
                break
        return None

    def _command(self, command: Command) -> None:
        self.commands += 1
        if self.commands > self.settings.max_commands:
            self._end_with(replies.TOO_MANY_COMMANDS)
        elif self._overrides is not None and command.verb in self._overrides:
            self._override(command, self._overrides[command.verb])
        else:
            self._by_table(command)

    def _by_table(self, command: Command) -> None:
        handling = self._verbs.get(command.verb)
        if handling is not None:
            handling(self, command)
            return
        verb = command.verb
        if not verb:
            self.refuse_fault(command, replies.FAULT_REPLIES)
            return
        if self.state is State.CONTENT:
            self.drop_transaction()  # see commands.interrupted
        if verb in self.dialogue.known:
            self.refuse(SEQUENCE.get((self.state, verb), replies.BAD_SEQUENCE))
        else:
            self.refuse(replies.NOT_IMPLEMENTED if verb in KNOWN else replies.UNKNOWN_VERB)

    def _override(self, command: Command, override: Override) -> None:
        if self.state is State.CONTENT and command.verb in RESTARTING:
            self.drop_transaction()  # see commands.interrupted
        try:
            answer = override(self, command)
        except Exception as exc:  # noqa: BLE001 - R26
            answer = self.raised(exc)
        self.ask(answer, ServerSession._override_answered)

    def _override_answered(self, answer: Reply | None) -> None:
        if answer is not None:
            self.reply(answer)

    def _end_with(self, reply: Reply) -> None:
        if not self.closing:
            self._out.append(reply.octets)
            self.close()

    def _settle(self) -> None:
        """Ends a session that was asked to end, once nothing is going on in it."""
        if self.closing or self._pending is not None:
            return
        if self._eof:
            self.close()
        elif self.state is not State.CONTENT:
            self.heard_out = True
            self._end_with(replies.SHUTTING_DOWN)


_STORAGE = (ServerSession._content_answered, ServerSession._written, ServerSession._message_answered)
_START_CONTENT = replies.START_CONTENT.octets
_CHUNK_OK = replies.CHUNK_OK.octets
_ACCEPTED = replies.ACCEPTED.octets
