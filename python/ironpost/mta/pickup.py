"""Queues the messages in the drop directory, which `ironpost sendmail` wrote.

Promises: a message is queued once, whatever happens in between: its file's name is the key of its submission, and the
file is removed after the commit. Content is normalised and signed as on a listener for submission (RFC 6409 §8). A file
that cannot be used is renamed and logged, never removed. If the store cannot take a message now, the directory cannot
answer, or anything else fails, its file waits, and the others do not.
Refuses: NUL, a faulty header section, a message in a mail loop (SECURITY R48), and what exceeds the limits of size and
recipients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost.message import received
from ironpost.message.lineends import NetworkLines
from ironpost.message.section import Header
from ironpost.message.trace import MAX_RECEIVED
from ironpost.model.text import counted, error_text
from ironpost.mta.inbound import MESSAGE_ID_OCTETS
from ironpost.mta.inspection import InspectedSpool
from ironpost.mta.intake import SubmittedContent
from ironpost.mta.signing import Signatures
from ironpost.queue.store import NewMessage, Submission, SubmissionPending, SubmittedBefore
from ironpost.routing.archive import archived
from ironpost.routing.directory import DirectoryError, expand
from ironpost.storage import drop
from ironpost.telemetry.events import record
from ironpost.telemetry.rewriting import log_rewritten

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ironpost.model.ports import Clock, Metrics, Random
    from ironpost.mta.signing import Signing
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.routing.archive import ArchiveRule
    from ironpost.routing.directory import Directory
    from ironpost.routing.rewriting import Rewriting, Rewritten

CONCURRENCY: Final = 16
"""Files that are read at a time; their commits share a sync."""
RETRY_SECONDS: Final = 30.0
"""Time in seconds until a file that could not be queued is read again."""
_NOT_OURS: Final = frozenset({errno.EACCES, errno.ELOOP, errno.EPERM})
"""Errors of a file that the command cannot have written: a link, a directory, one that the server may not read."""

log = logging.getLogger("ironpost.sendmail")


class PickedUp(NamedTuple):
    """The result of one run."""

    queued: int
    refused: int
    """Files that were renamed."""
    waiting: int
    """Files that could not be queued now."""


class _Result(Enum):
    """The result for one file."""

    QUEUED = "queued"
    REFUSED = "refused"
    WAITING = "waiting"


class _Refused(Exception):
    """A file cannot be used. The text is the reason."""


class Pickup:
    """Takes messages from a drop directory into the queue."""

    def __init__(
        self,
        *,
        store: Store,
        accept: Callable[[QueuedMessage], None],
        directory: Callable[[], Directory],
        archives: Callable[[], tuple[ArchiveRule, ...]],
        rewriting: Callable[[], Rewriting | None],
        signing: Signing,
        clock: Clock,
        random: Random,
        hostname: str,
        metrics: Metrics,
    ) -> None:
        """Create it; `run` does the work.

        Args:
            store: the queue.
            accept: called with each message after its commit (`QueueRunner.accept`).
            directory: expands aliases.
            archives: the archive copies.
            rewriting: the rules for mail that arrives.
            signing: the keys with which mail is signed.
            clock: time.
            random: its tokens become queue ids.
            hostname: this server's name in Received and Message-ID.
            metrics: counts messages.
        """
        self._store = store
        self._accept = accept
        self._directory = directory
        self._archives = archives
        self._rewriting = rewriting
        self._signing = signing
        self._clock = clock
        self._random = random
        self._hostname = hostname
        self._metrics = metrics
        self._again: dict[str, float] = {}
        """When each file that could not be queued is read again, by its name."""

    async def run(self, path: Path, *, octets: int, recipients: int) -> PickedUp:
        """Queue what is in the directory.

        Args:
            path: the drop directory; created if it does not exist.
            octets: maximum size of a message.
            recipients: maximum number of its recipients.

        Raises:
            OSError: the directory cannot be used.
        """
        now = self._clock.now()
        names = await asyncio.to_thread(_names, path, now)
        self._again = {name: self._again[name] for name in names if self._again.get(name, 0.0) > now}
        due = [name for name in names if name not in self._again]
        results: list[_Result] = []
        for start in range(0, len(due), CONCURRENCY):
            part = due[start : start + CONCURRENCY]
            results += await asyncio.gather(*(self._take(path, name, octets, recipients) for name in part))
        queued, refused = results.count(_Result.QUEUED), results.count(_Result.REFUSED)
        return PickedUp(queued, refused, len(names) - queued - refused)

    async def _take(self, path: Path, name: str, octets: int, recipients: int) -> _Result:
        """Queue one file and remove it, or set it aside; after any error it waits."""
        try:
            return await self._try(path, name, octets, recipients)
        except SubmissionPending:
            return _Result.WAITING  # the next run finds out whether it was queued
        except OSError as error:
            detail = error_text(error)
        except DirectoryError as error:
            detail = str(error)
        except Exception as error:  # one file that cannot be queued never stops the others (R25)
            log.exception("%s cannot be queued", path / name)
            detail = f"{type(error).__name__}: {error}"
        self._again[name] = self._clock.now() + RETRY_SECONDS
        record(log, "drop-waits", logging.WARNING, file=str(path / name), detail=detail)
        return _Result.WAITING

    async def _try(self, path: Path, name: str, octets: int, recipients: int) -> _Result:
        try:
            file = await asyncio.to_thread(_opened, path, name)
            try:
                await self._queue(file, name, octets, recipients)
            finally:
                await asyncio.to_thread(file.close)
        except _Refused as error:
            renamed = await asyncio.to_thread(drop.set_aside, path, name)
            record(log, "drop-refused", logging.ERROR, file=str(renamed), detail=str(error))
            return _Result.REFUSED
        await asyncio.to_thread(drop.remove, path, name)
        return _Result.QUEUED

    async def _queue(self, file: drop.DropFile, name: str, octets: int, recipients: int) -> None:
        envelope = file.envelope
        if len(envelope.recipients) > recipients:
            raise _Refused(f"more than {counted(recipients, 'recipient')}")
        rules = self._rewriting()
        changes: list[Rewritten] = []
        rewrite = None if rules is None else partial(rules.header, changes=changes, own=True)
        signer = self._signing.begin(envelope.origin, self._clock.now())
        spool = InspectedSpool(self._store.spool(), rewrite=rewrite, signer=signer)
        content = SubmittedContent(spool, spool.reader)
        try:
            await _copy(file, content, octets)
            content.finish()
            spool.finish()
            content.spool = spool.spool
            _check_size(content, octets)
            if fault := content.fault or spool.fault:
                raise _Refused(fault)
            if content.header.received >= MAX_RECEIVED:
                raise _Refused(f"in a mail loop: {content.header.received} Received fields")
            if rules is not None:
                envelope = rules.envelope(envelope, changes)
            envelope = archived(envelope, self._archives())
            expanded = expand(envelope.recipients, self._directory(), accepted=0)
            envelope = envelope._replace(recipients=expanded if isinstance(expanded, tuple) else await expanded)
            now, identifier = self._clock.now(), self._random.token()
            to = file.envelope.recipients
            trace = received.received(
                drop.ORIGIN,
                by=self._hostname,
                id=identifier,
                now=now,
                recipient=to[0].address if len(to) == 1 else None,
                utf8=envelope.smtputf8,
            )
            added = content.additions(now=now, id=identifier, host=self._hostname)
            signatures = Signatures() if signer is None else signer.finish(added, envelope)
            message_id = content.header.first("Message-ID") or Header(added).first("Message-ID") or b""
            new = NewMessage(
                identifier, envelope, now, signatures.fields + trace + added, content.spool,
                message_id=message_id[:MESSAGE_ID_OCTETS].decode("utf-8", "backslashreplace"),
                submission=Submission(name, file.digest()),
            )  # fmt: skip
            message = await self._store.commit(new)
        except SubmittedBefore as before:
            content.discard()
            if before.same:
                return
            raise _Refused(f"a message with this name was queued before, as {before.message}") from None
        except BaseException:
            content.discard()
            raise
        log_rewritten(log, self._metrics, identifier, changes)
        self._metrics.count("messages", "accepted")
        self._metrics.count("octets", amount=message.body.size)
        record(
            log,
            "picked-up",
            logging.INFO,
            id=identifier,
            uid=file.owner,
            sender=str(envelope.reverse_path),
            recipients=[str(recipient.address) for recipient in envelope.recipients],
            size=message.body.size,
            signed=list(signatures.keys) or None,
        )
        self._accept(message)


def _names(path: Path, now: float) -> list[str]:
    """The files to queue, oldest first, in one call for a thread: most runs find none."""
    drop.prepare(path)
    drop.remove_stale(path, now)
    return drop.waiting(path)


def _opened(path: Path, name: str) -> drop.DropFile:
    try:
        return drop.DropFile(path, name)
    except drop.DropError as error:
        raise _Refused(str(error)) from None
    except OSError as error:
        if error.errno not in _NOT_OURS:
            raise  # too many open files, for instance
        raise _Refused(error_text(error)) from None


async def _copy(file: drop.DropFile, content: SubmittedContent, octets: int) -> None:
    lines = NetworkLines()
    while piece := await asyncio.to_thread(file.read):
        if b"\0" in piece:
            raise _Refused("its content has a NUL")
        _check_size(content, octets)
        if (waiter := content.write(lines.feed(piece))) is not None:
            await waiter
    if (waiter := content.write(lines.finish())) is not None:
        await waiter


def _check_size(content: SubmittedContent, octets: int) -> None:
    if content.size > octets:
        raise _Refused(f"larger than {octets} octets")
