"""Passwords checked by Dovecot's authentication socket: its protocol line by line, and what goes wrong."""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.accounts import dovecot
from ironpost.accounts.authenticator import Users
from ironpost.accounts.dovecot import DovecotAuth, DovecotError
from ironpost.compose.auth import sources
from ironpost.config import parse
from ironpost.protocol.server.transaction import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t7\nCUID\t1\nCOOKIE\t00\nDONE\n"


class Session:
    """What a check reads of a session."""

    peer = Peer("192.0.2.1", 4711, "192.0.2.25", 587)
    secure = True


def checked(folder: Path, greeting: bytes | None, reply: bytes = b"") -> tuple[str | DovecotError | None, list[bytes]]:
    """Check the password of ada against a server; return the lines it received.

    The server sends `greeting`, which may be None for a silent one, and ends the connection after `reply`.
    """
    lines: list[bytes] = []

    async def main() -> str | DovecotError | None:
        ended = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if greeting is not None:
                writer.write(greeting)
            while greeting != b"" and (line := await reader.readline()).endswith(b"\n"):
                lines.append(line.rstrip(b"\n"))
                if line.startswith(b"AUTH"):
                    writer.write(reply)
                    writer.write_eof()
            writer.close()
            ended.set()

        async with await asyncio.start_unix_server(serve, folder / "auth"):
            session: Any = Session()
            try:
                return await DovecotAuth(folder / "auth").verify_password(session, "Ada", "päss\tword")
            except DovecotError as error:
                return error
            finally:
                await ended.wait()

    return asyncio.run(main()), lines


@pytest.mark.parametrize(
    ("reply", "account"),
    [
        (b"OK\t1\tuser=ada@mail.example\tnologin\n", "ada@mail.example"),
        (b"OK\t1\n", "Ada"),
        (b"FAIL\t1\tuser=Ada\n", None),
        (b"FAIL\t1\tuser=Ada\treason=account disabled\n", None),
    ],
)
def test_the_reply_decides(tmp_path: Path, reply: bytes, account: str | None) -> None:
    found, lines = checked(tmp_path, GREETING, reply)
    assert found == account
    assert lines[:2] == [b"VERSION\t1\t1", b"CPID\t%d" % os.getpid()]
    *facts, response = lines[2].split(b"\t")
    assert facts == [b"AUTH", b"1", b"PLAIN", b"service=smtp", b"rip=192.0.2.1", b"lip=192.0.2.25", b"secured"]
    assert b64decode(response.removeprefix(b"resp=")) == b"\0Ada\0" + "päss\tword".encode()


@pytest.mark.parametrize(
    ("greeting", "reply", "reason"),
    [
        (GREETING, b"FAIL\t1\ttemp\n", "cannot check passwords now"),
        (GREETING, b"", "closed the connection without an answer"),
        (b"", b"", "closed the connection without an answer"),
        (b"VERSION\t2\t0\nDONE\n", b"", "not version 1 of Dovecot's protocol"),
        (b"x" * 20_000 + b"\n", b"", "the answer is not valid"),
        (GREETING, b"OK\t1\tuser=\xff\n", "the answer is not valid"),
    ],
    ids=["temporary failure", "end", "end before the greeting", "version", "long line", "not UTF-8"],
)
def test_a_server_that_cannot_answer_is_an_error_and_never_a_wrong_password(
    tmp_path: Path, greeting: bytes, reply: bytes, reason: str
) -> None:
    found, _ = checked(tmp_path, greeting, reply)
    assert isinstance(found, DovecotError)
    assert reason in str(found)
    assert str(tmp_path / "auth") in str(found)


def test_a_missing_socket_and_a_silent_server_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dovecot, "TIMEOUT", 0.05)
    session: Any = Session()
    with pytest.raises(DovecotError, match="absent: No such file or directory"):
        asyncio.run(DovecotAuth(tmp_path / "absent").verify_password(session, "ada", "secret"))
    found, lines = checked(tmp_path, None)
    assert isinstance(found, DovecotError)
    assert "no answer within" in str(found)
    assert b"AUTH" not in b"".join(lines)


class Hook:
    """A hook that knows some names."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self.asked: list[str] = []

    def verify_password(self, _session: object, login: str, _password: str) -> str | None:
        self.asked.append(login)
        return login if login in self._names else None


@pytest.mark.parametrize(("login", "account"), [("ada", "ada"), ("eve", "eve"), ("max", None)])
def test_hooks_are_asked_in_their_order_until_one_knows_the_name(login: str, account: str | None) -> None:
    hooks = [Hook("ada"), Hook("ada", "eve")]

    async def main(*objects: object) -> str | None:
        users = Users([Nobody()], objects)
        return await users.verify_password(Session(), login, "secret")  # type: ignore[no-any-return]

    assert asyncio.run(main(*hooks)) == account
    assert [each.asked for each in hooks] == [[login], [] if login == "ada" else [login]]


class Nobody:
    """A source without accounts."""

    secrets = False

    def find(self, _login: str) -> None:
        return None


def test_without_a_source_every_hook_is_asked() -> None:
    async def main() -> str | None:
        return await Users((), [Hook("ada"), Hook("eve")]).verify_password(Session(), "eve", "x")  # type: ignore[no-any-return]

    assert asyncio.run(main()) == "eve"


def mechanisms(text: str) -> Sequence[str]:
    return parse(f"[auth]\n{text}").auth.offered


def test_with_dovecot_mechanisms_are_those_that_send_the_password_unless_others_are_named(
    tmp_path: Path,
) -> None:
    assert mechanisms('dovecot = "auth"') == ("PLAIN", "LOGIN")
    assert mechanisms('dovecot = "auth"\nmechanisms = ["SCRAM-SHA-256", "PLAIN"]') == ("SCRAM-SHA-256", "PLAIN")
    assert "SCRAM-SHA-256" in mechanisms("")
    _, hooks = sources(parse(f'data = "{tmp_path}"\n[auth]\ndovecot = "auth"'))
    assert [type(hook) for hook in hooks] == [DovecotAuth]
