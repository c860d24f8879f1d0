"""The client session: RFC 5321's conversation seen from the side that sends, without I/O.

Promises: one `Outcome` for every recipient of every transaction that was begun, however the conversation ends; replies
are matched to commands by counting (RFC 2920 §3.1); what a step's reply means is one table, and a reply that the table
does not mention ends the session. After a time-out, a fault or a reply to nothing the session is closed for good
(SECURITY R19). Content leaves with CRLF line ends and stuffed dots, or counted, whatever its octets were (R3, R4).
TLS and AUTH come before the first transaction: `protocol.client_opening`.

Refuses: to send a line that holds CR or LF (R17), to begin out of turn (RuntimeError), content that the peer did not
say it can take, and content that holds NUL.

How to drive it: write what `output()` returns, feed `receive`, and look at `state`:

    SECURING  do the TLS handshake, then `secured` or `not_secured`
    READY     `begin` a transaction, or `quit`
    CONTENT   `content` with each piece, then `end_content`; pause when the peer does not read
    CLOSED    close the connection; `reason` says why
    others    wait for octets, no longer than `timeout` seconds, else `expire`

Standards: RFC 5321 §3.1 to §3.3, §3.8, §4.2, §4.3.2, §4.5.3.2; RFC 2920 (pipelining); RFC 3030 (BDAT).
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.ports import Uncounted
from ironpost.protocol import client_envelope as envelope
from ironpost.protocol import client_opening as opening
from ironpost.protocol import client_transaction as reasons
from ironpost.protocol import replies
from ironpost.protocol.client_codes import CodeReader
from ironpost.protocol.client_name import check_hostname
from ironpost.protocol.client_opening import NOTHING, Security
from ironpost.protocol.client_tolerance import TOLERANCES, Tolerance
from ironpost.protocol.client_transaction import Step, Transaction
from ironpost.protocol.extensions import EXTENSIONS
from ironpost.protocol.extensions.auth import listed
from ironpost.protocol.extensions.limits import NO_LIMITS, peer_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ironpost.model.ports import Metrics
    from ironpost.protocol.extensions import Extension
    from ironpost.protocol.sasl import ClientExchange

__all__ = ["TIMEOUTS", "ClientSession", "Ending", "Security", "State", "Step", "Transaction", "check_hostname"]

TIMEOUTS: Final[dict[Step, float]] = {
    Step.GREETING: 300.0,  # RFC 5321 §4.5.3.2.1
    Step.EHLO: 300.0,  # not named by the RFC: as MAIL
    Step.HELO: 300.0,
    Step.STARTTLS: 300.0,  # not named by the RFC either
    Step.TLS: 60.0,  # the handshake: a few round trips and no work for anybody
    Step.AUTH: 300.0,
    Step.MAIL: 300.0,  # RFC 5321 §4.5.3.2.2
    Step.RCPT: 300.0,  # RFC 5321 §4.5.3.2.3
    Step.DATA: 120.0,  # RFC 5321 §4.5.3.2.4
    Step.CONTENT: 180.0,  # RFC 5321 §4.5.3.2.5: until the peer has taken the octets written last
    Step.END: 600.0,  # RFC 5321 §4.5.3.2.6
    Step.BDAT: 600.0,  # its reply is the one that END waits for
    Step.CHUNK: 180.0,  # RFC 5321 §4.5.3.2.5, as nothing else is said of it: the chunk, and the reply to it
    Step.RSET: 300.0,
    Step.QUIT: 5.0,  # nothing is at stake any more (RFC 5321 §4.1.1.10 has no limit)
}
"""Seconds that each wait may last."""


class State(Enum):
    """Where the session stands."""

    OPENING = "opening"
    """Greeting, EHLO, AUTH."""
    SECURING = "securing"
    """The peer waits for the TLS handshake."""
    READY = "ready"
    ENVELOPE = "envelope"
    CONTENT = "content"
    CHUNK = "chunk"
    """A chunk was sent that is not the last; its reply says whether to go on."""
    FINAL = "final"
    """The end of the content was sent; its reply decides."""
    QUITTING = "quitting"
    CLOSED = "closed"


class Ending(Enum):
    """Why a session closed before `quit`."""

    REFUSED = "refused"
    """The peer said so in a reply."""
    LOST = "lost"
    EXPIRED = "expired"
    FAULT = "fault"
    """The peer's octets, or its replies' order, were wrong."""
    ABORTED = "aborted"
    """Our side could not go on."""
    INSECURE = "insecure"
    """The peer does not give the protection that was asked for, or did not prove who it is."""


class ClientSession:
    """One connection's worth of conversation."""

    # fmt: off
    __slots__ = ("_again", "_awaited", "_dirty", "_encoder", "_final", "_informs", "_leaving", "_metrics", "_out",
                 "_parameters", "_reader", "_tolerances", "_unsent", "accepted", "authenticated", "bare", "binary",
                 "bindings", "chunking", "domain", "doubt", "ended_at", "ending", "exchange", "extensions",
                 "greeting", "held_response", "limits", "local_hostname", "nonce", "offered", "only_ascii", "reason",
                 "rejected", "remote", "replies", "secure", "security", "state", "tls_refused", "transaction",
                 "transactions", "turned_down", "verified")
    # fmt: on

    def __init__(
        self,
        local_hostname: str,
        remote: str = "",
        *,
        chunking: bool = True,
        extensions: Sequence[Extension] = EXTENSIONS,
        security: Security = NOTHING,
        secure: bool = False,
        nonce: str = "",
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """Waits for the greeting.

        Args:
            local_hostname: our domain or address literal, for EHLO (RFC 5321 §4.1.1.1).
            remote: how outcomes call the peer: `mx.example [192.0.2.1]`.
            chunking: use BDAT for small content where the peer offers it.
            extensions: what decides the parameters of MAIL.
            security: TLS and AUTH before the first transaction.
            secure: TLS protects the connection from its start (RFC 8314 §3).
            nonce: fresh and not to be guessed, for mechanisms that need one.
            tolerances: which protocol errors of the peer are tolerated.
            metrics: counts the tolerances that were used.

        Raises:
            wire.WireFault: `local_hostname` is neither a domain nor an address literal (SECURITY R17).
        """
        check_hostname(local_hostname)
        self.local_hostname = local_hostname
        self.remote = remote
        self.state = State.OPENING
        self.greeting: Reply | None = None
        self.domain = ""
        """What the peer calls itself."""
        self.offered: Mapping[str, str] = {}
        """Extensions of the EHLO reply: keyword in upper case to its parameters; empty after HELO."""
        self.limits = NO_LIMITS
        """What the peer takes at once (RFC 9422)."""
        self.security = security
        self.secure = secure
        """The connection is under TLS."""
        self.verified = False
        """And the peer's certificate was verified: the outer ring says so."""
        self.bindings: Mapping[str, bytes] = {}
        """Channel bindings of TLS: type to data (RFC 5929)."""
        self.nonce = nonce
        self.tls_refused = False
        """The peer offered STARTTLS, and then refused it."""
        self.exchange: ClientExchange | None = None
        """The login that is going on."""
        self.held_response: bytes | None = None
        """Its initial response, which was too long for the command."""
        self.rejected: set[str] = set()
        """Mechanisms that the peer lists but does not accept."""
        self.doubt: Reply | None = None
        """Why we gave it up; the peer was told."""
        self.authenticated = False
        """The peer knows who we are."""
        self.reason: Reply | None = None
        """Why the session closed before `quit`, or why it never became ready."""
        self.ending: Ending | None = None
        """Whose doing that was; None while open and after `quit`."""
        self.turned_down = False
        """The peer refused us for good, before the first message."""
        self.ended_at: Step | None = None
        """The step at which that was."""
        self.transaction: Transaction | None = None
        """The last one begun."""
        self.transactions = 0
        """How many were begun."""
        self.replies = 0
        """Replies read since the last `begin`."""
        self.accepted = 0
        """Recipients of this transaction that the peer accepted."""
        self._reader = CodeReader(self._forgives_code)
        self._out: list[bytes] = []
        self._awaited: deque[tuple[Step, int]] = deque([(Step.GREETING, 0)])
        self._unsent: deque[tuple[Step, int, bytes]] = deque()
        self._encoder: wire.DataEncoder | None = None
        self._final = b""
        """The first octets of the reply to the content, as far as they came."""
        self._tolerances = tolerances
        self._metrics = metrics or Uncounted()
        self.bare = False
        """MAIL goes without the parameters that only inform: the peer rejected one that it offers."""
        self._again = False
        """The envelope is to be said once more, when every reply that is owed has come."""
        self.chunking = chunking
        self.extensions = extensions
        self.binary = False
        """The content is any octets, and goes in chunks."""
        self._dirty = False
        self._parameters = False
        """MAIL carried ESMTP parameters."""
        self._informs = False
        """One of them only informs the peer: the message can do without."""
        self._leaving: Reply | None = None
        """Why the session ends with the present transaction."""
        self.only_ascii = False

    # -- what the outer ring calls ------------------------------------------------------------------------------------

    def output(self) -> bytes:
        """Everything to write now; empty if there is nothing."""
        out = self._out
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return octets

    @property
    def closed(self) -> bool:
        """Nothing more can be said; `reason` says why, if there is a reason."""
        return self.state is State.CLOSED

    @property
    def securing(self) -> bool:
        """The TLS handshake is due."""
        return self.state is State.SECURING

    @property
    def step(self) -> Step | None:
        """What the session waits for; None when it waits for its caller."""
        if self.state is State.CONTENT:
            return Step.CONTENT
        if self.securing:
            return Step.TLS
        return self._awaited[0][0] if self._awaited else None

    @property
    def timeout(self) -> float | None:
        """Seconds that the present wait may last (RFC 5321 §4.5.3.2); None when nothing is awaited."""
        step = self.step
        return None if step is None else TIMEOUTS[step]

    def receive(self, data: bytes) -> None:
        """Octets from the peer, in pieces of any size."""
        if self.state is State.CLOSED:
            return
        if self.securing:
            self._injected()
            return
        owed = len(self._awaited)
        if owed and self._awaited[0][0] in _ENDS and len(self._final) < 3:
            self._final += data[: 3 - len(self._final)]
        for event in self._reader.feed(data):
            if self.securing:
                self._injected()
                return
            if isinstance(event, wire.Fault):
                self._unreadable(event)
                return
            if owed:
                owed -= 1
                self._reply(event)
            else:
                # It came with, or before, the reply that made us send what it seems to answer (SECURITY R19).
                self._uninvited(Reply.of(event))
            if self.closed:
                return
        if self.securing:
            if self._reader.buffered:
                self._injected()
        elif not owed and self._awaited and self._reader.buffered:
            self._break(
                reasons.faulty(self._awaited[0][0], "the reply began before the command was sent"), Ending.FAULT
            )

    def eof(self) -> None:
        """The peer closed, or the connection failed."""
        if self.state is State.CLOSED:
            return
        step = self.step
        if self.state is State.QUITTING or step is None:
            self._close()
        else:
            self._break(reasons.lost(step), Ending.LOST)

    def expire(self) -> None:
        """The present wait has lasted too long. The connection must not be used again (SECURITY R19)."""
        if self.state is not State.CLOSED:
            self._break(reasons.expired(self.step or Step.CONTENT), Ending.EXPIRED)

    def abort(self, reason: Reply) -> None:
        """The caller cannot go on (its content cannot be read): what is open is settled by `reason`."""
        if self.state is not State.CLOSED:
            self._break(reason, Ending.ABORTED)

    def secured(self, bindings: Mapping[str, bytes], *, verified: bool) -> None:
        """The handshake is done: what the peer said in clear is forgotten (RFC 3207 §4.2, SECURITY R12).

        Args:
            bindings: channel bindings of the connection.
            verified: the peer's certificate was, for its name.
        """
        self.secure, self.verified, self.bindings = True, verified, bindings
        self.domain, self.offered, self.limits = "", {}, NO_LIMITS
        self._reader = CodeReader(self._forgives_code)
        self.state = State.OPENING
        self._say(Step.EHLO)

    def not_secured(self, reason: str) -> None:
        """The handshake failed; `reason` is for people."""
        if self.state is not State.CLOSED:
            self._break(replies.HANDSHAKE_FAILED.because(reason), Ending.INSECURE)

    def begin(self, transaction: Transaction) -> None:
        """Starts a transaction. It may be settled at once, when the peer lacks what the message needs.

        On a session that has closed meanwhile the transaction is settled as deferred.

        Raises:
            RuntimeError: the session is neither READY nor CLOSED.
        """
        if self.closed:
            self.replies = 0
            self.transaction = transaction
            self._give_up(Step.MAIL, self.reason or reasons.lost(Step.MAIL), self.ending or Ending.LOST)
            return
        if self.state is not State.READY:
            raise RuntimeError(f"a transaction can begin when the session is ready, not {self.state.value}")
        self.transaction = transaction
        self.transactions += 1
        self.replies = self.accepted = 0
        self._final = b""
        self._start()

    def _start(self) -> None:
        """Says the envelope of the present transaction."""
        transaction = self._current()
        message = envelope.described(self, transaction)
        mail = envelope.mail(self, transaction, message)
        if mail is None:
            return
        recipients = envelope.recipients(self, transaction, message)
        if not recipients:
            return
        self._parameters = not mail.endswith(b">\r\n")
        self._informs = any(b" %b=" % key.encode() in mail for key in envelope.INFORMING)
        queue = self._unsent
        if self._dirty:
            queue.append((Step.RSET, 0, b"RSET\r\n"))
        queue.append((Step.MAIL, 0, mail))
        queue.extend(recipients)
        chunk = envelope.chunk(self, transaction)
        if chunk is not None:
            queue.append((Step.BDAT, 0, chunk))
        elif not self.binary:
            queue.append((Step.DATA, 0, b"DATA\r\n"))
        self._dirty = True
        self.state = State.ENVELOPE
        self._send()

    def reset(self) -> None:
        """Clears what a failed transaction may have left at the peer (RFC 5321 §4.1.1.5), if anything.

        `begin` does it by itself; a caller that can reconnect, but cannot repeat its content, does it first.

        Raises:
            RuntimeError: the session is not READY.
        """
        if self.state is not State.READY:
            raise RuntimeError(f"only a session that is ready can be reset, not one that is {self.state.value}")
        if self._dirty:
            self.state = State.ENVELOPE
            self.say(Step.RSET, b"RSET\r\n")

    def content(self, piece: bytes) -> None:
        """The next piece of content, of any size; line ends that are not CRLF are made so.

        Raises:
            RuntimeError: the session is not in CONTENT.
        """
        if self.state is not State.CONTENT:
            raise RuntimeError(f"content is not wanted when the session is {self.state.value}")
        if self._encoder is None:  # RFC 3030 §3: as it is
            if piece:
                self._out.append(b"BDAT %d\r\n%b" % (len(piece), piece))
                self._awaited.append((Step.CHUNK, 0))
                self.state = State.CHUNK
            return
        if self.only_ascii and not piece.isascii():
            # RFC 6152 §3: nothing has been ended yet, so nothing is delivered when the connection closes here.
            self._current().unsupported = True
            self._break(replies.PEER_LACKS_8BIT, Ending.ABORTED)
            return
        if b"\0" in piece:
            self._current().unsupported = True
            self._break(replies.PEER_LACKS_BINARY, Ending.ABORTED)
            return
        octets = self._encoder.feed(piece)
        if octets:
            self._out.append(octets)

    def end_content(self) -> None:
        """The content is complete: sends the terminator and waits for the reply that decides.

        Raises:
            RuntimeError: the session is not in CONTENT.
        """
        if self.state is not State.CONTENT:
            raise RuntimeError(f"content is not wanted when the session is {self.state.value}")
        if self._encoder is None:
            self._out.append(b"BDAT 0 LAST\r\n")
            self._awaited.append((Step.BDAT, 0))
        else:
            self._out.append(self._encoder.finish())
            self._encoder = None
            self._awaited.append((Step.END, 0))
        self.state = State.FINAL

    def quit(self) -> None:
        """Says QUIT when the session is ready; otherwise closes without a word (RFC 5321 §4.1.1.10)."""
        if self.state is State.READY:
            self._out.append(b"QUIT\r\n")
            self._awaited.append((Step.QUIT, 0))
            self.state = State.QUITTING
        elif self.state not in (State.CLOSED, State.QUITTING):
            self._break(reasons.lost(self.step or Step.CONTENT), Ending.ABORTED)

    # -- the table ----------------------------------------------------------------------------------------------------

    def _reply(self, reply: wire.Reply) -> None:
        self.replies += 1
        step, number = self._awaited[0]
        if reply.code == 421 and step is not Step.QUIT:
            # RFC 5321 §3.8: may answer any command; the peer closes.
            self._give_up(step, Reply.of(reply))
            return
        action = _TABLE.get((step, reply.code // 100))
        if action is None:
            self._break(reasons.unexpected(step, Reply.of(reply)), Ending.FAULT)
            return
        self._awaited.popleft()
        if not self._again:
            action(self, reply, step, number)
        elif step is Step.DATA and reply.code // 100 == 3:  # after a refused MAIL
            self._break(reasons.unexpected(step, Reply.of(reply)), Ending.FAULT)
        if not self._awaited and self.state is State.ENVELOPE:
            if self._again:
                self._again = False
                self._start()
            elif self._current().done:
                self._rest()
            else:
                self._send()

    def _greeted(self, reply: wire.Reply, _step: Step, _number: int) -> None:
        self.greeting = Reply.of(reply)
        self._say(Step.EHLO)

    def _offers(self, reply: wire.Reply, _step: Step, _number: int) -> None:
        try:
            # RFC 5321 §4.3.2: any 2yz is as good as 250.
            self.domain, self.offered = wire.parse_ehlo(wire.Reply(250, None, reply.lines))
        except wire.WireFault:  # no line can be read
            self.offered = {}
        mechanisms = listed(reply.lines)
        if mechanisms and mechanisms != self.offered.get("AUTH", "").upper() and self.tolerates(Tolerance.AUTH_LINES):
            self.offered = {**self.offered, "AUTH": mechanisms}
        self.limits = peer_limits(self.offered)
        opening.proceed(self)

    def _hello(self, reply: wire.Reply, _step: Step, _number: int) -> None:
        first = Reply.of(reply).text[0] if reply.lines else ""
        self.domain = first.partition(" ")[0]
        opening.proceed(self)

    def _fall_back(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        self._say(Step.HELO)  # RFC 5321 §3.2: a server that does not know EHLO

    def turned_away(self, reply: wire.Reply, step: Step, _number: int) -> None:
        reason = Reply.of(reply)
        self.turned_down = reason.permanent
        if reasons.blames_dialogue(reply, step):
            reason = reasons.dialogue(step, reason)
        self._give_up(step, reason)
        self._out.append(b"QUIT\r\n")  # RFC 5321 §4.1.1.10; nobody waits for the answer

    # -- for client_opening -------------------------------------------------------------------------------------------

    def say(self, step: Step, line: bytes) -> None:
        """One command, and the wait for its reply."""
        self._out.append(line)
        self._awaited.append((step, 0))

    def tolerates(self, tolerance: Tolerance) -> bool:
        """Whether it is enabled; if so, its use is counted."""
        if tolerance not in self._tolerances:
            return False
        self._metrics.count("client_tolerances", tolerance.value)
        return True

    def _forgives_code(self) -> bool:
        return self.tolerates(Tolerance.REPLY_CODES)

    @property
    def patient(self) -> bool:
        """Challenges that a mechanism does not depend on are answered whatever they are."""
        return Tolerance.CHALLENGES in self._tolerances

    def become_ready(self) -> None:
        """It is the caller's turn."""
        self.state = State.READY

    def await_handshake(self) -> None:
        """It is the outer ring's turn."""
        self.state = State.SECURING

    def forsake(self, reply: Reply) -> None:
        """The peer is not to be trusted with what we have to say."""
        self._give_up(self.step or Step.EHLO, reply, Ending.INSECURE)
        self._out.append(b"QUIT\r\n")

    def _injected(self) -> None:
        """Octets between the reply to STARTTLS and TLS: not the peer's, or it cannot count (SECURITY R10)."""
        self._break(reasons.faulty(Step.STARTTLS, "octets came behind the reply, before TLS"), Ending.FAULT)

    # -- replies of a transaction -------------------------------------------------------------------------------------

    def _sender_fine(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        """MAIL was accepted: nothing is decided yet."""

    def _reset(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        if self._current().done:
            self._dirty = False  # `reset`, not the start of a transaction

    def _not_reset(self, reply: wire.Reply, step: Step, _number: int) -> None:
        """RSET refused: the peer may still hold the last transaction, so this one needs another connection."""
        self._give_up(step, reasons.dialogue(step, Reply.of(reply)))

    def _sender_refused(self, reply: wire.Reply, step: Step, _number: int) -> None:
        self._dirty = False
        blamed = reasons.blames_dialogue(reply, step, parameters=self._parameters)
        rejected = reply.code in (504, 555) or (reply.code == 501 and blamed)
        if rejected and self._informs and not self.bare and self.tolerates(Tolerance.FEWER_PARAMETERS):
            self.bare = self._again = True
            self._unsent.clear()
        elif blamed:
            self._blamed(reply, step)
        else:
            # RFC 5321 §5.1: a host that cannot take mail now may be followed by the next.
            self._refuse_rest(Reply.of(reply), step, undecided=reply.code < 500)

    def _recipient_fine(self, _reply: wire.Reply, _step: Step, number: int) -> None:
        transaction = self._current()
        if transaction.outcomes[number] is None:
            self.accepted += 1

    def _recipient_refused(self, reply: wire.Reply, step: Step, number: int) -> None:
        transaction = self._current()
        if transaction.outcomes[number] is not None:
            return  # it answers a command that was sent before the refusal of another was read
        refusal = Reply.of(reply)
        if reasons.blames_dialogue(reply, step, parameters=bool(transaction.recipients[number].parameters)):
            self._leaving = refusal = reasons.dialogue(step, refusal)
            transaction.settle(number, Outcome.of(refusal, self.remote), step, undecided=True)
            return
        if reply.code == 552 and self.accepted and reply.enhanced in (None, "5.5.3"):
            # RFC 5321 §4.5.3.1.10: an old way to say too many recipients, to be treated as 452.
            refusal = Reply(452, "4.5.3", refusal.text).because(f"the reply was {refusal}")
        transaction.settle(number, Outcome.of(refusal, self.remote), step)

    def _go_ahead(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        transaction = self._current()
        if not self.accepted:
            # RFC 2920 §3.1: DATA was accepted although nobody is to get it: an empty message ends it.
            self._out.append(b".\r\n")
            self._awaited.append((Step.END, 0))
            self.state = State.FINAL
            return
        self._encoder = wire.DataEncoder()
        self.state = State.CONTENT
        if transaction.content is not None:
            self.content(transaction.content)
            if self.state is State.CONTENT:
                self.end_content()

    def _content_refused(self, reply: wire.Reply, step: Step, _number: int) -> None:
        """DATA refused. When every recipient was, or MAIL, any refusal of it is in order (RFC 2920 §3.1)."""
        if self._current().open and reasons.blames_dialogue(reply, step):
            self._blamed(reply, step)
        else:
            self._refuse_rest(Reply.of(reply), step, undecided=reply.code < 500)

    def _taken(self, reply: wire.Reply, step: Step, _number: int) -> None:
        self._dirty = False
        transaction = self._current()
        if transaction.open:
            transaction.settle_rest(Outcome(Disposition.DELIVERED, Reply.of(reply), self.remote, asked=True), step)
        self._rest()

    def _chunk_taken(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        self.state = State.CONTENT

    def _not_taken(self, reply: wire.Reply, step: Step, _number: int) -> None:
        # RFC 5321 §4.1.1.4: the reply to the end of the content clears the peer's buffers. A refused BDAT may not.
        self._dirty = step is not Step.END
        if reasons.blames_dialogue(reply, step):
            # A peer that does not know BDAT may have read the chunk as commands: leave the connection (SECURITY R5).
            chunk = step is not Step.END and not self.binary
            self._current().without_chunks = chunk and self.tolerates(Tolerance.NO_BDAT)
            self._blamed(reply, step)
        else:
            self._refuse_rest(Reply.of(reply), step)

    def _bye(self, _reply: wire.Reply, _step: Step, _number: int) -> None:
        self._close()

    # -- steps that the table's actions share -------------------------------------------------------------------------

    def _current(self) -> Transaction:
        assert self.transaction is not None, "a reply of the envelope comes only inside a transaction"
        return self.transaction

    def _say(self, step: Step) -> None:
        self.say(step, envelope.line(f"{step.value} {self.local_hostname}"))

    def _send(self) -> None:
        """Everything that may go out together: one command, under PIPELINING all but the chunk (RFC 2920 §3.1)."""
        queue = self._unsent
        if not queue and self.binary:
            self.state = State.CONTENT  # RFC 3030 §3: no go-ahead is needed for a chunk
        while queue and (not self._awaited or ("PIPELINING" in self.offered and queue[0][0] is not Step.BDAT)):
            step, number, octets = queue.popleft()
            self._out.append(octets)
            self._awaited.append((step, number))

    def _refuse_rest(self, reply: Reply, step: Step, *, undecided: bool = False) -> None:
        transaction = self._current()
        if transaction.open:
            transaction.settle_rest(Outcome.of(reply, self.remote), step, undecided=undecided)
        self.accepted = 0
        self._rest()

    def _blamed(self, reply: wire.Reply, step: Step) -> None:
        """The peer says that the conversation went wrong: that is no verdict on the mail, and we leave."""
        self._leaving = reasons.dialogue(step, Reply.of(reply))
        self._refuse_rest(self._leaving, step, undecided=step is not Step.END)

    def _rest(self) -> None:
        """Nothing more to say in this transaction: ready, once every reply that is owed has come."""
        self._unsent.clear()
        if not self._awaited:
            if self._leaving is not None:
                self._give_up(self._current().failed_at or Step.MAIL, self._leaving)
                self._out.append(b"QUIT\r\n")
            else:
                self.state = State.READY

    def _unreadable(self, fault: wire.Fault) -> None:
        """Octets that are no reply: nothing that comes after can be read (SECURITY R18, R19)."""
        step = self.step or Step.GREETING
        reason = reasons.faulty(step, wire.FAULTS[fault.id])
        transaction = self.transaction
        if step in _ENDS and transaction is not None:
            # RFC 1047: the peer has the message. Replies of which one line says this and another that say nothing.
            code = reasons.final_code(self._final) if fault.id != "reply-codes-differ" else None
            if code is not None and self.tolerates(Tolerance.FINAL_REPLY):
                final = reasons.garbled(code, wire.FAULTS[fault.id])
                transaction.settle_rest(Outcome(Outcome.of(final).disposition, final, self.remote, asked=True), step)
        self._break(reason, Ending.FAULT)

    def _uninvited(self, reply: Reply) -> None:
        if reply.code == 421 or (self.state is State.CONTENT and not reply.positive):
            # The peer closes, or refuses content before its end: the only way out of DATA is to close.
            self._give_up(self.step or Step.CONTENT, reply)
        else:
            self._break(reasons.unsolicited(reply), Ending.FAULT)

    def _give_up(self, step: Step, reply: Reply, ending: Ending = Ending.REFUSED) -> None:
        """The session ends, and `reply` is the outcome of everything open."""
        transaction = self.transaction
        if transaction is not None and transaction.open:
            # RFC 1047: once the content has been sent, the message may have been accepted. A reply in the middle of the
            # content is a verdict on it, unless it is 421.
            verdict = step is Step.CONTENT and ending is Ending.REFUSED and reply.code != 421
            undecided = step not in _ENDS and ending is not Ending.ABORTED and not verdict
            transaction.settle_rest(Outcome.of(reply, self.remote), step, undecided=undecided)
        self.reason, self.ending, self.ended_at = reply, ending, step
        self._close()

    def _break(self, reason: Reply, ending: Ending) -> None:
        """Out of step, too late, or gone."""
        self._give_up(self.step or Step.CONTENT, reason, ending)

    def _close(self) -> None:
        self.state = State.CLOSED
        self._awaited.clear()
        self._unsent.clear()
        self._out.clear()
        self._encoder = None


_ENDS: Final = frozenset({Step.END, Step.BDAT})
"""Steps at which the whole content has been sent."""

_TABLE: Final[dict[tuple[Step, int], Callable[[ClientSession, wire.Reply, Step, int], None]]] = {
    # The step whose reply came, and the reply's first digit (RFC 5321 §4.2.1, §4.3.2). Absent: unexpected, the session
    # ends. 421 is not looked up here: it ends the session at every step (RFC 5321 §3.8). 500 to 503 are refusals, too,
    # but mostly of the dialogue and not of the mail: `client_transaction.blames_dialogue`.
    (Step.GREETING, 2): ClientSession._greeted,
    (Step.GREETING, 4): ClientSession.turned_away,
    (Step.GREETING, 5): ClientSession.turned_away,  # RFC 5321 §3.1: 554; RFC 7504 §3: 521
    (Step.EHLO, 2): ClientSession._offers,
    (Step.EHLO, 4): ClientSession.turned_away,
    (Step.EHLO, 5): ClientSession._fall_back,
    (Step.HELO, 2): ClientSession._hello,
    (Step.HELO, 4): ClientSession.turned_away,
    (Step.HELO, 5): ClientSession.turned_away,
    (Step.STARTTLS, 2): opening.tls_agreed,
    (Step.STARTTLS, 4): opening.tls_refused,
    (Step.STARTTLS, 5): opening.tls_refused,
    (Step.AUTH, 2): opening.logged_in,
    (Step.AUTH, 3): opening.challenged,
    (Step.AUTH, 4): opening.login_refused,
    (Step.AUTH, 5): opening.login_refused,
    (Step.RSET, 2): ClientSession._reset,
    (Step.RSET, 4): ClientSession._not_reset,
    (Step.RSET, 5): ClientSession._not_reset,
    (Step.MAIL, 2): ClientSession._sender_fine,
    (Step.MAIL, 4): ClientSession._sender_refused,
    (Step.MAIL, 5): ClientSession._sender_refused,
    (Step.RCPT, 2): ClientSession._recipient_fine,
    (Step.RCPT, 4): ClientSession._recipient_refused,
    (Step.RCPT, 5): ClientSession._recipient_refused,
    (Step.DATA, 3): ClientSession._go_ahead,
    (Step.DATA, 4): ClientSession._content_refused,
    (Step.DATA, 5): ClientSession._content_refused,
    (Step.END, 2): ClientSession._taken,
    (Step.END, 4): ClientSession._not_taken,
    (Step.END, 5): ClientSession._not_taken,
    (Step.BDAT, 2): ClientSession._taken,
    (Step.CHUNK, 2): ClientSession._chunk_taken,
    (Step.CHUNK, 4): ClientSession._not_taken,
    (Step.CHUNK, 5): ClientSession._not_taken,
    (Step.BDAT, 4): ClientSession._not_taken,
    (Step.BDAT, 5): ClientSession._not_taken,
    (Step.QUIT, 2): ClientSession._bye,
    (Step.QUIT, 3): ClientSession._bye,
    (Step.QUIT, 4): ClientSession._bye,
    (Step.QUIT, 5): ClientSession._bye,
}
