"""The users file: its contents, its permissions, and changes while a server runs."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.accounts.file import InvalidCredential, UserExists, UsersFile, UsersFileError, UserUnknown
from ironpost.accounts.passwords import PasswordChecker
from ironpost.protocol.sasl.scram import credential

if TYPE_CHECKING:
    from pathlib import Path

HASH = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$8LaEmHZjWnwtTSZ9JWJIYA"
SCRAM = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$" + "A" * 43 + "=:" + "B" * 43 + "="


def test_an_account_is_added_found_changed_and_removed(tmp_path: Path) -> None:
    file = UsersFile(tmp_path / "users")
    assert file.find("ada") is None
    assert file.names() == []
    assert file.add("Ada@mail.example", "pencil case") is False
    file.add("bob", "pâte à crayons")
    assert file.names() == ["Ada@mail.example", "bob"]
    ada = file.find("ada@MAIL.example")
    assert ada is not None
    assert ada.name == "Ada@mail.example"
    assert PasswordChecker().check(ada.password, "pencil case")
    assert ada.scram is not None
    assert ada.scram == credential("pencil case", ada.scram.salt, ada.scram.iterations)
    with pytest.raises(UserExists):
        file.add("ADA@mail.example", "another one")
    assert file.add("ADA@mail.example", "another one", replace=True) is True
    assert file.names() == ["ADA@mail.example", "bob"]
    changed = file.find("ada@mail.example")
    assert changed is not None
    assert not PasswordChecker().check(changed.password, "pencil case")
    assert file.remove("ada@mail.example") == "ADA@mail.example"
    assert file.names() == ["bob"]
    with pytest.raises(UserUnknown):
        file.remove("ada@mail.example")


def test_r47_the_file_is_ours_alone_and_holds_no_password(tmp_path: Path) -> None:
    path = tmp_path / "users"
    old = os.umask(0)
    try:
        UsersFile(path).add("ada", "pencil case")
        path.chmod(0o644)
        UsersFile(path).add("bob", "pencil case")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}
    assert "pencil case" not in path.read_text()


def test_a_change_is_seen_at_the_next_login(tmp_path: Path) -> None:
    running, command = UsersFile(tmp_path / "users"), UsersFile(tmp_path / "users")
    assert running.find("ada") is None
    command.add("ada", "pencil case")
    assert running.find("ada") is not None
    command.remove("ada")
    assert running.find("ada") is None
    command.add("ada", "pencil case")
    assert running.find("ada") is not None
    (tmp_path / "users").unlink()
    assert running.find("ada") is None


def test_a_file_that_cannot_be_looked_at_leaves_what_was_read_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = UsersFile(tmp_path / "users")
    file.add("ada", "pencil case")
    assert file.find("ada") is not None

    def denied(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(file.path), "stat", denied)
    assert file.find("ada") is not None
    assert "keeping the accounts read before" in caplog.text
    with pytest.raises(PermissionError):
        UsersFile(tmp_path / "users").find("ada")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ada", "expected a name, an argon2 hash"),
        ("ada pencil", "expected a name, an argon2 hash"),
        (f"ada  {HASH}", "expected a name, an argon2 hash"),
        (f"ada {HASH} {SCRAM} more", "expected a name, an argon2 hash"),
        (f"ada {HASH} SCRAM-SHA-1$4096:AAAA$A:A", "not SCRAM-SHA-256"),
        (f"ada {HASH} {SCRAM.replace('4096', '1')}", "1 iterations of SCRAM"),
        (f"ada {HASH} {SCRAM.replace('AA==$', 'A==$', 1)}", "line 3"),
        (f"ada {HASH}\nADA -", "duplicate account"),
    ],
)
def test_a_line_of_another_form_is_named_and_what_was_read_before_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: str, why: str
) -> None:
    path = tmp_path / "users"
    path.write_text(f"# ours\neve {HASH} {SCRAM}\nbob -\n")
    running = UsersFile(path)
    assert running.find("eve") is not None
    path.write_text(f"# ours\neve {HASH} {SCRAM}\n{line}\n")
    with pytest.raises(UsersFileError, match=why) as caught:
        UsersFile(path).find("eve")
    assert f"{path}, line " in str(caught.value)
    with caplog.at_level(logging.ERROR):
        assert running.find("bob") is not None
        assert running.find("eve") is not None
    assert len(caplog.records) == 1
    with pytest.raises(UsersFileError):
        UsersFile(path).add("new", "pencil case")
    assert "new" not in path.read_text()
    path.write_text(f"eve {HASH} {SCRAM}\n")
    assert running.find("bob") is None


def test_the_error_names_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b"\xff\xfe")
    with pytest.raises(UsersFileError, match="not UTF-8"):
        UsersFile(tmp_path / "users").names()


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\r\nb", "#ada", "\u00ad", "x" * 256, "a\u2028b", "\ue000"])
def test_r17_what_can_be_no_name_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidCredential):
        UsersFile(tmp_path / "users").add(name, "pencil case")
    assert not (tmp_path / "users").exists()


@pytest.mark.parametrize(("password", "good"), [("1234567", False), ("\u00ad" * 8, False), ("12345678", True)])
def test_f61_a_short_password_is_not_written(tmp_path: Path, password: str, good: bool) -> None:
    with contextlib.nullcontext() if good else pytest.raises(InvalidCredential, match="at least 8 characters"):
        UsersFile(tmp_path / "users").add("ada", password)
    assert (tmp_path / "users").exists() is good


@pytest.mark.parametrize("password", ["", "\u00ad", "long enough\nb", "long enough\ue000"])
def test_what_can_be_no_password_is_not_written(tmp_path: Path, password: str) -> None:
    with pytest.raises(InvalidCredential):
        UsersFile(tmp_path / "users").add("ada", password)
    assert not (tmp_path / "users").exists()


def test_changes_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda number=number: UsersFile(tmp_path / "users").add(f"user{number}", "pencil case"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(UsersFile(tmp_path / "users").names()) == [f"user{number}" for number in range(8)]


WORDS = st.one_of(
    st.sampled_from(
        [HASH, SCRAM, "ada", "-", "#", " ", "\n", "\r", "\0", "$", ":", "SCRAM-SHA-256$0:", "4096", "=" * 3]
    ),
    st.text(max_size=6),
)


@given(pieces=st.lists(WORDS, max_size=8), tail=st.binary(max_size=3))
def test_r22_any_users_file_is_parsed_or_refused_with_the_line(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str], tail: bytes
) -> None:
    path = tmp_path_factory.mktemp("users") / "users"
    path.write_bytes("".join(pieces).encode("utf-8", "replace") + tail)
    names, fault = [], str(path)
    try:
        names = UsersFile(path).names()
    except UsersFileError as error:
        fault = str(error)
    assert fault.startswith(str(path))
    assert all(UsersFile(path).find(name) is not None for name in names)


def test_an_account_is_removed_by_the_name_with_which_it_was_added(tmp_path: Path) -> None:
    file = UsersFile(tmp_path / "users")
    file.add("\uff41da", "pencil case")
    assert file.names() == ["ada"]
    assert file.remove("\uff41da") == "ada"
    assert file.names() == []
