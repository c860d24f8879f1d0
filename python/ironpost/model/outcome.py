"""The outcome of one attempt for one recipient: its disposition, the reply, and the TLS of the connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from ironpost.model.text import escape

if TYPE_CHECKING:
    from typing import Self

    from ironpost.model.reply import Reply
    from ironpost.model.tls import TlsResult


class Disposition(Enum):
    """The result of an attempt for a recipient."""

    DELIVERED = "delivered"
    """The next hop or the mailbox has accepted responsibility."""
    DEFERRED = "deferred"
    """Transient failure: another attempt follows."""
    FAILED = "failed"
    """Permanent failure: the sender gets a bounce."""
    HELD = "held"
    """The stored content is damaged, or attempts crashed repeatedly: neither another attempt nor a bounce until an
    operator decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A disposition and its reason."""

    disposition: Disposition
    reply: Reply
    """The reply of the remote host, or one that describes a local reason."""
    remote: str = ""
    """The host that replied, as `mx.example [192.0.2.1]`; empty if none was contacted."""
    asked: bool = False
    """A remote host was contacted; attempts without contact do not count as retries."""
    ours: bool = False
    """The cause is this server's configuration, not the mail: the mail is deferred, and an error is logged."""
    tls: TlsResult | None = None
    """The TLS of the connection to `remote`, or why it was insufficient; None for other kinds of delivery."""
    unreachable: bool = False
    """No host of the destination accepted a session, or one ended it with 421, so other messages would be deferred
    too (`queue.concurrency`)."""

    relayed: bool = False
    """Another system accepted the mail, and the sender gets a report of that (RFC 2852 §4.1.4)."""
    wait: float | None = None
    """Seconds until the next attempt, as the other system asked; None: the schedule of the queue decides."""
    crash: Exception | None = None
    """What the attempt for this recipient raised; not stored. If that happens repeatedly, the recipient is held."""

    @classmethod
    def of(cls, reply: Reply, remote: str = "", *, asked: bool = True) -> Outcome:
        """Derive the outcome from a reply's first digit (RFC 5321 §4.2.1): 2yz delivered, 4yz deferred, 5yz failed."""
        if reply.positive:
            return cls(Disposition.DELIVERED, reply, remote, asked)
        return cls(Disposition.DEFERRED if reply.transient else Disposition.FAILED, reply, remote, asked)

    @property
    def recorded(self) -> str:
        """The reply as the queue keeps it for operators: if no host sent it, with its detail on a second line."""
        detail = "" if self.remote else escape(self.reply.detail)
        return f"{self.reply}\n{detail}" if detail else str(self.reply)

    def over(self, tls: TlsResult | None) -> Self:
        """Return a copy that records the TLS of its connection."""
        return replace(self, tls=tls)
