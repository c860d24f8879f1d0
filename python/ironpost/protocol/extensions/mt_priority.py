"""MT-PRIORITY: the priority of a message, from -9 to 9 (RFC 6710).

Claimed: the queue must attempt mail of higher priority first (§5.1). The value is passed on to a next hop that supports
the extension (§4.2), and reports about a message have its priority (§4.6). Clients that have not authenticated cannot
raise the priority of their mail: a value above 0 counts as 0 (§4.1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from ironpost.model.parameters import parse_priority
from ironpost.protocol import replies
from ironpost.protocol.extensions.base import Extension, Offer, Outgoing, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value
    from ironpost.protocol.server.session import ServerSession

_POLICY: Final = re.compile(r"[A-Za-z0-9._-]{1,20}")  # RFC 6710 §7


def _priority(session: ServerSession, value: str | None, given: dict[str, Value]) -> int | Reply:
    del given
    try:
        priority = parse_priority(value or "")
    except ValueError as error:
        return replies.BAD_PARAMETER.because(str(error))
    return priority if session.identity is not None else min(priority, 0)


@dataclass(frozen=True, eq=False)
class MtPriority(Extension):
    policy: str = ""
    """The name of the Priority Assignment Policy to announce (RFC 6710 §9.2); empty for none."""

    keyword = "MT-PRIORITY"
    claimed = True
    on_request = True
    extra_octets: ClassVar = {"MAIL": 15}  # RFC 6710 §3 (6)
    mail_parameters: ClassVar = {"MT-PRIORITY": _priority}
    report_parameters: ClassVar = frozenset({"MT-PRIORITY"})  # RFC 6710 §4.6
    stored: ClassVar = {"MT-PRIORITY": parse_priority}

    def __post_init__(self) -> None:
        if self.policy and _POLICY.fullmatch(self.policy) is None:
            raise ValueError(f"MtPriority.policy is {self.policy!r}; expected 1 to 20 letters, digits, '.', '_', '-'")

    def advertise(self, offer: Offer) -> str:
        del offer
        return f"MT-PRIORITY {self.policy}" if self.policy else "MT-PRIORITY"

    def outgoing(self, message: Outgoing, offered: Mapping[str, str]) -> Parameters | Reply:
        parameters = message.envelope.parameters
        known = "MT-PRIORITY" in parameters and "MT-PRIORITY" in offered
        return {"MT-PRIORITY": parameters["MT-PRIORITY"]} if known else {}  # RFC 6710 §4.3: dropped, not refused
