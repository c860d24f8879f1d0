"""f29: errors that `check` finds in files, directories and numbers, and where the operator's code is loaded from."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.config.quantities import SOCKET_OCTETS
from ironpost.server.self_signed import write_self_signed

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
HOOK = """class Accounts:
    def verify_password(self, session, login, password): return None
authenticator = Accounts()
"""
TRAP = "raise SystemExit('this is not the file that was meant')\n"
LISTENER = '[[listener]]\nrole = "mx"\nlisten = ["{}"]\n'


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in `folder`, and assert that it prints no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "ironpost.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    return done


def checked(folder: Path, text: str) -> tuple[int, str]:
    """Return the exit code of `check` and its standard error."""
    (folder / "ironpost.toml").write_text(text)
    done = run(folder, "check")
    assert done.stdout.startswith("ironpost.toml: good ") == (done.returncode == 0)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[smtp]\nmax_message = "{many}GiB"', "ironpost.toml:2: smtp.max_message: maximum: 1048576GiB"),
        ('[smtp]\nmax_message = "1048577GiB"', "ironpost.toml:2: smtp.max_message: maximum: 1048576GiB"),
        ('[queue]\nexpire = "{many}d"', "ironpost.toml:2: queue.expire: maximum: 36500d"),
        ('[queue]\nexpire = "3153600001s"', "ironpost.toml:2: queue.expire: maximum: 36500d"),
        ('[limits]\nconnection_rate = "{many}/s"', "limits.connection_rate: maximum: 1000000000/s"),
        ('[limits]\ndata_rate = "{many}B/s"', "limits.data_rate: maximum: 1048576GiB"),
        ("[limits]\nconnections = 99999999999999999999", "limits.connections: maximum: 1000000000"),
        ("[smtp]\nmax_recipients = 99999999999999999999", "smtp.max_recipients: maximum: 1000000000"),
        ("[limits]\nconnections = {many}", "ironpost.toml: a number has too many digits"),
        ("x = {deep}", "ironpost.toml: lists or tables are nested too deeply"),
    ],
)
def test_f29_numbers_out_of_range_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    code, said = checked(tmp_path, text.replace("{many}", "9" * 5000).replace("{deep}", "[" * 5000))
    assert (code, said) == (78, f"ironpost: {said.removeprefix('ironpost: ')}")
    assert sentence in said
    assert len(said) < 200


def test_f29_a_socket_path_up_to_the_maximum_length_is_accepted(tmp_path: Path) -> None:
    """The system can bind every path that `check` accepts."""
    folder = tmp_path / "s"
    folder.mkdir()
    longest = str(folder / "x").ljust(SOCKET_OCTETS, "x")
    assert checked(tmp_path, LISTENER.format(f"unix:{longest}"))[0] == 0
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(longest)
    code, said = checked(tmp_path, LISTENER.format(f"unix:{longest}x"))
    assert code == 78
    assert f"this path has {SOCKET_OCTETS + 1} octets; maximum for a Unix socket: {SOCKET_OCTETS}" in said
    with socket.socket(socket.AF_UNIX) as refused, pytest.raises(OSError, match="too long"):
        refused.bind(f"{longest}x")


def test_f29_files_in_the_place_of_sockets_or_directories_are_reported(tmp_path: Path) -> None:
    for name in ("file", "data.file"):
        (tmp_path / name).touch()
    assert checked(tmp_path, LISTENER.format("unix:file")) == (
        78, "ironpost: listener[1].listen: file: a file that is not a socket is in the way\n",
    )  # fmt: skip
    assert checked(tmp_path, 'data = "data.file"') == (
        73, "ironpost: cannot use the data directory data.file: not a directory\n",
    )  # fmt: skip
    absent = "absent does not exist: create it, or choose another directory"
    entry = '[[local.delivery]]\nrecipients = ["*"]\n'
    for text, told in (
        ('maildir = "file"', "local.maildir: file is not a directory"),
        ('maildir = "absent/mail"', f"local.maildir: {absent}"),
        (f'{entry}maildir.path = "absent/{{local}}"', f"local.delivery[1].maildir.path: {absent}"),
        (f'{entry}mbox.path = "file/{{local}}"', "local.delivery[1].mbox.path: file is not a directory"),
    ):
        code, said = checked(tmp_path, f"[local]\n{text}")
        assert (code, said.splitlines()[-1]) == (78, f"ironpost: {told}")  # root is warned before
    long = "d" * 120
    code, said = checked(tmp_path, f'data = "{long}"')
    assert (code, "this path is too long for a socket" in said) == (73, True)


@pytest.mark.parametrize("tls", ["none", "starttls"])
def test_f29_client_authorities_are_checked_without_a_certificate(tmp_path: Path, tls: str) -> None:
    text = LISTENER.format("127.0.0.1:0") + f'tls = "{tls}"\n[tls]\nclient_ca = "ca.pem"\n'
    assert checked(tmp_path, text) == (78, "ironpost: tls.client_ca: ca.pem: No such file or directory\n")
    (tmp_path / "ca.pem").write_text("no PEM")
    code, said = checked(tmp_path, text)
    assert (code, "ca.pem: the authorities cannot be read" in said) == (78, True)
    write_self_signed(tmp_path / "ca.pem", tmp_path / "key.pem", ["ca.example"])
    assert checked(tmp_path, text) == (0, "")


@pytest.mark.parametrize("section", ["delivery", "http"])
def test_authorities_of_other_hosts_are_checked(tmp_path: Path, section: str) -> None:
    text = f'[{section}]\nca = "ca.pem"\n'
    assert checked(tmp_path, text) == (78, f"ironpost: {section}.ca: ca.pem: No such file or directory\n")
    done = run(tmp_path, "route", "explain", "jo@other.example")
    assert (done.returncode, done.stderr) == (78, "ironpost: ca.pem: No such file or directory\n")
    write_self_signed(tmp_path / "ca.pem", tmp_path / "key.pem", ["ca.example"])
    assert checked(tmp_path, text) == (0, "")


def test_f29_all_file_errors_are_reported_together(tmp_path: Path) -> None:
    code, said = checked(
        tmp_path,
        '[tls]\nclient_ca = "ca.pem"\n[[tls.certificates]]\nchain = "chain.pem"\nkey = "file:key.pem"\n'
        '[auth]\ndatabase = "accounts.sqlite3"\nquery = "SELECT password FROM a WHERE n = :login"\n'
        '[local]\nmaildir = "absent/mail"\n',
    )
    assert code == 78
    assert [line.split(":")[1].strip() for line in said.splitlines()] == [
        "tls.client_ca", "local.maildir", "accounts.sqlite3", "chain.pem",
    ]  # fmt: skip


def test_f29_programs_and_users_of_local_delivery_are_checked(tmp_path: Path) -> None:
    entry = '[[local.delivery]]\nrecipients = ["*"]\npipe = {{ command = ["{}"], user = "{}" }}\n'
    mine = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    code, said = checked(tmp_path, entry.format("/bin/cat", "no-such-user") + entry.format("/no/such/program", mine))
    assert code == 78
    assert [line.removeprefix("ironpost: ") for line in said.splitlines()] == [
        "local.delivery[1].pipe.user: there is no user no-such-user: create it, or name another one",
        "local.delivery[2].pipe.command: /no/such/program is not an executable file",
    ]
    assert checked(tmp_path, entry.format("/bin/cat", mine)) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which the warning is about")
def test_r47_mailboxes_that_root_writes_are_reported(serve: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "homes").mkdir()
    entry = f'[[local.delivery]]\nrecipients = ["*"]\n{{}} = {{{{ path = "{tmp_path}/homes/{{{{local}}}}"{{}} }}}}\n'
    text = '[local]\nmaildir = "mail"\n' + entry.format("maildir", "") + entry.format("mbox", "")
    text += entry.format("maildir", ', user = "nobody"') + entry.format("mbox", ', user = "{local}"')
    text += '[[local.delivery]]\nrecipients = ["*"]\ndiscard = {}\n'
    code, said = checked(tmp_path, text)
    keys = ("local.maildir", "local.delivery[1]", "local.delivery[2]")
    assert (code, len(said.splitlines())) == (0, len(keys))
    for line, key in zip(said.splitlines(), keys, strict=True):
        assert line.startswith(f"ironpost.toml: warning: {key}: if the server runs as root, it writes this mail")
    data = tmp_path / "ironpost-data"
    data.mkdir()
    said = checked(tmp_path, text)[1]
    assert said.count("the server runs as root, so it writes this mail") == len(keys)
    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    assert checked(tmp_path, text) == (0, ""), "the server runs as the owner of its data directory"
    log = serve(text).log()
    for key in keys:
        assert f"{key}: the server runs as root" in log
    assert log.count("the server runs as root") == len(keys)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root, which is missing then")
def test_r47_users_of_mailboxes_are_checked(tmp_path: Path) -> None:
    entry = f'[[local.delivery]]\nrecipients = ["*"]\n{{}} = {{{{ path = "{tmp_path}/x", user = "{{}}" }}}}\n'
    code, said = checked(tmp_path, entry.format("maildir", "root") + entry.format("mbox", "no-such-user"))
    assert (code, said.splitlines()) == (78, [
        "ironpost: local.delivery[1].maildir.user: root with group 0: nothing is delivered with the rights of root",
        "ironpost: local.delivery[2].mbox.user: there is no user no-such-user: create it, or name another one",
    ])  # fmt: skip


def test_f29_the_default_users_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "ironpost-data").mkdir()
    (tmp_path / "ironpost-data" / "users").write_text("no account\n")
    code, said = checked(tmp_path, "")
    assert (code, "users, line 1: expected a name" in said) == (78, True)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (LISTENER.format("unix:absent/s"), "listener[1].listen: absent does not exist; it must be created before"),
        ('[auth]\ndovecot = "absent"', "auth.dovecot: absent does not exist; until Dovecot creates it, its accounts"),
        ('[auth]\nusers = "accounts"', "auth.users: accounts does not exist, so there are no accounts; add one"),
    ],
)
def test_f29_missing_directories_cause_only_a_warning(tmp_path: Path, text: str, warning: str) -> None:
    code, said = checked(tmp_path, text)
    assert (code, said.startswith(f"ironpost.toml: warning: {warning}")) == (0, True)


# -- permissions


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702, 0o775, 0o755])
def test_f29_a_world_writable_data_directory_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "ironpost-data"
    folder.mkdir()
    folder.chmod(mode)
    code, said = checked(tmp_path, LISTENER.format("192.0.2.1:2525"))  # not a local address
    if mode & 0o002:
        told = (
            "ironpost: cannot use the data directory ironpost-data: every user may write there "
            f"({mode:04o}); run: chmod go-w ironpost-data\n"
        )
        assert (code, said) == (78, told)
        for workers in ("1", "2"):
            done = run(tmp_path, "serve", "--workers", workers)
            assert (done.returncode, done.stderr) == (78, told)
        assert list(folder.iterdir()) == []
        return
    assert code == 0
    group = bool(mode & 0o020)
    assert ("data: ironpost-data is writable by its group" in said) == group
    for workers in ("1", "2"):
        done = run(tmp_path, "serve", "--workers", workers)
        assert done.returncode == 69
        assert ("the data directory ironpost-data is writable by its group" in done.stderr) == group


def test_f29_files_with_secrets_that_others_may_read_are_reported(tmp_path: Path) -> None:
    users = tmp_path / "accounts"
    users.touch()
    text = '[auth]\nusers = "accounts"\n'
    for mode, told in ((0o600, ""), (0o640, ""), (0o604, "0604"), (0o666, "0666"), (0o660, "0660")):
        users.chmod(mode)
        code, said = checked(tmp_path, text)
        assert code == 0
        assert said == (
            f"ironpost.toml: warning: auth.users: other users may read or change accounts ({told}); "
            "run: chmod go-w,o-r accounts\n"
        ) * bool(told)


def test_f29_the_start_warns_of_a_key_that_others_may_read(serve: Callable[..., Any], tmp_path: Path) -> None:
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    write_self_signed(chain, key, ["mx.example"])
    key.chmod(0o666)
    server = serve(f'[[tls.certificates]]\nchain = "{chain}"\nkey = "file:{key}"\n')
    server.wait_for_log(f"other users may read or change the key {key} (0666): run chmod 600")


# -- the operator's code


def test_f29_a_hook_is_relative_to_the_configuration_file(tmp_path: Path) -> None:
    etc, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    for folder, code in ((etc, HOOK), (elsewhere, TRAP)):
        (folder / "sub").mkdir(parents=True)
        for name in ("accounts.py", "sub/accounts.py"):
            (folder / name).write_text(code)
    file = etc / "mail.toml"
    for hook in ("accounts.py", "sub/accounts.py", "../etc/accounts.py", str(etc / "accounts.py")):
        file.write_text(f'[auth]\nhook = "{hook}:authenticator"\n')
        done = run(elsewhere, "check", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        assert run(elsewhere, "check", "../etc/mail.toml").stdout.split()[-1] == done.stdout.split()[-1]
    (etc / "accounts.py").unlink()
    file.write_text('[auth]\nhook = "accounts.py:authenticator"\n')
    done = run(elsewhere, "check", str(file))
    assert (done.returncode, done.stderr) == (
        78, f"ironpost: accounts.py:authenticator: file not found: {etc / 'accounts.py'}\n",
    )  # fmt: skip


@pytest.mark.parametrize("workers", ["1", "2"])
def test_f29_the_server_and_its_workers_load_the_same_hook(tmp_path: Path, workers: str) -> None:
    etc, elsewhere = tmp_path / "etc", tmp_path / "elsewhere"
    etc.mkdir()
    elsewhere.mkdir()
    (etc / "accounts.py").write_text(f"import pathlib\npathlib.Path(__file__).with_name('loaded').touch()\n{HOOK}")
    for name in ("accounts.py", "json.py", "typer.py"):
        (elsewhere / name).write_text(TRAP)
    file = etc / "mail.toml"
    file.write_text(
        f'data = "{tmp_path / "data"}"\n{LISTENER.format("192.0.2.1:2525")}auth = "offered"\n'
        '[auth]\nhook = "accounts.py:authenticator"\n'
    )
    done = run(elsewhere, "serve", "-c", str(file), "--workers", workers)
    assert (done.returncode, "cannot listen on 192.0.2.1:2525" in done.stderr) == (69, True)
    assert (etc / "loaded").exists()


def test_f29_modules_are_not_loaded_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "accounts.py").write_text(HOOK)
    code, said = checked(tmp_path, '[auth]\nhook = "accounts:authenticator"\n')
    assert (code, said) == (
        78, "ironpost: accounts:authenticator: ModuleNotFoundError: No module named 'accounts'\n",
    )  # fmt: skip


ROUTE = '[[route]]\nsmart_host = ["relay.example:{port}"]\n'


def test_check_reads_what_routes_name(tmp_path: Path) -> None:
    write_self_signed(tmp_path / "c.pem", tmp_path / "c.key", ["us.example"])
    login = '[route.auth]\nuser = "jo"\npassword = "file:relay.password"\n'
    code, said = checked(tmp_path, ROUTE.format(port=587) + login)
    assert (code, said) == (78, "ironpost: route[1].auth.password: relay.password: No such file or directory\n")
    (tmp_path / "relay.password").write_text("hunter2\n")
    (tmp_path / "relay.password").chmod(0o644)
    code, said = checked(tmp_path, ROUTE.format(port=465) + 'source = ["192.0.2.77"]\n' + login)
    assert code == 0
    assert "hunter2" not in said
    assert [line.partition("warning: ")[2].partition(":")[0] for line in said.splitlines()] == [
        "route[1].auth.password",
        "route[1].source",
        "route[1].tls",
    ]
    code, said = checked(tmp_path, ROUTE.format(port=25) + 'certificate = "c.pem"\nkey = "file:other.key"')
    assert (code, said) == (78, "ironpost: route[1].key: other.key: No such file or directory\n")
    assert checked(tmp_path, ROUTE.format(port=25) + 'certificate = "c.pem"\nkey = "file:c.key"') == (0, "")
    assert checked(tmp_path, ROUTE.format(port=25) + 'ca = "missing.pem"')[1] == (
        "ironpost: route[1].ca: missing.pem: No such file or directory\n"
    )


def test_check_reads_the_token_of_a_route(tmp_path: Path) -> None:
    login = ROUTE.format(port=587) + '[route.auth]\ntoken = "file:token"\n'
    assert checked(tmp_path, login) == (78, "ironpost: route[1].auth.token: token: No such file or directory\n")
    (tmp_path / "token").write_text("two words")
    (tmp_path / "token").chmod(0o600)
    code, said = checked(tmp_path, login)
    assert (code, said) == (78, "ironpost: route[1].auth.token: file:token: it contains no access token\n")
    (tmp_path / "token").write_text("abc\n")
    assert checked(tmp_path, login) == (0, "")


def test_the_server_does_not_start_without_a_secret_of_a_route(tmp_path: Path) -> None:
    text = LISTENER.format("127.0.0.1:0") + ROUTE.format(port=587)
    (tmp_path / "ironpost.toml").write_text(text + '[route.auth]\nuser = "jo"\npassword = "env:IRONPOST_TEST_ABSENT"\n')
    done = run(tmp_path, "serve")
    assert done.returncode == 78
    assert "route[1].auth.password: the environment variable IRONPOST_TEST_ABSENT is not set, or empty" in done.stderr
