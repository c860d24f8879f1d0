"""Mailboxes and aliases in a PostgreSQL database that another program maintains, read by a query of the operator.

    SELECT targets, keep FROM aliases WHERE address = $1

Promises: the key is a query parameter, never part of the SQL (SECURITY R41), and each query is a read-only transaction.
A few connections are opened when they are needed and then kept; one that fails is replaced. A server on another machine
is contacted only by TLS, with a verified certificate (SECURITY R13). A server that cannot be reached, or refuses, is a
`DirectoryError`: nothing is taken as unknown. Several rows are one record with several targets.
Refuses: a query without `$1`, or with other parameters; a result with a column that is not a field of a record
(`accounts.records_fields`); to be opened without the package asyncpg.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - `config.declared` reads annotations
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from ironpost.accounts.records_fields import FIELDS, record_of
from ironpost.delivery.secrets import SecretError, read_secret
from ironpost.model.network import is_loopback
from ironpost.model.text import error_text, escape
from ironpost.routing.directory import MAX_TARGETS, DirectoryError
from ironpost.routing.profile import SecretSource  # noqa: TC001 - `config.declared` reads annotations

if TYPE_CHECKING:
    from ironpost.accounts.record_sources import SourceContext
    from ironpost.routing.records import Record

CONNECTIONS: Final = 4
"""Number of queries that run at a time; further ones wait."""
PORT: Final = 5432
"""The port of a server whose URL has none, and part of the name of its socket."""
_PARAMETER: Final = re.compile(r"\$\d+")
_EXPECTED: Final = (
    'not the URL of a database: expected one like "postgresql://USER@db.mail.example/DATABASE" '
    'or "postgresql://USER@%2Frun%2Fpostgresql/DATABASE"'
)


class _Server(NamedTuple):
    """What a URL says."""

    host: str
    """A name, an address, or the directory of a Unix socket."""
    port: int
    user: str
    database: str

    @property
    def is_socket(self) -> bool:
        return self.host.startswith("/")

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine."""
        return self.is_socket or is_loopback(self.host)


def _server(url: str) -> _Server:
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if parts.port is not None:  # ValueError if it is not a number
        host = host.removesuffix(f":{parts.port}")
    host = unquote(host.strip("[]"))  # not `parts.hostname`, which changes the path of a socket to lower case
    return _Server(host, parts.port or PORT, unquote(user), unquote(parts.path.removeprefix("/")))


def _server_url(text: str) -> str:
    try:
        parts, server = urlsplit(text), _server(text)
    except ValueError:  # its text may contain a password
        raise ValueError(_EXPECTED) from None
    if parts.password is not None:
        raise ValueError('a URL has no password: use password = "file:PATH" or "env:NAME"')
    if parts.scheme != "postgresql" or not all(server) or "/" in server.database or parts.query or parts.fragment:
        raise ValueError(_EXPECTED)
    return text


def _query(text: str) -> str:
    if set(_PARAMETER.findall(text)) != {"$1"}:
        raise ValueError(f'the query "{text}" needs the parameter $1, for the address, and no other')
    return text


@dataclass(frozen=True, slots=True)
class PostgresqlOptions:
    """`[[directory.postgresql]]`: mailboxes and aliases in a PostgreSQL database."""

    url: Annotated[str, _server_url]
    """In `[[directory.postgresql]]` ([Directory sources](#directory-sources)): the database,
    `postgresql://USER@HOST/DATABASE`, or `postgresql://USER@%2FDIRECTORY%2FOF%2FSOCKET/DATABASE`."""
    query: Annotated[str, _query]
    """The SQL query, with `$1` for the address: `jo@mail.example` in lower case, or `@mail.example` for the catch-all
    of a domain. Its columns are fields of a record."""
    password: SecretSource | None = None
    """The password of the user, `file:PATH` or `env:NAME`."""
    ca: Path | None = None
    """File with the authorities that sign the server's certificate (PEM); default: those of the system. Connections
    to this machine use TLS only if it is set, those to others always."""

    def open(self, context: SourceContext, /) -> PostgresqlRecords:  # noqa: ARG002 - the port's
        """See `accounts.record_sources.SourceOptions`; the server is not contacted."""
        try:
            import asyncpg  # noqa: F401 - only looked for
        except ImportError as error:
            raise ValueError(
                f"PostgreSQL needs the package asyncpg, from pip install 'ironpost[postgresql]' ({error})"
            ) from None
        try:
            return PostgresqlRecords(
                self, "" if self.password is None else read_secret(self.password), self._tls(_server(self.url))
            )
        except SecretError as error:
            raise ValueError(f"password: {error}") from None

    def _tls(self, server: _Server) -> ssl.SSLContext | None:
        if self.ca is None:
            return None if server.is_here else ssl.create_default_context()
        if server.is_socket:
            raise ValueError(f"ca: the socket of {self.url} has no TLS")
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise ValueError(f"ca: {self.ca}: {error_text(error)}") from None

    def __str__(self) -> str:
        return self.url


class PostgresqlRecords:
    """Implements `routing.records.RecordSource`."""

    def __init__(self, options: PostgresqlOptions, password: str, tls: ssl.SSLContext | None) -> None:
        """Describe the source; the first query opens a connection.

        Args:
            options: its options.
            password: the password that they name; empty for none.
            tls: the TLS context of connections; None for none.
        """
        server = _server(options.url)
        self._settings = {
            "host": server.host,
            "port": server.port,
            "user": server.user,
            "database": server.database,
            "password": password,  # an empty one too, else asyncpg looks for one in the environment and in files
            "ssl": tls or False,
            "server_settings": {"application_name": "ironpost"},
        }
        self._query = options.query
        self._where = str(options)
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[_Connection] = []

    async def lookup(self, key: str, /) -> Record | None:
        """See `RecordSource.lookup`."""
        if "\0" in key:
            return None  # no text of PostgreSQL has NUL, and as a parameter it would be an error
        async with self._turns:
            rows = await self._rows(key)
        if len(rows) > MAX_TARGETS:
            raise DirectoryError(f"{self._where}: more than {MAX_TARGETS} rows for one address")
        return record_of(rows, self._where)

    async def _rows(self, key: str) -> list[dict[str, object]]:
        """The rows of the result. What fails on a kept connection, which the server may have closed, is tried again."""
        while self._idle:
            with suppress(DirectoryError):
                return await self._ask(self._idle.pop(), key)
        return await self._ask(None, key)

    async def _ask(self, kept: _Connection | None, key: str) -> list[dict[str, object]]:
        """Run the query on a kept or a new connection, which is kept for the next one unless this one fails or is
        cancelled."""
        import asyncpg

        try:
            connection = kept or _Connection(await asyncpg.connect(**self._settings))
            try:
                rows = await connection.run(self._query, key)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            raise DirectoryError(f"{self._where}: {error_text(error)}") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, _ResultError) as error:
            raise DirectoryError(f"{self._where}: {escape(str(error))}") from error
        self._idle.append(connection)
        return rows


class _ResultError(Exception):
    """The query returns other columns than expected; the text names them."""


class _Connection:
    """A connection with the prepared query; it is closed when this object is not used any more."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._statement: Any = None
        self.close = weakref.finalize(self, _close, connection, asyncio.get_running_loop())

    async def run(self, query: str, key: str) -> list[dict[str, object]]:
        """Return the first rows of the result for a key, one more than a record may have targets.

        After an error the connection cannot be used any more. No `async with` ends the transaction, because that would
        wait for the server after a time limit.
        """
        if self._statement is None:
            self._statement = await self._prepared(query)
        await self._connection.execute("BEGIN READ ONLY")
        cursor = await self._statement.cursor(key)
        rows = await cursor.fetch(MAX_TARGETS + 1)
        await self._connection.execute("ROLLBACK")
        return [dict(row) for row in rows]

    async def _prepared(self, query: str) -> Any:
        statement = await self._connection.prepare(query)
        names = [column.name for column in statement.get_attributes()]
        if not names or not set(names) <= set(FIELDS):
            given, expected = ", ".join(names) or "nothing", ", ".join(FIELDS)
            raise _ResultError(f"the query returns {given}; expected columns are {expected}")
        return statement


def _close(connection: Any, loop: asyncio.AbstractEventLoop) -> None:
    """Close a connection without waiting for the server. May be called from any thread, as finalizers are."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(connection.terminate)
