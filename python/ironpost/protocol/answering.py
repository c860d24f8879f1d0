"""What a server session says, and the tally of it: replies go out in order, errors add up to an end.

Promises: what was queued is written as it was queued; each reply is counted once, by its class. `Settings.max_errors`
permanent refusals since the last accepted message end the session with 421; one message that is refused for several
recipients is one of them.

Standards: RFC 5321 §3.8 and §4.2.3 (421), §4.2.1 (classes); RFC 2033 §4.2 (a reply for each recipient).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ironpost.model.body import NO_ROOM
from ironpost.protocol import replies

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ironpost.model import Reply
    from ironpost.protocol.settings import Settings
    from ironpost.protocol.transaction import Peer
    from ironpost.wire import Command

LOG = logging.getLogger("ironpost.protocol")


class Overloaded(Exception):
    """What a hook raises that has too much to do already: its client is told to come later, and no code is at fault."""


class Answering:
    """The speaking half of `ServerSession`."""

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

    def __init__(self, settings: Settings, peer: Peer) -> None:
        self.settings = settings
        self.peer = peer
        self.id = ""
        """What joins the log records of this session; the handler may set it when the client connects."""
        self.closing = False
        """Write what `output` holds, then close the connection. Nothing that comes is interpreted."""
        self.ended: Reply | None = None
        """What the client was told when the session was ended for it; None if it left by itself."""
        self.replies = 0
        """Replies given, of which `deferrals` were 4yz and `refusals` 5yz."""
        self.deferrals = 0
        self.refusals = 0
        self.errors = 0
        """Negative replies (5yz) since the last accepted message."""
        self.failures = 0
        """Hooks that raised."""
        self.messages = 0
        """Messages accepted."""
        self._out: list[bytes] = []

    def close(self) -> None:
        """Interprets nothing more; the connection closes when the replies are written."""
        raise NotImplementedError

    def output(self) -> bytes:
        """What is to be written; empties it."""
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
        """Queues a positive reply that is rendered already."""
        self._out.append(octets)

    def reply(self, reply: Reply) -> None:
        """Queues a reply. 5yz counts as an error; 421 closes (RFC 5321 §4.2.3)."""
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
        """Queues a reply that counts as an error; at the limit 421 instead, and closes."""
        self.errors += 1
        if self.errors >= self.settings.max_errors:
            self.end_with(replies.TOO_MANY_ERRORS)
        else:
            self.refusals += 1
            self._out.append(reply.octets)

    def refuse_fault(self, command: Command, table: Mapping[str, Reply]) -> None:
        """Refuses a command for its fault."""
        fault = command.fault.id if command.fault is not None else "argument-missing"
        self.refuse(table[fault])

    def refuse_unknown_chunk(self, reply: Reply) -> None:
        """Refuses a BDAT whose octets cannot be counted, and closes, which only 421 may announce (RFC 5321 §3.8)."""
        self.refuse(reply)
        self.end_with(replies.CHUNK_LOST)

    def reply_each(self, answers: Sequence[Reply]) -> None:
        """Queues the replies to one message, all of them whatever they are; counts it as one message or one error."""
        self._out.extend(answer.octets for answer in answers)
        self.deferrals += sum(answer.transient for answer in answers)
        self.refusals += sum(answer.permanent for answer in answers)
        if any(answer.positive for answer in answers):
            self.errors = 0
            self.messages += 1
        elif any(answer.permanent for answer in answers):
            self.errors += 1
        last = next((answer for answer in answers if answer.code == 421), None)
        if last is not None:
            self.ended = last
            self.close()
        elif self.errors >= self.settings.max_errors:
            self.end_with(replies.TOO_MANY_ERRORS)

    def raised(self, exc: BaseException, *, storage: bool = False) -> Reply:
        """Counts and logs what a hook raised; the reply that stands for it."""
        self.failures += 1
        if isinstance(exc, Overloaded):  # as often as clients like: one line each is enough
            LOG.warning("%s has to try later: %s", self.peer.ip, exc)
        else:
            fields = {"session": self.id, "ip": self.peer.ip, "error": type(exc).__name__}
            extra = {"event": "hook-failed", "fields": fields}
            LOG.error("hook raised %s for %s", type(exc).__name__, self.peer.ip, exc_info=exc, extra=extra)
        # RFC 5321 §4.2.3: 452 says that there is no room; any other error in storing is 451.
        if storage and isinstance(exc, OSError) and exc.errno in NO_ROOM:
            return replies.NO_ROOM
        return replies.HOOK_FAILED

    def end_with(self, reply: Reply) -> None:
        """Says one thing more, whatever its class, and closes."""
        if not self.closing:
            self.ended = reply
            if reply.code >= 500:
                self.refusals += 1
            else:
                self.deferrals += 1
            self._out.append(reply.octets)
            self.close()
