"""The output of a server session: replies in order, their counts by class, and the limit on errors.

Promises: replies are written in the order in which they were queued; each is counted once, by its class. The session
ends with 421 at the `ServerSettings.max_errors`th permanent refusal since the last accepted message; a message that is
refused for several recipients counts once.

Standards: RFC 5321 §3.8 and §4.2.3 (421), §4.2.1 (classes); RFC 2033 §4.2 (a reply for each recipient).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ironpost.model import Reply
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.protocol.server.transaction import Peer
    from ironpost.wire import Command

LOG = logging.getLogger("ironpost.protocol")


class Overloaded(Exception):
    """Raised by a hook that cannot handle more work now: a transient failure, logged without a traceback."""


class SessionOutput:
    """The base class of `ServerSession` that queues and counts replies."""

    __slots__ = (
        "_out",
        "closing",
        "deferrals",
        "ended",
        "errors",
        "failures",
        "id",
        "messages",
        "peer",
        "refusals",
        "replies",
        "settings",
    )

    def __init__(self, settings: ServerSettings, peer: Peer) -> None:
        self.settings = settings
        self.peer = peer
        self.id = ""
        """The id of this session in log records; the handler may set it when the client connects."""
        self.closing = False
        """The session has ended: the driver writes the rest of `output`, then closes the connection."""
        self.ended: Reply | None = None
        """The reply with which the server ended the session; None if the client ended it."""
        self.replies = 0
        """Number of replies written."""
        self.deferrals = 0
        """Number of 4yz replies."""
        self.refusals = 0
        """Number of 5yz replies."""
        self.errors = 0
        """Number of 5yz replies since the last accepted message; a message counts once."""
        self.failures = 0
        """Number of hooks that raised."""
        self.messages = 0
        """Number of accepted messages."""
        self._out: list[bytes] = []

    def close(self) -> None:
        """Stop interpreting input; the connection closes when the replies are written."""
        raise NotImplementedError

    @property
    def queued(self) -> bool:
        """Whether output waits to be written."""
        return bool(self._out)

    def output(self) -> bytes:
        """Return the octets to write, and empty the queue."""
        out = self._out
        count = len(out)
        if count == 1:
            octets = out[0]
        elif out:
            octets = b"".join(out)
        else:
            return b""
        self.replies += count
        out.clear()
        return octets

    def write(self, octets: bytes) -> None:
        """Queue a positive reply that is already rendered."""
        self._out.append(octets)

    def reply(self, reply: Reply) -> None:
        """Queue a reply. 5yz counts as an error; 421 ends the session (RFC 5321 §4.2.3)."""
        if reply.code >= 500:
            self.refuse(reply)
            return
        self._out.append(reply.octets)
        if reply.code >= 400:
            self.deferrals += 1
            if reply.code == 421:
                self.ended = reply
                self.close()

    def refuse(self, reply: Reply) -> None:
        """Queue a reply that counts as an error; at the limit queue 421 instead, and end the session."""
        self.errors += 1
        if self.errors >= self.settings.max_errors:
            self.end_with(replies.TOO_MANY_ERRORS)
        else:
            self.refusals += 1
            self._out.append(reply.octets)

    def refuse_fault(self, command: Command, table: Mapping[str, Reply]) -> None:
        """Refuse a command because of its syntax error."""
        fault = command.fault.id if command.fault is not None else "argument-missing"
        self.refuse(table[fault])

    def refuse_unknown_chunk(self, reply: Reply) -> None:
        """Refuse a BDAT whose octets cannot be counted, then close with 421 (RFC 5321 §3.8)."""
        self.refuse(reply)
        self.end_with(replies.CHUNK_LOST)

    def reply_each(self, each: Sequence[Reply]) -> None:
        """Queue one reply for each recipient of a message; together they count as one message or one error."""
        self._out.extend(reply.octets for reply in each)
        self.deferrals += sum(reply.transient for reply in each)
        self.refusals += sum(reply.permanent for reply in each)
        if any(reply.positive for reply in each):
            self.errors = 0
            self.messages += 1
        elif any(reply.permanent for reply in each):
            self.errors += 1
        last = next((reply for reply in each if reply.code == 421), None)
        if last is not None:
            self.ended = last
            self.close()
        elif self.errors >= self.settings.max_errors:
            self.end_with(replies.TOO_MANY_ERRORS)

    def raised(self, exc: BaseException, *, storage: bool = False) -> Reply:
        """Count and log an exception of a hook; return the reply for it.

        A `CancelledError` that the hook raised itself, without a cancellation of its task, is treated like any other
        exception.

        Raises:
            KeyboardInterrupt, SystemExit: a hook that raises one of these ends the program.
        """
        if isinstance(exc, KeyboardInterrupt | SystemExit):
            raise exc
        self.failures += 1
        if isinstance(exc, Overloaded):  # one line each, because clients can cause many
            LOG.warning("deferred %s: %s", self.peer.ip, exc)
        else:
            fields = {"session": self.id, "ip": self.peer.ip, "error": type(exc).__name__}
            extra = {"event": "hook-failed", "fields": fields}
            LOG.error("hook raised %s for %s", type(exc).__name__, self.peer.ip, exc_info=exc, extra=extra)
        return replies.storage_failed(exc) if storage else replies.HOOK_FAILED

    def end_with(self, reply: Reply) -> None:
        """Queue a last reply, of any class, and end the session."""
        if not self.closing:
            self.ended = reply
            if reply.code >= 500:
                self.refusals += 1
            else:
                self.deferrals += 1
            self._out.append(reply.octets)
            self.close()
