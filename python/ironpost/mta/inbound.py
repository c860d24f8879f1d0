"""Incoming mail: the hooks of a server session, which consult policy and put accepted mail into the store.

Promises: 250 is sent when the store has committed, and never before (RFC 5321 §4.2.5, §6.1); a committed message
reaches the queue runner even if its client has disconnected. A recipient is accepted only if a check accepts it. If the
store is full or fails, the transaction is answered 452 or 451, and the session continues. A message that a client
submits again under the same Idempotency-Key is acknowledged like the first one, and stored once. Each message, each
refusal and each session is logged once. Submitted content is normalised (RFC 6409 §8); relayed content is not changed,
except for header fields that a check removes. Addresses are rewritten by the rules: checks see recipients after that,
and the reverse-path and the content as the client sent them. What is stored is signed, if there is a key for it
(`mta.signing`).
Costs: no task and no coroutine for a message if the store returns a Future and no check awaits anything.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ironpost.mail_auth import results_field
from ironpost.message import received
from ironpost.message.section import Header
from ironpost.message.trace import above
from ironpost.model import Action, Origin, Verdict
from ironpost.model.ports import Uncounted
from ironpost.mta.inspection import InspectedSpool
from ironpost.mta.intake import Content, SubmittedContent
from ironpost.mta.signing import Signatures, Signing
from ironpost.policy import Facts, PolicyDecision, PolicyStage
from ironpost.policy.checks.reverse_dns import ConfirmedName
from ironpost.protocol import replies
from ironpost.protocol.extensions import TAG_FIELDS, message_fields, not_before, session_fields, tags
from ironpost.queue.store import NewMessage, SubmissionPending, SubmittedBefore
from ironpost.routing.archive import archived
from ironpost.routing.directory import expand
from ironpost.routing.rewriting import Place
from ironpost.telemetry.events import record
from ironpost.telemetry.rewriting import log_rewritten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ironpost.mail_auth import MethodResult
    from ironpost.model import Address, Recipient, Reply, Value
    from ironpost.model.body import Spool
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.on_demand import OnDemand
    from ironpost.mta.signing import MessageSigner
    from ironpost.policy import Policy
    from ironpost.protocol.extensions import LogValue
    from ironpost.protocol.server.handler import ContentResult, HookResult
    from ironpost.protocol.server.session import ServerSession
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.routing.archive import ArchiveRule
    from ironpost.routing.directory import Directory
    from ironpost.routing.rewriting import Rewriting, Rewritten
    from ironpost.wire import BodyEnd

_log: Final = logging.getLogger("ironpost.inbound")
MESSAGE_ID_OCTETS: Final = 250
"""Octets of a Message-ID that are kept for `ironpost trace`."""
_READ_FIELDS: Final = TAG_FIELDS | {"message-id"}
"""The header fields of every message that are read, in lower case."""
_NONE: Final = (b"",)
_LIMITS: Final = {
    replies.TOO_MANY_ERRORS: "errors",
    replies.TOO_MANY_COMMANDS: "commands",
    replies.CONTENT_ENDLESS: "size",
}
"""Labels of the counter of ended sessions, for limits that the session enforces."""
_RESULTS: Final = {Action.DEFER: "deferred", Action.REJECT: "refused", Action.DROP: "dropped"}
"""Labels of the counter of messages, for verdicts on content."""
_REPEATED: Final = {2: "repeated", 4: "deferred", 5: "refused"}
"""The same for messages whose Idempotency-Key is in use, by the first digit of the reply."""


@dataclass(slots=True)
class _SessionState:
    """The state of one session, in `ServerSession.extra`."""

    facts: Facts
    started: float
    session: str
    """Identifies the session in all of its log records."""
    octets: int = 0
    refused: int = 0
    """Number of policy decisions that refused something."""
    origin: Origin | None = None
    """The origin of messages without SMTPUTF8, set by EHLO and the login."""
    extension_fields: Mapping[str, LogValue] = field(default_factory=dict)
    """The fields that extensions add to the record of the message that is being stored."""
    fields: tuple[bytes, ...] = ()
    """Header fields that policy adds to the message of this transaction; set by MAIL."""
    authentication: tuple[MethodResult, ...] = ()
    """What its mail authentication found."""
    summaries: list[str] = field(default_factory=list)
    """The same for the log and the history of the message that is being stored."""
    reasons: dict[PolicyStage, tuple[str, ...]] = field(default_factory=dict)
    """The reasons of policy, if they are logged, for its history too; those about one recipient are not kept."""
    inspected: InspectedSpool | None = None
    """The content that is being received, if it is scanned or its header section is changed."""
    rewritten: list[Rewritten] = field(default_factory=list)
    """The addresses that were rewritten in the message."""
    signer: MessageSigner | None = None
    """Signs the message; None if it is not signed."""
    signed: tuple[str, ...] = ()
    """The names of the keys that signed it."""


class Inbound:
    """The `protocol.server.handler.Handler` of the mail transfer agent; one for any number of sessions of one kind."""

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        clock: Clock,
        random: Random,
        hostname: str,
        accept: Callable[[QueuedMessage], None],
        role: str = "mx",
        claims: frozenset[str] = frozenset(),
        on_demand: OnDemand | None = None,
        directory: Directory | None = None,
        archives: tuple[ArchiveRule, ...] = (),
        rewriting: Rewriting | None = None,
        signing: Signing | None = None,
        idempotency: bool = False,
        metrics: Metrics = Uncounted(),  # noqa: B008 - holds nothing
    ) -> None:
        """Create a handler that stores mail in `store`.

        Args:
            store: the queue.
            policy: decides at each stage.
            clock: time, for Received and for the queue.
            random: its tokens become queue ids.
            hostname: this server's name in Received: a domain or an address literal.
            accept: called with each message after its commit, to queue it (`QueueRunner.accept`).
            role: of the listener, `mx`, `submission` or `lmtp`; content is normalised for `submission`.
            claims: extensions that the queue and delivery honour (`protocol.extensions`).
            on_demand: implements ETRN and ATRN; if None, they are not offered.
            directory: expands aliases when a message is committed; None if there are no aliases.
            archives: whose mail is copied to which addresses.
            rewriting: the rules for mail that arrives; None if there are none.
            signing: the keys with which mail is signed; none if None.
            idempotency: whether clients that have authenticated for `submission` may give an Idempotency-Key.
            metrics: the counters.

        Raises:
            HeaderError: `hostname` is neither a domain nor an address literal.
        """
        self.claims = claims
        if on_demand is not None:  # the hooks are the claim to the extensions
            self.etrn = on_demand.etrn
            self.turn = on_demand.turn
        self._store = store
        self._policy = policy
        self._clock = clock
        self._random = random
        self._hostname = received.checked_name(hostname)
        self._accept = accept
        self._role = role
        self._idempotency = idempotency
        self._metrics = metrics
        self._directory = directory
        self._archives = archives
        self._rewriting = rewriting
        self._signing = signing or Signing()

    # The hooks, in the order of a session

    def connect(self, session: ServerSession) -> HookResult:
        """Consult policy about the client's address."""
        state: _SessionState | None = session.extra
        if state is None:
            session.id = secrets.token_hex(8)
            session.extra = state = _SessionState(Facts(), self._clock.monotonic(), session.id)
        # After XCLIENT a front end speaks for another client.
        state.facts = Facts(
            ip=session.peer.ip,
            local_ip=session.peer.local_ip,
            name=session.peer.name,
            listener=self._role,
            tls=session.tls,
        )
        return self._ask(PolicyStage.CONNECT, state)

    def hello(self, session: ServerSession, verb: str, domain: str) -> HookResult:
        """Consult policy about the client's EHLO name."""
        state: _SessionState = session.extra
        del verb
        state.origin = None
        facts = state.facts
        facts.helo = domain
        facts.tls = session.tls
        facts.identity = session.identity
        return self._ask(PolicyStage.HELLO, state)

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Consult policy about the sender."""
        state: _SessionState = session.extra
        facts = state.facts
        if facts.identity is not session.identity:
            facts.identity = session.identity
            state.origin = None
        facts.reverse_path = reverse_path
        facts.mail_parameters = parameters
        state.fields, state.authentication = (), ()
        return self._ask(PolicyStage.MAIL, state)

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> HookResult:
        """Consult policy about one recipient, which is refused unless a check accepts it."""
        state: _SessionState = session.extra
        facts = state.facts
        if self._rewriting is not None:
            found = self._rewriting.find(Place.FORWARD_PATH, forward_path)
            forward_path = forward_path if found is None else found.after
        facts.forward_path = forward_path
        facts.rcpt_parameters = parameters
        transaction = session.transaction
        facts.recipients = 0 if transaction is None else len(transaction.recipients)
        return self._ask(PolicyStage.RECIPIENT, state)

    def content(self, session: ServerSession) -> ContentResult:
        """Open a spool of the store; 452 if it has no room for the size declared in MAIL (RFC 1870 §6.1)."""
        state: _SessionState = session.extra
        transaction = session.transaction
        assert transaction is not None  # content follows RCPT
        declared = transaction.parameters.get("SIZE")
        scan = self._policy.scan(state.facts)
        strip, services = self._policy.strip(state.facts), self._policy.services(state.facts)
        try:
            spool = self._store.spool(declared or None)
        except OSError as error:
            return self._store_fault(error, state)
        state.inspected = state.signer = None
        state.rewritten, rewrite, rules = [], None, self._rewriting
        if rules is not None or self._signing.active:
            origin = _origin(session, self._role)
            if rules is not None and rules.changes_headers(own=(own := rules.is_own(origin))):
                rewrite = partial(rules.header, changes=state.rewritten, own=own)
            state.signer = self._signing.begin(origin, self._clock.now())
        reader = None
        if scan is not None or strip or services or rewrite is not None or state.signer is not None:
            spool = state.inspected = InspectedSpool(spool, scan, strip, services, rewrite, state.signer)
            reader = state.inspected.reader
        if self._role == "submission":
            return SubmittedContent(spool, reader, keyed=self._idempotency and session.identity is not None)
        return Content(spool, reader)

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> HookResult:
        """Consult policy about the content, then commit it below the Received field and those of policy."""
        assert isinstance(content, Content)
        state: _SessionState = session.extra
        try:
            content.finish()
            if content.separators:
                self._metrics.count("leniencies", "mbox_line", content.separators)
            fault, scan = content.fault, None
            inspected, state.inspected = state.inspected, None
            if inspected is not None:
                inspected.finish()
                content.spool, scan = inspected.spool, inspected.scan
                fault = fault or inspected.fault
            if not fault and session.settings.newlines == "accept" and (facts.bare_cr or facts.bare_lf):
                fault = content.bare_in_header()
                if state.signer is not None and not (session.transaction and session.transaction.binary):
                    state.signer.cancel()  # they become CRLF when the message is sent
            if fault:
                refusal = PolicyDecision(
                    Verdict.refuse(replies.malformed(fault)), (f"{self._role}: its header section",)
                )
                return self._commit(session, state, content, refusal)
            state.facts.header = content.header
            state.facts.size = facts.size
            decision = self._policy.decide(PolicyStage.CONTENT, state.facts, scan)
            if isinstance(decision, PolicyDecision) and not decision.verdict.seconds:
                return self._commit(session, state, content, decision)
        except BaseException:
            content.discard()
            raise
        return self._commit_later(session, state, content, decision)

    async def pause(self, session: ServerSession, seconds: float, then: Any) -> Any:
        """Delay a reply (`model.verdict.tarpit`)."""
        del session
        await self._clock.sleep(seconds)
        return then

    def disconnect(self, session: ServerSession) -> None:
        """Log the session, and count its commands and replies."""
        state: _SessionState = session.extra
        count = self._metrics.count
        count("commands", amount=session.commands)
        count("replies", "4yz", session.deferrals)
        count("replies", "5yz", session.refusals)
        count("replies", "positive", session.replies - session.deferrals - session.refusals)
        if session.ended in _LIMITS:
            count("sessions_ended", _LIMITS[session.ended])
        for name, times in session.leniencies.items():
            count("leniencies", name, times)
        if session.failures:
            count("hook_failures", amount=session.failures)
        if _log.isEnabledFor(logging.INFO):
            self._log_session(session, state)

    def _log_session(self, session: ServerSession, state: _SessionState) -> None:
        peer, tls, identity = session.peer, session.tls, session.identity
        confirmed = state.facts.result(ConfirmedName)
        record(
            _log,
            "session",
            logging.INFO,
            session=state.session,
            listener=self._role,
            ip=peer.ip,
            port=peer.port,
            name=peer.name or (None if confirmed is None else confirmed.name),
            via=peer.via or None,
            helo=state.facts.helo,
            tls=tls and tls.version,
            cipher=tls and tls.cipher,
            identity=identity and identity.name,
            commands=session.commands,
            messages=session.messages,
            octets=state.octets,
            refused=state.refused,
            errors=session.refusals,
            **session_fields(session),
            failed_hooks=session.failures,
            ended=None if session.ended is None else str(session.ended),
            seconds=round(self._clock.monotonic() - state.started, 3),
        )

    # Decisions

    def _ask(self, stage: PolicyStage, state: _SessionState) -> HookResult:
        decision = self._policy.decide(stage, state.facts)
        if isinstance(decision, PolicyDecision):
            return self._verdict(stage, state, decision)
        return self._verdict_later(stage, state, decision)

    async def _verdict_later(
        self, stage: PolicyStage, state: _SessionState, decision: Awaitable[PolicyDecision]
    ) -> Verdict | None:
        return self._verdict(stage, state, await decision)

    def _verdict(self, stage: PolicyStage, state: _SessionState, decision: PolicyDecision) -> Verdict | None:
        """Log and count a decision unless it is a plain acceptance; return its verdict, or None if it accepts."""
        verdict = decision.verdict
        state.fields += decision.fields
        if decision.authentication:
            state.authentication += decision.authentication
            for each in decision.authentication:
                self._metrics.count("authentication", str(each))
        if verdict.action is Action.ACCEPT and not decision.noted:
            if state.reasons:
                state.reasons.pop(stage, None)
            return None
        if stage is not PolicyStage.RECIPIENT:
            state.reasons[stage] = decision.reasons
        action = verdict.final.action
        state.refused += verdict.refused
        if stage is PolicyStage.CONTENT and action in _RESULTS:
            self._metrics.count("messages", _RESULTS[action])
        elif stage is PolicyStage.RECIPIENT and verdict.refused:
            self._metrics.count("recipients_refused")
        facts = state.facts
        reply = verdict.final.reply
        record(
            _log,
            "refused" if verdict.refused else "policy",
            session=state.session,
            stage=stage.value,
            action=action.value,
            delay=verdict.seconds or None,
            listener=self._role,
            ip=facts.ip,
            helo=facts.helo,
            identity=facts.identity and facts.identity.name,
            sender=None if facts.reverse_path is None else str(facts.reverse_path),
            recipient=str(facts.forward_path) if stage is PolicyStage.RECIPIENT else None,
            reply=None if reply is None else str(reply),
            reasons=list(decision.reasons),
        )
        return None if verdict.action is Action.ACCEPT else verdict

    # Content

    async def _commit_later(
        self,
        session: ServerSession,
        state: _SessionState,
        content: Content,
        decision: PolicyDecision | Awaitable[PolicyDecision],
    ) -> Reply | None:
        try:
            decided = decision if isinstance(decision, PolicyDecision) else await decision
            if decided.verdict.seconds:
                await self._clock.sleep(decided.verdict.seconds)
            outcome = self._commit(session, state, content, decided)
        except BaseException:
            content.discard()
            raise
        return await outcome if isinstance(outcome, asyncio.Future) else outcome

    def _commit(
        self, session: ServerSession, state: _SessionState, content: Content, decision: PolicyDecision
    ) -> asyncio.Future[Reply | None] | Reply:
        state.facts.header = None  # idle sessions hold no content
        signer, state.signer = state.signer, None
        transaction = session.transaction
        assert transaction is not None  # content follows RCPT
        verdict = self._verdict(PolicyStage.CONTENT, state, decision)
        if verdict is not None:
            verdict = verdict.final
            if verdict.action is Action.QUARANTINE:
                transaction.quarantine = (*transaction.quarantine, verdict.reason)
            elif verdict.action is not Action.ACCEPT:
                content.discard()
                # The reply to a dropped message is the same as to a queued one.
                return verdict.reply or replies.queued(self._random.token())
        origin = state.origin
        if origin is None or "SMTPUTF8" in transaction.parameters:
            origin = _origin(session, self._role)
            if "SMTPUTF8" not in transaction.parameters:
                state.origin = origin
        fields = content.header.select(_READ_FIELDS)
        envelope = transaction.envelope(origin)
        if not TAG_FIELDS.isdisjoint(fields):
            tagged = {**envelope.parameters, **tags(fields, envelope.parameters)}
            envelope = envelope._replace(parameters=tagged)
        submission = content.submission(envelope)
        recipients = envelope.recipients
        identifier = self._random.token()
        now = self._clock.now()
        trace = received.received(
            envelope.origin,
            by=self._hostname,
            id=identifier,
            now=now,
            recipient=recipients[0].address if len(recipients) == 1 else None,
            priority=envelope.priority,
            utf8=envelope.smtputf8,
        )
        added = content.additions(now=now, id=identifier, host=self._hostname)
        due = not_before(transaction.parameters)
        quarantine = transaction.quarantine
        message_id = fields.get("message-id", _NONE)[0] or Header(added).first("Message-ID") or b""
        if self._rewriting is not None:
            envelope = self._rewriting.envelope(envelope, state.rewritten)
            log_rewritten(_log, self._metrics, identifier, state.rewritten, state.session)
        signatures = Signatures() if signer is None else signer.finish(added, envelope)
        state.signed = signatures.keys
        state.summaries = [each.summary for each in state.authentication]
        results = results_field(self._hostname, state.authentication) if state.authentication else b""
        prefix = above(results + b"".join(state.fields) + signatures.fields + trace + added, content.header)
        accepted = len(envelope.recipients)
        if self._archives:
            envelope = archived(envelope, self._archives)
        new = NewMessage(
            identifier, envelope, now, prefix, content.spool, due, "; ".join(quarantine) if quarantine else None,
            message_id[:MESSAGE_ID_OCTETS].decode("utf-8", "backslashreplace"), submission,
            "; ".join(chain(state.summaries, *state.reasons.values())),
        )  # fmt: skip
        state.extension_fields = message_fields(session)
        if self._directory is not None:
            expanded = expand(envelope.recipients, self._directory, accepted=accepted)
            if not isinstance(expanded, tuple):
                return asyncio.ensure_future(self._store_expanded(state, content, new, expanded, quarantine))
        return self._store_message(state, content, new, quarantine)

    async def _store_expanded(
        self,
        state: _SessionState,
        content: Content,
        new: NewMessage,
        expanded: Awaitable[tuple[Recipient, ...]],
        quarantine: tuple[str, ...],
    ) -> Reply | None:
        try:
            envelope = new.envelope._replace(recipients=await expanded)
        except BaseException:
            content.discard()
            raise
        outcome = self._store_message(state, content, new._replace(envelope=envelope), quarantine)
        return await outcome if isinstance(outcome, asyncio.Future) else outcome

    def _store_message(
        self, state: _SessionState, content: Content, new: NewMessage, quarantine: tuple[str, ...]
    ) -> asyncio.Future[Reply | None] | Reply:
        try:
            pending = self._store.commit(new)
        except Exception as error:  # noqa: BLE001 - the client gets a reply after any error
            content.discard()
            return self._store_fault(error, state)
        # A task is created only if the store needs one. The commit is never cancelled: a message that became durable
        # must reach the queue runner, even if the session has ended.
        commit = asyncio.ensure_future(pending)
        outcome: asyncio.Future[Reply | None] = commit.get_loop().create_future()
        commit.add_done_callback(partial(self._committed, outcome, state, content, quarantine))
        return outcome

    def _committed(
        self,
        outcome: asyncio.Future[Reply | None],
        state: _SessionState,
        content: Content,
        quarantine: tuple[str, ...],
        commit: asyncio.Future[QueuedMessage],
    ) -> None:
        if commit.cancelled():
            error: BaseException | None = asyncio.CancelledError("the store was closed")
        else:
            error = commit.exception()
        if error is not None:
            content.discard()
            if isinstance(error, SubmittedBefore | SubmissionPending):
                reply = self._repeated(error, state)
            else:
                reply = self._store_fault(error, state)
        else:
            message = commit.result()
            size = message.body.size
            state.octets += size
            self._metrics.count("messages", "quarantined" if quarantine else "accepted")
            self._metrics.count("octets", amount=size)
            reply = replies.queued(message.id)
            self._accept(message)
            if _log.isEnabledFor(logging.INFO):
                self._log_message(message, size, quarantine, state)
        if not outcome.done():  # the session may have ended meanwhile
            outcome.set_result(reply)

    def _log_message(
        self, message: QueuedMessage, size: int, quarantine: tuple[str, ...], state: _SessionState
    ) -> None:
        envelope = message.envelope
        origin = envelope.origin
        record(
            _log,
            "accepted",
            logging.INFO,
            id=message.id,
            session=state.session,
            listener=self._role,
            ip=origin.ip,
            helo=origin.helo,
            protocol=origin.protocol,
            cipher=origin.cipher or None,
            identity=origin.identity or None,
            sender=str(envelope.reverse_path),
            recipients=[str(recipient.address) for recipient in envelope.recipients],
            size=size,
            priority=envelope.priority or None,
            quarantine=list(quarantine) or None,
            authentication=state.summaries or None,
            signed=list(state.signed) or None,
            **state.extension_fields,
        )

    def _repeated(self, error: SubmittedBefore | SubmissionPending, state: _SessionState) -> Reply:
        """Log and count a submission whose key is in use; return the reply to the client."""
        if isinstance(error, SubmissionPending):
            first, reply = None, replies.KEY_PENDING
        else:
            first, reply = error.message, replies.queued(error.message) if error.same else replies.KEY_REUSED
        self._metrics.count("messages", _REPEATED[reply.code // 100])
        identity = state.facts.identity
        record(
            _log,
            "repeated",
            logging.INFO,
            session=state.session,
            id=first,
            identity=identity and identity.name,
            reply=str(reply),
        )
        return reply

    def _store_fault(self, error: BaseException, state: _SessionState) -> Reply:
        """Log an error of the store; return the reply to the client."""
        reply = replies.storage_failed(error)
        self._metrics.count("store_faults", "full" if reply is replies.NO_ROOM else "failed")
        detail = str(error)
        record(_log, "store-fault", logging.ERROR, session=state.session, error=type(error).__name__, detail=detail)
        return reply


def _origin(session: ServerSession, listener: str) -> Origin:
    tls, identity = session.tls, session.identity
    return Origin(
        session.peer.ip,
        session.helo,
        session.protocol,
        "" if tls is None else received.cipher(tls.cipher),
        "" if identity is None else identity.name,
        listener,
    )
