"""The facts about a session that checks read, and the stages at which they do.

Promises: the caller fills in the facts and the pipeline records results; checks only read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.message.section import Header
    from ironpost.model import Address, Value
    from ironpost.protocol.server.transaction import Identity, TlsInfo

R = TypeVar("R")


class PolicyStage(Enum):
    """The points of a session at which checks run, in order. Each names a method of `Check`."""

    CONNECT = "connect"
    HELLO = "hello"
    MAIL = "mail"
    RECIPIENT = "recipient"
    CONTENT = "content"
    """The content is complete."""


@dataclass(slots=True)
class Facts:
    """The facts about a session so far. The caller fills them in as the transaction proceeds; checks read them."""

    ip: str = ""
    """The client's IP address; empty if it has none (a local caller)."""
    local_ip: str = ""
    """The IP address it connected to; empty if not known."""
    name: str = ""
    """The client's host name, from a trusted front end; empty if none gave one."""
    helo: str = ""
    listener: str = "mx"
    """The listener's role: `mx`, `submission` or `lmtp`."""
    tls: TlsInfo | None = None
    """The TLS parameters of the connection; None if it is unencrypted."""
    identity: Identity | None = None
    """The authenticated client; None without AUTH."""
    reverse_path: Address | None = None
    mail_parameters: Mapping[str, Value] = field(default_factory=dict)
    forward_path: Address | None = None
    """RECIPIENT: the forward-path to check."""
    recipients: int = 0
    """RECIPIENT: the number of recipients accepted before this one."""
    rcpt_parameters: Mapping[str, Value] = field(default_factory=dict)
    header: Header | None = None
    """CONTENT: the header section, before policy removes fields."""
    size: int = 0
    """CONTENT: octets."""
    _results: dict[type[object], tuple[int, object]] = field(default_factory=dict, init=False, repr=False)
    """Type of a result to the stage that produced it, as a number, and the result."""

    def result(self, kind: type[R]) -> R | None:
        """The result of that type which an earlier check has found (`Finding.result`); None if there is none.

        A result is valid until its stage starts again: one of CONNECT for the session, one of MAIL for the
        transaction, one of RECIPIENT until the next recipient.
        """
        found = self._results.get(kind)
        return None if found is None else cast("R", found[1])

    def begin(self, stage: PolicyStage) -> None:
        """For the pipeline: discard the results of this stage and of later ones."""
        if self._results:
            number = _ORDER[stage]
            self._results = {kind: found for kind, found in self._results.items() if found[0] < number}

    def keep(self, stage: PolicyStage, result: object) -> None:
        """For the pipeline: record a result; it replaces an earlier one of its type."""
        self._results[type(result)] = _ORDER[stage], result


_ORDER: Final = {stage: number for number, stage in enumerate(PolicyStage)}
