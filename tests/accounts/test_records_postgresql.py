"""Options of PostgreSQL; tests/interop/test_postgresql.py has a real server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_postgresql import PostgresqlOptions, PostgresqlRecords
from ironpost.config import ConfigError, parse
from ironpost.processes.clock import SystemClock
from ironpost.routing.profile import SecretSource

URL = "postgresql://ironpost@db.mail.example/people"
SOCKET = "postgresql://ironpost@%2Frun%2FPostgres:5433/people"
QUERY = "SELECT targets FROM people WHERE address = $1"
CONTEXT = SourceContext(SystemClock(), Path())


def postgresql(**values: str) -> str:
    given = {"url": URL, "query": QUERY} | values
    return "[[directory.postgresql]]\n" + "".join(f"{name} = '{value}'\n" for name, value in given.items())


@pytest.mark.parametrize(
    "url", [URL, SOCKET, "postgresql://jo%40x@[::1]/people", "postgresql://ironpost@127.0.0.1:5433/people"]
)
def test_valid_urls(url: str) -> None:
    ((_, options),) = parse(postgresql(url=url)).directory.sources()
    assert isinstance(options, PostgresqlOptions)
    assert isinstance(options.open(CONTEXT), PostgresqlRecords)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("db.mail.example", "not the URL of a database: expected one like"),
        ("mysql://ironpost@db.mail.example/people", "not the URL of a database"),
        ("postgresql://db.mail.example/people", "not the URL of a database"),
        ("postgresql://ironpost@/people", "not the URL of a database"),
        ("postgresql://ironpost@db.mail.example", "not the URL of a database"),
        ("postgresql://ironpost@db.mail.example/a/b", "not the URL of a database"),
        (f"{URL}?sslmode=disable", "not the URL of a database"),
        ("postgresql://ironpost@db.mail.example:x/people", "not the URL of a database"),
        ("postgresql://ironpost:secret@db.mail.example/people", "a URL has no password"),
        ("postgresql://ironpost:secret/x@db.mail.example/people", "not the URL of a database"),
        ("postgresql://ironpost:secret@\u2100/people", "not the URL of a database"),
        ("mysql://db.mail.example/people?password=secret", "not the URL of a database"),
    ],
)
def test_other_urls_are_refused(url: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"directory\.postgresql\[1\]\.url") as caught:
        parse(postgresql(url=url))
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "query", ["SELECT targets FROM people", f"{QUERY} AND domain = $2", QUERY.replace("$1", ":key")]
)  # fmt: skip
def test_a_query_has_one_parameter(query: str) -> None:
    with pytest.raises(ConfigError, match=r"needs the parameter \$1, for the address, and no other"):
        parse(postgresql(query=query))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"password": SecretSource("file", "/absent/password")}, "^password: /absent/password: No such file"),
        ({"ca": Path("/absent/ca.pem")}, "^ca: /absent/ca.pem: No such file"),
        ({"ca": Path(__file__)}, "^ca: "),
        ({"ca": Path("ca.pem"), "url": SOCKET}, "^ca: the socket of .* has no TLS"),
    ],
)
def test_what_cannot_be_used_is_refused(more: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        PostgresqlOptions(**{"url": URL, "query": QUERY, **more}).open(CONTEXT)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(
        ValueError, match=r"PostgreSQL needs the package asyncpg, from pip install 'ironpost\[postgresql\]'"
    ):
        PostgresqlOptions(URL, QUERY).open(CONTEXT)
