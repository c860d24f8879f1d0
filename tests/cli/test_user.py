"""`ironpost user`, on a terminal and in scripts."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tests import preloaded

from ironpost.accounts.file import UsersFile
from ironpost.accounts.passwords import PasswordChecker

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1", "COLUMNS": "200"}


def user(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = preloaded.said(folder, "user", *arguments, stdin=stdin, environment=ENVIRONMENT)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def said(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout.rstrip("\n"), done.stderr.rstrip("\n")


def right(folder: Path, name: str, password: str) -> bool:
    found = UsersFile(folder / "ironpost-data" / "users").find(name)
    return found is not None and PasswordChecker().check(found.password, password)


def test_add_list_change_remove(tmp_path: Path) -> None:
    empty = "ironpost-data/users has no users; add one: ironpost user add NAME"
    assert said(user(tmp_path, "list")) == (0, empty, "")
    assert said(user(tmp_path, "list", "--json")) == (0, "[]", "")
    assert said(user(tmp_path, "add", "ada@mail.example", stdin="pencil case\n")) == (0, "ada@mail.example: added", "")
    assert right(tmp_path, "ada@mail.example", "pencil case")
    again = user(tmp_path, "add", "ADA@mail.example", stdin="another one\n")
    exists = "ironpost: ADA@mail.example already exists; to change its password: ironpost user add --replace "
    assert said(again) == (64, "", f"{exists}ADA@mail.example")
    assert right(tmp_path, "ada@mail.example", "pencil case")
    changed = user(tmp_path, "add", "--replace", "--json", "ada@mail.example", stdin="another one")
    assert json.loads(changed.stdout) == {"user": "ada@mail.example", "replaced": True}
    assert right(tmp_path, "ada@mail.example", "another one")
    assert said(user(tmp_path, "list", "--json")) == (0, '["ada@mail.example"]', "")
    assert said(user(tmp_path, "remove", "bob")) == (66, "", "ironpost: no such user: bob")
    assert said(user(tmp_path, "remove", "Ada@mail.example")) == (0, "ada@mail.example: removed", "")
    assert said(user(tmp_path, "list", "--json")) == (0, "[]", "")
    assert (tmp_path / "ironpost-data").stat().st_mode & 0o777 == 0o700


def test_another_file_is_named_by_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mail.toml").write_text('[auth]\nusers = "accounts"\n')
    assert user(tmp_path, "add", "-c", "mail.toml", "ada", stdin="pencil case").returncode == 0
    assert UsersFile(tmp_path / "accounts").names() == ["ada"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (
            ["add", "a b"],
            "pencil case\n",
            "'a b' is not a valid name: expected 1 to 255 octets, without spaces, not starting with #",
        ),
        (["add", "ada"], "\n", "the password is too short: it needs at least 8 characters"),
        (["add", "ada"], "1234567\n", "the password is too short: it needs at least 8 characters"),
        (["add", "ada"], "", "the password is too short: it needs at least 8 characters"),
        (["add", "ada"], "pen\x07cil\n", "the password cannot be used: contains a control character"),
    ],
)
def test_an_invalid_account_name_is_refused(tmp_path: Path, arguments: list[str], stdin: str, why: str) -> None:
    assert said(user(tmp_path, *arguments, stdin=stdin)) == (64, "", f"ironpost: {why}")


def test_an_invalid_users_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ironpost-data").mkdir()
    (tmp_path / "ironpost-data" / "users").write_text("ada pencil\n")
    for arguments in (["list"], ["add", "bob"], ["remove", "ada"]):
        done = user(tmp_path, *arguments, stdin="long enough")
        assert done.returncode == 78
        assert "ironpost-data/users, line 1: expected a name, an argon2 hash" in done.stderr
    (tmp_path / "other.toml").write_text('[auth]\nusers = "no/such/folder/users"\n')
    done = user(tmp_path, "add", "-c", "other.toml", "ada", stdin="long enough")
    assert said(done) == (73, "", "ironpost: no/such/folder/users: No such file or directory")


def test_on_a_terminal_the_password_is_prompted_twice_without_echo(tmp_path: Path) -> None:
    for second, code in (("pencil case", 0), ("pen", None)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "ironpost.cli", "user", "add", "--replace", "ada"], cwd=tmp_path, env=ENVIRONMENT,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        shown = _until(ours, b"Password: ")
        os.write(ours, b"pencil case\n")
        shown += _until(ours, b"Repeat the password: ")
        os.write(ours, second.encode() + b"\n")
        if code is None:
            shown += _until(ours, b"Password: ")
            process.kill()
            process.wait()
        else:
            assert process.wait(60) == code
            shown += _until(ours, b"added")
        os.close(ours)
        assert b"pencil case" not in shown
    assert right(tmp_path, "ada", "pencil case")


def _until(file: int, words: bytes) -> bytes:
    shown = b""
    while words not in shown:
        shown += os.read(file, 1000)
    return shown
