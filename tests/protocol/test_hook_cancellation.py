"""CancelledError from a hook that was not cancelled is treated like any exception; SystemExit ends the program."""

from __future__ import annotations

import asyncio

import pytest
from tests.protocol.extensions.parameter_kit import SUBMISSION_FOR_ALL, settings
from tests.protocol.test_server_session import ENVELOPE, Open, codes, greeted, say

from ironpost.model.verdict import tarpit
from ironpost.protocol.dialect import SMTP, Dialect
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity
from ironpost.server import MemorySpool

DIALOGUES = {
    "hello": [b"EHLO again.example\r\n"],
    "mail": [ENVELOPE],
    "recipient": [ENVELOPE],
    "content": [ENVELOPE + b"DATA\r\n"],
    "message": [ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n"],
    "verify": [b"VRFY jo\r\n"],
    "expand": [b"EXPN list\r\n"],
    "etrn": [b"ETRN here.example\r\n"],
    "turn": [b"ATRN here.example\r\n"],
    "burl": [ENVELOPE + b"BURL imap://h/whole LAST\r\n"],
}
CLAIMS = frozenset({"EXPN", "ETRN", "ATRN", "BURL"})
FAILURE = b"451 4.3.0 Local error in processing\r\n"


class Raising(Open):
    """A handler with one hook that raises."""

    def __init__(self, hook: str, exc: BaseException) -> None:
        super().__init__()

        def raising(*_: object) -> None:
            raise exc

        setattr(self, hook, raising)


def opened(handler: Open, dialect: Dialect = SMTP):
    session = greeted(handler, settings(dialect=dialect, claims=CLAIMS))
    session.identity = Identity("ada", "PLAIN")
    return session


def at(hook: str, exc: BaseException):
    """Return a session after the greeting whose `hook` raises `exc`."""
    session = opened(Open(), SUBMISSION_FOR_ALL if hook == "burl" else SMTP)
    session.handler = Raising(hook, exc)
    return session


@pytest.mark.parametrize("hook", DIALOGUES)
def test_f32_a_spontaneous_cancellation_is_451_and_the_session_continues(hook: str) -> None:
    exc = asyncio.CancelledError("by nobody")
    session = at(hook, exc)
    assert FAILURE in say(session, *DIALOGUES[hook])
    assert session.failures == 1
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


@pytest.mark.parametrize("hook", DIALOGUES)
@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(3)])
def test_f32_exceptions_that_end_the_program_propagate(hook: str, exc: BaseException) -> None:
    session = at(hook, exc)
    with pytest.raises(type(exc)):
        say(session, *DIALOGUES[hook])


def test_f32_a_cancellation_at_the_greeting_is_421() -> None:
    session = greeted(Raising("connect", asyncio.CancelledError()))
    assert session.closing
    assert session.ended is not None
    assert session.ended.code == 421


def test_f32_a_cancellation_in_disconnect_is_counted() -> None:
    session = opened(Raising("disconnect", asyncio.CancelledError()))
    session.lost()
    assert session.failures == 1


def test_f32_a_cancellation_in_pause_is_451() -> None:
    class Delays(Open):
        def mail(self, session, reverse_path, parameters):
            return tarpit(1.0)

        def pause(self, session, seconds, then):
            raise asyncio.CancelledError

    session = greeted(Delays())
    assert say(session, b"MAIL FROM:<a@b.example>\r\n") == FAILURE
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


@pytest.mark.parametrize("method", ["write", "discard"])
def test_f32_a_cancellation_in_a_spool_fails_the_message(method: str) -> None:
    class Spool(MemorySpool):
        pass

    def raising(*_: object) -> None:
        raise asyncio.CancelledError

    setattr(Spool, method, raising)

    class Spools(Open):
        def content(self, session):
            return Spool(1000)

    session = greeted(Spools())
    assert say(session, ENVELOPE + b"DATA\r\n").endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")
    if method == "write":
        assert say(session, b"a\r\n.\r\n") == FAILURE
    else:
        assert codes(say(session, b"a\nb\r\n.\r\n")) == [b"550"]
    assert session.failures >= 1
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]


def test_f32_a_cancellation_in_an_override_is_451() -> None:
    def override(session, command):
        raise asyncio.CancelledError

    session = greeted(Open(), overrides={"NOOP": override})
    assert say(session, b"NOOP\r\n") == FAILURE
    assert codes(say(session, b"RSET\r\n")) == [b"250"]


@pytest.mark.parametrize("later", [False, True])
def test_f32_a_cancellation_in_an_authenticator_is_454(later: bool) -> None:
    class Users:
        mechanisms = ("PLAIN",)

        def verify_password(self, session, login, password):
            if later:
                return self.wait()
            raise asyncio.CancelledError

        async def wait(self):
            raise ZeroDivisionError  # the connection distinguishes a cancellation there

    session = greeted(Open(), ServerSettings(authenticator=Users(), auth_without_tls=True))
    assert codes(say(session, b"AUTH PLAIN AGEAYg==\r\n")) == [b"454"]
    assert codes(say(session, b"NOOP\r\n")) == [b"250"]
