"""`dkim new` and `dkim show`: what is written, what is compared with DNS, and how the commands show it."""

from __future__ import annotations

import asyncio
import json
import re
import stat
from typing import TYPE_CHECKING, Any

import pytest
import typer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.mta.signing_kit import key

from ironpost.cli import dkim_keys as command
from ironpost.cli.app import CommandError
from ironpost.compose.signing import usable_keys
from ironpost.config import parse
from ironpost.operations.dkim_keys import NEW, SHOW, STRING_OCTETS, ConfiguredKey, KeyState, NewKeyRequest
from ironpost.operations.operation import EmptyRequest, OperationError
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ironpost.mail_auth import Key

NAME = "ed._domainkey.example.org"


class Data:
    """A `DataDirectory` with keys and DNS from the test."""

    def __init__(self, keys: Sequence[Key], resolver: StaticResolver) -> None:
        self._keys = keys
        self._resolver = resolver

    def dkim_keys(self) -> Sequence[Key]:
        return self._keys

    def resolver(self) -> StaticResolver:
        return self._resolver


def shown(records: Sequence[bytes] = (), failing: Sequence[str] = (), keys: Sequence[Key] | None = None) -> Any:
    data: Any = Data([key()] if keys is None else keys, StaticResolver(txt={NAME: records}, failing=failing))
    return asyncio.run(SHOW.run(data, EmptyRequest()))  # type: ignore[arg-type]


def compared(*records: bytes, **more: Any) -> ConfiguredKey:
    (found,) = shown(records, **more).keys
    return found


def pkcs1(made: Key) -> bytes:
    """The record of an RSA key in the other format that is in use."""
    from base64 import b64encode

    octets = made.private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return b"v=DKIM1; p=" + b64encode(octets)


RECORD = key().record.encode()
RSA = key("example.org", "ed", 2048)


@pytest.mark.parametrize(
    ("found", "state", "problem"),
    [
        (compared(RECORD), KeyState.PUBLISHED, ""),
        (compared(RECORD + b"; t=y"), KeyState.PUBLISHED, "it says that the domain is testing (t=y)"),
        (compared(pkcs1(RSA), keys=[RSA]), KeyState.PUBLISHED, ""),
        (compared(), KeyState.ABSENT, ""),
        (compared(RECORD, RECORD), KeyState.OTHER, "2 TXT records at this name; there must be one"),
        (compared(b"v=DKIM1; k=ed25519; p="), KeyState.OTHER, "the record revokes the key"),
        (compared(RSA.record.encode()), KeyState.OTHER, "the record has another key"),
        (compared(b"v=spf1 -all"), KeyState.OTHER, "the record"),
        (compared(failing=[NAME]), KeyState.UNKNOWN, "DNS lookup failed: "),
    ],
)
def test_a_key_is_compared_with_what_is_published(found: ConfiguredKey, state: KeyState, problem: str) -> None:
    assert (found.name, found.state) == (NAME, state)
    assert found.problem.startswith(problem)
    assert bool(found.problem) == bool(problem)


def test_the_record_is_a_line_of_a_zone_file() -> None:
    line = compared(keys=[RSA]).record
    name, _, text = line.partition(" IN TXT ")
    assert name == f"{NAME}."
    strings = re.findall(r'"([^"]*)"', text)
    assert max(map(len, strings)) == STRING_OCTETS
    assert "".join(strings) == RSA.record


@pytest.mark.parametrize(
    ("found", "code", "first"),
    [
        (shown([RECORD]), 0, f"{NAME} (ed25519-sha256): published"),
        (shown(), 1, f"{NAME} (ed25519-sha256): not published"),
        (shown(failing=[NAME]), 75, f"{NAME} (ed25519-sha256): unknown"),
        (shown(keys=[]), 66, "the configuration has no key ([[dkim]]); make one: ironpost dkim new DOMAIN"),
    ],
)
def test_show_prints_each_key_and_exits_by_their_states(
    found: Any, code: int, first: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "call_local", lambda *_: found)
    for as_json in (False, True):
        try:
            command.show(None, as_json=as_json)
            left = 0
        except typer.Exit as end:
            left = end.exit_code
        assert left == code
    *lines, printed = capsys.readouterr().out.splitlines()
    assert lines[0] == first
    assert [each["state"] for each in json.loads(printed)["keys"]] == [each.state.value for each in found.keys]


@pytest.mark.parametrize("algorithm", ["rsa", "ed25519"])
def test_a_new_key_can_be_configured_as_it_is_printed(
    algorithm: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "etc" / "dkim"
    command.new(None, "Mail.example", None, algorithm, folder, as_json=False)
    printed = capsys.readouterr().out
    (made,) = usable_keys(parse(printed[printed.index("[[dkim]]") :]))
    (file,) = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(file.stat().st_mode)) == (0o700, 0o600)
    assert re.fullmatch(rf"mail\.example\.{algorithm}-\d{{6}}\.pem", file.name)
    assert f"{made.name}. IN TXT " in printed
    assert made.algorithm == f"{algorithm}-sha256"
    assert made.bits == (2048 if algorithm == "rsa" else 256)


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mail.example.s.pem").write_text("mine")
    with pytest.raises(CommandError, match="a key is never replaced") as refused:
        command.new(None, "mail.example", "s", "ed25519", tmp_path, as_json=False)
    assert refused.value.code == 73
    assert (tmp_path / "mail.example.s.pem").read_text() == "mine"


@pytest.mark.parametrize(
    ("domain", "selector", "algorithm"),
    [
        ("../mail.example", "s", "rsa"),
        ("mail..example", "s", "rsa"),
        ("", "s", "rsa"),
        ("mail.example", "a/../../b", "rsa"),
        ("mail.example", "s", "rsa-sha1"),
    ],
)
def test_an_invalid_name_is_refused_and_writes_nothing(
    domain: str, selector: str, algorithm: str, tmp_path: Path
) -> None:
    data: Any = None
    with pytest.raises(OperationError):
        asyncio.run(NEW.run(data, NewKeyRequest(domain, selector, algorithm, str(tmp_path / "new"))))  # type: ignore[arg-type]
    assert [*tmp_path.iterdir()] == []


def test_the_domain_of_a_new_key_may_have_u_labels(tmp_path: Path) -> None:
    data: Any = None
    made = asyncio.run(NEW.run(data, NewKeyRequest("B\u00e4nk.example", "s", "ed25519", str(tmp_path))))  # type: ignore[arg-type]
    assert made.domain == "xn--bnk-qla.example"
    assert [each.name for each in tmp_path.iterdir()] == ["xn--bnk-qla.example.s.pem"]


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match=r"file/mail\.example\.s\.pem: ") as refused:
        command.new(None, "mail.example", "s", "ed25519", tmp_path / "file", as_json=False)
    assert refused.value.code == 73
