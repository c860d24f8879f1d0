"""`[policy]`: what is done about clients, senders and recipients that look odd, and how much one of them may send.

Promises: without a key nothing is refused but what relay control refuses; every check has one key. Order of
`[[policy.access]]` and of `[[policy.sender]]` is their semantics: the first that matches decides.
Refuses: to refuse what no server may: the null reverse-path, and an address literal that is not the client's own.
Standards: RFC 2505 §2 and RFC 5321 §4.1.4.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from ironpost.config.quantities import duration
from ironpost.config.values import Duration, Network, Quota, Section, SenderPattern, least, some
from ironpost.model import Reply
from ironpost.model.verdict import LONGEST
from ironpost.policy.settings import RuleAction  # noqa: TC001 - pydantic reads annotations

Refusable: TypeAlias = Literal["off", "record", "tarpit", "quarantine", "defer", "reject"]
Tolerated: TypeAlias = Literal["off", "record", "tarpit", "quarantine"]
"""What may not be refused."""


def _bearable(value: float) -> float:
    if value > LONGEST:
        raise ValueError(f"the most is {LONGEST:g}s: a client waits five minutes for a reply (RFC 5321 §4.5.3.2)")
    return value


def _sayable(text: str) -> str:
    Reply(550, "5.7.1", (text,))  # what cannot be said to a client is found here, and not when the server starts
    return text


Said: TypeAlias = Annotated[str, AfterValidator(_sayable)]
"""What the client reads, or the reason for the log."""


class Access(Section):
    """`[[policy.access]]`: what clients of some networks meet when they connect."""

    networks: Annotated[tuple[Network, ...], AfterValidator(some)]
    action: RuleAction
    text: Said = ""
    """What the client reads, or the reason for the log."""


class Sender(Section):
    """`[[policy.sender]]`: what mail from some senders meets."""

    senders: Annotated[tuple[SenderPattern, ...], AfterValidator(some)]
    """`jo@mail.example`, `mail.example` for all of the domain, `*.mail.example` for all below it, `*`."""
    action: RuleAction
    text: Said = ""
    """What the client reads, or the reason for the log."""


class Policy(Section):
    """`[policy]`: see the module."""

    access: tuple[Access, ...] = ()
    sender: tuple[Sender, ...] = ()
    sender_login: dict[str, tuple[SenderPattern, ...]] = Field(default={})
    """Login to the senders that it may use beside its own; `"*"` is for every login. Its own are itself, if it is an
    address, and a bare name in each local domain."""
    helo_own_name: Refusable = "record"
    """A stranger calls itself by our name or address."""
    helo_bare_name: Refusable = "off"
    """A stranger calls itself by a name without a dot."""
    helo_literal: Tolerated = "off"
    """A client calls itself by an address that it has not."""
    reverse_dns: Refusable = "off"
    """The client's address has no name that leads back to it."""
    own_sender: Refusable = "off"
    """A stranger sends in the name of a local domain."""
    sender_domain: Refusable = "off"
    """The sender's domain does not exist, or takes no mail."""
    null_sender: Tolerated = "off"
    """A report has several recipients."""
    delay: Annotated[Duration, least(duration, "1s"), AfterValidator(_bearable)] = 10.0
    """How long a tarpit holds a reply back."""
    network_messages: Quota | None = None
    """Messages from one IPv4 address or IPv6 /64, outside the trusted networks."""
    network_recipients: Quota | None = None
    login_messages: Quota | None = None
    """Messages of one login."""
    login_recipients: Quota | None = None
