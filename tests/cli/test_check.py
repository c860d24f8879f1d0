"""f62: `ironpost check` finds what needs no running system, and says what is most likely not meant."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ironpost.cli.advice import DAY, remarks
from ironpost.cli.serve import _cannot_use
from ironpost.compose import system
from ironpost.compose.system import DataError
from ironpost.config import Configuration, parse
from ironpost.server.self_signed import write_self_signed
from ironpost.server.tls import TlsContext

ROOT = Path(__file__).resolve().parents[2]


def configured(folder: Path, text: str = "") -> Configuration:
    chain, key = folder / "chain.pem", folder / "key.pem"
    if not chain.exists():
        write_self_signed(chain, key, ["mx.example"])
    return parse(f'{text}\n[[tls.certificates]]\nchain = "{chain}"\nkey = "file:{key}"')


def test_f62_nothing_is_said_of_what_is_right(tmp_path: Path) -> None:
    assert remarks(configured(tmp_path, 'hostname = "mx.example"'), time.time()) == []


def test_f62_the_end_of_a_certificate_is_told(tmp_path: Path) -> None:
    found = configured(tmp_path)
    end = TlsContext.load([(tmp_path / "chain.pem", tmp_path / "key.pem")]).expires
    assert remarks(found, end - 15 * DAY) == []
    (soon,) = remarks(found, end - 3 * DAY)
    assert soon == f"tls.certificates[1].chain: {tmp_path / 'chain.pem'} expires in 3 days; renew it"
    (late,) = remarks(found, end + 1)
    assert late == f"tls.certificates[1].chain: {tmp_path / 'chain.pem'} has expired; renew it"


def test_f62_a_certificate_for_other_names_is_told(tmp_path: Path) -> None:
    (told,) = remarks(configured(tmp_path, 'hostname = "mail.other.example"'), time.time())
    assert told == "tls.certificates: none is for the hostname mail.other.example, only for mx.example"


def test_f62_a_key_that_others_may_read_is_told(tmp_path: Path) -> None:
    found = configured(tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    (told,) = remarks(found, time.time())
    assert told.endswith(f"(0644); run: chmod 600 {tmp_path / 'key.pem'}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('hostname = "192.0.2.1"', "hostname: 192.0.2.1 is an address"),
        ('local.domains = ["bücher.example"]', "local.domains: mail comes for xn--bcher-kva.example as well as for"),
        ('local.domains = ["xn--bcher-kva.example"]', "local.domains: mail comes for bücher.example as well as for"),
        ('[[route]]\ndomains = ["bücher.example"]\nsmart_host = ["192.0.2.9:25"]', "route[1].domains: "),
    ],
)  # fmt: skip
def test_f62_names_that_are_most_likely_not_meant_are_told(text: str, told: str) -> None:
    (found,) = remarks(parse(text), 0.0)
    assert found.startswith(told)
    assert remarks(parse('local.domains = ["bücher.example", "xn--bcher-kva.example"]'), 0.0) == []


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ironpost.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1", **more},
    )  # fmt: skip


def test_f62_check_prints_warnings_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "ironpost.toml").write_text('hostname = "192.0.2.1"\n')
    done = run(tmp_path, "check")
    assert (done.returncode, done.stderr) == (
        0, "ironpost.toml: warning: hostname: 192.0.2.1 is an address; write the name that DNS has for it\n",
    )  # fmt: skip
    assert done.stdout.startswith("ironpost.toml: good ")


@pytest.mark.parametrize("command", ["--version", "check"])
def test_f62_a_wire_that_is_not_there_is_one_line(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, IRONPOST_WIRE="rust")
    assert done.returncode == 78
    assert done.stderr == "ironpost: IRONPOST_WIRE must be 'native', 'pure' or unset, not 'rust'\n"


def test_f62_a_program_that_cannot_be_started_is_not_taken_for_the_data_directory() -> None:
    def stop(filename: str) -> str:
        error = DataError(Path("data"))
        error.__cause__ = PermissionError(errno.EACCES, "Permission denied", filename)
        return str(_cannot_use(error))

    assert stop("/opt/python") == "/opt/python: Permission denied"
    assert stop("data/queue") == "cannot use the data directory data: this user may not write there"


def test_f62_nobody_is_warned_of_connections_that_nobody_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(system.resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(system.resource, "setrlimit", lambda *_: None)
    for text, level in (
        ("", "INFO"),
        ('[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:25"]', "INFO"),
        ("[limits]\nconnections = 5000", "WARNING"),
    ):
        with caplog.at_level("INFO"):
            system.raise_file_limit(20_000, asked=system.asked_for_connections(parse(text)))
        assert [record.levelname for record in caplog.records] == [level]
        caplog.clear()
