"""The registry of record sources: what `[directory]` offers besides the mailboxes and aliases of the configuration.

Promises: importing this loads no database or HTTP client, so commands that only read a configuration start quickly.

To add a source: a module `records_NAME` with its options (a frozen dataclass that implements `SourceOptions`, declared
as `model.options` describes) and a class that implements `routing.records.RecordSource`; and a line in `RecordSources`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ironpost.accounts.records_hook import HookOptions  # noqa: TC001 - `config.declared` reads annotations
from ironpost.accounts.records_http import HttpOptions  # noqa: TC001 - `config.declared` reads annotations
from ironpost.accounts.records_ldap import LdapOptions  # noqa: TC001 - `config.declared` reads annotations
from ironpost.accounts.records_postgresql import PostgresqlOptions  # noqa: TC001 - `config.declared` reads annotations
from ironpost.accounts.records_sql import SqlOptions  # noqa: TC001 - `config.declared` reads annotations

if TYPE_CHECKING:
    from pathlib import Path

    from ironpost.http import HttpClient
    from ironpost.model.ports import Clock
    from ironpost.routing.records import RecordSource


class SourceContext(NamedTuple):
    """What sources are created from besides their options."""

    clock: Clock
    folder: Path
    """The directory of the configuration file."""
    http: HttpClient | None = None
    """None where sources are only checked."""


class SourceOptions(Protocol):
    """The options of one source; as text, its name in errors and in the log."""

    def open(self, context: SourceContext, /) -> RecordSource:
        """Create the source, and look for what its options name. Blocks.

        Raises:
            ValueError: the source cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True)
class RecordSources:
    """The sources of `[directory]`, in the order in which they are asked."""

    sql: tuple[SqlOptions, ...] = ()
    postgresql: tuple[PostgresqlOptions, ...] = ()
    ldap: tuple[LdapOptions, ...] = ()
    http: tuple[HttpOptions, ...] = ()
    hook: tuple[HookOptions, ...] = ()
