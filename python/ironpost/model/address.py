"""Addresses of envelopes.

Promises: an `Address` is a Mailbox of RFC 5321 §4.1.2, `<postmaster>` (RFC 5321 §4.5.1), or the null reverse-path; its
text form is valid in a command.
Tolerates: the deviations in `wire.TOLERATED`, because such addresses exist; whether clients may use them is decided by
`ServerSettings.addresses`. A local part with stray dots is written as a Quoted-string; a domain with an underscore is
unchanged, because it has no other form.
Refuses: anything else, with `wire.WireFault` (a ValueError with the offset).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ironpost import wire
from ironpost.model.idna import a_labels
from ironpost.model.text import complaint

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

MAILBOX_OCTETS: Final = 254
"""Maximum octets of a mailbox: a path has 256 with its brackets (RFC 5321 §4.5.3.1.3)."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A mailbox. Equality follows RFC 5321 §2.4: the local part is case-sensitive, the domain is not."""

    local_part: str
    domain: str = field(compare=False)
    key: str = field(init=False, repr=False)
    """The domain in lower case, for comparisons, routes and queues."""
    _text: str | None = field(init=False, repr=False, compare=False, default=None)
    """The cached result of `str`."""

    def __post_init__(self) -> None:
        if self.domain:
            text = _format(self.local_part, self.domain)
            wire.parse_mailbox(text, lenient=True)
            _check_length(text)
        elif self.local_part and self.local_part.lower() != "postmaster":
            raise wire.WireFault("at-missing", len(self.local_part.encode()))
        object.__setattr__(self, "key", self.domain.lower())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address without display name and angle brackets; the empty string is the null reverse-path.

        Raises:
            wire.WireFault: `text` is not a valid Mailbox.
        """
        if not text:
            return cls.of(wire.Mailbox("", ""))
        if text.lower() == "postmaster":
            return cls.of(wire.Mailbox(text, ""))
        mailbox = wire.parse_mailbox(text, lenient=True)
        _check_length(text)
        address = cls.of(mailbox)
        _check_length(str(address))  # quotes around stray dots make it longer
        return address

    @classmethod
    def of(cls, mailbox: wire.Mailbox) -> Self:
        """Return the address of a mailbox that the wire parser returned, without checking it again."""
        self = object.__new__(cls)
        put = object.__setattr__
        put(self, "local_part", mailbox.local_part)
        put(self, "domain", mailbox.domain)
        put(self, "key", mailbox.domain.lower())
        put(self, "_text", None)
        return self

    @property
    def is_null(self) -> bool:
        """Whether it is the null reverse-path `<>` (RFC 5321 §4.5.5)."""
        return not self.local_part and not self.domain

    @property
    def needs_smtputf8(self) -> bool:
        """Whether it contains non-ASCII characters, so that it can only be sent with SMTPUTF8 (RFC 6531 §3.3)."""
        return not (self.local_part.isascii() and self.domain.isascii())

    def in_ascii(self) -> Self:
        """Return the same mailbox with A-labels in its domain (RFC 6531 §3.2).

        Raises:
            ValueError: the local part is not ASCII, or the domain has no A-labels.
        """
        if not self.needs_smtputf8:
            return self
        if not self.local_part.isascii():
            raise ValueError("a local part that is not ASCII has no ASCII form")
        return type(self)(self.local_part, a_labels(self.domain))

    def __str__(self) -> str:
        """Return the address without angle brackets; the local part is quoted if necessary."""
        text = self._text
        if text is None:
            text = self.local_part
            if self.domain:
                text = _format(self.local_part, self.domain)
            object.__setattr__(self, "_text", text)
        return text


def _format(local_part: str, domain: str) -> str:
    return wire.format_mailbox(wire.Mailbox(local_part, domain), lenient=True)


def _check_length(text: str) -> None:
    if len(text.encode()) > MAILBOX_OCTETS:
        raise wire.WireFault("path-too-long", MAILBOX_OCTETS)


NULL = Address("", "")
"""The null reverse-path."""


class AddressOrDomain(NamedTuple):
    """An address, or `@` and a domain, which stands for any local part there."""

    local_part: str | None
    """None for a domain."""
    domain: str

    @classmethod
    def parse(cls, text: str, address: Callable[[str], Address] = Address.parse) -> Self:
        """Parse either.

        Args:
            text: `jo@mail.example` or `@mail.example`.
            address: parses an address; what it raises is raised.

        Raises:
            ValueError: what follows `@` is not a domain.
        """
        if text.startswith("@"):
            try:
                Address.parse(f"x{text}")
            except ValueError as fault:
                raise ValueError(f"{text} is not @ and a domain: {complaint(f'x{text}', fault, 1)}") from None
            return cls(None, address(f"x{text}").domain)
        found = address(text)
        return cls(found.local_part, found.domain)

    @property
    def key(self) -> str:
        """As `Address.key`."""
        return self.domain.lower()

    def __str__(self) -> str:
        return f"@{self.domain}" if self.local_part is None else str(Address(self.local_part, self.domain))
