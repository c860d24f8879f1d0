"""f62: `ironpost check` reports errors without a running server, and warns of settings that are probably unintended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ironpost.cli.advice import DAY, remarks
from ironpost.cli.serve import cannot_use
from ironpost.compose.data_lock import DataError
from ironpost.config import Configuration, parse
from ironpost.server.self_signed import write_self_signed
from ironpost.server.tls import TlsContext

ROOT = Path(__file__).resolve().parents[2]


def configured(folder: Path, text: str = "") -> Configuration:
    chain, key = folder / "chain.pem", folder / "key.pem"
    if not chain.exists():
        write_self_signed(chain, key, ["mx.example"])
    return parse(f'{text}\n[[tls.certificates]]\nchain = "{chain}"\nkey = "file:{key}"')


def test_f62_a_correct_configuration_causes_no_warning(tmp_path: Path) -> None:
    assert remarks(configured(tmp_path, 'hostname = "mx.example"'), time.time()) == []


def test_f62_an_expiring_certificate_is_reported(tmp_path: Path) -> None:
    found = configured(tmp_path)
    end = TlsContext.load([(tmp_path / "chain.pem", tmp_path / "key.pem")]).expires
    assert remarks(found, end - 15 * DAY) == []
    (soon,) = remarks(found, end - 3 * DAY)
    assert soon == f"tls.certificates[1].chain: {tmp_path / 'chain.pem'} expires in 3 days; renew it"
    (late,) = remarks(found, end + 1)
    assert late == f"tls.certificates[1].chain: {tmp_path / 'chain.pem'} has expired; renew it"


def test_f62_a_certificate_for_other_names_is_reported(tmp_path: Path) -> None:
    (told,) = remarks(configured(tmp_path, 'hostname = "mail.other.example"'), time.time())
    assert told == "tls.certificates: no certificate is valid for the hostname mail.other.example, only for mx.example"


def test_f62_a_key_that_others_may_read_is_reported(tmp_path: Path) -> None:
    found = configured(tmp_path)
    (tmp_path / "key.pem").chmod(0o644)
    (told,) = remarks(found, time.time())
    assert told.endswith(f"(0644); run: chmod 600 {tmp_path / 'key.pem'}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('hostname = "192.0.2.1"', "hostname: 192.0.2.1 is an address"),
        ('local.domains = ["bücher.example"]', "local.domains: bücher.example is listed without its"),
        ('local.domains = ["xn--bcher-kva.example"]', "local.domains: xn--bcher-kva.example is listed without its"),
        ('[[route]]\ndomains = ["bücher.example"]\nsmart_host = ["192.0.2.9:25"]', "route[1].domains: "),
        ('[[route]]\nsenders = ["bücher.example"]', "route[1].senders: bücher.example is listed without its other"),
        ('[[route]]\nsenders = ["*.Bücher.example"]', "route[1].senders: *.Bücher.example is listed without its other"),
        ('[[route]]\nsenders = ["jo@xn--bcher-kva.example", "<>"]', "route[1].senders: jo@xn--bcher-kva.example is"),
    ],
)  # fmt: skip
def test_f62_suspicious_names_are_reported(text: str, told: str) -> None:
    (found,) = remarks(parse(text), 0.0)
    assert found.startswith(told)
    assert remarks(parse('local.domains = ["bücher.example", "xn--bcher-kva.example"]'), 0.0) == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[dmarc_reports]\ncontact = "d@mx.a.example"', ["dmarc_reports.contact: nothing is reported, because"]),
        ('[tlsrpt]\ncontact = "d@b.example"', ["tlsrpt.contact: b.example has no key, so reports are not signed"]),
        (
            'policy = { dkim = "record", dmarc = "record" }\n[dmarc_reports]\ncontact = "d@xa.example"',
            ["dmarc_reports.contact: xa.example has no key, so reports are not signed"],
        ),
        ('policy = { dkim = "record", dmarc = "record" }\ndmarc_reports = { contact = "d@A.example" }', []),
    ],
)
def test_reports_that_are_not_sent_or_not_signed_are_reported(text: str, told: list[str], tmp_path: Path) -> None:
    file = tmp_path / "a.pem"
    file.write_bytes(generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    key = f'[[dkim]]\ndomain = "a.example"\nselector = "s"\nkey = "file:{file}"'
    found = remarks(parse(f"{text}\n{key}"), 0.0)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True)), found


def test_a_warning_that_would_come_after_the_expiry_is_reported() -> None:
    (found,) = remarks(parse('[queue]\nexpire = "1h"\nwarn_after = "2h"'), 0.0)
    assert found.startswith("queue.warn_after: no sender is warned")
    assert remarks(parse('[queue]\nexpire = "1h"'), 0.0) == []


SMART = '[[route]]\nsmart_host = ["192.0.2.9:587"]\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[route.auth]\ntoken_command = ["/no/such/program"]',
            "route[1].auth.token_command: /no/such/program is not an executable file",
        ),
        (
            '[route.auth]\nuser = "jo"\npassword = "env:P"\ntoken_timeout = "5s"',
            "route[1].auth.token_timeout: it has no effect without token_command",
        ),
        (
            '[route.auth]\nuser = "jo"\npassword = "env:P"\ntoken_environment = ["HOME"]',
            "route[1].auth.token_environment: it has no effect without token_command",
        ),
    ],
)
def test_settings_of_logins_without_effect_are_reported(text: str, told: str) -> None:
    assert remarks(parse(SMART + text), 0.0) == [told]
    assert remarks(parse(f'{SMART}[route.auth]\ntoken_command = ["{sys.executable}"]\ntoken_timeout = "5s"'), 0.0) == []


def test_a_client_certificate_that_expires_or_is_not_used_is_reported(tmp_path: Path) -> None:
    configured(tmp_path)
    pair = tmp_path / "chain.pem", tmp_path / "key.pem"
    end = TlsContext.load([pair]).expires
    text = f'{SMART}certificate = "{pair[0]}"\nkey = "file:{pair[1]}"\n'
    assert remarks(parse(text), end - 15 * DAY) == []
    assert remarks(parse(text), end - 3 * DAY) == [f"route[1].certificate: {pair[0]} expires in 3 days; renew it"]
    assert remarks(parse(text), end + 1) == [f"route[1].certificate: {pair[0]} has expired; renew it"]
    assert remarks(parse(text + 'tls = "none"'), end - 15 * DAY) == [
        'route[1].certificate: it is not used, because tls is "none"'
    ]


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ironpost.cli", *arguments], cwd=folder, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "NO_COLOR": "1", **more},
    )  # fmt: skip


def test_f62_check_prints_warnings_and_succeeds(tmp_path: Path) -> None:
    (tmp_path / "ironpost.toml").write_text('hostname = "192.0.2.1"\n')
    done = run(tmp_path, "check")
    assert (done.returncode, done.stderr) == (
        0, "ironpost.toml: warning: hostname: 192.0.2.1 is an address; use the host's DNS name\n",
    )  # fmt: skip
    assert done.stdout.startswith("ironpost.toml: good ")
    assert run(tmp_path, "check", "-c", "ironpost.toml").stdout == done.stdout
    assert run(tmp_path, "check", "ironpost.toml", "-c", "ironpost.toml").returncode == 64


@pytest.mark.parametrize(
    ("dns", "remark"),
    [
        ('servers = ["192.0.2.53"]', "the name server 192.0.2.53 is not on this machine"),
        ('servers = ["192.0.2.53"]\ntrusted = true', ""),
        ('servers = ["127.0.0.1:5353", "[::1]:5353"]', ""),
    ],
)
def test_a_resolver_that_dane_cannot_use_is_reported(dns: str, remark: str) -> None:
    found = [each for each in remarks(parse(f"[dns]\n{dns}"), time.time()) if each.startswith("delivery.dane: ")]
    assert bool(found) is bool(remark)
    assert not found or remark in found[0]
    assert remarks(parse(f"[delivery]\ndane = false\n[dns]\n{dns}"), time.time()) == []


@pytest.mark.parametrize("command", ["--version", "check"])
def test_f62_a_missing_native_wire_is_reported_on_one_line(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, command, IRONPOST_WIRE="rust")
    assert done.returncode == 78
    assert done.stderr == "ironpost: IRONPOST_WIRE must be 'native', 'pure' or unset, not 'rust'\n"


def test_f62_a_failure_to_start_a_program_is_not_blamed_on_the_data_directory() -> None:
    def stop(filename: str) -> str:
        error = DataError(Path("data"))
        error.__cause__ = PermissionError(errno.EACCES, "Permission denied", filename)
        return str(cannot_use(error))

    assert stop("/opt/python") == "/opt/python: Permission denied"
    assert stop("data/queue") == "permission denied: cannot use the data directory data"
