"""Signing by a running server, and keys that cannot be used, or should not be: at start, at reload and by `check`."""

from __future__ import annotations

import smtplib
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from tests.cli.test_check_files import checked
from tests.mta.signing_kit import key, pem, signers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Running

KEY = '[[dkim]]\ndomain = "mx.example"\nselector = "{name}"\nkey = "file:{file}"\n'


def written(folder: Path, name: str, octets: bytes, mode: int = 0o600) -> Path:
    """A file with a key."""
    file = folder / f"{name}.pem"
    file.write_bytes(octets)
    file.chmod(mode)
    return file


def send(server: Running) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "flo@mx.example", "jo@localhost", "Hi"
    message.set_content("Hi\n\n\n")
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        client.send_message(message)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_reads_keys_again(serve: Callable[..., Running], tmp_path: Path, workers: int) -> None:
    keys = [key("mx.example", "old"), key("mx.example", "new", 2048)]
    files = [written(tmp_path, "old", pem(0)), written(tmp_path, "new", pem(2048))]
    server = serve(KEY.format(name="old", file=files[0]), workers=workers)
    send(server)
    server.configure("".join(KEY.format(name=file.stem, file=file) for file in files))
    done = server.run("reload", "-c", str(server.file))
    assert done.returncode == 0, done.stderr
    server.wait_for_mail()
    send(server)
    mail = sorted(server.wait_for_mail(2), key=len)
    names = [each.name for each in keys]
    assert [signers(each.replace(b"\n", b"\r\n"), keys, time.time()) for each in mail] == [names[:1], names]
    said = server.run("reload", "-c", str(server.file)).stdout.decode()
    assert said.startswith("configuration unchanged (")
    assert said.endswith("); certificates, accounts and DKIM keys reloaded\n")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_key_that_cannot_be_used_stops_a_start_and_a_reload(
    serve: Callable[..., Running], tmp_path: Path, workers: int
) -> None:
    good = written(tmp_path, "good", pem(0))
    server = serve(KEY.format(name="good", file=good), workers=workers)
    server.configure(KEY.format(name="good", file=tmp_path / "absent"))
    failed = server.run("reload", "-c", str(server.file))
    sentence = f"dkim[1].key: {tmp_path / 'absent'}: No such file or directory"
    assert (failed.returncode != 0, sentence in failed.stderr.decode()) == (True, True)
    send(server)
    (message,) = server.wait_for_mail()
    assert b"DKIM-Signature: " in message
    server.stop()
    failed = server.run("serve", "-c", str(server.file), "--workers", str(workers))
    assert (failed.returncode, sentence in failed.stderr.decode()) == (78, True)


def test_check_names_keys_that_cannot_be_used(tmp_path: Path) -> None:
    written(tmp_path, "text", b"no PEM")
    written(tmp_path, "empty", b"")
    written(tmp_path, "large", pem(4104))
    written(tmp_path, "weak", pem(1024))
    names = ("absent", "text", "empty", "large", "weak")
    code, said = checked(tmp_path, "".join(KEY.format(name=name, file=f"{name}.pem") for name in names))
    assert (code, said.splitlines()) == (
        78,
        [
            "ironpost: dkim[1].key: absent.pem: No such file or directory",
            "ironpost: dkim[2].key: text.pem: it is not a private key in PEM without a password",
            "ironpost: dkim[3].key: empty.pem: the file is empty",
            "ironpost: dkim[4].key: large.pem: the RSA key has 4104 bits; 2048 to 4096 are allowed to sign with; "
            "make a new one: ironpost dkim new mx.example",
            "ironpost: dkim[5].key: weak.pem: the RSA key has 1024 bits; 2048 to 4096 are allowed to sign with; "
            "make a new one: ironpost dkim new mx.example",
        ],
    )


def test_check_and_start_warn_of_keys_that_should_not_be_used(tmp_path: Path, serve: Callable[..., Running]) -> None:
    written(tmp_path, "good", pem(2048))
    written(tmp_path, "open", pem(0), mode=0o644)
    written(tmp_path, "slow", pem(3072))
    names = ("good", "open", "slow")
    text = "".join(KEY.format(name=name, file=tmp_path / f"{name}.pem") for name in names)
    code, said = checked(tmp_path, text)
    path = f"{tmp_path}/"
    warnings = [
        f"dkim[2].key: other users may read or change {path}open.pem (0644); run: chmod 600 {path}open.pem",
        f"dkim[3].key: {path}slow.pem has 3072 bits, which blocks the server for each message "
        "(0.8 ms with 3072 bits, 1.5 ms with 4096); use 2048",
    ]
    assert (code, said.splitlines()) == (0, [f"ironpost.toml: warning: {each}" for each in warnings])
    log = serve(text).log()
    assert all(each in log for each in warnings)
