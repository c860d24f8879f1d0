"""Directories for tests: fixed domains, and a table that answers like a remote directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ironpost.model import Address
from ironpost.model.patterns import Domains
from ironpost.routing.directory import (
    Alias,
    DirectoryError,
    Entry,
    Mailbox,
    NotLocal,
    Unknown,
)
from ironpost.routing.mail_directory import MailDirectory

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def local(domains: Iterable[str]) -> MailDirectory:
    """A directory in which every address of these domains (patterns) is a mailbox."""
    return MailDirectory(Domains(domains), has_aliases=False)


class TableDirectory:
    """Mailboxes and aliases from tables; answers after an iteration of the event loop, like one with I/O."""

    has_aliases: Final = True

    def __init__(
        self,
        domains: Iterable[str],
        *,
        mailboxes: Iterable[str] = (),
        aliases: Mapping[str, Sequence[str]] | None = None,
        failing: Iterable[str] = (),
    ) -> None:
        """Fill the tables.

        Args:
            domains: local domains, as patterns.
            mailboxes: addresses of mailboxes.
            aliases: address to targets.
            failing: addresses for which the directory fails.
        """
        self._domains = Domains(domains)
        self._mailboxes = frozenset(map(str.lower, mailboxes))
        self._aliases = {
            alias.lower(): tuple(map(Address.parse, targets)) for alias, targets in (aliases or {}).items()
        }
        self._failing = frozenset(map(str.lower, failing))

    async def find(self, address: Address, /) -> Entry:
        """Look the address up."""
        await asyncio.sleep(0)
        name = str(address).lower()
        if name in self._failing:
            raise DirectoryError(f"cannot look up {address}")
        if not address.domain:
            return Mailbox("<postmaster> without a domain is local")
        if address.key not in self._domains:
            return NotLocal(f"{address.key} is not local")
        if name in self._aliases:
            targets = self._aliases[name]
            kept = Mailbox(f"{address} keeps a copy") if name in {str(target).lower() for target in targets} else None
            return Alias(targets, f"{address} is an alias", kept)
        if name in self._mailboxes:
            return Mailbox(f"{address} is a local mailbox")
        return Unknown(f"{address} does not exist")
