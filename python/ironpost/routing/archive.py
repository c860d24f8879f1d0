"""Archive copies: an additional recipient for the mail of some domains.

Promises: a message gets one copy for each archive address, however many of its addresses match; the copy is a recipient
like any other, committed with the message, so that neither exists without the other. Senders are never told about it:
it has NOTIFY=NEVER (RFC 3461 §4.1). Mail that this system creates, such as bounces, is not archived.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ironpost.model import Recipient
from ironpost.model.parameters import Notify
from ironpost.model.patterns import Domains

if TYPE_CHECKING:
    from ironpost.model import Address, Envelope

_SILENT: Final = MappingProxyType({"NOTIFY": Notify.NEVER})


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """The mail of some domains, and the address that gets a copy."""

    domains: tuple[str, ...]
    """Patterns, as in `model.patterns.Domains`: a message matches if its sender or one of its recipients does."""
    to: Address
    _domains: Domains = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_domains", Domains(self.domains))

    def matches(self, envelope: Envelope) -> bool:
        """Whether the sender or a recipient is in one of the domains."""
        return envelope.reverse_path.key in self._domains or any(
            recipient.address.key in self._domains for recipient in envelope.recipients
        )


def archived(envelope: Envelope, rules: tuple[ArchiveRule, ...]) -> Envelope:
    """Return the envelope with a recipient for each archive; the same envelope if no rule matches."""
    copies = {rule.to: Recipient(rule.to, _SILENT) for rule in rules if rule.matches(envelope)}
    return envelope._replace(recipients=(*envelope.recipients, *copies.values())) if copies else envelope
