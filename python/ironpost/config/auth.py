"""`[auth]`: where the accounts are, and by which mechanisms clients may show who they are.

Promises: the accounts of the users file come first, then those of the database, then the hook is asked. What a
listener demands or offers stands in its own table.
Refuses: a mechanism that does not exist, a database without its query and a query without its database.

Standards: RFC 4954 (AUTH), RFC 4422 (mechanisms).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from ironpost.config.values import Section, some
from ironpost.protocol.sasl import BY_DEFAULT, BY_NAME


def _mechanism(value: object) -> str:
    if not isinstance(value, str) or value not in BY_NAME:
        raise ValueError(f'"{value}" is no mechanism; known are {", ".join(BY_NAME)}')
    return value


def _hook(value: object) -> str:
    where, colon, attribute = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not where or not colon or not attribute.isidentifier():
        raise ValueError('a hook is an object in a file or a module, like "accounts.py:authenticator"')
    return f"{where}:{attribute}"


def _query(value: str) -> str:
    if ":login" not in value:
        raise ValueError("it must name :login, the account that a client gives")
    return value


class Auth(Section):
    """`[auth]`: who may log in."""

    users: Path | None = None
    """The users file, which `ironpost user` writes; `users` in the data directory unless said otherwise."""
    database: Path | None = None
    """An SQLite database with more accounts."""
    query: Annotated[str, AfterValidator(_query)] | None = None
    """What it is asked: columns `name`, `password` and `scram` for the account `:login`."""
    hook: Annotated[str, BeforeValidator(_hook)] | None = None
    """An authenticator of one's own."""
    mechanisms: Annotated[tuple[Annotated[str, BeforeValidator(_mechanism)], ...], AfterValidator(some)] = BY_DEFAULT
    """What is offered, where the accounts have what it needs. CRAM-MD5 only if it is named here."""

    @model_validator(mode="after")
    def _complete(self) -> Auth:
        if (self.database is None) != (self.query is None):
            missing = "query" if self.query is None else "database"
            raise ValueError(f"a database needs its query, and a query its database: {missing} is missing")
        return self
