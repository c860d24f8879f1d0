"""Mailboxes and aliases in PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import smtplib
import ssl
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import pytest
from tests.authority import issue

from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_cache import CacheOptions, RecordCache
from ironpost.accounts.records_postgresql import PostgresqlOptions, PostgresqlRecords
from ironpost.model import Address
from ironpost.model.options import Seconds
from ironpost.processes.clock import SystemClock
from ironpost.routing.directory import MAX_TARGETS, DirectoryError
from ironpost.routing.profile import SecretSource
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

if not os.environ.get("CI"):
    pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install '.[postgresql]'")

QUERY = "SELECT targets, keep, disabled, quota FROM people WHERE address = $1"
HOSTILE = "'\";--"
PEOPLE = f"""
CREATE TABLE people (address varchar, targets text[], keep boolean, disabled boolean, quota bigint);
INSERT INTO people VALUES
    ('ada@mail.example', NULL, NULL, NULL, 1000),
    ('left@mail.example', NULL, NULL, true, NULL),
    ('team@mail.example', '{{ada@mail.example}}', true, false, NULL),
    ('team@mail.example', '{{bob@other.example,ada@mail.example}}', true, false, NULL),
    ('@shop.example', '{{ada@mail.example}}', NULL, NULL, NULL),
    ('wrong@mail.example', '{{ada}}', NULL, NULL, NULL),
    ('''";--@mail.example', '{{ada@mail.example}}', NULL, NULL, NULL);
INSERT INTO people SELECT 'more@mail.example', ARRAY['u' || n || '@mail.example']
    FROM generate_series(0, {MAX_TARGETS}) AS n;
"""
T = TypeVar("T")
ADA = Address.parse("ada@mail.example")


class Postgresql:
    """A database and its server, which wants a password."""

    def __init__(self, pg_ctl: str, folder: Path, env: dict[str, str], port: int) -> None:
        self._pg_ctl, self._env, self._port = pg_ctl, env, port
        self._data, self._log = folder / "data", folder / "log"
        self._user: dict[str, Any] = {}
        self.password, self.ca, key = folder / "password", folder / "ca.pem", folder / "key.pem"
        self.password.write_text("secret\n")
        issue("localhost", "127.0.0.1").write(self.ca, key)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            self._user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            for path in (folder, key):
                shutil.chown(path, "nobody", "nogroup")
        self.url = f"postgresql://ironpost@127.0.0.1:{port}/postgres"
        self.socket = f"postgresql://ironpost@{quote(str(folder), safe='')}:{port}/postgres"
        self._run("initdb", "-o", f"-A scram-sha-256 -U ironpost --pwfile={self.password} -E UTF8 --no-locale -N")
        settings = {
            "listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off",
            "ssl": "on", "ssl_cert_file": self.ca, "ssl_key_file": key,
        }  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._running = False

    def start(self) -> None:
        self._run("start", "-w", "-l", str(self._log))
        self._running = True

    def stop(self) -> None:
        if self._running:
            self._run("stop", "-w", "-m", "fast")
            self._running = False

    def options(self, **more: Any) -> PostgresqlOptions:
        secret = SecretSource("file", str(self.password))
        return PostgresqlOptions(**{"url": self.url, "query": QUERY, "password": secret, **more})

    async def sql(self, text: str) -> list[Any]:
        """Run statements; return the first column of the last one's rows."""
        import asyncpg

        connection = await asyncpg.connect(
            host="127.0.0.1", port=self._port, user="ironpost", database="postgres", password="secret", ssl=False
        )
        try:
            if not text.startswith("SELECT"):
                await connection.execute(text)
                return []
            return [row[0] for row in await connection.fetch(text)]
        finally:
            await connection.close()

    async def connections(self) -> list[int]:
        """The processes that serve ironpost's connections."""
        return await self.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'ironpost' ORDER BY pid")

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [self._pg_ctl, *arguments, "-s", "-D", self._data], env=self._env, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **self._user,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + (self._log.read_text() if self._log.exists() else "")


@pytest.fixture(scope="module")
def cluster(program: Callable[[str], str], proxied: dict[str, str], free: Callable[[], int]) -> Iterator[Postgresql]:
    """A database with people; its server does not run."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        found = Postgresql(program("pg_ctl"), folder, proxied, free())
        found.start()
        try:
            asyncio.run(found.sql(PEOPLE))
        finally:
            found.stop()
        yield found


@pytest.fixture
def postgresql(cluster: Postgresql) -> Iterator[Postgresql]:
    """A running server."""
    cluster.start()
    yield cluster
    cluster.stop()


def opened(options: PostgresqlOptions) -> PostgresqlRecords:
    return options.open(SourceContext(SystemClock(), Path()))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a test; what its errors refer to is collected before the event loop is closed."""

    async def collected() -> T:
        result = await main
        gc.collect()
        return result

    return asyncio.run(collected())


def looked_up(options: PostgresqlOptions, *keys: str) -> list[Record | None]:
    async def main() -> list[Record | None]:
        async with asyncio.timeout(30):
            source = opened(options)
            return [await source.lookup(key) for key in keys]

    return run(main())


def failure(options: PostgresqlOptions, key: str) -> DirectoryError:
    """The error of a lookup, without the traceback, which would keep the source and its connection."""

    async def main() -> DirectoryError:
        source = opened(options)
        async with asyncio.timeout(30):
            try:
                found = await source.lookup(key)
            except DirectoryError as error:
                return error.with_traceback(None)
        raise AssertionError(found)

    return run(main())


def test_rows_are_records(postgresql: Postgresql) -> None:
    where, bob = postgresql.url, Address.parse("bob@other.example")
    keys = [f"{name}@mail.example" for name in ("ada", "left", "team", "nobody")] + ["@shop.example"]
    assert looked_up(postgresql.options(), *keys) == [
        Record(where, quota=1000), Record(where, disabled=True), Record(where, (ADA, bob), keep=True), None,
        Record(where, (ADA,)),
    ]  # fmt: skip


def test_r41_a_key_is_a_parameter_and_never_sql(postgresql: Postgresql) -> None:
    hostile = ("' OR 1=1 --", "x'; DROP TABLE people; --", "$1", '"', "%", "_", "\\", "ada@mail.example\0", "a\0", "\0")
    keys = [*hostile, *(f"{key}@mail.example" for key in hostile)]
    assert looked_up(postgresql.options(), *keys) == [None] * len(keys)
    assert looked_up(postgresql.options(), f"{HOSTILE}@mail.example", HOSTILE) == [Record(postgresql.url, (ADA,)), None]


@pytest.mark.parametrize(
    ("query", "key", "why"),
    [
        (QUERY, "wrong@mail.example", "targets: 'ada' is not a valid address"),
        (QUERY, "more@mail.example", f"more than {MAX_TARGETS} rows for one address"),
        ("SELECT targets, address FROM people WHERE address = $1", "x", "the query returns targets, address; expected"),
        ("SELECT none FROM people WHERE address = $1", "x", 'column "none" does not exist'),
        ("SELECT targets FROM people WHERE address = $1; SELECT 1", "x", "cannot insert multiple commands"),
        ("INSERT INTO people VALUES ($1) RETURNING targets", "x", "read-only transaction"),
        ("INSERT INTO people VALUES ($1)", "x", "the query returns nothing; expected columns are targets"),
        ("SELECT setval('numbers', length($1)) AS quota", "x", "read-only transaction"),
    ],
)
def test_a_query_that_fails_is_an_error(postgresql: Postgresql, query: str, key: str, why: str) -> None:
    asyncio.run(postgresql.sql("CREATE SEQUENCE IF NOT EXISTS numbers"))
    error = str(failure(postgresql.options(query=query), key))
    assert error.startswith(f"{postgresql.url}: ")
    assert why in error


def test_each_transport_works(postgresql: Postgresql) -> None:
    for more in ({"url": postgresql.socket}, {"ca": postgresql.ca}):
        assert looked_up(postgresql.options(**more), "left@mail.example", "eve@mail.example")[1] is None


def test_r13_a_server_that_cannot_be_verified_gets_no_login(postgresql: Postgresql, tmp_path: Path) -> None:
    issue("localhost", "127.0.0.1").write(tmp_path / "other.pem", tmp_path / "other.key")
    error = failure(postgresql.options(ca=tmp_path / "other.pem"), "ada@mail.example")
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)


def test_what_the_server_refuses_is_an_error(
    postgresql: Postgresql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "secret")  # not what the configuration names
    (tmp_path / "wrong").write_text("wrong\n")
    for more, why in (
        ({"password": SecretSource("file", str(tmp_path / "wrong"))}, "password authentication failed"),
        ({"password": None}, "password authentication failed"),
        ({"url": postgresql.url.replace("/postgres", "/other")}, 'database "other" does not exist'),
    ):
        assert why in str(failure(postgresql.options(**more), "ada@mail.example"))


def test_a_server_that_is_down_is_an_error_and_is_found_again(postgresql: Postgresql) -> None:
    async def main() -> None:
        source = opened(postgresql.options())
        assert None not in await asyncio.gather(*(source.lookup("ada@mail.example") for _ in range(10)))
        assert len(await postgresql.connections()) == 4
        await asyncio.to_thread(postgresql.stop)
        with pytest.raises(DirectoryError, match=postgresql.url):
            await source.lookup("ada@mail.example")
        await asyncio.to_thread(postgresql.start)
        assert await source.lookup("ada@mail.example") is not None
        (process,) = await postgresql.connections()
        await postgresql.sql(f"SELECT pg_terminate_backend({process}, 10000)")
        assert await source.lookup("ada@mail.example") is not None
        assert await postgresql.connections() != [process]

    run(main())


def test_a_server_that_is_silent_is_left_after_the_time_limit(postgresql: Postgresql) -> None:
    async def main() -> None:
        cache = RecordCache(opened(postgresql.options()), "people", SystemClock(), CacheOptions(timeout=Seconds(1.0)))
        assert await cache.lookup("left@mail.example") is not None  # type: ignore[misc]
        (process,) = await postgresql.connections()
        os.kill(process, signal.SIGSTOP)
        try:
            with pytest.raises(DirectoryError, match="people: no answer after 1 s"):
                await cache.lookup("ada@mail.example")  # type: ignore[misc]
            assert await cache.lookup("ada@mail.example") is not None  # type: ignore[misc]
        finally:
            os.kill(process, signal.SIGCONT)

    run(main())


def test_connections_end_with_their_source(postgresql: Postgresql) -> None:
    async def main() -> None:
        source = opened(postgresql.options())
        assert await source.lookup("ada@mail.example") is not None
        assert await postgresql.connections() != []
        del source
        gc.collect()
        async with asyncio.timeout(30):
            while await postgresql.connections():
                pass  # until the server has noticed it

    run(main())


def test_a_server_uses_the_directory(
    postgresql: Postgresql,
    serve: Callable[..., Any],
    wait_until: Callable[[Callable[[], bool], Callable[[], str]], None],
) -> None:
    server = serve(f"""
[local]
domains = ["mail.example"]
[directory]
cache = "0s"
cache_missing = "0s"
[[directory.postgresql]]
url = "{postgresql.url}"
query = "{QUERY}"
password = "file:{postgresql.password}"
""")

    def replies(*names: str) -> list[int]:
        with smtplib.SMTP("127.0.0.1", server.port, "client.example") as client:
            client.ehlo()
            client.mail("jo@client.example")
            return [client.rcpt(f"{name}@mail.example")[0] for name in names]

    everybody = ("ada", "ada+news", "team", "left", "nobody", "'--", "postmaster")
    expected = [250, 250, 250, 550, 550, 550, 250]
    assert replies(*everybody) == expected
    before = asyncio.run(postgresql.connections())
    assert server.run("reload", "-c", str(server.file)).returncode == 0
    assert replies(*everybody) == expected
    explained = server.run("route", "explain", "team@mail.example", "-c", str(server.file))
    assert f"team@mail.example: {postgresql.url}" in explained.stdout.decode()
    assert explained.stderr == b""
    wait_until(lambda: not set(before) & set(asyncio.run(postgresql.connections())), server.log)
    postgresql.stop()
    assert server.run("check", str(server.file)).returncode == 0  # a server that is down may come back
    assert replies("ada", "left", "nobody") == [451] * 3
    postgresql.start()
    assert replies(*everybody, "wrong") == [*expected, 451]
    assert server.stop() == 0
