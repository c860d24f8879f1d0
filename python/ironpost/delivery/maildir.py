"""Delivery into Maildirs: one file per recipient, written in `tmp`, synced, then linked into `new`.

Promises: the outcome is DELIVERED once file and directory are durable (fsync of both); a reader of a Maildir never
sees a partial message; file names consist of time, process id, random token, host name and size, never of an address,
and paths only of what `path_template` lets through (SECURITY R42); files are 0600 and directories 0700 (R47). Content
is unchanged except for LF line endings, as usual in Unix mailboxes, below Return-Path (RFC 5321 §4.4), Delivered-To
(RFC 9228) and X-Original-To. Large content is written in pieces, and the event loop's thread does no disk I/O.
Whatever is wrong with a mailbox has a code and a detail that says what to do (`mailbox`).

Several recipients of one message in one Maildir get a file each; equal addresses share one. Messages that arrive while
others are written form the next batch, and those for one Maildir share the sync of its directory. Batches are written
by a process (`maildir_process`), large messages each by a thread. In Maildirs with a configured user each file is
written by a process with the rights of that user (`mailbox_process`).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, cast

from ironpost.delivery import NextHops, concurrently, crashed, unreadable
from ironpost.delivery.mailbox import FULL_WAIT, LOOPS, clean_up, distinct, locate, not_located, not_written, unusable
from ironpost.delivery.mailbox_process import PROCESSES, MailboxProcesses, user_name, verify
from ironpost.delivery.maildir_files import AT_ONCE, File, Job, MaildirWriter, Target, publish
from ironpost.delivery.path_template import COMPONENT_OCTETS, PathError, PathTemplate
from ironpost.message.lineends import LineFeeds
from ironpost.message.trace import FinalContent, delivery_fields, delivery_key
from ironpost.model import Outcome
from ironpost.model.body import BodyDamaged
from ironpost.model.options import Seconds  # noqa: TC001 - `config.declared` reads annotations
from ironpost.routing.directory import DirectoryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from ironpost.delivery.maildir_process import MaildirProcess
    from ironpost.model import Address, Recipient
    from ironpost.model.ports import Clock, Random
    from ironpost.queue.store import QueuedMessage, QueuedRecipient
    from ironpost.routing.directory import Directory
    from ironpost.routing.route import Route

THREADS: Final = 4
"""Threads that write large messages, and batches where there is no process."""
LARGE: Final = 1 << 18
"""Octets from which a message is large: sending it to the process would cost more than a thread."""
BATCH: Final = 32
"""Messages in a batch."""
_FOLDER: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
"""Details that can be the name of a folder: nothing that is hidden, empty or encoded (SECURITY R42)."""


@dataclass(frozen=True, slots=True)
class MaildirOptions:
    """`[[local.delivery]] maildir = { path = "/srv/mail/{domain}/{local}" }`: into a Maildir."""

    path: PathTemplate
    """Where the Maildirs are; `{domain}`, `{local}` and `{address}` stand for parts of the address. Without any of them
    it is one Maildir for all. What is above the first of them must exist, the rest is created."""
    create: bool = True
    """Whether a Maildir that does not exist is created by the first mail for it."""
    folders: bool = False
    """Whether mail to `jo+news@mail.example` goes into the folder `.news` of the Maildir, in lower case, if that exists
    (Maildir++)."""
    create_folders: bool = False
    """Whether such a folder is created by the first mail for it; only with `folders`."""
    full_wait: Seconds = FULL_WAIT
    """How long a message waits for room in a full mailbox before it is returned."""
    user: Annotated[str, user_name] = ""
    """The user who owns the Maildirs and writes them; `{local}` in it is the local part. Only a server that runs as
    root can set another user than that of the server."""

    def verify(self) -> None:
        """See `delivery.local.Verifiable`."""
        if why := unusable(self.path):
            raise ValueError(f"path: {why}")
        verify(self.user)

    def __str__(self) -> str:
        return str(self.path)


class Maildir:
    """The delivery agent of all Maildirs. Implements `ironpost.delivery.RouteAgent`; `Route.options` are
    `MaildirOptions`."""

    def __init__(
        self,
        *,
        clock: Clock,
        random: Random,
        host: str = "localhost",
        directory: Callable[[], Directory] | None = None,
        process: MaildirProcess | None = None,
    ) -> None:
        """Create an agent.

        Args:
            clock: time.
            random: randomness.
            host: our host name.
            directory: gives the directory that knows the mailboxes of addresses; without it each address is one.
            process: writes batches; if None, a thread does.
        """
        self._clock = clock
        self._random = random
        self._directory = directory
        self._domain = host
        self._host = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "_" for c in host) or "localhost"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="maildir")
        self._process = process
        self._processes = MailboxProcesses()
        """Write the Maildirs of other users."""
        self._waiting: deque[tuple[Job, asyncio.Future[list[Outcome]]]] = deque()
        """Messages that no batch has yet, and where their outcomes are expected."""
        self._publishing: asyncio.Future[list[list[Outcome]]] | None = None
        """The outcomes of the batch that is being published."""

    async def close(self) -> None:
        """Finish running writes, and end the threads and the process. No delivery may begin after this."""
        while self._publishing is not None:
            await asyncio.wait([self._publishing])
        if self._process is not None:
            await self._process.close()
        await asyncio.to_thread(self._threads.shutdown)

    async def deliver(
        self, message: QueuedMessage, recipients: Sequence[QueuedRecipient], route: Route
    ) -> Sequence[tuple[int, Outcome]]:
        """Write one file for each distinct address among `recipients`."""
        options = cast("MaildirOptions", route.options)
        final = self._clock.now() - message.accepted >= options.full_wait
        outcomes: dict[Address, Outcome] = {}
        if options.user:
            copies = distinct(recipients)
            writing = (self._write_as_user(message, each, options, final) for each in copies.values())
            outcomes = dict(zip(copies, await concurrently(writing, PROCESSES), strict=True))
            return [(each.number, outcomes[each.recipient.address]) for each in recipients]
        targets: dict[Target, list[Recipient]] = {}
        for address, recipient in distinct(recipients).items():
            try:
                target, _ = await self._target(address, options)
            except (DirectoryError, PathError) as error:
                outcomes[address] = not_located(error)
            except Exception as error:  # noqa: BLE001 - one recipient never affects the others
                outcomes[address] = crashed(error)
            else:
                targets.setdefault(target, []).append(recipient)
        if len(targets) == 1 and not outcomes:  # the usual case
            ((target, group),) = targets.items()
            outcomes |= await self._write(message, target, group, final)
        else:
            groups = (self._write(message, target, group, final) for target, group in targets.items())
            done = await concurrently(groups, BATCH)  # each may hold `AT_ONCE` octets
            for group, written in zip(targets.values(), done, strict=True):
                outcomes |= {each.address: written for each in group} if isinstance(written, Outcome) else written
        return [(each.number, outcomes[each.recipient.address]) for each in recipients]

    async def preview(self, address: Address, route: Route) -> NextHops:
        """The Maildir, and the folder if there may be one."""
        try:
            target, _ = await self._target(address, cast("MaildirOptions", route.options))
        except (DirectoryError, PathError) as error:
            return NextHops("", failure=not_located(error).reply)
        return NextHops(f"Maildir {target.maildir}" + (f", folder {target.folder}" if target.folder else ""))

    async def _target(self, address: Address, options: MaildirOptions) -> tuple[Target, Address]:
        """Where the mail of an address goes, and the address of that mailbox."""
        directory = None if self._directory is None else self._directory()
        path, mailbox, detail, quota = await locate(address, options.path, directory, self._domain)
        detail = detail.lower()
        folder = (
            f".{detail}" if options.folders and _FOLDER.fullmatch(detail) and len(detail) < COMPONENT_OCTETS else ""
        )
        return Target(path, options.path.base, options.create, folder, options.create_folders, quota), mailbox

    async def _write_as_user(
        self, message: QueuedMessage, recipient: Recipient, options: MaildirOptions, final: bool
    ) -> Outcome:
        """Write the file of a recipient by a process with the rights of the Maildir's user."""
        try:
            target, mailbox = await self._target(recipient.address, options)
        except (DirectoryError, PathError) as error:
            return not_located(error)
        # The process works in another directory.
        target = target._replace(maildir=target.maildir.absolute(), base=target.base.absolute())
        top = delivery_fields(message.envelope.reverse_path, recipient, self._domain)
        content, lines = FinalContent(top), LineFeeds()

        async def pieces() -> AsyncIterator[bytes]:
            async for piece in message.body.pieces():
                yield lines.feed(content.feed(piece))
                self._refuse_loops(content, [recipient])
            yield lines.feed(content.finish()) + lines.finish()
            self._refuse_loops(content, [recipient])

        file = File(target, self._name())
        job = Job(file, [], target, [self._name()], [top.replace(b"\r\n", b"\n")], self._clock.now(), final)
        try:
            return await self._processes.write(options.user, mailbox, MaildirWriter(job), pieces())
        except _LoopError:
            return LOOPS
        except BodyDamaged as error:
            return unreadable(error)
        except OSError as error:
            return not_written(error, target.maildir)

    async def _write(
        self, message: QueuedMessage, target: Target, recipients: Sequence[Recipient], final: bool
    ) -> dict[Address, Outcome]:
        """Write the files of recipients in one Maildir; an outcome for each."""
        try:
            outcomes = await self._attempt(message, target, recipients, final)
        except BodyDamaged as error:
            outcomes = [unreadable(error)] * len(recipients)
        except OSError as error:
            outcomes = [not_written(error, target.maildir)] * len(recipients)
        except _LoopError as loop:
            looping = {each.address: LOOPS for each in loop.recipients}
            rest = [each for each in recipients if each.address not in looping]
            return looping | (await self._write(message, target, rest, final) if rest else {})
        return {each.address: outcome for each, outcome in zip(recipients, outcomes, strict=True)}

    async def _attempt(
        self, message: QueuedMessage, target: Target, recipients: Sequence[Recipient], final: bool
    ) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        threads = self._threads
        fields = [delivery_fields(message.envelope.reverse_path, each, self._domain) for each in recipients]
        names = [self._name() for _ in recipients]
        file = File(target, self._name())
        content = FinalContent(fields[0])
        lines = LineFeeds()
        held: list[bytes] = []
        size = 0
        try:
            async for piece in message.body.pieces():
                piece = lines.feed(content.feed(piece))
                if piece:
                    held.append(piece)
                    size += len(piece)
                if size >= AT_ONCE:
                    self._refuse_loops(content, recipients)
                    await loop.run_in_executor(threads, file.write, held)
                    held, size = [], 0
            held += (lines.feed(content.finish()), lines.finish())
            self._refuse_loops(content, recipients)
            tops = [top.replace(b"\r\n", b"\n") for top in fields]
            job = Job(file, held, target, names, tops, self._clock.now(), final)
            if file.size or size >= LARGE:
                return (await loop.run_in_executor(threads, publish, [job]))[0]
            done: asyncio.Future[list[Outcome]] = loop.create_future()
            self._waiting.append((job, done))
            if self._publishing is None:
                self._next_batch(loop)
            return await done
        except BaseException:
            # Cancelled, or the body cannot be read. A thread may still be writing, so a thread cleans up after it.
            clean_up(threads, file.abandon)
            raise

    def _refuse_loops(self, content: FinalContent, recipients: Sequence[Recipient]) -> None:
        """Stop mail that was delivered to a recipient before, and forwarded back to it outside this system."""
        if content.earlier:
            looping = [each for each in recipients if delivery_key(each.address, self._domain) in content.earlier]
            if looping:
                raise _LoopError(looping)

    def _next_batch(self, loop: asyncio.AbstractEventLoop) -> None:
        batch: list[tuple[Job, asyncio.Future[list[Outcome]]]] = []
        while self._waiting and len(batch) < BATCH:
            job, done = self._waiting.popleft()
            if not done.done():  # else the delivery was cancelled
                batch.append((job, done))
        if not batch:
            return
        jobs = [job for job, _ in batch]
        published: asyncio.Future[list[list[Outcome]]]
        if self._process is None:
            published = loop.run_in_executor(self._threads, publish, jobs)
        else:
            published = loop.create_task(self._process.publish(jobs))
        self._publishing = published
        published.add_done_callback(partial(self._batch_done, loop, [done for _, done in batch]))

    def _batch_done(
        self,
        loop: asyncio.AbstractEventLoop,
        waiting: list[asyncio.Future[list[Outcome]]],
        published: asyncio.Future[list[list[Outcome]]],
    ) -> None:
        self._publishing = None
        error = asyncio.CancelledError() if published.cancelled() else published.exception()
        for number, done in enumerate(waiting):
            if done.done():
                continue
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(published.result()[number])
        if self._waiting:
            self._next_batch(loop)

    def _name(self) -> str:
        now = self._clock.now()
        seconds = int(now)
        return f"{seconds}.M{int((now - seconds) * 1e6):06d}P{os.getpid()}R{self._random.token()}.{self._host}"


class _LoopError(Exception):
    """The message was delivered to some of its recipients before."""

    def __init__(self, recipients: Sequence[Recipient]) -> None:
        super().__init__("mail loops")
        self.recipients = recipients
