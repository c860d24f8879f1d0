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

When `want` is set, the outer ring does what it says once `output` is written, and gives nothing to `receive` meanwhile.

Refuses: what `commands.TABLE` does not hold (503), and whatever breaks a limit of `Settings`. No peer's error raises.

An extension may ask for the next line as it is (`read_line`). An embedder may replace the handling of a command or add
a verb: see `Override` and `ServerSession.standard`.

Standards: RFC 5321 §3.1 to §3.3, §3.8, §4.1 to §4.3, §4.5.3; RFC 2920 §3.2; RFC 3030 §2.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ironpost import wire
from ironpost.model import Reply, Verdict
from ironpost.protocol import commands, content, replies
from ironpost.protocol.answering import Answering
from ironpost.protocol.commands import KNOWN, RESTARTING, SEQUENCE, State
from ironpost.protocol.settings import Settings
from ironpost.protocol.transaction import Identity, Peer, Tls, Transaction, Want
from ironpost.protocol.verdicts import Stage, settle
from ironpost.wire import MODE_COMMAND, MODE_DATA, MODE_LINE, BodyEnd, Command, Fault, Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from ironpost.model.body import Spool
    from ironpost.protocol.handler import Answer, Handler

Override: TypeAlias = "Callable[[ServerSession, Command], Answer]"
"""Handles one command instead of the table, in any state after the greeting. It sees the raw verb, argument and fault.

It returns a Reply, which is written; or None, when it has replied by `ServerSession.reply` or `standard`; or an
awaitable of one of these, during which the session waits.
"""
Pending: TypeAlias = "Awaitable[Any] | None"
Then: TypeAlias = "Callable[[ServerSession, Any], None]"
"""What happens with an answer."""
LineThen: TypeAlias = "Callable[[ServerSession, bytes | Fault], None]"
"""What happens with a line that is no command, without its CRLF; a Fault if it was malformed or too long."""

DEFAULT = Settings()
_NOTHING: Mapping[str, str] = MappingProxyType({})

GREETING: Final = 220
SAMPLE: Final = 32
"""Replies (a count) between two looks at how large all are that wait to be written."""


class ServerSession(Answering):
    """One conversation.

    Attributes that a handler may read: `peer`, `tls`, `secure`, `helo`, `esmtp`, `identity`, `transaction`, `settings`.
    """

    __slots__ = (
        "_eof",
        "_events",
        "_framer",
        "_gone",
        "_identity",
        "_judged",
        "_line_then",
        "_overrides",
        "_pending",
        "_stopping",
        "_then",
        "_unread",
        "_verbs",
        "by_data",
        "candidate",
        "chunk_refusal",
        "commands",
        "dialogue",
        "dropping",
        "esmtp",
        "extra",
        "failed_logins",
        "forwarded",
        "full",
        "handler",
        "heard_out",
        "helo",
        "lenient_hellos",
        "octets",
        "quarantine",
        "refusal",
        "spool",
        "state",
        "successor",
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
        settings: Settings = DEFAULT,
        peer: Peer = Peer(),  # noqa: B008 - immutable
        overrides: Mapping[str, Override] | None = None,
        tls: Tls | None = None,
    ) -> None:
        """A session that has not started.

        Args:
            handler: who is asked.
            settings: the server's.
            peer: the client's address.
            overrides: verbs whose handling is replaced or added.
            tls: what protects the connection already (implicit TLS, RFC 8314 §3, or a trusted proxy's statement).
        """
        super().__init__(settings, peer)
        self.handler = handler
        self.trusted = settings.trusts(peer.ip)
        """The client is a front end of our own (`Settings.xclient`), whomever it speaks for."""
        self.tls = tls
        """What protects the connection; None in clear."""
        self._identity: Identity | None = None
        self.want: Want | None = None
        """What the outer ring must do once `output` is written. While it is set nothing is interpreted."""
        self.helo = ""
        self.lenient_hellos = 0
        """EHLO and HELO whose name is none, which `Settings.hello` let pass."""
        """What the client called itself; empty before EHLO or HELO."""
        self.esmtp = False
        """The client said EHLO, so extensions apply."""
        self.transaction: Transaction | None = None
        self.forwarded: Mapping[str, str] = _NOTHING
        """What a front end of our own said by XFORWARD of where the next message comes from; for the log only."""
        self.state = State.GREETING
        self.heard_out = False
        """It closes with nothing of the client's unread that we know of: after QUIT, in silence, or in a pause."""
        self.commands = 0
        self.transactions = 0
        """MAIL commands, where `Settings.max_transactions` limits them."""
        self.octets = 0
        """Octets of content received."""
        self.failed_logins = 0
        """AUTH commands that were refused, or had to wait; not those that the client gave up, or nobody could judge."""
        self.extra: Any = None
        """For the handler: whatever it wants to remember about this session."""
        self.quarantine: tuple[str, ...] = ()
        """Why every message of this session is to be kept apart; empty if it is not."""
        self.dropping = False
        """Every message of this session is taken and thrown away, and nobody is asked."""
        self.successor: Any = None
        """Set by the handler's `turn`: makes the protocol that takes the connection over when `want` is SWAP."""
        self.candidate: Any = None
        """What the question that is out is about; becomes part of the session if the answer is positive."""
        self.dialogue = settings.dialogue(secure=tls is not None, authenticated=False)
        self._verbs = self.dialogue.verbs[State.GREETING]
        self._overrides = overrides
        self._framer = wire.ServerFramer(settings.limits, settings.framed_newlines)
        self._events: Iterator[wire.ServerEvent] = iter(())
        self.window = 0
        """Octets of replies (about) after which nothing more is answered before `proceed`; 0 for any number."""
        self.full = False
        """There are as many. Write them, and call `proceed` when the client has taken them."""
        self._unread: list[bytes] = []
        self._pending: Pending = None
        self._then: Then | None = None
        self._judged = True
        """What the question that is out gives is a handler's answer, to be judged before anybody goes on with it."""
        self._line_then: LineThen | None = None
        self.by_data = False
        """Content comes by DATA, not by BDAT."""
        self.spool: Spool | None = None
        """Where the content goes that is coming."""
        self.refusal: Reply | None = None
        """What the content that is coming will be told at its end, whatever it is."""
        self.chunk_refusal: Reply | None = None
        """What the chunk that is coming will be told at its end; the transaction, if any, is not concerned."""
        self._stopping = False
        self._eof = False
        self._gone = True
        """The handler knows of no client: it was not asked yet, or was told that the client is gone."""

    # -----------------------------------------------------------------------------------------------------------------
    # For the outer ring

    def start(self) -> Pending:
        """The client connected: asks the handler, then greets (RFC 5321 §3.1)."""
        self._gone = False
        self.greet()
        return self._pending

    def receive(self, data: bytes) -> Pending:
        """Octets that were read. While a question is out they are kept."""
        if self.closing:
            return None
        if self.want is not None:
            self.close()  # they came in clear where TLS, or nothing at all, was due (SECURITY R9)
            return None
        if self._pending is not None:
            if self.state is State.GREETING:
                self.early()
            else:
                self._unread.append(data)
            return None
        if self.full:
            self._unread.append(data)
            return None
        if self.state is State.GREETING:
            self.early()
            return None
        self._events = iter(self._framer.feed(data))
        return self._run()

    def proceed(self) -> Pending:
        """The client took the replies that made the session `full`: answers what came behind."""
        self.full = False
        return self._run()

    def answer(self, value: Any) -> Pending:
        """What the awaitable of the last question gave; returns the next one."""
        then = self._then
        self._then = self._pending = None
        if self.closing or then is None:
            if then is content.content_answered and not isinstance(value, Reply | Verdict):
                self.spool = value  # that nobody waits for any more
                content.discard(self)
            return None
        self._take(value, then, judged=self._judged)
        return self._run() if self._pending is None else self._pending

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
        self.heard_out = True
        if self.full or (self._pending is not None and self.state is not State.GREETING):
            self._eof = True  # what came before is still answered
        else:
            self.close()

    def expire(self, reply: Reply = replies.TIMED_OUT) -> None:
        """Nothing came in time (RFC 5321 §4.5.3.2): 421 4.4.2; or `reply`, for another limit of the outer ring."""
        if reply is replies.TIMED_OUT:
            self.heard_out = not self.closing
        self.end_with(reply)

    def early(self) -> None:
        """Octets came before the greeting: a client that does not listen (RFC 5321 §3.1, SECURITY R7)."""
        self.end_with(replies.EARLY_TALKER)

    def shutdown(self) -> None:
        """The server stops: 421 4.3.2, at once if nothing is going on, else behind what is (RFC 5321 §3.8)."""
        self._stopping = True
        self._settle()

    def broken(self) -> None:
        """Something in our own code raised: 421 4.3.0 (SECURITY R22)."""
        self.end_with(replies.INTERNAL)

    def tls_started(self, tls: Tls) -> None:
        """The handshake that was wanted is done. Nothing that was said in clear counts any more (SECURITY R11)."""
        self.want = None
        if self.closing:
            return
        self.tls = tls
        self._unread.clear()
        self._events = iter(())
        self._framer = wire.ServerFramer(self.settings.limits, self.settings.framed_newlines)
        self.restart()
        if self._stopping:
            self._settle()

    def tls_failed(self) -> None:
        """The handshake failed: there is no connection on which anything could be said."""
        self.want = None
        self.heard_out = True
        self.close()

    def lost(self) -> None:
        """The connection is gone. Tells the handler, once."""
        self.close()
        if not self._gone:
            self._gone = True
            try:
                self.handler.disconnect(self)
            except Exception as exc:  # noqa: BLE001 - R26
                self.raised(exc)

    @property
    def pending(self) -> Pending:
        """The question that is out."""
        return self._pending

    @property
    def opening(self) -> bool:
        """The handler was asked where content goes, and has not answered."""
        return self._then is content.content_answered

    @property
    def committing(self) -> bool:
        """The handler was asked to take responsibility for a message, and has not answered."""
        return self._then is content.message_answered

    # -----------------------------------------------------------------------------------------------------------------
    # What is known of the client

    @property
    def secure(self) -> bool:
        """TLS protects the connection."""
        return self.tls is not None

    @property
    def identity(self) -> Identity | None:
        """Who the client is, once it has authenticated."""
        return self._identity

    @identity.setter
    def identity(self, identity: Identity | None) -> None:
        self._identity = identity
        self._choose_dialogue()

    @property
    def bindings(self) -> Mapping[str, bytes]:
        """Channel bindings of TLS that is our own; of a proxy's there are none."""
        tls = self.tls
        return {} if tls is None or tls.stated else tls.bindings

    @property
    def certified(self) -> bool:
        """The connection itself says who the client is: by a certificate that was verified, or as a Unix user."""
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
    def behind(self) -> bool:
        """Octets have come behind the command that is being handled; known only where the framer holds."""
        return bool(self._unread) or self._framer.buffered > 0

    def _choose_dialogue(self) -> None:
        self.dialogue = self.settings.dialogue(secure=self.secure, authenticated=self._identity is not None)
        self._verbs = self.dialogue.verbs[self.state]

    # -----------------------------------------------------------------------------------------------------------------
    # For handlings and overrides

    def refuse_chunk(self, reply: Reply) -> None:
        """Refuses the chunk that is coming, at its end; the transaction, if any, is not concerned."""
        self.chunk_refusal = reply

    def read_line(self, then: LineThen) -> None:
        """Takes the next line as it is and gives it to `then`, which may ask for another (RFC 4954 §4).

        Only in the handling of a verb behind which the framer holds (`wire.HOLD_VERBS`).
        """
        self._line_then = then

    def restart(self) -> None:
        """As after the greeting: forgets EHLO, identity and transaction."""
        self.drop_transaction()
        self.helo = ""
        self.esmtp = False
        self._identity = None
        self._line_then = None
        self.enter(State.READY)
        self._choose_dialogue()

    def greet(self) -> None:
        """Asks the handler about whoever is at the other end; its answer is the greeting."""
        self.quarantine, self.dropping = (), False  # after XCLIENT it is somebody else
        try:
            answer = self.handler.connect(self)
        except Exception as exc:  # noqa: BLE001 - R26
            answer = self.raised(exc)
        self.ask(answer, ServerSession._connect_answered)

    def wait(self, pending: Awaitable[Any], then: Then) -> None:
        """Interprets nothing until the outer ring has the result, then goes on with `then`, which judges it."""
        self._then, self._pending, self._judged = then, pending, False

    def ask(self, answer: Answer, then: Callable[[ServerSession, Reply | None], None]) -> None:
        """Goes on with `then` and the handler's answer, now or when it is there."""
        if answer is None or isinstance(answer, Reply):
            then(self, answer)
        elif hasattr(answer, "__await__"):
            self._then, self._pending, self._judged = then, answer, True
        else:
            self.ask(settle(self, answer, _STAGES.get(then, Stage.OTHER)), then)

    def _take(self, value: Any, then: Then, *, judged: bool) -> None:
        """Goes on with what an awaitable gave; `judged`: once it is seen to be a handler's answer."""
        if not judged or value is None or isinstance(value, Reply):
            then(self, value)
        else:
            self.ask(settle(self, value, _STAGES.get(then, Stage.OTHER)), then)

    def enter(self, state: State) -> None:
        """Changes the state."""
        self.state = state
        self._verbs = self.dialogue.verbs[state]

    def drop_transaction(self) -> None:
        """Forgets the transaction with its content, as RSET does (RFC 5321 §4.1.1.5)."""
        content.discard(self)
        self.transaction = None
        self.forwarded = _NOTHING
        self.enter(State.IDLE)

    def close(self) -> None:
        """Interprets nothing more; the connection closes when the replies are written."""
        content.discard(self)
        self._unread.clear()
        self.closing = True
        self.enter(State.CLOSED)

    def standard(self, command: Command) -> Awaitable[None] | None:
        """For overrides: handles the command as the table says. The reply is queued when it is done.

        Returns:
            None if it is done; else an awaitable, to be awaited or returned by the override.
        """
        outer = self._pending, self._then, self._judged  # the override itself, if it is a coroutine
        self._pending = self._then = None
        self._by_table(command)
        pending, then, judged = self._pending, self._then, self._judged
        self._pending, self._then, self._judged = outer
        if pending is None or then is None:
            return None
        return self._finish(pending, then, judged=judged)

    async def _finish(self, pending: Pending, then: Then | None, *, judged: bool) -> None:
        while pending is not None and then is not None:
            try:
                value = await pending
            except Exception as exc:  # noqa: BLE001 - R26
                value = self.raised(exc, storage=then in _STORAGE)
            if self.closing:
                return
            outer = self._pending, self._then, self._judged
            self._pending = self._then = None
            self._take(value, then, judged=judged)
            # A delay, if the answer was a verdict that asks for one.
            pending, then, judged = self._pending, self._then, self._judged
            self._pending, self._then, self._judged = outer

    # -----------------------------------------------------------------------------------------------------------------
    # Content

    def begin_data(self) -> None:
        """DATA in its place: asks where the content goes, then 354."""
        content.begin(self)

    def chunk(self) -> None:
        """BDAT with a size: the octets follow, whatever we think of it (RFC 3030 §2, SECURITY R5)."""
        content.chunk(self)

    # -----------------------------------------------------------------------------------------------------------------
    # The dialogue

    def _connect_answered(self, answer: Reply | None) -> None:
        if answer is None or (answer.positive and answer.code != GREETING):
            # "Yes" is no greeting by itself, and a client waits for its code (RFC 5321 §4.3.2).
            self._out.append(self.settings.greeting)
        elif answer.positive:
            self._out.append(answer.octets)
        elif answer.permanent:
            # It may say nothing more than QUIT, but it may say that: a client that is cut off tries again.
            self._out.append(answer.octets)
            self.dialogue, self._overrides = self.settings.dialogue_of_the_refused, None
        else:
            self.end_with(replies.INTERNAL if answer is replies.HOOK_FAILED else answer)
            return
        self.enter(State.READY)

    @property
    def refused(self) -> bool:
        """The greeting was a refusal; nothing is awaited but QUIT (RFC 5321 §3.1)."""
        return self.dialogue is self.settings.dialogue_of_the_refused

    def _run(self) -> Pending:
        """Handles events until a question is out or nothing is left."""
        framer = self._framer
        while not self.closing:
            for event in self._events:  # an iterator: it stays where it is while a question is out
                kind = type(event)
                if kind is Command:
                    self._command(event)  # type: ignore[arg-type] # by its type
                elif kind is bytes:
                    content.piece(self, event)  # type: ignore[arg-type]
                elif kind is BodyEnd:
                    content.end(self, event)  # type: ignore[arg-type]
                elif kind is Line:
                    self._line(event.octets)  # type: ignore[union-attr]
                elif kind is Fault:
                    if self._line_then is None:
                        self.refuse(replies.FAULT_REPLIES[event.id])  # type: ignore[union-attr]
                    else:
                        self._line(event)  # type: ignore[arg-type]
                if self._pending is not None:
                    return self._pending
                if self.closing:
                    return None
                # Looked at now and then, so that a pipelined batch does not pay for it with each reply.
                if len(self._out) % SAMPLE == SAMPLE - 1 and 0 < self.window < sum(map(len, self._out)):
                    self.full = True
                    return None
            if self.want is not None:
                if self._eof:  # nobody is there any more to shake hands with, or to turn round for
                    self.tls_failed()
                return None
            if framer.held:
                if self._line_then is not None:
                    mode = MODE_LINE
                else:
                    mode = MODE_DATA if self.by_data and self.state is State.CONTENT else MODE_COMMAND
                self._events = iter(framer.resume(mode))
            elif self._unread:
                data = b"".join(self._unread)
                self._unread.clear()
                self._events = iter(framer.feed(data))
            else:
                if self._stopping or self._eof:
                    self._settle()
                break
        return None

    def _line(self, octets: bytes | Fault) -> None:
        self.commands += 1  # so that the session is seen to get on
        then, self._line_then = self._line_then, None
        assert then is not None  # LINE mode is entered for somebody
        then(self, octets)

    def _command(self, command: Command) -> None:
        self.commands += 1
        if self.commands > self.settings.max_commands:
            self.end_with(replies.TOO_MANY_COMMANDS)
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
            self.refuse(KNOWN.get(verb, replies.UNKNOWN_VERB))

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

    def _settle(self) -> None:
        """Ends a session that was asked to end, once nothing is going on in it."""
        if self.closing or self.full or self._pending is not None or self.want is not None:
            return
        if self._eof:
            self.close()
        elif self.state is not State.CONTENT:
            self.heard_out = True
            self.end_with(replies.SHUTTING_DOWN)


_STAGES: Mapping[Then, Stage] = {
    ServerSession._connect_answered: Stage.CONNECT,
    commands.hello_answered: Stage.HELLO,
    commands.mail_answered: Stage.MAIL,
    commands.recipient_answered: Stage.RECIPIENT,
}
_STORAGE = (content.content_answered, content.written, content.message_answered)
