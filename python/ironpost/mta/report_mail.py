"""Queues reports to other domains as messages, which are signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ironpost.model import Envelope, Recipient
from ironpost.model.parameters import Notify
from ironpost.queue.codec import NO_PARAMETERS
from ironpost.queue.store import NewMessage
from ironpost.routing.directory import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ironpost.model import Address, Value
    from ironpost.model.ports import Clock, Random
    from ironpost.mta.signing import Signing
    from ironpost.queue.store import QueuedMessage, Store
    from ironpost.routing.directory import Directory


class ReportMail:
    """Queues the reports of one server."""

    def __init__(
        self,
        *,
        store: Store,
        accept: Callable[[QueuedMessage], None],
        directory: Callable[[], Directory],
        signing: Signing,
        clock: Clock,
        random: Random,
    ) -> None:
        """
        Args:
            store: the queue.
            accept: queues a message after its commit (`QueueRunner.accept`).
            directory: returns the directory in which recipients are looked up: a report may be for an alias here.
            signing: the keys with which reports are signed.
            clock: time.
            random: ids of messages.
        """
        self._store = store
        self._accept = accept
        self._directory = directory
        self._signing = signing
        self._clock = clock
        self._random = random

    async def queue(
        self, sender: Address, content: bytes, to: Sequence[Address], parameters: Mapping[str, Value] = NO_PARAMETERS
    ) -> str:
        """Queue a report; return the id of the message.

        It has a sender, because only mail for which a standard requires a null reverse-path should have one
        (RFC 5321 §4.5.5), and it asks for no bounces.

        Args:
            sender: the reverse-path.
            content: the message.
            to: its recipients.
            parameters: of MAIL; SMTPUTF8 is added if a recipient needs it.

        Raises:
            OSError: the store could not take it.
        """
        now, identifier = self._clock.now(), self._random.token()
        asked = tuple(Recipient(each, {"NOTIFY": Notify.NEVER}) for each in to)
        expanded = expand(asked, self._directory(), accepted=0)
        recipients = expanded if isinstance(expanded, tuple) else await expanded
        utf8: dict[str, Value] = {"SMTPUTF8": None} if any(each.needs_smtputf8 for each in to) else {}
        spool = self._store.spool()
        try:
            if (pending := spool.write(self._signing.signed(content, now))) is not None:
                await pending
            envelope = Envelope(sender, recipients, {**parameters, **utf8})
            message = await self._store.commit(NewMessage(identifier, envelope, now, b"", spool))
        except BaseException:
            spool.discard()
            raise
        self._accept(message)
        return identifier
