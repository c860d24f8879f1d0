"""Records the outcomes of attempts: new states of recipients, the next attempt, and bounces.

Promises: an outcome is recorded before anything else is done about it, and repeatedly if the store fails. A recipient
that failed, or expired (`queue.retry`), is reported to the sender in the same commit, unless NOTIFY says otherwise
(RFC 3461 §4.1); never to a null reverse-path (RFC 5321 §4.5.5, §6.1). Recipients of a message that are deferred
together are due together, so that the next attempt is one copy (RFC 5321 §4.5.4.1). A recipient whose attempt raises is
deferred; after `POISON_CRASHES` it is held until an operator releases it (SECURITY R25).
Limitations: crashes are counted in memory, so that a restart begins to count again, and an attempt that ends the whole
process does not count.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from ironpost.delivery import crashed
from ironpost.model import Disposition, Outcome
from ironpost.queue.greylisting import greylisted
from ironpost.queue.reply_rules import Ruling
from ironpost.queue.retry import HOUR, RetryPolicy, expired
from ironpost.queue.store import LeaseLost, NewMessage, QueuedRecipient, RecipientState, Update
from ironpost.reports.dsn import (
    RETURNED_OCTETS,
    delay_report,
    failure_report,
    relay_report,
    relay_wanted,
    report_envelope,
    wanted,
    warning_wanted,
)
from ironpost.routing.directory import expand
from ironpost.telemetry.events import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ironpost.model import Envelope
    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.signing import Signing
    from ironpost.queue.reply_rules import ReplyRules
    from ironpost.queue.store import Lease, QueuedMessage, Store
    from ironpost.routing.directory import Directory

POISON_CRASHES: Final = 5
"""Number of consecutive crashes of agents, or of routing, after which a recipient is held."""
UNREPORTED_WAIT: Final = HOUR
"""Seconds until the next attempt when a bounce could not be written; a deadline that passed is put off as long."""
STORE_WAIT: Final = 5.0
"""Seconds after which a store that failed is tried again."""

_NOT_SET_UP: Final = "4.3.5"
"""The status of failures that an operator must correct (RFC 3463 §3.4)."""
_log: Final = logging.getLogger("ironpost.queue")

Result = tuple[QueuedRecipient, Outcome]


class Recorder:
    """Records outcomes in one store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        random: Random,
        *,
        directory: Callable[[], Directory],
        retry: RetryPolicy,
        reporting_mta: str,
        stored: Callable[[Envelope, QueuedRecipient, float], None],
        lease_lost: Callable[[Lease], None],
        metrics: Metrics,
        rules: ReplyRules,
        signing: Signing,
    ) -> None:
        """Create the recorder.

        Args:
            store: the queue.
            clock: time.
            random: jitter, and the ids of bounces.
            directory: returns the directory in which the recipients of bounces are looked up.
            retry: when to try again.
            reporting_mta: our name in bounces, a domain or an address literal.
            stored: called with the envelope, a recipient in it and its due time when that is durable.
            lease_lost: called when a shard has another owner.
            rules: change outcomes by their replies.
            metrics: counts bounces.
            signing: the keys with which reports are signed.
        """
        self._store = store
        self._clock = clock
        self._random = random
        self._directory = directory
        self._retry = retry
        self._reporting_mta = reporting_mta
        self._stored = stored
        self._lease_lost = lease_lost
        self._metrics = metrics
        self._rules = rules
        self._signing = signing
        self._crashes: dict[tuple[str, int], int] = {}
        """Crashes by message and recipient: other recipients of the message may have another route that works."""

    async def crashed(self, message: QueuedMessage, error: Exception) -> Sequence[Result]:
        """Record an attempt that raised before there was an outcome for any recipient. Returns as `settle`."""
        return await self.settle(message, [(to, crashed(error)) for to in message.recipients])

    async def settle(
        self, message: QueuedMessage, results: Sequence[Result], *, ruled: bool = True
    ) -> Sequence[Result]:
        """Record the outcomes of an attempt.

        Args:
            message: with the recipients of the attempt.
            results: their outcomes.
            ruled: whether the reply rules apply; not to what an operator decides.

        Returns:
            The outcomes that were recorded, which differ for recipients that expired, and for those that stay queued
            because their bounce could not be written (deferred); none if the lease was lost.
        """
        now = self._clock.now()
        crashes = {to.number for to, outcome in results if outcome.crash is not None}
        if crashes:
            results = self._count_crashes(message, results)
        rulings = {
            to.number: self._rules.apply(to.recipient.address, outcome) if ruled else Ruling(outcome)
            for to, outcome in results
        }
        results = [(to, rulings[to.number].outcome) for to, _ in results]
        if self._retry.expired(since(message), now):
            results = [
                (to, expired(outcome) if outcome.disposition is Disposition.DEFERRED else outcome)
                for to, outcome in results
            ]
        failures = [
            (to, outcome)
            for to, outcome in results
            if outcome.disposition is Disposition.FAILED and wanted(to.recipient)
        ]
        report: tuple[Envelope, bytes] | None = None
        unreported = False
        if failures:
            try:
                report = await self._report(failure_report, message, failures, now)
            except Exception:  # noqa: BLE001 - one bad message never stops the queue
                _log.exception("the bounce of message %s cannot be written", message.id)
                unreported = True
            else:
                if report is None:
                    recipients = [str(to.recipient.address) for to, _ in failures]
                    record(_log, "unreportable", logging.WARNING, id=message.id, recipients=recipients)
        relays = [(to, outcome) for to, outcome in results if outcome.relayed and relay_wanted(to.recipient)]
        relay = await self._relay(message, relays, now) if relays else None
        due = self._due_times(message, results, rulings, now)
        updates = [
            self._update(message, to, outcome, now, due.get(to.number, now), unreported) for to, outcome in results
        ]
        if not await self._record(message.lease, updates, (report, relay), now):
            return ()
        for update in updates:
            if update.number not in crashes or update.state is not RecipientState.QUEUED:
                self._crashes.pop((message.id, update.number), None)
        for (to, _), update in zip(results, updates, strict=True):
            if update.state is RecipientState.QUEUED:
                self._stored(message.envelope, to._replace(deadline=update.due) if update.put_off else to, update.due)
        for to, outcome in results:
            if outcome.disposition is Disposition.DEFERRED and _newly_greylisted(to, outcome):
                self._metrics.count("recipients_greylisted")
        if report is not None:
            self._metrics.count("bounces")
            self._report_stored(report[0], now)
        if relay is not None:
            self._metrics.count("relay_reports")
            self._report_stored(relay[0], now)
            record(_log, "relay-report", id=message.id, recipients=[str(to.recipient.address) for to, _ in relays])
        for remote, reply, detail in dict.fromkeys(
            (outcome.remote, str(outcome.reply), outcome.reply.detail) for _, outcome in results if outcome.ours
        ):
            self._metrics.count("route_faults")
            record(_log, "route-fault", logging.ERROR, id=message.id, remote=remote, reply=reply, detail=detail)
        for (to, outcome), update in zip(results, updates, strict=True):
            level = logging.ERROR if update.state is RecipientState.HELD else logging.INFO
            if outcome.reply.enhanced == _NOT_SET_UP and not outcome.remote:
                level = max(level, logging.WARNING)
            if _log.isEnabledFor(level):
                _log_outcome(level, message, to, outcome, update, rulings[to.number].rule)
        if unreported:
            return [(to, _deferred(outcome)) for to, outcome in results]
        return results

    def _count_crashes(self, message: QueuedMessage, results: Sequence[Result]) -> list[Result]:
        """Count the attempts that raised, and hold the recipients for which that happened too often."""
        counted: list[Result] = []
        errors: dict[int, Exception] = {}
        count = 0
        for to, outcome in results:
            if (error := outcome.crash) is not None:
                errors[id(error)] = error
                key = message.id, to.number
                crashes = self._crashes[key] = self._crashes.get(key, 0) + 1
                count = max(count, crashes)
                if crashes >= POISON_CRASHES:
                    outcome = replace(outcome, disposition=Disposition.HELD)
            counted.append((to, outcome))
        for error in errors.values():
            _log.error("an attempt at message %s crashed (%d)", message.id, count, exc_info=error)
        if count >= POISON_CRASHES:
            self._metrics.count("poison")
            record(_log, "poison", logging.ERROR, id=message.id, crashes=count)
        return counted

    def _due_times(
        self, message: QueuedMessage, results: Sequence[Result], rulings: Mapping[int, Ruling], now: float
    ) -> dict[int, float]:
        """The next attempt of each deferred recipient, by number.

        Each wait is drawn once, so that recipients which wait for the same reason are attempted together.
        """
        policy, first = self._retry, since(message)
        drawn: dict[float | None, float] = {}
        due: dict[int, float] = {}
        for to, outcome in results:
            if outcome.disposition is not Disposition.DEFERRED:
                continue
            wait = rulings[to.number].wait
            if wait is None:
                wait = outcome.wait
            if wait is None and _newly_greylisted(to, outcome):
                wait = policy.greylist_wait
            if wait not in drawn:
                drawn[wait] = (
                    policy.next_attempt(first, now, self._random)
                    if wait is None
                    else policy.postponed(wait, first, now, self._random)
                )
            due[to.number] = drawn[wait]
        return due

    def _update(
        self,
        message: QueuedMessage,
        to: QueuedRecipient,
        outcome: Outcome,
        now: float,
        due: float,
        unreported: bool,
    ) -> Update:
        attempts = to.attempts + outcome.asked
        if outcome.disposition is Disposition.DELIVERED:
            return Update(message.id, to.number, RecipientState.DELIVERED, attempts, now, outcome)
        if outcome.disposition is Disposition.HELD:
            return Update(message.id, to.number, RecipientState.HELD, attempts, now, outcome)
        if outcome.disposition is Disposition.FAILED:
            if not unreported:
                return Update(message.id, to.number, RecipientState.FAILED, attempts, now, outcome)
            due = now + UNREPORTED_WAIT
            put_off = due if to.deadline is not None and to.deadline <= now else 0.0
            return Update(message.id, to.number, RecipientState.QUEUED, attempts, due, outcome, put_off=put_off)
        return Update(message.id, to.number, RecipientState.QUEUED, attempts, due, outcome)

    async def warn(self, message: QueuedMessage, delays: Sequence[Result], *, late: bool = False) -> bool:
        """Warn the sender that claimed recipients are delayed (RFC 3464 §2.3.3), and end their claims.

        Recipients whose sender wants no warning are only marked. Their due times stay as they are.

        Args:
            message: with these recipients.
            delays: the recipients, each with the outcome of the last attempt.
            late: whether their deadline has passed, which is reported once too. If the report cannot be written, the
                deadline is put off by `UNREPORTED_WAIT`.

        Returns:
            False if the shard has another owner, or a deadline was put off.
        """
        now = self._clock.now()
        told = [(to, outcome) for to, outcome in delays if warning_wanted(to.recipient)]
        report: tuple[Envelope, bytes] | None = None
        put_off = 0.0
        if told and not message.envelope.reverse_path.is_null:
            try:
                retry_until = since(message) + self._retry.expiry
                report = await self._report(partial(delay_report, retry_until=retry_until), message, told, now)
            except Exception:  # noqa: BLE001 - one bad message never stops the queue
                _log.exception("the delay warning of message %s cannot be written", message.id)
                put_off = now + UNREPORTED_WAIT if late else 0.0
        done = not put_off
        updates = [
            Update(
                message.id,
                to.number,
                RecipientState.QUEUED,
                to.attempts,
                to.due,
                warned=done,
                late=late and done,
                put_off=put_off,
            )
            for to, _ in delays
        ]
        if not await self._record(message.lease, updates, (report,), now):
            return False
        for to, _ in delays:
            deadline = (put_off or None) if late else to.deadline
            self._stored(message.envelope, to._replace(deadline=deadline), to.due)
        if not done:
            return False
        if report is not None:
            self._metrics.count("delay_warnings")
            self._report_stored(report[0], now)
            recipients = [str(to.recipient.address) for to, _ in told]
            record(_log, "delay-warning", id=message.id, recipients=recipients)
        return True

    async def _relay(
        self, message: QueuedMessage, relays: Sequence[Result], now: float
    ) -> tuple[Envelope, bytes] | None:
        """Return the report that a message was relayed; None without a sender, or if it cannot be written."""
        try:
            return await self._report(relay_report, message, relays, now)
        except Exception:  # noqa: BLE001 - the mail was relayed, and must not be sent again for this
            _log.exception("the report of relaying message %s cannot be written", message.id)
            return None

    async def _report(
        self, write: Callable[..., bytes], message: QueuedMessage, results: Sequence[Result], now: float
    ) -> tuple[Envelope, bytes] | None:
        """Return a report about recipients that a function of `reports.dsn` writes; None for a null reverse-path."""
        addressed = await self._addressed(message)
        if addressed is None:
            return None
        envelope, head = addressed
        content = write(
            message, results, reporting_mta=self._reporting_mta, now=now, message_id=self._random.token(), head=head
        )
        return envelope, self._signing.signed(content, now)

    async def _addressed(self, message: QueuedMessage) -> tuple[Envelope, bytes] | None:
        """Return the envelope of a report about a message, and the head of its body; None for a null reverse-path."""
        envelope = report_envelope(message)
        if envelope is None:
            return None
        try:
            head = await message.body.head(RETURNED_OCTETS)
        except OSError as error:
            record(_log, "body-fault", logging.ERROR, id=message.id, detail=str(error))
            head = b""
        # The sender may be an alias of ours.
        expanded = expand(envelope.recipients, self._directory(), accepted=0)
        envelope = envelope._replace(recipients=expanded if isinstance(expanded, tuple) else await expanded)
        return envelope, head

    def _report_stored(self, envelope: Envelope, now: float) -> None:
        for number, recipient in enumerate(envelope.recipients):
            self._stored(envelope, QueuedRecipient(number, recipient), now)

    async def _record(
        self, lease: Lease, updates: Sequence[Update], written: Sequence[tuple[Envelope, bytes] | None], now: float
    ) -> bool:
        """Record outcomes, retrying as long as the store fails: a lost outcome is a message sent twice.

        Returns:
            False if the shard has another owner: nothing is recorded, and the other owner attempts the message.
        """
        while True:
            reports: list[NewMessage] = []
            try:
                for envelope, content in filter(None, written):
                    spool = self._store.spool()
                    reports.append(NewMessage(self._random.token(), envelope, now, b"", spool))
                    if (pending := spool.write(content)) is not None:
                        await pending
                # Shielded: stopping the queue runner must not cancel a write that has begun.
                await asyncio.shield(asyncio.ensure_future(self._store.record(lease, updates, reports)))
            except LeaseLost as error:
                for each in reports:
                    each.content.discard()
                record(_log, "lease-lost", logging.WARNING, shard=lease.shard, detail=str(error))
                self._lease_lost(lease)
                return False
            except OSError as error:
                for each in reports:
                    each.content.discard()  # the next try writes it again
                record(_log, "store-fault", logging.ERROR, detail=str(error))
                await self._clock.sleep(STORE_WAIT)
            else:
                return True

    async def postpone(self, message: QueuedMessage, due: float) -> None:
        """Record a later due time for claimed recipients that were not attempted, and end their claims."""
        updates = [Update(message.id, to.number, RecipientState.QUEUED, to.attempts, due) for to in message.recipients]
        if await self._record(message.lease, updates, (), due):
            for to in message.recipients:
                self._stored(message.envelope, to, due)


def since(message: QueuedMessage) -> float:
    """Return the time when the message could first be delivered, in seconds since 1970."""
    return max(message.accepted, message.not_before)


def _newly_greylisted(to: QueuedRecipient, outcome: Outcome) -> bool:
    """Whether a host greylists the recipient and did not at the last attempt; the second time the schedule decides."""
    return greylisted(str(outcome.reply)) and not greylisted(to.reply)


def _deferred(outcome: Outcome) -> Outcome:
    """Return the outcome of a recipient that stays queued if it failed, because its bounce could not be written."""
    failed = outcome.disposition is Disposition.FAILED
    return replace(outcome, disposition=Disposition.DEFERRED) if failed else outcome


def _log_outcome(
    level: int, message: QueuedMessage, to: QueuedRecipient, outcome: Outcome, update: Update, rule: str
) -> None:
    record(
        _log,
        outcome.disposition.value,
        level,
        id=message.id,
        recipient=str(to.recipient.address),
        reply=str(outcome.reply),
        detail=outcome.reply.detail,
        remote=outcome.remote,
        tls=None if outcome.tls is None else str(outcome.tls.level),
        tls_reason=None if outcome.tls is None else outcome.tls.reason,
        rule=rule or None,
        attempts=update.attempts,
        due=update.due if update.state is RecipientState.QUEUED else None,
    )
