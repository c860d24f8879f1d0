"""Addresses as envelopes carry them.

Promises: an `Address` is a Mailbox of RFC 5321 §4.1.2, `<postmaster>` (RFC 5321 §4.5.1), or the null reverse-path; its
text form can be written into a command as it is.
Refuses: anything else, with `wire.WireFault` (a ValueError that says where).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model.idna import a_labels

if TYPE_CHECKING:
    from typing import Self

MAILBOX_OCTETS: Final = 254
"""Octets of a mailbox: a path has 256 with its brackets (RFC 5321 §4.5.3.1.3)."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """One mailbox. Equality is that of RFC 5321 §2.4: the local part exactly, the domain without regard to case."""

    local_part: str
    domain: str = field(compare=False)
    key: str = field(init=False, repr=False)
    """The domain in lower case: what comparisons, routes and queues go by."""
    _text: str | None = field(init=False, repr=False, compare=False, default=None)
    """What `str` gave, once it was asked."""

    def __post_init__(self) -> None:
        if self.domain:
            text = wire.format_mailbox(wire.Mailbox(self.local_part, self.domain))
            wire.parse_mailbox(text)
            _measure(text)
        elif self.local_part and self.local_part.lower() != "postmaster":
            raise wire.WireFault("at-missing", len(self.local_part.encode()))
        object.__setattr__(self, "key", self.domain.lower())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address in `text` (no display name, no angle brackets); the empty string is the null reverse-path.

        Raises:
            wire.WireFault: if `text` is no Mailbox.
        """
        if not text:
            return cls.of(wire.Mailbox("", ""))
        if text.lower() == "postmaster":
            return cls.of(wire.Mailbox(text, ""))
        mailbox = wire.parse_mailbox(text)
        _measure(text)
        return cls.of(mailbox)

    @classmethod
    def of(cls, mailbox: wire.Mailbox) -> Self:
        """The address of a mailbox that the wire parser returned; not checked a second time."""
        self = object.__new__(cls)
        put = object.__setattr__
        put(self, "local_part", mailbox.local_part)
        put(self, "domain", mailbox.domain)
        put(self, "key", mailbox.domain.lower())
        put(self, "_text", None)
        return self

    @property
    def is_null(self) -> bool:
        """The null reverse-path `<>` (RFC 5321 §4.5.5)."""
        return not self.local_part and not self.domain

    @property
    def needs_smtputf8(self) -> bool:
        """It holds non-ASCII characters, so as it stands it travels only under SMTPUTF8 (RFC 6531 §3.3)."""
        return not (self.local_part.isascii() and self.domain.isascii())

    def in_ascii(self) -> Self:
        """The same mailbox with A-labels in its domain (RFC 6531 §3.2).

        Raises:
            ValueError: the local part is not ASCII, or the domain has no such form.
        """
        if not self.needs_smtputf8:
            return self
        if not self.local_part.isascii():
            raise ValueError("a local part that is not ASCII has no other form")
        return type(self)(self.local_part, a_labels(self.domain))

    def __str__(self) -> str:
        """Without angle brackets; the local part quoted where it must be."""
        text = self._text
        if text is None:
            text = self.local_part
            if self.domain:
                text = wire.format_mailbox(wire.Mailbox(self.local_part, self.domain))
            object.__setattr__(self, "_text", text)
        return text


def _measure(text: str) -> None:
    if len(text.encode()) > MAILBOX_OCTETS:
        raise wire.WireFault("path-too-long", MAILBOX_OCTETS)


NULL = Address("", "")
"""The null reverse-path."""
