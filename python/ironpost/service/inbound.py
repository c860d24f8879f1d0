"""Mail in: the handler that answers a server session through policy and puts accepted mail into the store.

Promises: 250 is said when the store has committed, and never before (RFC 5321 §4.2.5, §6.1); a message that is
committed reaches the queue runner even if its client is gone by then. A recipient is accepted only if policy says why.
A store that is full or failing costs the transaction a 452 or 451, and nothing else. One record in the journal for each
message accepted, each refusal and each session.
Costs: no task and no coroutine for a message if the store answers with a Future and no check awaits anything.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ironpost.message import received
from ironpost.message.trace import Hops
from ironpost.model import Action, Origin
from ironpost.policy import Decision, Facts, Stage
from ironpost.protocol import replies
from ironpost.queue.store import NewMessage
from ironpost.service.journal import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ironpost.model import Address, Reply, Value, Verdict
    from ironpost.model.body import Spool
    from ironpost.model.ports import Clock, Random
    from ironpost.policy import Policy
    from ironpost.protocol.handler import Answer, ContentAnswer
    from ironpost.protocol.server import ServerSession
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.wire import BodyEnd

HEAD: Final = 64 * 1024
"""Octets from the start of the content that policy may look at."""

_log: Final = logging.getLogger("ironpost.inbound")


class _Content:
    """The store's spool, and what policy wants to know of what went by, without asking the store."""

    __slots__ = ("_head", "_hops", "_room", "spool")

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self._head: list[bytes] = []
        self._room = HEAD
        self._hops: Hops | None = None
        """Only for content that is longer than the head."""

    @property
    def size(self) -> int:
        return self.spool.size

    @property
    def head(self) -> bytes:
        return self._head[0] if len(self._head) == 1 else b"".join(self._head)

    @property
    def hops(self) -> int:
        return (self._hops or _counted(self.head)).count

    def write(self, piece: bytes) -> Awaitable[None] | None:
        room = self._room
        if len(piece) <= room:
            self._head.append(piece)
            self._room = room - len(piece)
        else:
            if self._hops is None:
                self._hops = _counted(self.head)
            self._hops.feed(piece)
            if room:
                self._head.append(piece[:room])
                self._room = 0
        return self.spool.write(piece)

    def discard(self) -> None:
        self._head.clear()
        self.spool.discard()


def _counted(head: bytes) -> Hops:
    hops = Hops()
    hops.feed(head)
    return hops


@dataclass(slots=True)
class _Visit:
    """One session as the journal will tell it."""

    facts: Facts
    started: float
    messages: int = 0
    octets: int = 0
    refused: int = 0
    """Decisions of policy against the client."""


class Inbound:
    """The `protocol.handler.Handler` of the mail transfer agent; one for any number of sessions."""

    claims: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        store: Store,
        policy: Policy,
        clock: Clock,
        random: Random,
        hostname: str,
        accept: Callable[[QueuedMessage], None],
    ) -> None:
        """A handler over `store`.

        Args:
            store: where accepted mail goes.
            policy: who may do what.
            clock: for Received and for the queue.
            random: its tokens become queue ids.
            hostname: what Received says `by`: a domain or an address literal.
            accept: takes each message after its commit: the queue runner's.

        Raises:
            HeaderError: `hostname` is neither a domain nor an address literal.
        """
        self._store = store
        self._policy = policy
        self._clock = clock
        self._random = random
        self._hostname = received.checked_name(hostname)
        self._accept = accept

    # The questions, in the order of a session

    def connect(self, session: ServerSession) -> Answer:
        """Asks policy about the client's address."""
        visit = _Visit(Facts(ip=session.peer.ip), self._clock.monotonic())
        session.extra = visit
        return self._ask(Stage.CONNECT, visit)

    def hello(self, session: ServerSession, verb: str, domain: str) -> Answer:
        """Asks policy about the client's name."""
        visit: _Visit = session.extra
        del verb
        visit.facts.helo = domain
        return self._ask(Stage.HELLO, visit)

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Asks policy about the sender."""
        visit: _Visit = session.extra
        visit.facts.reverse_path = reverse_path
        visit.facts.mail_parameters = parameters
        return self._ask(Stage.MAIL, visit)

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """Asks policy about one recipient; without a check that accepts it, it is refused."""
        visit: _Visit = session.extra
        visit.facts.forward_path = forward_path
        visit.facts.rcpt_parameters = parameters
        return self._ask(Stage.RECIPIENT, visit)

    def content(self, session: ServerSession) -> ContentAnswer:
        """A spool of the store; 452 if it has no room for the size that MAIL declared (RFC 1870 §6.1)."""
        transaction = session.transaction
        assert transaction is not None  # content follows RCPT
        declared = transaction.parameters.get("SIZE")
        try:
            spool = self._store.spool(declared or None)
        except OSError as error:
            return _storage_fault(error)
        return _Content(spool)

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> Answer:
        """Asks policy about the content, then commits it with its Received field on top."""
        assert isinstance(content, _Content)
        visit: _Visit = session.extra
        visit.facts.head = content.head
        visit.facts.hops = content.hops
        visit.facts.size = facts.size
        try:
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
        """Not claimed."""
        del session, argument
        return replies.NODE_NOT_ALLOWED

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Answer:
        """Not claimed."""
        del session, domains
        return replies.TURN_REFUSED

    async def pause(self, session: ServerSession, seconds: float, then: Any) -> Any:
        """Holds an answer back (`model.verdict.tarpit`)."""
        del session
        await self._clock.sleep(seconds)
        return then

    def disconnect(self, session: ServerSession) -> None:
        """Writes the session into the journal."""
        visit: _Visit | None = session.extra
        if visit is not None:
            record(
                _log,
                "session",
                ip=visit.facts.ip,
                helo=visit.facts.helo,
                messages=visit.messages,
                octets=visit.octets,
                refused=visit.refused,
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
        """The verdict, unless it is the usual one; everything else is written into the journal."""
        verdict = decision.verdict
        if verdict.action is Action.ACCEPT:
            return None
        visit.refused += verdict.refused
        facts = visit.facts
        reply = verdict.final.reply
        record(
            _log,
            "refused" if verdict.refused else "policy",
            stage=stage.value,
            action=verdict.final.action.value,
            delay=verdict.seconds or None,
            ip=facts.ip,
            helo=facts.helo,
            sender=None if facts.reverse_path is None else str(facts.reverse_path),
            recipient=str(facts.forward_path) if stage is Stage.RECIPIENT else None,
            reply=None if reply is None else str(reply),
            reasons=list(decision.reasons),
        )
        return verdict

    # Content

    async def _commit_later(
        self, session: ServerSession, visit: _Visit, content: _Content, decision: Decision | Awaitable[Decision]
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
        self, session: ServerSession, visit: _Visit, content: _Content, decision: Decision
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
        envelope = transaction.envelope(Origin(visit.facts.ip, session.helo, session.protocol))
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
        try:
            pending = self._store.commit(NewMessage(identifier, envelope, now, trace, content.spool))
        except Exception as error:  # noqa: BLE001 - whatever a store raises, the client gets an answer
            content.discard()
            return _storage_fault(error)
        # A task only if the store needs one. The commit is never cancelled: a message that became durable must reach
        # the runner, even if nobody waits for the answer any more.
        commit = asyncio.ensure_future(pending)
        answer: asyncio.Future[Reply | None] = commit.get_loop().create_future()
        commit.add_done_callback(partial(self._committed, answer, visit, content))
        return answer

    def _committed(
        self,
        answer: asyncio.Future[Reply | None],
        visit: _Visit,
        content: _Content,
        commit: asyncio.Future[QueuedMessage],
    ) -> None:
        if commit.cancelled():
            error: BaseException | None = asyncio.CancelledError("the store was closed")
        else:
            error = commit.exception()
        if error is not None:
            content.discard()
            reply = _storage_fault(error)
        else:
            message = commit.result()
            size = message.body.size
            visit.messages += 1
            visit.octets += size
            reply = replies.queued(message.id)
            self._hand_over(message)
            if _log.isEnabledFor(logging.INFO):
                _journal(message, size)
        if not answer.done():  # the session may have ended meanwhile
            answer.set_result(reply)

    def _hand_over(self, message: QueuedMessage) -> None:
        try:
            self._accept(message)
        except Exception:  # noqa: BLE001 - the runner's fault is not the client's
            # The message is durable, so the client is told 250 all the same; the runner finds it in the store.
            _log.exception("the queue runner did not take message %s", message.id)


def _journal(message: QueuedMessage, size: int) -> None:
    envelope = message.envelope
    record(
        _log,
        "accepted",
        id=message.id,
        ip=envelope.origin.ip,
        helo=envelope.origin.helo,
        protocol=envelope.origin.protocol,
        sender=str(envelope.reverse_path),
        recipients=[str(recipient.address) for recipient in envelope.recipients],
        size=size,
    )


def _storage_fault(error: BaseException) -> Reply:
    """What the client is told, after the journal was told all of it."""
    # A store over the network raises these when it is out of reach, which says nothing about room.
    full = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError)
    record(_log, "storage-fault", logging.ERROR, error=type(error).__name__, detail=str(error))
    return replies.NO_ROOM if full else replies.HOOK_FAILED
