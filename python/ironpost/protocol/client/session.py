"""The client side of one SMTP or LMTP session (RFC 5321, RFC 2033), without I/O.

Promises: one `Outcome` for every recipient of every transaction that was begun, however the session ends; replies are
matched to commands by counting (RFC 2920 §3.1); one table maps step and reply to an action, and a reply that is not in
the table ends the session. After a timeout, a malformed reply or an unsolicited reply the session is closed and cannot
be used again (SECURITY R19). Content is sent with CRLF line ends and stuffed dots, or in counted chunks (R3, R4). TLS
and AUTH precede the first transaction: see `protocol.client.opening`. In LMTP each accepted recipient has the outcome
of its own reply to the content; those without one, because the session ended, are deferred.

Refuses: to send a line that contains CR or LF (R17), to begin a transaction in another state than READY (RuntimeError),
content that the peer does not support, and content that contains NUL.

The driver writes what `output()` returns, passes input to `receive`, and acts by `state`:

    SECURING  do the TLS handshake, then `secured` or `not_secured`
    READY     `begin` a transaction, or `quit`
    CONTENT   `content` with each piece, then `end_content`; pause while the peer does not read
    CLOSED    close the connection; `reason` is set unless `quit` was called
    others    wait for input for at most `timeout` seconds, then `expire`

Standards: RFC 5321 §3.1 to §3.3, §3.8, §4.2, §4.3.2, §4.5.3.2; RFC 2920 (pipelining); RFC 3030 (BDAT); RFC 2033 §4 and
§5 (LMTP).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model import Disposition, Outcome, Reply
from ironpost.model.ports import Uncounted
from ironpost.model.tls import TlsFailure, TlsLevel, Verification
from ironpost.protocol import replies
from ironpost.protocol.client import envelope, opening, reasons
from ironpost.protocol.client.codes import CodeReader
from ironpost.protocol.client.name import check_hostname
from ironpost.protocol.client.opening import NOTHING, Security
from ironpost.protocol.client.states import TIMEOUTS, ClientState, ClientStep, Ending
from ironpost.protocol.client.tolerance import TOLERANCES, Tolerance
from ironpost.protocol.client.transaction import OutgoingTransaction
from ironpost.protocol.dialect import SMTP, Dialect
from ironpost.protocol.extensions import EXTENSIONS, NO_LIMITS, listed_mechanisms, peer_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from ironpost.model.ports import Metrics
    from ironpost.protocol.extensions import Extension
    from ironpost.protocol.sasl import ClientExchange

__all__ = [
    "TIMEOUTS",
    "ClientSession",
    "ClientState",
    "ClientStep",
    "Ending",
    "OutgoingTransaction",
    "Security",
    "check_hostname",
]


_UNENCRYPTED: Final = Verification(TlsLevel.NONE, "STARTTLS was not used")
_UNVERIFIED: Final = Verification(TlsLevel.ENCRYPTED, "the certificate was not verified")


class ClientSession:
    """One session over one connection."""

    # fmt: off
    __slots__ = (
        "_awaited", "_dirty", "_encoder", "_final_code", "_has_optional", "_mail_has_parameters", "_metrics", "_out",
        "_quit_reason", "_reader", "_resend", "_tolerances", "_unsent", "accepted", "authenticated", "binary",
        "bindings", "chunking", "dialect", "domain", "ended_at", "ending", "exchange", "extensions", "greeting",
        "held_response", "limits", "local_hostname", "nonce", "offered", "only_ascii", "reason", "refused_permanently",
        "rejected", "remote", "replies", "security", "starttls_refused", "state", "tls", "transaction", "transactions",
        "untrusted", "without_optional",
    )
    # fmt: on

    def __init__(
        self,
        local_hostname: str,
        remote: str = "",
        *,
        dialect: Dialect = SMTP,
        chunking: bool = True,
        extensions: Sequence[Extension] = EXTENSIONS,
        security: Security = NOTHING,
        secure: bool = False,
        nonce: str = "",
        tolerances: Collection[Tolerance] = TOLERANCES,
        metrics: Metrics | None = None,
    ) -> None:
        """Create a session that waits for the greeting.

        Args:
            local_hostname: our domain or address literal, for EHLO (RFC 5321 §4.1.1.1).
            remote: the peer's name in outcomes, such as `mx.example [192.0.2.1]`.
            dialect: SMTP or LMTP.
            chunking: use BDAT for small content if the peer offers CHUNKING.
            extensions: the extensions that add parameters to MAIL and RCPT.
            security: the demands on TLS and authentication.
            secure: TLS protects the connection from its start (RFC 8314 §3).
            nonce: a fresh, unpredictable string, for SASL mechanisms that need one.
            tolerances: the protocol errors of the peer that are tolerated.
            metrics: counts the uses of tolerances.

        Raises:
            wire.WireFault: `local_hostname` is neither a domain nor an address literal (SECURITY R17).
        """
        check_hostname(local_hostname)
        self.local_hostname = local_hostname
        self.remote = remote
        self.dialect = dialect
        self.state = ClientState.OPENING
        self.greeting: Reply | None = None
        self.domain = ""
        """The peer's name in its reply to EHLO or HELO."""
        self.offered: Mapping[str, str] = {}
        """The extensions in the EHLO reply: keyword in upper case to its parameters; empty after HELO."""
        self.limits = NO_LIMITS
        """The peer's limits (RFC 9422)."""
        self.security = security
        self.tls = _UNVERIFIED if secure else _UNENCRYPTED
        """The level of TLS and the reason for it, according to the driver's verifier."""
        self.bindings: Mapping[str, bytes] = {}
        """The channel bindings of TLS: type to data (RFC 5929)."""
        self.nonce = nonce
        self.starttls_refused = False
        """The peer offered STARTTLS, and then refused it."""
        self.exchange: ClientExchange | None = None
        """The authentication exchange in progress."""
        self.held_response: bytes | None = None
        """The initial response of `exchange`, if it was too long for the command."""
        self.rejected: set[str] = set()
        """The mechanisms that the peer lists but does not accept."""
        self.untrusted: Reply | None = None
        """The reason for which the client cancelled the exchange, because the server did not follow the mechanism."""
        self.authenticated = False
        """Our client has authenticated to the peer."""
        self.reason: Reply | None = None
        """The reason for which the session closed before `quit`, or never became ready."""
        self.ending: Ending | None = None
        """The kind of `reason`; None while the session is open, and after `quit`."""
        self.refused_permanently = False
        """The peer refused the session with 5yz before the first message."""
        self.ended_at: ClientStep | None = None
        """The step at which the session ended."""
        self.transaction: OutgoingTransaction | None = None
        """The last transaction begun."""
        self.transactions = 0
        """The number of transactions begun."""
        self.replies = 0
        """The number of replies read since the last `begin`."""
        self.accepted = 0
        """The number of recipients of the current transaction that the peer accepted."""
        self._reader = CodeReader(self._tolerates_code)
        self._out: list[bytes] = []
        self._awaited: deque[tuple[ClientStep, int]] = deque([(ClientStep.GREETING, 0)])
        """The step, and the number of the recipient, of each reply that is outstanding."""
        self._unsent: deque[tuple[ClientStep, int, bytes]] = deque()
        """The commands of the transaction that were not sent yet, with step and number of the recipient."""
        self._encoder: wire.DataEncoder | None = None
        self._final_code = b""
        """The first octets of the reply to the content, at most three: its code."""
        self._tolerances = tolerances
        self._metrics = metrics or Uncounted()
        self.without_optional = False
        """Send MAIL without the optional parameters: the peer rejected one that it offers."""
        self._resend = False
        """Send the envelope again, when all outstanding replies were read."""
        self.chunking = chunking
        self.extensions = extensions
        self.binary = False
        """The content is BODY=BINARYMIME, and is sent in chunks."""
        self._dirty = False
        """A failed transaction may have left state at the peer, so RSET is needed."""
        self._mail_has_parameters = False
        """The last MAIL had ESMTP parameters."""
        self._has_optional = False
        """The last MAIL had a parameter of `envelope.OPTIONAL`."""
        self._quit_reason: Reply | None = None
        """The reason to end the session after the current transaction; None to continue."""
        self.only_ascii = False
        """The content must be ASCII, because 8-bit content was not declared; it is checked as it is sent."""

    # -- for the driver -----------------------------------------------------------------------------------------------

    def output(self) -> bytes:
        """Return the octets to write now; empty if there are none."""
        out = self._out
        if not out:
            return b""
        octets = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return octets

    @property
    def closed(self) -> bool:
        """Whether the session has ended; `reason` is set unless `quit` was called."""
        return self.state is ClientState.CLOSED

    @property
    def securing(self) -> bool:
        """Whether the driver must do the TLS handshake."""
        return self.state is ClientState.SECURING

    @property
    def secure(self) -> bool:
        """Whether the connection is under TLS."""
        return self.tls.level > TlsLevel.NONE

    @property
    def verified(self) -> bool:
        """Whether the connection is under TLS with a peer that proved its identity."""
        return self.tls.level >= TlsLevel.AUTHENTICATED

    @property
    def step(self) -> ClientStep | None:
        """The step whose reply the session waits for; None while it waits for its caller."""
        if self.state is ClientState.CONTENT:
            return ClientStep.CONTENT
        if self.securing:
            return ClientStep.TLS
        return self._awaited[0][0] if self._awaited else None

    @property
    def timeout(self) -> float | None:
        """Seconds to wait for the peer (RFC 5321 §4.5.3.2); None while waiting for the caller."""
        step = self.step
        return None if step is None else TIMEOUTS[step]

    def receive(self, data: bytes) -> None:
        """Interpret input from the peer, in pieces of any size."""
        if self.state is ClientState.CLOSED:
            return
        if self.securing:
            self._injected()
            return
        owed = len(self._awaited)
        if owed and self._awaited[0][0] in _ENDS and len(self._final_code) < 3:
            self._final_code += data[: 3 - len(self._final_code)]
        for event in self._reader.feed(data):
            if self.securing:
                self._injected()
                return
            if isinstance(event, wire.Fault):
                self._malformed(event)
                return
            if owed:
                owed -= 1
                self._reply(event)
            else:
                # The reply arrived before the command to which it seems to belong was sent (SECURITY R19).
                self._unsolicited(Reply.of(event))
            if self.closed:
                return
        if self.securing:
            if self._reader.buffered:
                self._injected()
        elif not owed and self._awaited and self._reader.buffered:
            self._break(reasons.faulty(self._awaited[0][0], "reply received before the command was sent"), Ending.FAULT)

    def eof(self) -> None:
        """Handle the end of the connection: the peer closed it, or it failed."""
        if self.state is ClientState.CLOSED:
            return
        step = self.step
        if self.state is ClientState.QUITTING or step is None:
            self._close()
        else:
            self._break(reasons.lost(step), Ending.LOST)

    def expire(self) -> None:
        """Handle a timeout. The connection must not be used again (SECURITY R19)."""
        if self.state is not ClientState.CLOSED:
            self._break(reasons.expired(self.step or ClientStep.CONTENT), Ending.EXPIRED)

    def abort(self, reason: Reply) -> None:
        """End the session, for example because content cannot be read; open recipients are settled with `reason`."""
        if self.state is not ClientState.CLOSED:
            self._break(reason, Ending.ABORTED)

    def secured(self, bindings: Mapping[str, bytes], verification: Verification) -> None:
        """Continue after the TLS handshake; everything received before it is forgotten (RFC 3207 §4.2, SECURITY R12).

        Args:
            bindings: the channel bindings of the connection.
            verification: the level of the connection. If it is below `Security.level`, the session ends with QUIT.
        """
        self.tls, self.bindings = verification, bindings
        self.domain, self.offered, self.limits = "", {}, NO_LIMITS
        self._reader = CodeReader(self._tolerates_code)
        self.state = ClientState.OPENING
        self._hello()

    def not_secured(self, reason: str, failure: TlsFailure) -> None:
        """End the session after a failed TLS handshake, with its reason, a text for users, and its category."""
        if self.state is not ClientState.CLOSED:
            self.tls = Verification(TlsLevel.NONE, f"TLS failed: {reason}", failure)
            self._break(replies.HANDSHAKE_FAILED.because(reason), Ending.INSECURE)

    def begin(self, transaction: OutgoingTransaction) -> None:
        """Start a transaction. It may be settled at once, if the peer does not support what the message requires.

        If the session has closed in the meantime, the transaction is settled as deferred.

        Raises:
            RuntimeError: the session is neither READY nor CLOSED.
        """
        if self.closed:
            self.replies = 0
            self.transaction = transaction
            self._end(ClientStep.MAIL, self.reason or reasons.lost(ClientStep.MAIL), self.ending or Ending.LOST)
            return
        if self.state is not ClientState.READY:
            raise RuntimeError(f"begin() needs a session that is ready, not {self.state.value}")
        self.transaction = transaction
        self.transactions += 1
        self.replies = self.accepted = 0
        self._final_code = b""
        self._start()

    def _start(self) -> None:
        """Send the envelope of the current transaction."""
        transaction = self._current()
        message = envelope.describe(self, transaction)
        mail = envelope.mail(self, transaction, message)
        if mail is None:
            return
        recipients = envelope.recipients(self, transaction, message)
        if not recipients:
            return
        self._mail_has_parameters = not mail.endswith(b">\r\n")
        self._has_optional = any(b" %b=" % key.encode() in mail for key in envelope.OPTIONAL)
        queue = self._unsent
        if self._dirty:
            queue.append((ClientStep.RSET, 0, b"RSET\r\n"))
        queue.append((ClientStep.MAIL, 0, mail))
        queue.extend(recipients)
        chunk = None if transaction.callout else envelope.chunk(self, transaction)
        if chunk is not None:
            queue.append((ClientStep.BDAT, 0, chunk))
        elif not (self.binary or transaction.callout):
            queue.append((ClientStep.DATA, 0, b"DATA\r\n"))
        self._dirty = True
        self.state = ClientState.ENVELOPE
        self._send()

    def reset(self) -> None:
        """Send RSET if a failed transaction may have left state at the peer (RFC 5321 §4.1.1.5).

        `begin` does this itself; call it first if the content cannot be repeated on another connection.

        Raises:
            RuntimeError: the session is not READY.
        """
        if self.state is not ClientState.READY:
            raise RuntimeError(f"reset() needs a session that is ready, not {self.state.value}")
        if self._dirty:
            self.state = ClientState.ENVELOPE
            self.command(ClientStep.RSET, b"RSET\r\n")

    def content(self, piece: bytes) -> None:
        """Send the next piece of content, of any size; line ends are normalised to CRLF.

        Raises:
            RuntimeError: the session is not in CONTENT.
        """
        if self.state is not ClientState.CONTENT:
            raise RuntimeError(f"content is not expected while the session is {self.state.value}")
        if self._encoder is None:  # RFC 3030 §3: unchanged
            if piece:
                self._out.append(b"BDAT %d\r\n%b" % (len(piece), piece))
                self._awaited.append((ClientStep.CHUNK, 0))
                self.state = ClientState.CHUNK
            return
        if self.only_ascii and not piece.isascii():
            # RFC 6152 §3: the content has no end yet, so nothing is delivered if the connection closes here.
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
        """Send the end of the content, and wait for the final reply.

        Raises:
            RuntimeError: the session is not in CONTENT.
        """
        if self.state is not ClientState.CONTENT:
            raise RuntimeError(f"content is not expected while the session is {self.state.value}")
        if self._encoder is None:
            self._out.append(b"BDAT 0 LAST\r\n")
            self._expect_end(ClientStep.BDAT)
        else:
            self._out.append(self._encoder.finish())
            self._encoder = None
            self._expect_end(ClientStep.END)
        self.state = ClientState.FINAL

    def quit(self) -> None:
        """Send QUIT if the session is ready; otherwise close at once (RFC 5321 §4.1.1.10)."""
        if self.state is ClientState.READY:
            self._out.append(b"QUIT\r\n")
            self._awaited.append((ClientStep.QUIT, 0))
            self.state = ClientState.QUITTING
        elif self.state not in (ClientState.CLOSED, ClientState.QUITTING):
            self._break(reasons.lost(self.step or ClientStep.CONTENT), Ending.ABORTED)

    # -- the table ----------------------------------------------------------------------------------------------------

    def _reply(self, reply: wire.Reply) -> None:
        self.replies += 1
        step, number = self._awaited[0]
        if reply.code == 421 and step is not ClientStep.QUIT:
            # RFC 5321 §3.8: 421 may be the reply to any command; the peer closes.
            self._end(step, Reply.of(reply))
            return
        action = _TABLE.get((step, reply.code // 100))
        if action is None:
            self._break(reasons.unexpected(step, Reply.of(reply)), Ending.FAULT)
            return
        self._awaited.popleft()
        if not self._resend:
            action(self, reply, step, number)
        elif step is ClientStep.DATA and reply.code // 100 == 3:  # after a refused MAIL
            self._break(reasons.unexpected(step, Reply.of(reply)), Ending.FAULT)
        if not self._awaited and self.state is ClientState.ENVELOPE:
            if self._resend:
                self._resend = False
                self._start()
            elif self._current().done:
                self._finish()
            else:
                self._send()

    def _greeted(self, reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        self.greeting = Reply.of(reply)
        self._hello()

    def _ehlo_accepted(self, reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        try:
            # RFC 5321 §4.3.2: any 2yz counts as 250.
            self.domain, self.offered = wire.parse_ehlo(wire.Reply(250, None, reply.lines))
        except wire.WireFault:  # malformed
            self.offered = {}
        mechanisms = listed_mechanisms(reply.lines)
        if mechanisms and mechanisms != self.offered.get("AUTH", "").upper() and self.tolerates(Tolerance.AUTH_LINES):
            self.offered = {**self.offered, "AUTH": mechanisms}
        self.limits = peer_limits(self.offered)
        opening.proceed(self)

    def _helo_accepted(self, reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        first = Reply.of(reply).text[0] if reply.lines else ""
        self.domain = first.partition(" ")[0]
        opening.proceed(self)

    def _ehlo_refused(self, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        self._hello(ClientStep.HELO)  # RFC 5321 §3.2: a server without EHLO

    def refused(self, reply: wire.Reply, step: ClientStep, _number: int) -> None:
        """End the session, because the peer refused it before the first transaction."""
        reason = Reply.of(reply)
        self.refused_permanently = reason.permanent
        if reasons.reports_protocol_error(reply, step):
            reason = reasons.dialogue(step, reason)
        self._end(step, reason)
        self._out.append(b"QUIT\r\n")  # RFC 5321 §4.1.1.10; without waiting for the reply

    # -- for `opening` ------------------------------------------------------------------------------------------------

    def command(self, step: ClientStep, line: bytes) -> None:
        """Send a command and expect its reply."""
        self._out.append(line)
        self._awaited.append((step, 0))

    def tolerates(self, tolerance: Tolerance) -> bool:
        """Whether the tolerance is enabled; if so, its use is counted."""
        if tolerance not in self._tolerances:
            return False
        self._metrics.count("client_tolerances", tolerance.value)
        return True

    def _tolerates_code(self) -> bool:
        return self.tolerates(Tolerance.REPLY_CODES)

    @property
    def patient(self) -> bool:
        """Whether to respond to any challenge if the mechanism does not depend on it."""
        return Tolerance.CHALLENGES in self._tolerances

    def become_ready(self) -> None:
        """End the opening: the caller may begin a transaction."""
        self.state = ClientState.READY

    def await_handshake(self) -> None:
        """Wait until the driver has done the TLS handshake."""
        self.state = ClientState.SECURING

    def distrust(self, reply: Reply, step: ClientStep | None = None) -> None:
        """End the session, because the peer does not provide the required security.

        Args:
            reply: the reason.
            step: what that prevents; the current step if None.
        """
        self._end(step or self.step or ClientStep.EHLO, reply, Ending.INSECURE)
        self._out.append(b"QUIT\r\n")

    def _injected(self) -> None:
        """End the session: data between the reply to STARTTLS and TLS was injected, or is an error (SECURITY R10)."""
        self._break(reasons.faulty(ClientStep.STARTTLS, "data after the reply to STARTTLS, before TLS"), Ending.FAULT)

    # -- replies of a transaction -------------------------------------------------------------------------------------

    def _mail_accepted(self, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        """Do nothing: the recipients decide about the transaction."""

    def _rset_accepted(self, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        if self._current().done:
            self._dirty = False  # RSET was sent by `reset`, not by `begin`

    def _rset_refused(self, reply: wire.Reply, step: ClientStep, _number: int) -> None:
        """End the session, because the last transaction may still be open at the peer."""
        self._end(step, reasons.dialogue(step, Reply.of(reply)))

    def _mail_refused(self, reply: wire.Reply, step: ClientStep, _number: int) -> None:
        self._dirty = False
        protocol_error = reasons.reports_protocol_error(reply, step, parameters=self._mail_has_parameters)
        rejected = reply.code in (504, 555) or (reply.code == 501 and protocol_error)
        if rejected and self._has_optional and not self.without_optional and self.tolerates(Tolerance.FEWER_PARAMETERS):
            self.without_optional = self._resend = True
            self._unsent.clear()
        elif protocol_error:
            self._protocol_refused(reply, step)
        else:
            # RFC 5321 §5.1: after a transient failure the next host may be tried.
            self._refuse_rest(Reply.of(reply), step, undecided=reply.code < 500)

    def _rcpt_accepted(self, reply: wire.Reply, step: ClientStep, number: int) -> None:
        transaction = self._current()
        if transaction.callout:
            transaction.settle(number, Outcome.of(Reply.of(reply), self.remote), step)
        elif transaction.outcomes[number] is None:
            self.accepted += 1

    def _rcpt_refused(self, reply: wire.Reply, step: ClientStep, number: int) -> None:
        transaction = self._current()
        if transaction.outcomes[number] is not None:
            return  # the recipient was settled after this command was sent
        refusal = Reply.of(reply)
        if reasons.reports_protocol_error(reply, step, parameters=bool(transaction.recipients[number].parameters)):
            self._quit_reason = refusal = reasons.dialogue(step, refusal)
            transaction.settle(number, Outcome.of(refusal, self.remote), step, undecided=True)
            return
        if reply.code == 552 and self.accepted and reply.enhanced in (None, "5.5.3"):
            # RFC 5321 §4.5.3.1.10: an old code for too many recipients, to be treated as 452.
            refusal = Reply(452, "4.5.3", refusal.text).because(f"the reply was {refusal}")
        transaction.settle(number, Outcome.of(refusal, self.remote), step)

    def _data_accepted(self, reply: wire.Reply, step: ClientStep, _number: int) -> None:
        transaction = self._current()
        if not self.accepted and self.dialect.per_recipient:
            # RFC 2033 §4.2: it must be 503, because there will be no reply to the end of the content.
            self._break(reasons.unexpected(step, Reply.of(reply)), Ending.FAULT)
            return
        if not self.accepted:
            # RFC 2920 §3.1: DATA was accepted without recipients: end it with an empty message.
            self._out.append(b".\r\n")
            self._awaited.append((ClientStep.END, 0))
            self.state = ClientState.FINAL
            return
        self._encoder = wire.DataEncoder()
        self.state = ClientState.CONTENT
        if transaction.content is not None:
            self.content(transaction.content)
            if self.state is ClientState.CONTENT:
                self.end_content()

    def _data_refused(self, reply: wire.Reply, step: ClientStep, _number: int) -> None:
        """Settle open recipients; there are none if MAIL or all recipients were refused before (RFC 2920 §3.1)."""
        if self._current().open and reasons.reports_protocol_error(reply, step):
            self._protocol_refused(reply, step)
        else:
            self._refuse_rest(Reply.of(reply), step, undecided=reply.code < 500)

    def _message_accepted(self, reply: wire.Reply, step: ClientStep, number: int) -> None:
        self._dirty = False
        transaction = self._current()
        outcome = Outcome(Disposition.DELIVERED, Reply.of(reply), self.remote, asked=True)
        if self.dialect.per_recipient:
            transaction.settle(number, outcome, step)
        else:
            transaction.settle_rest(outcome, step)
        self._finish()

    def _chunk_accepted(self, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        self.state = ClientState.CONTENT

    def _message_refused(self, reply: wire.Reply, step: ClientStep, number: int) -> None:
        # RFC 5321 §4.1.1.4: the reply to the end of the content clears the peer's buffers. A refused BDAT may not.
        self._dirty = step is not ClientStep.END
        protocol_error = reasons.reports_protocol_error(reply, step)
        if self.dialect.per_recipient and step in _ENDS and not (protocol_error and self._unknown_chunk(step)):
            refusal = Reply.of(reply)
            if protocol_error:
                self._quit_reason = refusal = reasons.dialogue(step, refusal)
            self._current().settle(number, Outcome.of(refusal, self.remote), step)
            self._finish()
        elif protocol_error:
            # A peer without BDAT may have read the chunk as commands: close the connection (SECURITY R5).
            chunk = step is not ClientStep.END and not self.binary
            self._current().without_chunks = chunk and self.tolerates(Tolerance.NO_BDAT)
            self._awaited.clear()  # in LMTP the other recipients get no replies
            self._protocol_refused(reply, step)
        else:
            self._refuse_rest(Reply.of(reply), step)

    def _unknown_chunk(self, step: ClientStep) -> bool:
        """Whether a protocol error, in LMTP, concerns the command BDAT and not a recipient: it is the first reply."""
        return step is ClientStep.BDAT and len(self._awaited) + 1 == self.accepted

    def _quit_answered(self, _reply: wire.Reply, _step: ClientStep, _number: int) -> None:
        self._close()

    # -- shared by the actions of the table ---------------------------------------------------------------------------

    def _current(self) -> OutgoingTransaction:
        assert self.transaction is not None, "there are replies to the envelope only in a transaction"
        return self.transaction

    def _hello(self, step: ClientStep | None = None) -> None:
        step = step or (ClientStep.LHLO if self.dialect.per_recipient else ClientStep.EHLO)
        self.command(step, envelope.line(f"{step.value} {self.local_hostname}"))

    def _send(self) -> None:
        """Send the commands that may be sent together: one, or with PIPELINING all but the chunk (RFC 2920 §3.1)."""
        queue = self._unsent
        if not queue and self.binary:
            self.state = ClientState.CONTENT  # RFC 3030 §3: a chunk needs no 354
        while queue and (not self._awaited or ("PIPELINING" in self.offered and queue[0][0] is not ClientStep.BDAT)):
            step, number, octets = queue.popleft()
            self._out.append(octets)
            if step is ClientStep.BDAT:
                self._expect_end(step)
            else:
                self._awaited.append((step, number))

    def _expect_end(self, step: ClientStep) -> None:
        """Expect the reply to the whole content; in LMTP one for each accepted recipient (RFC 2033 §4.2, §4.3)."""
        if self.dialect.per_recipient:
            outcomes = self._current().outcomes
            self._awaited.extend((step, number) for number, outcome in enumerate(outcomes) if outcome is None)
        else:
            self._awaited.append((step, 0))

    def _refuse_rest(self, reply: Reply, step: ClientStep, *, undecided: bool = False) -> None:
        transaction = self._current()
        if transaction.open:
            transaction.settle_rest(Outcome.of(reply, self.remote), step, undecided=undecided)
        self.accepted = 0
        self._finish()

    def _protocol_refused(self, reply: wire.Reply, step: ClientStep) -> None:
        """End the session, because the peer reported a protocol error, which is not a verdict on the mail."""
        self._quit_reason = reasons.dialogue(step, Reply.of(reply))
        self._refuse_rest(self._quit_reason, step, undecided=step is not ClientStep.END)

    def _finish(self) -> None:
        """End the transaction: become ready once all outstanding replies were read."""
        self._unsent.clear()
        if not self._awaited:
            if self._quit_reason is not None:
                self._end(self._current().failed_at or ClientStep.MAIL, self._quit_reason)
                self._out.append(b"QUIT\r\n")
            else:
                self.state = ClientState.READY

    def _malformed(self, fault: wire.Fault) -> None:
        """End the session after a malformed reply: nothing after it can be interpreted (SECURITY R18, R19)."""
        step = self.step or ClientStep.GREETING
        reason = reasons.faulty(step, wire.FAULTS[fault.id])
        transaction = self.transaction
        if step in _ENDS and transaction is not None and not self.dialect.per_recipient:
            # RFC 1047: the peer has the message. A reply whose lines have different codes is not interpreted.
            code = reasons.final_code(self._final_code) if fault.id != "reply-codes-differ" else None
            if code is not None and self.tolerates(Tolerance.FINAL_REPLY):
                final = reasons.garbled(code, wire.FAULTS[fault.id])
                transaction.settle_rest(Outcome(Outcome.of(final).disposition, final, self.remote, asked=True), step)
        self._break(reason, Ending.FAULT)

    def _unsolicited(self, reply: Reply) -> None:
        if reply.code == 421 or (self.state is ClientState.CONTENT and not reply.positive):
            # The peer closes, or refuses content before its end: DATA can only be ended by closing the connection.
            self._end(self.step or ClientStep.CONTENT, reply)
        else:
            self._break(reasons.unsolicited(reply), Ending.FAULT)

    def _end(self, step: ClientStep, reply: Reply, ending: Ending = Ending.REFUSED) -> None:
        """End the session; `reply` is the outcome of open recipients."""
        transaction = self.transaction
        if transaction is not None and transaction.open:
            # RFC 1047: once the content was sent, the message may have been accepted. A reply during the content is a
            # verdict on it, unless it is 421.
            verdict = step is ClientStep.CONTENT and ending is Ending.REFUSED and reply.code != 421
            undecided = step not in _ENDS and ending is not Ending.ABORTED and not verdict
            transaction.settle_rest(Outcome.of(reply, self.remote), step, undecided=undecided)
        self.reason, self.ending, self.ended_at = reply, ending, step
        self._close()

    def _break(self, reason: Reply, ending: Ending) -> None:
        """End the session after a fault, a timeout or a lost connection."""
        self._end(self.step or ClientStep.CONTENT, reason, ending)

    def _close(self) -> None:
        self.state = ClientState.CLOSED
        self._awaited.clear()
        self._unsent.clear()
        self._out.clear()
        self._encoder = None


_ENDS: Final = frozenset({ClientStep.END, ClientStep.BDAT})
"""The steps at which all content was sent."""

_TABLE: Final[dict[tuple[ClientStep, int], Callable[[ClientSession, wire.Reply, ClientStep, int], None]]] = {
    # By step and first digit of the reply (RFC 5321 §4.2.1, §4.3.2). A reply without an entry is unexpected and ends
    # the session. 421 is not looked up here: it ends the session at every step (RFC 5321 §3.8). 500 to 503 are
    # refusals too, but usually about the protocol and not the mail: see `reasons.reports_protocol_error`.
    (ClientStep.GREETING, 2): ClientSession._greeted,
    (ClientStep.GREETING, 4): ClientSession.refused,
    (ClientStep.GREETING, 5): ClientSession.refused,  # RFC 5321 §3.1: 554; RFC 7504 §3: 521
    (ClientStep.EHLO, 2): ClientSession._ehlo_accepted,
    (ClientStep.EHLO, 4): ClientSession.refused,
    (ClientStep.EHLO, 5): ClientSession._ehlo_refused,
    (ClientStep.LHLO, 2): ClientSession._ehlo_accepted,
    (ClientStep.LHLO, 4): ClientSession.refused,
    (ClientStep.LHLO, 5): ClientSession.refused,
    (ClientStep.HELO, 2): ClientSession._helo_accepted,
    (ClientStep.HELO, 4): ClientSession.refused,
    (ClientStep.HELO, 5): ClientSession.refused,
    (ClientStep.STARTTLS, 2): opening.starttls_accepted,
    (ClientStep.STARTTLS, 4): opening.starttls_refused,
    (ClientStep.STARTTLS, 5): opening.starttls_refused,
    (ClientStep.AUTH, 2): opening.auth_accepted,
    (ClientStep.AUTH, 3): opening.auth_challenged,
    (ClientStep.AUTH, 4): opening.auth_refused,
    (ClientStep.AUTH, 5): opening.auth_refused,
    (ClientStep.RSET, 2): ClientSession._rset_accepted,
    (ClientStep.RSET, 4): ClientSession._rset_refused,
    (ClientStep.RSET, 5): ClientSession._rset_refused,
    (ClientStep.MAIL, 2): ClientSession._mail_accepted,
    (ClientStep.MAIL, 4): ClientSession._mail_refused,
    (ClientStep.MAIL, 5): ClientSession._mail_refused,
    (ClientStep.RCPT, 2): ClientSession._rcpt_accepted,
    (ClientStep.RCPT, 4): ClientSession._rcpt_refused,
    (ClientStep.RCPT, 5): ClientSession._rcpt_refused,
    (ClientStep.DATA, 3): ClientSession._data_accepted,
    (ClientStep.DATA, 4): ClientSession._data_refused,
    (ClientStep.DATA, 5): ClientSession._data_refused,
    (ClientStep.END, 2): ClientSession._message_accepted,
    (ClientStep.END, 4): ClientSession._message_refused,
    (ClientStep.END, 5): ClientSession._message_refused,
    (ClientStep.BDAT, 2): ClientSession._message_accepted,
    (ClientStep.CHUNK, 2): ClientSession._chunk_accepted,
    (ClientStep.CHUNK, 4): ClientSession._message_refused,
    (ClientStep.CHUNK, 5): ClientSession._message_refused,
    (ClientStep.BDAT, 4): ClientSession._message_refused,
    (ClientStep.BDAT, 5): ClientSession._message_refused,
    (ClientStep.QUIT, 2): ClientSession._quit_answered,
    (ClientStep.QUIT, 3): ClientSession._quit_answered,
    (ClientStep.QUIT, 4): ClientSession._quit_answered,
    (ClientStep.QUIT, 5): ClientSession._quit_answered,
}
