"""`dkim check`, and `dmarc check` of a message: what is found, and how the commands show it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.operations.command_kit import assert_encodable

from ironpost.cli import dkim, dkim_keys, dmarc, exits
from ironpost.cli.app import CommandError
from ironpost.mail_auth import DkimResult, DmarcResult, Key, sign
from ironpost.operations.dkim import CHECK, VERIFY, DkimKeyCheck, DkimKeyRequest, DkimKeyResult, DkimVerifyRequest
from ironpost.operations.dmarc import EVALUATE, DmarcEvaluateRequest
from ironpost.operations.operation import Operation, OperationError
from ironpost.operations.spf import SpfCheckRequest
from ironpost.testing.resolver import StaticResolver

if TYPE_CHECKING:
    from collections.abc import Callable


def pem(private: Any) -> bytes:
    octets: bytes = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return octets


KEY = Key.load("a.example", "s", pem(Ed25519PrivateKey.generate()))
SMALL = Key("a.example", "small", generate_private_key(65537, 1024))
GOOD = KEY.record
CONTENT = b"From: jo@a.example\r\nSubject: hi\r\n\r\nhello\r\n"
SIGNED = sign(CONTENT, [KEY], now=0.0) + CONTENT


class Data:
    """A `DataDirectory` whose DNS answers from the test."""

    def __init__(self, *keys: str, failing: str = "") -> None:
        txt = {
            KEY.name: [each.encode() for each in keys],
            "_dmarc.a.example": [b"v=DMARC1; p=reject"],
            "a.example": [b"v=spf1 ip4:192.0.2.1 -all"],
        }
        self._resolver = StaticResolver(txt=txt, failing=[failing])

    def resolver(self) -> StaticResolver:
        return self._resolver


def run(operation: Operation[Any, Any, Any], request: Any, *keys: str, failing: str = "") -> Any:
    async def run() -> Any:
        data: Any = Data(*(keys or [GOOD]), failing=failing)
        return await operation.run(data, request)

    found = asyncio.run(run())
    assert_encodable(found)
    return found


def printed(command: Any, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit status and the lines that a command prints."""
    try:
        command()
        left = 0
    except typer.Exit as end:
        left = end.exit_code
    return left, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("records", "failing", "result", "problem"),
    [
        ([GOOD], "", DkimKeyResult.GOOD, ""),
        (["v=spf1 -all", GOOD], "", DkimKeyResult.FAULTY, "2 records"),
        (["v=DKIM1; p="], "", DkimKeyResult.FAULTY, "the key was revoked"),
        (["v=DKIM1; p=AAAA"], "", DkimKeyResult.FAULTY, "the key is not an RSA key"),
        (["v=DKIM1; p=\x1b[2J"], "", DkimKeyResult.FAULTY, "the record is invalid"),
        ([f"{GOOD}; t=y"], "", DkimKeyResult.FAULTY, "the domain is testing"),
        ([f"{GOOD}; s=x"], "", DkimKeyResult.FAULTY, "not for mail"),
        ([SMALL.record], "", DkimKeyResult.FAULTY, "1024 bits; 2048 are recommended"),
        ([GOOD], KEY.name, DkimKeyResult.UNKNOWN, "DNS lookup failed"),
    ],
)
def test_a_key_with_its_problems(
    records: list[str],
    failing: str,
    result: DkimKeyResult,
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found: DkimKeyCheck = run(CHECK, DkimKeyRequest("A.example", "S"), *records, failing=failing)
    assert (found.name, found.result) == ("s._domainkey.a.example", result)
    assert problem in "".join(found.problems)
    assert bool(problem) == bool(found.problems)
    monkeypatch.setattr(dkim, "call_local", lambda *_: found)
    code, lines = printed(lambda: dkim.check_key(None, "a.example", "s", as_json=False), capsys)
    assert code == {DkimKeyResult.GOOD: 0, DkimKeyResult.UNKNOWN: 75}.get(result, 1)
    assert lines[-1] == f"s._domainkey.a.example: {result.value}"
    assert "\x1b" not in "".join(lines)


def test_a_key_that_does_not_exist() -> None:
    assert run(CHECK, DkimKeyRequest("b.example", "s")).result is DkimKeyResult.ABSENT
    whole = run(CHECK, DkimKeyRequest("b.example", "s._domainkey"))
    assert (whole.result, whole.problems) == (DkimKeyResult.ABSENT, ("the selector is s, without ._domainkey",))
    with pytest.raises(OperationError, match="is not a domain name"):
        run(CHECK, DkimKeyRequest("b..example", "s"))


@pytest.mark.parametrize(
    ("message", "result", "code"),
    [(SIGNED, DkimResult.PASS, 0), (SIGNED + b"x", DkimResult.FAIL, 1), (CONTENT, DkimResult.NONE, 66)],
)
def test_the_signatures_of_a_message_file(
    message: bytes,
    result: DkimResult,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Files on this system have other line ends than a message has."""
    file = tmp_path / "message"
    file.write_bytes(message.replace(b"\r\n", b"\n"))
    monkeypatch.setattr(dkim, "call_local", lambda _, operation, request: run(operation, request))
    left, lines = printed(lambda: dkim.check_message(None, str(file), as_json=False), capsys)
    assert (left, lines[-1]) == (code, f"message: {result.value}")
    assert len(lines) == 2
    assert run(VERIFY, DkimVerifyRequest(message)).result is result


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (CONTENT, ["problem    the message has no signature", "message: none"]),
        (b"From ada@a.example\r\n" + SIGNED, ["problem    Line after header field 0 is neither", "message: none"]),
        (
            SIGNED.replace(b"Subject: hi", b"Subject: [list] hi"),
            [
                "signature  fail of a.example (s, ed25519-sha256): the header fields do not match the key",
                "signed     from, ",
                "           one of these fields was changed, for instance by a list or a forwarder",
                "message: fail",
            ],
        ),
    ],
)
def test_why_no_signature_is_valid(
    message: bytes, said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(VERIFY, DkimVerifyRequest(message))
    monkeypatch.setattr(dkim, "call_local", lambda *_: found)
    _, lines = printed(lambda: dkim.check_message(None, __file__, as_json=False), capsys)
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said, strict=True)), lines


@pytest.mark.parametrize(
    "command",
    [
        lambda message: dkim.check_message(None, message, as_json=False),
        lambda message: dmarc.check_message(None, message, None, as_json=False),
        lambda message: dkim_keys.new(None, "a.example", "s", "rsa", Path(message).parent, as_json=False),
    ],
)
def test_without_cryptography_a_command_names_the_extra(
    command: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "message"
    file.write_bytes(CONTENT)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(CommandError, match=r"pip install 'ironpost\[mail-auth\]'") as caught:
        command(str(file))
    assert caught.value.code == exits.UNAVAILABLE


@pytest.mark.parametrize(
    ("message", "client", "result", "code", "expected"),
    [
        (SIGNED, None, DmarcResult.PASS, 0, "spf        not checked"),
        (
            CONTENT,
            SpfCheckRequest("192.0.2.1", "jo@a.example", ""),
            DmarcResult.PASS,
            0,
            "spf        pass of a.example",
        ),
        (CONTENT, SpfCheckRequest("192.0.2.2", "", "a.example"), DmarcResult.FAIL, 1, "policy     reject"),
        (CONTENT.replace(b"a.example", b"b.example"), None, DmarcResult.NONE, 66, "reason     no DMARC record"),
    ],
)
def test_dmarc_evaluates_a_message_file(
    message: bytes,
    client: SpfCheckRequest | None,
    result: DmarcResult,
    code: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "message"
    file.write_bytes(message)
    monkeypatch.setattr(dmarc, "call_local", lambda _, operation, request: run(operation, request))
    left, lines = printed(lambda: dmarc.check_message(None, str(file), client, as_json=False), capsys)
    assert left == code
    assert any(line.startswith(expected) for line in lines)
    assert lines[-1].endswith(f": {result.value}")
    found = run(EVALUATE, DmarcEvaluateRequest(message, client))
    left, lines = printed(lambda: dmarc.check_message(None, str(file), client, as_json=True), capsys)
    assert json.loads("".join(lines))["result"] == found.result.value
