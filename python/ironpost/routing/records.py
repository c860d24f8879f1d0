"""What a source of mailboxes and aliases knows: the port of sources, the source in memory, and lists of targets.

Promises: a source is asked for one key and answers with one record; it knows nothing of local domains, details,
catch-alls or loops, which `routing.mail_directory` has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from ironpost.model import Address

_TARGET: Final = re.compile(r'(?:"(?:\\.?|[^"\\])*+(?:"|\Z)|[^",])++')
"""What is between commas. It never backtracks, so its time is linear."""


class Record(NamedTuple):
    """One mailbox or alias."""

    where: str
    """Where it is written, for reasons: `aliases, line 3`."""
    targets: tuple[Address, ...] = ()
    """Where its mail goes; empty: into a mailbox here."""
    keep: bool = False
    """Whether a copy goes into the mailbox too; only with targets."""
    disabled: bool = False
    """The mailbox takes no mail."""
    quota: int | None = None
    """The most octets that the mailbox may hold; None for no limit."""
    senders: tuple[str, ...] = ()
    """Logins that may use the address as a sender, besides the login of the address."""


class RecordSource(Protocol):
    """A file, a database or a program that has mailboxes and aliases."""

    def lookup(self, key: str, /) -> Record | Awaitable[Record | None] | None:
        """Return the record of a key, or None.

        Return the record itself if no I/O is needed: only an awaitable costs an iteration of the event loop.

        Args:
            key: `jo@mail.example`, or `@mail.example` for the catch-all of a domain; as
                `routing.mail_directory.key_of` writes it, in lower case where it is ASCII.

        Raises:
            DirectoryError: the source cannot answer now.
        """
        ...


class RecordTable:
    """A source in memory."""

    __slots__ = ("_records",)

    def __init__(self, records: Mapping[str, Record]) -> None:
        """Use the records of these keys."""
        self._records = records

    def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        return self._records.get(key)


def listed_targets(text: str) -> list[str]:
    """Return the targets of a list with commas, as they are written; a comma in quotes belongs to an address."""
    return [target for found in _TARGET.findall(text) if (target := found.strip())]
