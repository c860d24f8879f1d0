"""Accounts of a file, a database and a hook as one authenticator, on a real event loop."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import weakref
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts import passwords
from ironpost.accounts.authenticator import METHODS, User, Users, decoy_key, new_user, scram_credential, scram_text
from ironpost.accounts.file import UsersFile
from ironpost.accounts.hook import HookError, load
from ironpost.accounts.passwords import PasswordChecker, PasswordPool, PasswordPoolBusy, hash_password
from ironpost.accounts.sql import QueryError, UsersSql
from ironpost.compose.auth import authenticator
from ironpost.config import parse
from ironpost.protocol.sasl.scram import credential
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Peer, TlsInfo
from ironpost.server import BaseHandler, blocking

if TYPE_CHECKING:
    from pathlib import Path

ADA = new_user("ada", "pencil")
SESSION = ServerSession(BaseHandler())


class Source:
    """Some accounts in memory."""

    secrets = False

    def __init__(self, *users: User) -> None:
        self.users = {user.name: user for user in users}
        self.asked: list[str] = []

    def find(self, login: str) -> User | None:
        self.asked.append(login)
        return self.users.get(login)


def asked(method: Any, *arguments: Any) -> Any:
    async def ask() -> Any:
        return await method(*arguments)

    return asyncio.run(ask())


def test_the_first_source_that_knows_the_name_decides() -> None:
    first, second = Source(ADA), Source(new_user("ada", "pen"), new_user("bob", "pen"))
    users = Users([first, second])
    assert asked(users.verify_password, SESSION, "ada", "pencil") == "ada"
    assert asked(users.verify_password, SESSION, "ada", "pen") is None
    assert asked(users.verify_password, SESSION, "bob", "pen") == "bob"
    assert asked(users.verify_password, SESSION, "eve", "pen") is None
    assert second.asked == ["bob", "eve"]
    assert asked(users.scram, SESSION, "ada") == ADA.scram._replace(name="ada")
    assert asked(users.scram, SESSION, "eve") is None


def test_an_account_without_a_password_lets_nobody_in() -> None:
    users = Users([Source(User("ada"))])
    assert asked(users.verify_password, SESSION, "ada", "") is None
    assert asked(users.verify_password, SESSION, "ada", "pencil") is None
    assert asked(users.scram, SESSION, "ada") is None


def test_what_no_source_has_is_not_there() -> None:
    file = Users([Source(ADA)])
    assert [hasattr(file, method) for method in ("verify_password", "scram", "external")] == [True] * 3
    assert [hasattr(file, method) for method in ("shared_secret", "verify_token", "may_act_as")] == [False] * 3

    class Hook:
        def verify_token(self, session: Any, login: str, token: str) -> str | None:
            return login if token == "abc" else None

        def shared_secret(self, session: Any, login: str) -> str | None:
            return "pencil" if login == "eve" else None

    both = Users([Source(ADA)], [Hook()])
    assert asked(both.verify_token, SESSION, "eve", "abc") == "eve"
    assert asked(both.shared_secret, SESSION, "eve") == "pencil"
    assert asked(both.shared_secret, SESSION, "ada") is None
    alone = Users((), [Hook()])
    assert not hasattr(alone, "verify_password")
    assert asked(alone.shared_secret, SESSION, "eve") == "pencil"


@pytest.mark.parametrize("kind", ["plain", "async", "blocking"])
def test_a_hook_is_asked_for_names_that_no_source_knows(kind: str) -> None:
    seen: list[tuple[str, bool]] = []

    def verify(session: Any, login: str, password: str) -> str | None:
        seen.append((login, threading.current_thread() is threading.main_thread()))
        return "Eve" if password == "right" else None

    async def verify_later(session: Any, login: str, password: str) -> str | None:
        await asyncio.sleep(0)
        return verify(session, login, password)

    class Hook:
        verify_password = staticmethod(
            {"plain": verify, "async": verify_later, "blocking": blocking(lambda *words: verify(*words))}[kind]
        )

    users = Users([Source(ADA)], [Hook()])
    assert asked(users.verify_password, SESSION, "eve", "right") == "Eve"
    assert asked(users.verify_password, SESSION, "eve", "wrong") is None
    assert asked(users.verify_password, SESSION, "ada", "right") is None
    assert seen == [("eve", kind != "blocking")] * 2


def test_external_takes_a_certificate_or_a_unix_user_for_an_account() -> None:
    users = Users([Source(ADA, User("postfix"))])

    def by(authzid: str, *, user: str = "", names: tuple[str, ...] = ()) -> Any:
        session = ServerSession(
            BaseHandler(), peer=Peer(user=user), tls=TlsInfo("TLSv1.3", names=names) if names else None
        )
        return asked(users.external, session, authzid)

    assert by("", names=("other.example", "ada")) == "ada"
    assert by("ada", names=("ada",)) == "ada"
    assert by("postfix", names=("ada",)) is None
    assert by("", names=("eve",)) is None
    assert by("", user="postfix") == "postfix"
    assert by("", user="root") is None


def test_r53_an_unknown_name_costs_what_a_wrong_password_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the clock, which would make a test that fails on a busy machine: by the work."""
    import argon2

    work: list[tuple[int, int, int]] = []
    core = argon2.PasswordHasher
    stored = core(3, 64, 1).hash("pencil")

    class Counting(core):
        def hash(self, password: Any, **more: Any) -> str:
            work.append((self.time_cost, self.memory_cost, self.parallelism))
            return super().hash(password, **more)

        def verify(self, hash: Any, password: Any) -> Any:  # noqa: A002
            work.append((self.time_cost, self.memory_cost, self.parallelism))
            return super().verify(hash, password)

    monkeypatch.setattr(argon2, "PasswordHasher", Counting)
    checker = PasswordChecker()
    assert checker.check(stored, "wrong") is False
    assert checker.check(None, "wrong") is False
    assert checker.check(stored, "pencil") is True
    assert work == [(3, 64, 1)] * 3


def test_hashes_are_computed_beside_the_event_loop_and_bounded() -> None:
    async def flood() -> tuple[int, int, set[str]]:
        pool = PasswordPool(threads=2, waiting=8)
        go, names = threading.Event(), set()

        def work() -> None:
            names.add(threading.current_thread().name)
            go.wait()

        accepted, busy, futures = 0, 0, []
        for _ in range(50):
            try:
                futures.append(pool.run(work))
                accepted += 1
            except PasswordPoolBusy:
                busy += 1
        go.set()
        await asyncio.gather(*futures)
        await pool.run(work)  # there is room again
        return accepted, busy, names

    accepted, busy, names = asyncio.run(flood())
    assert (accepted, busy) == (8, 42)
    assert len(names) <= 2
    assert threading.main_thread().name not in names


def test_a_check_that_nobody_waits_for_any_more_leaves_its_room() -> None:
    async def abandon() -> int:
        pool = PasswordPool(threads=1, waiting=2)
        go = threading.Event()
        first = pool.run(go.wait)
        second = pool.run(go.wait)
        second.cancel()
        await asyncio.sleep(0)
        third = pool.run(time.monotonic)
        go.set()
        await first
        return int(await third > 0)

    assert asyncio.run(abandon()) == 1


def test_a_password_is_compared_as_it_is_prepared() -> None:
    assert PasswordChecker().check(hash_password("\u2168"), "IX")
    assert PasswordChecker().check(passwords.hash_password("a\u00a0b"), "a b")


def test_credentials_as_text() -> None:
    stored = credential("pencil", b"0123456789abcdef", 5000)
    assert scram_credential(scram_text(stored)) == stored
    for wrong in ("", "SCRAM-SHA-256$", scram_text(stored).replace("5000", "0"), scram_text(stored)[:-3]):
        with pytest.raises(ValueError):
            scram_credential(wrong)


def test_the_key_for_decoys_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "login.key"
    key = decoy_key(path)
    assert len(key) == 32
    assert decoy_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["login.key"]


def test_a_key_for_decoys_cut_short_by_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "login.key"
    path.write_bytes(b"")
    key = decoy_key(path)
    assert len(key) == 32
    assert decoy_key(path) == key
    assert path.stat().st_mode & 0o777 == 0o600


# ---------------------------------------------------------------------------------------------------------------------
# SQL

QUERY = "SELECT name, hash AS password, scram FROM accounts WHERE name = :login COLLATE NOCASE"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (name TEXT, hash TEXT, scram TEXT, secret)")
        assert ADA.scram is not None
        row = "Ada", ADA.password, scram_text(ADA.scram), "pencil"
        connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?)", row)
        connection.execute("INSERT INTO accounts VALUES ('bob', NULL, '', 7), ('eve', 'x', 'y', '')")
    connection.close()
    return path


def test_a_database_is_asked_by_the_operators_query(database: Path) -> None:
    sql = UsersSql(database, QUERY)
    assert sql.find("ada") == User("Ada", ADA.password, ADA.scram)
    assert sql.find("bob") == User("bob")
    assert sql.find("nobody") is None
    assert sql.secrets is False
    users = Users([UsersFile(database.with_name("users")), sql])
    assert asked(users.verify_password, SESSION, "ADA", "pencil") == "Ada"
    named = UsersSql(database, "SELECT secret FROM accounts WHERE name = :login")
    assert named.secrets is True
    assert asked(Users([named]).shared_secret, SESSION, "Ada") == "pencil"


@pytest.mark.parametrize("login", ["' OR 1=1 --", "x' UNION SELECT 'a','b','c' --", "ada\0", ":login", '"', "%"])
def test_r41_a_name_is_a_parameter_and_never_sql(database: Path, login: str) -> None:
    assert UsersSql(database, QUERY).find(login) is None


def test_a_database_that_cannot_be_asked_is_named(database: Path, tmp_path: Path) -> None:
    UsersSql(database, QUERY).check()
    for path, query, why in (
        (tmp_path / "none.sqlite3", QUERY, "unable to open"),
        (database, "SELECT other FROM accounts WHERE name = :login", "no such column"),
        (database, "SELECT name FROM accounts WHERE name = :login", "returns name"),
        (database, "SELECT name, hash, scram FROM accounts WHERE name = :login", "returns name, hash"),
        (database, "DELETE FROM accounts WHERE name = :login RETURNING scram", "readonly"),
    ):
        with pytest.raises(QueryError, match=why):
            UsersSql(path, query).check()
    assert not (tmp_path / "none.sqlite3").exists()
    with pytest.raises(QueryError, match="int, not text"):
        UsersSql(database, "SELECT secret FROM accounts WHERE name = :login").find("bob")
    with pytest.raises(QueryError, match="scram"):
        UsersSql(database, QUERY).find("eve")
    with pytest.raises(ValueError, match=":login"):
        UsersSql(database, "SELECT password FROM accounts")


# ---------------------------------------------------------------------------------------------------------------------
# Hooks


def test_a_hook_is_an_object_in_a_file_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = "def verify_password(self, session, login, password): return login"
    text = f"class Hook:\n    {method}\nhere = Hook()\nfive = 5\n"
    (tmp_path / "accounts.py").write_text(text)
    found: Any = load("accounts.py:here", tmp_path, METHODS)
    assert found.verify_password(None, "ada", "x") == "ada"
    assert load(f"{tmp_path}/accounts.py:here", tmp_path / "elsewhere", METHODS) is not None
    (tmp_path / "ironpost_test_accounts.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load("ironpost_test_accounts:here", tmp_path, METHODS) is not None
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)")  # f32: a reload would end the server
    for place, why in (
        ("none.py:here", "file not found"),
        ("ironpost_test_nothing:here", "ModuleNotFoundError"),
        ("broken.py:here", "ZeroDivisionError"),
        ("exits.py:here", "SystemExit: 3"),
        ("accounts.py:nothing", "has no nothing"),
        ("accounts.py:five", "expected an object with the method verify_password or scram or "),
        ("accounts.py:Hook", "expected an object with the method verify_password or scram or "),
    ):
        with pytest.raises(HookError, match=why):
            load(place, tmp_path, METHODS)


def test_r53_an_unknown_name_is_shown_the_iterations_that_the_accounts_have() -> None:
    """A database from elsewhere holds what PostgreSQL makes, for instance: 4096."""
    users = Users([Source(User("ada", None, credential("pencil", bytes(16), 4096)))], decoy_key=b"k")
    settings = ServerSettings(hostname="mx.example", authenticator=users, nonce=lambda: "chance")

    def shown(name: str) -> bytes:
        async def talk() -> bytes:
            session = ServerSession(BaseHandler(), settings, Peer("192.0.2.1"), tls=TlsInfo("TLSv1.3"))
            pending = session.start()
            assert pending is None
            session.receive(b"EHLO client.example\r\n")
            session.output()
            first = b64encode(f"n,,n={name},r=c".encode())
            pending = session.receive(b"AUTH SCRAM-SHA-256 " + first + b"\r\n")
            while pending is not None:
                pending = session.answer(await pending)
            return b64decode(session.output()[4:])

        return asyncio.run(talk()).rpartition(b",")[2]

    assert shown("ada") == b"i=4096"
    assert shown("nobody") == b"i=4096"


def test_f12_reloads_add_no_threads_and_keep_no_old_accounts(tmp_path: Path) -> None:
    configuration = parse(f'data = "{tmp_path}"\n[[listener]]\nrole = "submission"\nlisten = ["127.0.0.1:0"]\n', "test")
    UsersFile(configuration.users).add("ada", "pencil box")
    pool = PasswordPool()
    left: list[weakref.ref[Users]] = []

    async def login(users: Users) -> None:
        assert await users.verify_password(SESSION, "ada", "wrong") is None
        assert await users.verify_password(SESSION, "ada", "pencil box") == "ada"

    gc.collect()
    gc.disable()
    try:
        before = threading.active_count()
        for _ in range(10):
            users = authenticator(configuration, pool)
            assert users is not None
            asyncio.run(login(users))
            left.append(weakref.ref(users))
        assert threading.active_count() <= before + 2
        assert sum(each() is not None for each in left) <= 1
    finally:
        gc.enable()


def test_an_account_that_is_closed_is_as_unknown_as_one_with_a_wrong_password() -> None:
    class Hook:
        def verify_token(self, session: Any, login: str, token: str) -> str | None:
            return "ada" if token == "abc" else None

        def shared_secret(self, session: Any, login: str) -> str | None:
            return "pencil"

        def may_act_as(self, login: str, authzid: str) -> bool:
            return True

    asked_for: list[str] = []

    async def closed(name: str) -> str:
        asked_for.append(name)
        return "closed" if name in {"ada", "eve"} else ""

    users = Users([Source(ADA, new_user("bob", "pen"))], [Hook()], closed=closed)
    assert asked(users.verify_password, SESSION, "ada", "pencil") is None
    assert asked(users.scram, SESSION, "ada") is None
    assert asked(users.verify_token, SESSION, "", "abc") is None
    assert asked(users.shared_secret, SESSION, "eve") is None
    assert asked_for == ["ada", "ada", "ada", "eve"]
    assert asked(users.verify_password, SESSION, "bob", "pen") == "bob"
    assert asked(users.scram, SESSION, "bob") is not None
    assert asked(users.may_act_as, "bob", "ada") is True
