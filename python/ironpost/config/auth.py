"""`[auth]`: account sources, and the mechanisms by which clients may authenticate.

Promises: the accounts of the users file come first, then those of the database, of Dovecot, and of the hook. Each
`[[listener]]` says whether it offers or requires authentication.
Refuses: an unknown mechanism, a database without its query and a query without its database.
Standards: RFC 4954 (AUTH), RFC 4422 (mechanisms).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads annotations
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, model_validator

from ironpost.accounts.hook import hook_place
from ironpost.config.values import Section
from ironpost.model.options import not_empty
from ironpost.protocol.sasl import BY_DEFAULT, BY_NAME


def _mechanism(value: object) -> str:
    if not isinstance(value, str) or value not in BY_NAME:
        raise ValueError(f'"{value}" is not a known mechanism; expected one of {", ".join(BY_NAME)}')
    return value


Mechanism = Annotated[str, BeforeValidator(_mechanism)]
"""The name of a SASL mechanism."""


WITH_PASSWORD = ("PLAIN", "LOGIN")
"""The mechanisms by which the server gets the password."""


def _query(value: str) -> str:
    if ":login" not in value:
        raise ValueError("it must contain :login, the name that a client gives")
    return value


class AuthSection(Section):
    """`[auth]`: accounts and authentication."""

    users: Path | None = None
    """The users file, maintained by `ironpost user`; default: `users` in the data directory."""
    database: Path | None = None
    """An SQLite database with more accounts."""
    query: Annotated[str, AfterValidator(_query)] | None = None
    """The query: columns `name`, `password` and `scram` for the account `:login`."""
    dovecot: Path | None = None
    """Dovecot's authentication socket, `auth-client`: Dovecot checks the passwords of other accounts."""
    hook: Annotated[str, AfterValidator(hook_place)] | None = None
    """A custom authenticator, as `file.py:attribute` or `module:attribute`."""
    mechanisms: Annotated[tuple[Mechanism, ...], AfterValidator(not_empty)] = BY_DEFAULT
    """Mechanisms that are offered, if the accounts support them. CRAM-MD5 is offered only if it is named here."""

    @model_validator(mode="after")
    def _complete(self) -> AuthSection:
        if (self.database is None) != (self.query is None):
            missing = "query" if self.query is None else "database"
            raise ValueError(f"database and query are needed together: {missing} is missing")
        return self

    @property
    def offered(self) -> tuple[str, ...]:
        """The mechanisms that may be offered. Dovecot checks passwords only, so SCRAM is offered if it is named."""
        return (
            WITH_PASSWORD if self.dovecot is not None and "mechanisms" not in self.model_fields_set else self.mechanisms
        )
