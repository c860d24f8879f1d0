"""The vocabulary of policy: stages, facts, verdicts, decisions, and what a check is.

Promises: values are immutable, and a verdict that refuses carries the reply that says so.
Refuses: a refusal without a 4yz or 5yz reply, with ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from ironpost.model import Address, Reply


class Stage(Enum):
    """When in a session a check is asked."""

    CONNECT = "connect"
    HELLO = "hello"
    MAIL = "mail"
    RECIPIENT = "recipient"
    CONTENT = "content"
    """The whole content is there."""


class Action(Enum):
    """What a check says."""

    NEUTRAL = "neutral"
    """Nothing against it, nothing for it: ask the next check."""
    ACCEPT = "accept"
    """Accepted; later checks of the stage are not asked."""
    REFUSE = "refuse"
    """Refused with the verdict's reply, for now (4yz) or for good (5yz)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action, and the reply if it refuses."""

    action: Action
    reply: Reply | None = None

    def __post_init__(self) -> None:
        if (self.action is Action.REFUSE) != (self.reply is not None):
            raise ValueError("a refusal needs a reply, and nothing else has one")
        if self.reply is not None and self.reply.code < 400:
            raise ValueError(f"a refusal cannot be answered with {self.reply.code}")

    @classmethod
    def refuse(cls, reply: Reply) -> Verdict:
        """A refusal with that reply."""
        return cls(Action.REFUSE, reply)

    @property
    def refused(self) -> bool:
        """Whether the answer is no."""
        return self.action is Action.REFUSE


ACCEPT: Final = Verdict(Action.ACCEPT)
NEUTRAL: Final = Verdict(Action.NEUTRAL)


class Finding(NamedTuple):
    """What one check says, and why."""

    verdict: Verdict
    reason: str = ""
    """For people and the log; empty if there is nothing to say."""


class Decision(NamedTuple):
    """What the pipeline says, and every reason that was given on the way."""

    verdict: Verdict
    reasons: tuple[str, ...]
    """Each with its check's name in front: `relay: example.org is local`."""


@dataclass(slots=True)
class Facts:
    """What is known of one session so far. The caller fills it in as the transaction goes on; checks only read."""

    ip: str = ""
    """The client's address; empty if it has none (a local caller)."""
    helo: str = ""
    reverse_path: Address | None = None
    mail_parameters: Mapping[str, str | None] = field(default_factory=dict)
    forward_path: Address | None = None
    """RECIPIENT: the one that is asked about."""
    rcpt_parameters: Mapping[str, str | None] = field(default_factory=dict)
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
