"""The vocabulary of policy: stages, facts, findings, decisions, and what a check is. Verdicts are `model.verdict`'s.

Promises: what the pipeline says, and what a check finds, is immutable and carries its reasons.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

from ironpost.model.verdict import accept

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from ironpost.model import Address, Value
    from ironpost.model.verdict import Verdict
    from ironpost.protocol.transaction import Identity, Tls


class Stage(Enum):
    """When in a session a check is asked."""

    CONNECT = "connect"
    HELLO = "hello"
    MAIL = "mail"
    RECIPIENT = "recipient"
    CONTENT = "content"
    """The whole content is there."""


ACCEPT: Final = accept()
NEUTRAL: Final = None
"""No verdict: nothing against it, nothing for it, ask the next check."""


class Finding(NamedTuple):
    """What one check says, and why."""

    verdict: Verdict | None
    """None (`NEUTRAL`): the next check is asked. A quarantine or a tarpit colours the decision and leaves it to later
    checks; every other verdict is the decision."""
    reason: str = ""
    """For people and the log; empty if there is nothing to say."""
    noted: bool = False
    """The log tells of it whatever is decided."""


class Decision(NamedTuple):
    """What the pipeline says, and every reason that was given on the way."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Each with its check's name in front: `relay: example.org is local`."""
    noted: bool = False
    """A check wants the log to tell of it even if nothing is refused."""


@dataclass(slots=True)
class Facts:
    """What is known of one session so far. The caller fills it in as the transaction goes on; checks only read."""

    ip: str = ""
    """The client's address; empty if it has none (a local caller)."""
    local_ip: str = ""
    """Ours that it connected to, if that is known."""
    name: str = ""
    """The client's host name: as a trusted front end told it, or as DNS confirms it once that check has asked."""
    helo: str = ""
    listener: str = "mx"
    """The listener's role: `mx`, `submission` or `lmtp`."""
    tls: Tls | None = None
    """What protects the connection; None in clear."""
    identity: Identity | None = None
    """Who authenticated."""
    reverse_path: Address | None = None
    mail_parameters: Mapping[str, Value] = field(default_factory=dict)
    forward_path: Address | None = None
    """RECIPIENT: the one that is asked about."""
    recipients: int = 0
    """RECIPIENT: how many were accepted before it."""
    rcpt_parameters: Mapping[str, Value] = field(default_factory=dict)
    head: bytes = b""
    """CONTENT: the first octets of the content, 64 KiB at most."""
    hops: int = 0
    """CONTENT: Received fields in the whole header section."""
    size: int = 0
    """CONTENT: octets."""


Opinion: TypeAlias = "Finding | Awaitable[Finding]"


class Check(Protocol):
    """One question, asked at one stage."""

    @property
    def name(self) -> str:
        """A short word, for reasons."""
        ...

    @property
    def stage(self) -> Stage:
        """When it is asked."""
        ...

    def judge(self, facts: Facts) -> Opinion:
        """What it finds. An awaitable is for those that ask a port; the rest answer at once."""
        ...
