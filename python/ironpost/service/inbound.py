"""Mail in: the handler that answers a server session through policy and puts accepted mail into the store.

Promises: 250 is said when the store has committed, and never before (RFC 5321 §4.2.5, §6.1); a message that is
committed reaches the queue runner even if its client is gone by then. A recipient is accepted only if policy says why.
A store that is full or failing costs the transaction a 452 or 451, and nothing else. One record in the journal for each
message, each refusal and each session. What users submit is mended (RFC 6409 §8); what is relayed never is.
Costs: no task and no coroutine for a message if the store answers with a Future and no check awaits anything.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ironpost.message import header, received
from ironpost.model import Action, Origin, Verdict
from ironpost.model.body import NO_ROOM
from ironpost.model.ports import Uncounted
from ironpost.policy import Decision, Facts, Stage
from ironpost.protocol import replies
from ironpost.protocol.extensions.future_release import release_time
from ironpost.queue.store import NewMessage, StoreFull
from ironpost.service.content import Content, SubmittedContent
from ironpost.service.journal import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ironpost.model import Address, Reply, Value
    from ironpost.model.body import Spool
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.policy import Policy
    from ironpost.protocol.handler import Answer, ContentAnswer, Fetched
    from ironpost.protocol.server import ServerSession
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.service.on_demand import OnDemand
    from ironpost.wire import BodyEnd

_log: Final = logging.getLogger("ironpost.inbound")
_LIMITS: Final = {replies.TOO_MANY_ERRORS: "errors", replies.TOO_MANY_COMMANDS: "commands"}
"""What the counter of ended sessions calls limits that the session keeps itself."""
_RESULTS: Final = {Action.DEFER: "deferred", Action.REJECT: "refused", Action.DROP: "dropped"}
"""What the counter of messages calls a verdict against content."""


@dataclass(slots=True)
class _Visit:
    """One session as the journal will tell it."""

    facts: Facts
    started: float
    session: str
    """What joins the records of one session."""
    octets: int = 0
    refused: int = 0
    """Decisions of policy against the client."""
    origin: Origin | None = None
    """What messages without SMTPUTF8 have for origin, since EHLO and the login."""
    forwarded: Mapping[str, str] | None = None
    """What XFORWARD said of where the message comes from that is being stored."""


class Inbound:
    """The `protocol.handler.Handler` of the mail transfer agent; one for any number of sessions of one kind."""

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
        metrics: Metrics = Uncounted(),  # noqa: B008 - holds nothing
    ) -> None:
        """A handler over `store`.

        Args:
            store: where accepted mail goes.
            policy: who may do what.
            clock: for Received and for the queue.
            random: its tokens become queue ids.
            hostname: what Received says `by`: a domain or an address literal.
            accept: takes each message after its commit: the queue runner's.
            role: of the listener, `mx`, `submission` or `lmtp`; content is mended where users submit.
            claims: extensions that the queue and the way out will honour (`protocol.extensions`).
            on_demand: who answers ETRN and ATRN; None: they do not exist.
            metrics: what is counted.

        Raises:
            HeaderError: `hostname` is neither a domain nor an address literal.
        """
        self.claims = claims if on_demand is None else claims | on_demand.claims
        self._on_demand = on_demand
        self._store = store
        self._policy = policy
        self._clock = clock
        self._random = random
        self._hostname = received.checked_name(hostname)
        self._accept = accept
        self._role = role
        self._content = SubmittedContent if role == "submission" else Content
        self._metrics = metrics

    # The questions, in the order of a session

    def connect(self, session: ServerSession) -> Answer:
        """Asks policy about the client's address."""
        visit: _Visit | None = session.extra
        if visit is None:
            session.id = secrets.token_hex(8)
            session.extra = visit = _Visit(Facts(), self._clock.monotonic(), session.id)
        # A front end of ours may speak for another client now (XCLIENT).
        visit.facts = Facts(
            ip=session.peer.ip,
            local_ip=session.peer.local_ip,
            name=session.peer.name,
            listener=self._role,
            tls=session.tls,
        )
        return self._ask(Stage.CONNECT, visit)

    def hello(self, session: ServerSession, verb: str, domain: str) -> Answer:
        """Asks policy about the client's name."""
        visit: _Visit = session.extra
        del verb
        visit.origin = None
        facts = visit.facts
        facts.helo = domain
        facts.tls = session.tls
        facts.identity = session.identity
        return self._ask(Stage.HELLO, visit)

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Asks policy about the sender."""
        visit: _Visit = session.extra
        facts = visit.facts
        if facts.identity is not session.identity:
            facts.identity = session.identity
            visit.origin = None
        facts.reverse_path = reverse_path
        facts.mail_parameters = parameters
        return self._ask(Stage.MAIL, visit)

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Asks policy about one recipient; without a check that accepts it, it is refused."""
        visit: _Visit = session.extra
        facts = visit.facts
        facts.forward_path = forward_path
        facts.rcpt_parameters = parameters
        transaction = session.transaction
        facts.recipients = 0 if transaction is None else len(transaction.recipients)
        return self._ask(Stage.RECIPIENT, visit)

    def content(self, session: ServerSession) -> ContentAnswer:
        """A spool of the store; 452 if it has no room for the size that MAIL declared (RFC 1870 §6.1)."""
        visit: _Visit = session.extra
        transaction = session.transaction
        assert transaction is not None  # content follows RCPT
        declared = transaction.parameters.get("SIZE")
        try:
            spool = self._store.spool(declared or None)
        except OSError as error:
            return self._storage_fault(error, visit)
        return self._content(spool)

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> Answer:
        """Asks policy about the content, then commits it with its Received field on top."""
        assert isinstance(content, Content)
        visit: _Visit = session.extra
        try:
            content.finish()
            fault = content.fault
            if not fault and session.settings.newlines == "accept" and (facts.bare_cr or facts.bare_lf):
                fault = content.bare_in_header()
            if fault:
                refusal = Decision(Verdict.refuse(replies.malformed(fault)), (f"{self._role}: its header section",))
                return self._commit(session, visit, content, refusal)
            visit.facts.head = content.head
            visit.facts.hops = content.hops
            visit.facts.size = facts.size
            decision = self._policy.decide(Stage.CONTENT, visit.facts)
            if isinstance(decision, Decision) and not decision.verdict.seconds:
                return self._commit(session, visit, content, decision)
        except BaseException:
            content.discard()
            raise
        return self._commit_later(session, visit, content, decision)

    def verify(self, session: ServerSession, argument: str) -> Answer:
        """The usual 252: what exists here is nobody's business (RFC 5321 §7.3)."""
        del session, argument
        return None

    def expand(self, session: ServerSession, argument: str) -> Answer:
        """Not claimed."""
        del session, argument
        return None

    def etrn(self, session: ServerSession, argument: str) -> Answer:
        """Makes a customer's mail due."""
        return replies.NODE_NOT_ALLOWED if self._on_demand is None else self._on_demand.etrn(session, argument)

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Answer:
        """Gives a customer its mail over the connection that it opened."""
        return replies.TURN_REFUSED if self._on_demand is None else self._on_demand.turn(session, domains)

    def burl(self, session: ServerSession, url: str, last: bool) -> Fetched:
        """Not claimed."""
        del session, url, last
        return replies.URL_NOT_FOLLOWED

    async def pause(self, session: ServerSession, seconds: float, then: Any) -> Any:
        """Holds an answer back (`model.verdict.tarpit`)."""
        del session
        await self._clock.sleep(seconds)
        return then

    def disconnect(self, session: ServerSession) -> None:
        """Writes the session into the journal, and counts what was said in it."""
        visit: _Visit = session.extra
        count = self._metrics.count
        count("commands", amount=session.commands)
        count("replies", "4yz", session.deferrals)
        count("replies", "5yz", session.refusals)
        count("replies", "positive", session.replies - session.deferrals - session.refusals)
        if session.ended in _LIMITS:
            count("sessions_ended", _LIMITS[session.ended])
        if session.lenient_hellos:
            count("leniencies", "hello", session.lenient_hellos)
        if session.failures:
            count("hook_failures", amount=session.failures)
        if _log.isEnabledFor(logging.INFO):
            self._journal_session(session, visit)

    def _journal_session(self, session: ServerSession, visit: _Visit) -> None:
        peer, tls, identity = session.peer, session.tls, session.identity
        record(
            _log,
            "session",
            session=visit.session,
            listener=self._role,
            ip=peer.ip,
            port=peer.port,
            name=peer.name or None,
            via=peer.via or None,
            helo=visit.facts.helo,
            tls=tls and tls.version,
            cipher=tls and tls.cipher,
            identity=identity and identity.name,
            commands=session.commands,
            messages=session.messages,
            octets=visit.octets,
            refused=visit.refused,
            errors=session.refusals,
            failed_logins=session.failed_logins,
            failed_hooks=session.failures,
            ended=None if session.ended is None else str(session.ended),
            seconds=round(self._clock.monotonic() - visit.started, 3),
        )

    # Decisions

    def _ask(self, stage: Stage, visit: _Visit) -> Answer:
        decision = self._policy.decide(stage, visit.facts)
        if isinstance(decision, Decision):
            return self._verdict(stage, visit, decision)
        return self._verdict_later(stage, visit, decision)

    async def _verdict_later(self, stage: Stage, visit: _Visit, decision: Awaitable[Decision]) -> Verdict | None:
        return self._verdict(stage, visit, await decision)

    def _verdict(self, stage: Stage, visit: _Visit, decision: Decision) -> Verdict | None:
        """The verdict, unless it is the usual one; everything else is counted and written into the journal."""
        verdict = decision.verdict
        if verdict.action is Action.ACCEPT and not decision.noted:
            return None
        action = verdict.final.action
        visit.refused += verdict.refused
        if stage is Stage.CONTENT and action in _RESULTS:
            self._metrics.count("messages", _RESULTS[action])
        elif stage is Stage.RECIPIENT and verdict.refused:
            self._metrics.count("recipients_refused")
        facts = visit.facts
        reply = verdict.final.reply
        record(
            _log,
            "refused" if verdict.refused else "policy",
            session=visit.session,
            stage=stage.value,
            action=action.value,
            delay=verdict.seconds or None,
            listener=self._role,
            ip=facts.ip,
            helo=facts.helo,
            identity=facts.identity and facts.identity.name,
            sender=None if facts.reverse_path is None else str(facts.reverse_path),
            recipient=str(facts.forward_path) if stage is Stage.RECIPIENT else None,
            reply=None if reply is None else str(reply),
            reasons=list(decision.reasons),
        )
        return None if verdict.action is Action.ACCEPT else verdict

    # Content

    async def _commit_later(
        self, session: ServerSession, visit: _Visit, content: Content, decision: Decision | Awaitable[Decision]
    ) -> Reply | None:
        try:
            decided = decision if isinstance(decision, Decision) else await decision
            if decided.verdict.seconds:
                await self._clock.sleep(decided.verdict.seconds)
            answer = self._commit(session, visit, content, decided)
        except BaseException:
            content.discard()
            raise
        return await answer if isinstance(answer, asyncio.Future) else answer

    def _commit(
        self, session: ServerSession, visit: _Visit, content: Content, decision: Decision
    ) -> asyncio.Future[Reply | None] | Reply:
        visit.facts.head = b""  # sessions that idle between messages keep nothing
        transaction = session.transaction
        assert transaction is not None  # content follows RCPT
        verdict = self._verdict(Stage.CONTENT, visit, decision)
        if verdict is not None:
            verdict = verdict.final
            if verdict.action is Action.QUARANTINE:
                transaction.quarantine = (*transaction.quarantine, verdict.reason)
            elif verdict.action is not Action.ACCEPT:
                content.discard()
                # What is dropped reads as what is queued.
                return verdict.reply or replies.queued(self._random.token())
        origin = visit.origin
        if origin is None or "SMTPUTF8" in transaction.parameters:
            origin = _origin(session)
            if "SMTPUTF8" not in transaction.parameters:
                visit.origin = origin
        envelope = transaction.envelope(origin)
        recipients = envelope.recipients
        identifier = self._random.token()
        now = self._clock.now()
        trace = received.received(
            envelope.origin,
            by=self._hostname,
            id=identifier,
            now=now,
            recipient=recipients[0].address if len(recipients) == 1 else None,
            utf8=envelope.smtputf8,
        )
        added = content.additions(now=now, id=identifier, host=self._hostname)
        prefix = header.above(trace + added, content.head)
        due = release_time(transaction.parameters)
        apart = transaction.quarantine
        new = NewMessage(identifier, envelope, now, prefix, content.spool, due, bool(apart))
        try:
            pending = self._store.commit(new)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the client gets an answer
            content.discard()
            return self._storage_fault(error, visit)
        visit.forwarded = session.forwarded
        # A task only if the store needs one. The commit is never cancelled: a message that became durable must reach
        # the runner, even if nobody waits for the answer any more.
        commit = asyncio.ensure_future(pending)
        answer: asyncio.Future[Reply | None] = commit.get_loop().create_future()
        commit.add_done_callback(partial(self._committed, answer, visit, content, apart))
        return answer

    def _committed(
        self,
        answer: asyncio.Future[Reply | None],
        visit: _Visit,
        content: Content,
        apart: tuple[str, ...],
        commit: asyncio.Future[QueuedMessage],
    ) -> None:
        if commit.cancelled():
            error: BaseException | None = asyncio.CancelledError("the store was closed")
        else:
            error = commit.exception()
        if error is not None:
            content.discard()
            reply = self._storage_fault(error, visit)
        else:
            message = commit.result()
            size = message.body.size
            visit.octets += size
            self._metrics.count("messages", "quarantined" if apart else "accepted")
            self._metrics.count("octets", amount=size)
            reply = replies.queued(message.id)
            self._hand_over(message)
            if _log.isEnabledFor(logging.INFO):
                self._journal(message, size, apart, visit)
        if not answer.done():  # the session may have ended meanwhile
            answer.set_result(reply)

    def _hand_over(self, message: QueuedMessage) -> None:
        try:
            self._accept(message)
        except Exception:  # noqa: BLE001 - the runner's fault is not the client's
            # The message is durable, so the client is told 250 all the same; the runner finds it in the store.
            _log.exception("the queue runner did not take message %s", message.id)

    def _journal(self, message: QueuedMessage, size: int, apart: tuple[str, ...], visit: _Visit) -> None:
        envelope = message.envelope
        origin = envelope.origin
        record(
            _log,
            "accepted",
            id=message.id,
            session=visit.session,
            listener=self._role,
            ip=origin.ip,
            helo=origin.helo,
            protocol=origin.protocol,
            cipher=origin.cipher or None,
            identity=origin.identity or None,
            sender=str(envelope.reverse_path),
            recipients=[str(recipient.address) for recipient in envelope.recipients],
            size=size,
            quarantine=list(apart) or None,
            forwarded=[f"{name}={value}" for name, value in (visit.forwarded or {}).items()] or None,
        )

    def _storage_fault(self, error: BaseException, visit: _Visit) -> Reply:
        """What the client is told, after the journal was told all of it."""
        # RFC 5321 §4.2.3 has 452 for a lack of room and 451 for an error in processing; RFC 3463 §3.4 has X.3.1 and
        # X.3.0 for them.
        full = isinstance(error, StoreFull) or (isinstance(error, OSError) and error.errno in NO_ROOM)
        self._metrics.count("storage_faults", "full" if full else "failed")
        detail = str(error)
        record(_log, "storage-fault", logging.ERROR, session=visit.session, error=type(error).__name__, detail=detail)
        return replies.NO_ROOM if full else replies.HOOK_FAILED


def _origin(session: ServerSession) -> Origin:
    tls, identity = session.tls, session.identity
    return Origin(
        session.peer.ip,
        session.helo,
        session.protocol,
        "" if tls is None else received.cipher(tls.cipher),
        "" if identity is None else identity.name,
    )
