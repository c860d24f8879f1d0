"""Overrides: replacing the handling of verbs, adding verbs, replying with any status."""

from __future__ import annotations

import asyncio

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, greeted, say

from ironpost.model import RawReply, Reply
from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import ServerSettings


def test_an_override_replaces_one_command_and_may_call_the_standard_one() -> None:
    raw = []

    def mail(session, command):
        raw.append((command.verb, command.argument, command.fault.id if command.fault else None))
        if b"blocked" in command.argument:
            return Reply(550, "5.7.1", ("Blocked",))
        return session.standard(command)

    handler = Open()
    session = greeted(handler, overrides={"MAIL": mail})
    assert say(session, b"MAIL FROM:<blocked@b.example>\r\n") == b"550 5.7.1 Blocked\r\n"
    assert codes(say(session, b"MAIL FROM: <a@b.example>\r\n")) == [b"501"]
    assert say(session, ENVELOPE + b"DATA\r\nx\r\n.\r\n").endswith(replies.ACCEPTED.octets)
    assert handler.messages == [b"x\r\n"]
    assert raw == [
        ("MAIL", b"FROM:<blocked@b.example>", None),
        ("MAIL", b"FROM: <a@b.example>", "path-space"),
        ("MAIL", b"FROM:<a@b.example>", None),
    ]


def test_an_override_may_be_a_coroutine_around_a_hook_that_is_one() -> None:
    order = []

    class Slow(Open):
        async def mail(self, session, reverse_path, parameters):
            await asyncio.sleep(0)
            order.append("hook")

    async def mail(session, command):
        await asyncio.sleep(0)
        order.append("before")
        done = session.standard(command)
        if done is not None:
            await done
        order.append("after")

    session = greeted(Slow(), overrides={"MAIL": mail})
    assert codes(say(session, ENVELOPE + b"NOOP\r\n")) == [b"250"] * 3
    assert order == ["before", "hook", "after"]


@pytest.mark.parametrize("async_", [False, True])
def test_an_override_adds_a_verb(async_: bool) -> None:
    def ping(session, command):
        return Reply(250, "2.0.0", (f"Pong {command.argument.decode()}",))

    async def ping_later(session, command):
        await asyncio.sleep(0)
        return ping(session, command)

    session = greeted(Open(), overrides={"XPING": ping_later if async_ else ping})
    assert say(session, b"xping 1\r\nNOOP\r\n") == b"250 2.0.0 Pong 1\r\n250 2.0.0 OK\r\n"


def test_r26_an_override_that_raises_is_451() -> None:
    def broken(session, command):
        raise ZeroDivisionError

    session = greeted(Open(), overrides={"DATA": broken})
    assert codes(say(session, ENVELOPE + b"DATA\r\nNOOP\r\n")) == [b"250", b"250", b"451", b"250"]


# ---------------------------------------------------------------------------------------------------------------------
# Every verb


class Every:
    """Remembers each command, and handles it in the standard way."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes, str]] = []

    def __call__(self, session, command):
        self.seen.append((command.verb, command.argument, command.fault.id if command.fault else ""))
        return session.standard(command)


def test_a_star_overrides_every_verb_and_malformed_lines() -> None:
    every = Every()
    session = greeted(Open(), overrides={"*": every})
    written = say(session, b"XYZ 1\r\n\xff\r\n*\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\nQUIT\r\n")
    assert codes(written) == [b"500", b"500", b"500", b"250", b"250", b"354", b"250", b"221"]
    assert [verb for verb, _, _ in every.seen] == ["EHLO", "XYZ", "", "", "MAIL", "RCPT", "DATA", "QUIT"]
    assert every.seen[1] == ("XYZ", b"1", "")
    assert every.seen[2][2] != ""
    assert session.handler.messages == [b"x\r\n"]


def test_a_star_gets_lines_that_are_too_long_or_end_in_lf() -> None:
    every = Every()
    session = greeted(Open(), overrides={"*": every})
    assert codes(say(session, b"NOOP " + b"x" * 20_000 + b"\r\nNOOP\nRSET\r\nNOOP\r\n")) == [b"500", b"500", b"250"]
    assert [(verb, fault) for verb, _, fault in every.seen[1:]] == [
        ("", "line-too-long"),
        ("", "bare-lf"),
        ("NOOP", ""),
    ]


def test_an_override_by_name_takes_precedence_over_the_star() -> None:
    every = Every()
    named = {"NOOP": lambda *_: Reply(250, None, ("named",)), "": lambda *_: Reply(501, None, ("unreadable",))}
    session = greeted(Open(), overrides={"*": every, **named})
    assert say(session, b"NOOP\r\n\xff\r\nRSET\r\n") == b"250 named\r\n501 unreadable\r\n" + replies.RESET.octets
    assert [verb for verb, _, _ in every.seen] == ["EHLO", "RSET"]


def test_lines_that_a_command_asked_for_are_not_commands() -> None:
    class Users:
        mechanisms = frozenset({"PLAIN"})

        def verify_password(self, session, login, password):
            return login

    every = Every()
    settings = ServerSettings(authenticator=Users(), auth_without_tls=True)
    session = greeted(Open(), settings, overrides={"*": every})
    assert codes(say(session, b"AUTH PLAIN\r\nAGFkYQBwdw==\r\n")) == [b"334", b"235"]
    assert [verb for verb, _, _ in every.seen] == ["EHLO", "AUTH"]


def test_a_client_that_was_refused_reaches_no_override() -> None:
    class Refusing(Open):
        def connect(self, session):
            return replies.NOT_ALLOWED

    every = Every()
    session = greeted(Refusing(), overrides={"*": every})
    assert codes(say(session, b"NOOP\r\nQUIT\r\n")) == [b"503", b"221"]
    assert every.seen == []


@pytest.mark.parametrize("async_", [False, True])
def test_r5_the_octets_of_a_chunk_that_an_override_handles_are_not_commands(async_: bool) -> None:
    def refuse(session, command):
        return Reply(502, None, ("No chunks here",)) if command.verb == "BDAT" else session.standard(command)

    async def refuse_later(session, command):
        await asyncio.sleep(0)
        result = refuse(session, command)
        return await result if hasattr(result, "__await__") else result

    handler = Open()
    session = greeted(handler, ServerSettings(max_errors=100), overrides={"*": refuse_later if async_ else refuse})
    say(session, ENVELOPE)
    chunk = b"BDAT 6 LAST\r\nQUIT\r\n"
    for at in range(len(chunk)):
        assert codes(say(session, chunk[:at], chunk[at:])) == [b"502"]
    assert codes(say(session, b"BDAT 0 LAST\r\nDATA\r\nx\r\n.\r\n")) == [b"502", b"354", b"250"]
    assert handler.messages == [b"x\r\n"]
    assert session.received == 0


def test_an_override_may_pass_chunks_on() -> None:
    handler = Open()
    session = greeted(handler, overrides={"*": Every()})
    assert codes(say(session, ENVELOPE + b"BDAT 1\r\naBDAT 1 LAST\r\nb")) == [b"250"] * 4
    assert handler.messages == [b"ab"]


@pytest.mark.parametrize(("line", "expected"), [(b"BDAT x", [b"501", b"421"]), (b"BDAT 99999999999", [b"552", b"421"])])
def test_r5_r23_a_chunk_without_a_usable_size_cannot_be_overridden(line: bytes, expected: list[bytes]) -> None:
    session = greeted(Open(), overrides={"*": lambda *_: Reply(250, None, ("fine",))}, hello=b"NOOP\r\n")
    session.esmtp = True
    assert codes(say(session, line + b"\r\nNOOP\r\n"))[-2:] == expected
    assert session.closing


# ---------------------------------------------------------------------------------------------------------------------
# Any status


@pytest.mark.parametrize("raw", ["999 whatever", b"000", "299 ünbekannt", "666-a\x7f|666 b"])
def test_an_override_may_write_any_status(raw) -> None:
    lines = raw.split("|") if isinstance(raw, str) else (raw,)
    octets = "".join(f"{line}\r\n" for line in lines).encode() if isinstance(raw, str) else raw + b"\r\n"
    session = greeted(Open(), overrides={"NOOP": lambda *_: RawReply(*lines)})
    assert say(session, b"NOOP\r\n") == octets


def test_a_raw_status_counts_by_its_first_digit() -> None:
    statuses = iter([b"200 ok", b"199 ok", b"450 later", b"555 no", b"999 no", b"421 bye"])
    session = greeted(Open(), overrides={"XSTATUS": lambda *_: RawReply(next(statuses))})
    say(session, b"XSTATUS\r\n" * 5)
    assert (session.errors, session.refusals, session.deferrals, session.closing) == (2, 2, 1, False)
    say(session, b"XSTATUS\r\n")
    assert session.closing
    assert str(session.ended) == "421 bye"


def test_raw_statuses_reach_the_limit_of_errors() -> None:
    overrides = {"NOOP": lambda *_: RawReply("900 no")}
    session = greeted(Open(), ServerSettings(max_errors=3), overrides=overrides)
    assert codes(say(session, b"NOOP\r\n" * 4)) == [b"900", b"900", b"421"]


@pytest.mark.parametrize("dialect", [None, LMTP])
def test_every_hook_may_return_a_raw_status(dialect) -> None:
    class Raw(Open):
        def hello(self, session, verb, domain):
            return RawReply("250 hi")

        def mail(self, session, reverse_path, parameters):
            return RawReply("259 mail")

        def recipient(self, session, forward_path, parameters):
            return RawReply("258 rcpt")

        def message(self, session, content, facts):
            return RawReply("600 no") if dialect is None else [RawReply("600 no")]

    settings, hello = (ServerSettings(dialect=LMTP), b"LHLO x.example\r\n") if dialect else (ServerSettings(), b"")
    session = greeted(Raw(), settings, hello or b"EHLO x.example\r\n")
    assert codes(say(session, ENVELOPE + b"DATA\r\nx\r\n.\r\n")) == [b"259", b"258", b"354", b"600"]


@pytest.mark.parametrize(
    "lines",
    [
        *((), ("",), ("25",), ("25x no",), ("250_no",), ("2500",), ("250-not the end",), ("250 end", "250 end")),
        *(("250 a\rb",), ("250 a\r\n550 b",), (b"250 a\nb",), ("250 a\0",), ("250 a\n",), ("250-a", "251 b")),
    ],
)
def test_r17_a_raw_status_cannot_split_the_replies(lines) -> None:  # RFC 5321 §4.2
    with pytest.raises(ValueError, match=r"reply"):
        RawReply(*lines)


def test_a_raw_status_may_have_a_detail_for_the_log() -> None:
    raw = RawReply("250-a", "250 b").because("why")
    assert (raw.octets, raw.detail, raw.text, str(raw)) == (b"250-a\r\n250 b\r\n", "why", ("a", "b"), "250 a b")


# ---------------------------------------------------------------------------------------------------------------------
# Flush


def test_without_a_driver_flush_leaves_the_output_queued() -> None:
    async def early(session, command):
        session.reply(RawReply("250 early"))
        await session.flush()
        await session.flush()

    session = greeted(Open(), overrides={"NOOP": early})
    assert say(session, b"NOOP\r\n") == b"250 early\r\n"


def test_flush_calls_the_driver_unless_an_action_is_pending() -> None:
    flushed = []

    def early(session, command):
        session.standard(command)
        session.flush()

    session = greeted(Open(), ServerSettings(starttls=True), overrides={"*": early}, hello=b"EHLO x.example\r\n")
    session.on_flush = lambda: flushed.append(session.output())
    assert say(session, b"NOOP\r\n") == b""
    assert flushed == [replies.NOTHING_DONE.octets]
    assert codes(say(session, b"STARTTLS\r\n")) == [b"220"]
    assert len(flushed) == 1
    session.lost()
    assert session.on_flush is None
