"""The server session: limits, content rules, hooks, and extension by embedding programs. No I/O."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING, ClassVar

import pytest

from ironpost.model import Address, Envelope, Recipient, Reply
from ironpost.protocol import replies
from ironpost.protocol.dialect import SMTP
from ironpost.protocol.extensions import EXTENSIONS, Extension, Outgoing, next_hop_refusal, outgoing_recipient
from ironpost.protocol.extensions.base import typed
from ironpost.protocol.server.session import DEFAULT, ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.states import ESMTP, ServerState, Verb
from ironpost.protocol.server.transaction import Peer
from ironpost.server import BaseHandler, MemorySpool
from ironpost.wire import FAULTS

if TYPE_CHECKING:
    from collections.abc import Callable


class Open(BaseHandler):
    """A handler that accepts everything and records it."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.gone = 0

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        self.messages.append(content.content)

    def disconnect(self, session):
        self.gone += 1


def settle(session, pending):
    """Await what a hook returned, as the driver of a session does."""

    async def ask():
        nonlocal pending
        while pending is not None:
            try:
                value = await pending
            except Exception as exc:  # noqa: BLE001
                pending = session.fail(exc)
            else:
                pending = session.answer(value)

    if pending is not None:
        asyncio.run(ask())


def say(session, *pieces: bytes) -> bytes:
    """Feed the pieces one by one; return everything that the session writes."""
    written = b""
    for piece in pieces:
        settle(session, session.receive(piece))
        written += session.output()
    return written


def greeted(handler, settings=DEFAULT, hello=b"EHLO client.example\r\n", overrides=None):
    session = ServerSession(handler, settings, overrides=overrides)
    settle(session, session.start())
    session.output()
    say(session, hello)
    return session


ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"


def in_data(handler, settings=DEFAULT):
    session = greeted(handler, settings)
    assert say(session, ENVELOPE + b"DATA\r\n").endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")
    return session


def codes(written: bytes) -> list[bytes]:
    return [line[:3] for line in written.splitlines()]


# ---------------------------------------------------------------------------------------------------------------------
# The end of data

LOOKALIKES = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\n. \r\n",
    b"\r\n.\0\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\r\0\n",
    b"\n\n.\n\n",
]
HIDDEN = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\ntwo"


@pytest.mark.parametrize("newlines", ["reject", "normalise", "accept"])
@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_r1_only_crlf_dot_crlf_ends_data(lookalike: bytes, newlines: str) -> None:
    content = b"one" + lookalike + HIDDEN
    octets = content + b"\r\n.\r\n"
    bare = lookalike.replace(b"\r\n", b"").strip(b". \0") != b""
    refused = b"\0" in lookalike or (bare and newlines == "reject")
    for at in range(len(octets)):
        handler = Open()
        session = in_data(handler, ServerSettings(newlines=newlines))
        assert say(session, octets[:at]) == b"", "nothing is answered before the true end"
        assert codes(say(session, octets[at:])) == [b"550" if refused else b"250"]
        assert len(handler.messages) == (0 if refused else 1)
        assert say(session, b"NOOP\r\n") == b"250 2.0.0 OK\r\n", "and the session is in step"


@pytest.mark.parametrize(
    ("newlines", "stored"),
    [
        ("reject", None),
        ("normalise", b"a\r\nb\r\n\r\nc\r\n"),
        ("accept", b"a\nb\r\r\nc\r\n"),
    ],
)
def test_r2_bare_cr_and_lf_in_data_by_policy(newlines: str, stored: bytes | None) -> None:
    octets = b"a\nb\r\r\nc\r\n.\r\n"
    for at in range(len(octets)):
        handler = Open()
        session = in_data(handler, ServerSettings(newlines=newlines))
        written = say(session, octets[:at], octets[at:])
        assert handler.messages == ([] if stored is None else [stored])
        assert written == (replies.BARE_NEWLINE if stored is None else replies.ACCEPTED).octets


LENIENT = ServerSettings(
    lenient=(ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")), front_ends=(ip_network("198.51.100.1/32"),)
)


def in_data_from(peer: Peer, handler: Open, before: bytes = b"") -> ServerSession:
    session = ServerSession(handler, LENIENT, peer)
    settle(session, session.start())
    say(session, before + b"EHLO client.example\r\n" + ENVELOPE + b"DATA\r\n")
    return session


@pytest.mark.parametrize(
    ("ip", "lenient"),
    [
        ("192.0.2.1", True),
        ("2001:db8::1%1", True),
        ("::ffff:192.0.2.1", True),
        ("192.0.3.1", False),
        ("2001:db8:0:1::1", False),
        ("", False),
    ],
)
def test_r2_content_of_clients_in_the_listed_networks_is_normalised(ip: str, lenient: bool) -> None:
    octets = b"a\nb\r\r\nd\n.\nc\r\n.\r\n"
    for at in range(len(octets)):
        handler = Open()
        session = in_data_from(Peer(ip), handler)
        written = say(session, octets[:at], octets[at:])
        assert written == (replies.ACCEPTED if lenient else replies.BARE_NEWLINE).octets
        assert handler.messages == ([b"a\r\nb\r\n\r\nd\r\n.\r\nc\r\n"] if lenient else [])


def test_r2_content_without_bare_newlines_is_unchanged_for_every_client() -> None:
    handler = Open()
    session = in_data_from(Peer("203.0.113.9"), handler)
    assert codes(say(session, b"a\r\n..b\r\n.\r\n")) == [b"250"]
    assert handler.messages == [b"a\r\n.b\r\n"]


def test_r2_the_address_of_the_client_counts_and_not_of_its_front_end() -> None:
    front = Peer("198.51.100.1")
    for ip, code in (("192.0.2.1", b"250"), ("203.0.113.9", b"550")):
        session = in_data_from(front, Open(), b"XCLIENT ADDR=%b\r\n" % ip.encode())
        assert codes(say(session, b"a\n\r\n.\r\n")) == [code]


def test_r2_r4_a_chunk_is_never_normalised() -> None:
    handler = Open()
    session = ServerSession(handler, LENIENT, Peer("192.0.2.1"))
    settle(session, session.start())
    assert codes(say(session, b"EHLO client.example\r\n" + ENVELOPE + b"BDAT 2 LAST\r\na\n"))[-1] == b"550"
    assert handler.messages == []


@pytest.mark.parametrize(("newlines", "taken"), [("reject", False), ("normalise", False), ("accept", True)])
def test_r4_bare_lf_in_a_chunk_is_refused_unless_accepted(newlines: str, taken: bool) -> None:
    handler = Open()
    session = greeted(handler, ServerSettings(newlines=newlines))
    written = say(session, ENVELOPE + b"BDAT 4 LAST\r\na\nb\n")
    assert codes(written)[-1] == (b"250" if taken else b"550")
    assert handler.messages == ([b"a\nb\n"] if taken else [])


def test_r4_chunks_are_counted_and_never_searched_for_dots() -> None:
    handler = Open()
    session = greeted(handler)
    content = b"a\r\n.\r\nQUIT\r\n"
    say(session, ENVELOPE, b"BDAT 1\r\na", b"BDAT 0\r\n", b"BDAT %d LAST\r\n" % (len(content) - 1) + content[1:])
    assert handler.messages == [content]


@pytest.mark.parametrize(
    ("line", "closes"),
    [
        (b"BDAT 9223372036854775808", True),
        (b"BDAT -1", True),
        (b"BDAT", True),
        (b"BDAT 1 LAST LAST", True),
        (b"BDAT 2147483648", False),
    ],
)
def test_r5_a_chunk_size_that_cannot_be_read_ends_the_connection(line: bytes, closes: bool) -> None:
    session = greeted(Open(), ServerSettings(max_size=1 << 31))
    written = say(session, ENVELOPE + line + b"\r\nNOOP\r\n")
    assert session.closing == closes
    assert codes(written) == [b"250", b"250"] + [b"501", b"421"] * closes


@pytest.mark.parametrize("line", [b"BDAT x", b"BDAT", b"BDAT 1 FIRST", b"bdat 99999999999999999999"])
def test_f82_421_is_sent_before_closing_after_an_uncountable_chunk(line: bytes) -> None:
    session = greeted(Open())
    assert say(session, line + b"\r\nNOOP\r\n").endswith(
        b"\r\n421 4.5.0 Cannot determine the end of the chunk, closing transmission channel\r\n"
    )
    assert session.closing
    unknown = greeted(Open(), ServerSettings(dialect=SMTP._replace(authenticate=True)))
    assert codes(say(unknown, line + b"\r\nNOOP\r\n")) == [b"530", b"421"]
    assert unknown.closing


# ---------------------------------------------------------------------------------------------------------------------
# Content that is refused after its end


def test_content_over_the_limit_is_read_to_its_end_and_not_kept() -> None:
    class Watching(Open):
        largest = 0

        def content(self, session):
            outer = self

            class Spool(MemorySpool):
                def write(self, piece):
                    super().write(piece)
                    outer.largest = max(outer.largest, self.size)

            return Spool()

    handler = Watching()
    session = in_data(handler, ServerSettings(max_size=65536))
    line = b"x" * 62 + b"\r\n"
    assert say(session, *[line * 16] * 100) == b""
    assert say(session, b".\r\nNOOP\r\n") == replies.TOO_LARGE.octets + replies.NOTHING_DONE.octets
    assert handler.messages == []
    assert handler.largest <= 65536


def test_chunks_over_the_limit_are_refused_at_the_chunk_that_breaks_it() -> None:
    handler = Open()
    session = greeted(handler, ServerSettings(max_size=65536))
    chunk = b"BDAT 40000\r\n" + b"x" * 40000
    assert codes(say(session, ENVELOPE, chunk, chunk, chunk)) == [b"250", b"250", b"250", b"552", b"503"]
    assert handler.messages == []


@pytest.mark.parametrize(("long_lines", "code"), [("reject", b"550"), ("accept", b"250")])
def test_r8_a_long_body_line_is_refused_after_the_end_or_accepted(long_lines: str, code: bytes) -> None:
    handler = Open()
    session = in_data(handler, ServerSettings(max_body_line=998, long_lines=long_lines))
    assert codes(say(session, b"x" * 500, b"x" * 499, b"\r\n.\r\n")) == [code]


def test_r8_an_endless_command_line_is_dropped_to_its_end() -> None:
    session = greeted(Open())
    piece = b"x" * 4096
    assert say(session, *[piece] * 50) == b"500 5.5.2 The line is longer than the limit.\r\n"
    assert say(session, b"\r\nNOOP\r\n") == b"250 2.0.0 OK\r\n"


def test_extensions_raise_the_limit_of_a_command_line() -> None:
    # RFC 5321 §4.5.3.1.4: 512, RFC 1870 §3: 26, RFC 6531 §3.1: 10, and " BODY=8BITMIME".
    limit = 512 + 26 + 10 + 14
    assert ServerSettings().limits.command_line == limit
    line = b"NOOP " + b"x" * (limit - 7) + b"\r\n"
    session = greeted(Open())
    assert codes(say(session, line)) == [b"250"]
    assert codes(say(session, b"x" + line)) == [b"500"]


class Failing(Open):
    """Storage that fails when it is opened, written or closed."""

    def __init__(self, at: str, exc: Exception) -> None:
        super().__init__()
        self.at, self.exc, self.discarded = at, exc, 0

    def content(self, session):
        if self.at == "open":
            raise self.exc
        outer = self

        class Spool(MemorySpool):
            def write(self, piece):
                if outer.at == "write":
                    raise outer.exc
                super().write(piece)

            def discard(self):
                outer.discarded += 1
                super().discard()

        return Spool()

    def message(self, session, content, facts):
        raise self.exc


FULL = OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize(
    ("exc", "reply"),
    [
        (FULL, replies.NO_ROOM),
        (OSError(errno.EIO, "I/O error"), replies.HOOK_FAILED),
        (ConnectionResetError(), replies.HOOK_FAILED),
        (KeyError(1), replies.HOOK_FAILED),
    ],
)
@pytest.mark.parametrize("at", ["open", "write", "commit"])
def test_f16_failing_storage_is_a_transient_reply_and_the_session_continues(
    at: str, exc: Exception, reply: Reply
) -> None:
    handler = Failing(at, exc)
    session = greeted(handler)
    written = say(session, ENVELOPE + b"DATA\r\n")
    if at != "open":
        assert say(session, b"a\r\n", b"b\r\n") == b""
        written = say(session, b".\r\n")
    assert written.endswith(reply.octets)
    assert handler.discarded == (1 if at == "write" else 0)
    assert session.failures == 1
    assert codes(say(session, b"RSET\r\n" + ENVELOPE)) == [b"250"] * 3


def test_a_storage_failure_in_a_chunk_is_reported_after_it() -> None:
    session = greeted(Failing("open", FULL))
    written = say(session, ENVELOPE, b"BDAT 6\r\nQUIT\r\n", b"BDAT 6 LAST\r\nQUIT\r\n", b"NOOP\r\n")
    assert codes(written) == [b"250", b"250", b"452", b"503", b"250"]


def test_a_spool_that_returns_an_awaitable_delays_the_next_piece() -> None:
    order: list[str] = []

    class Slow(Open):
        def content(self, session):
            class Spool(MemorySpool):
                def write(self, piece):
                    order.append("write")
                    super().write(piece)
                    return waited()

            return Spool()

        def message(self, session, content, facts):
            order.append("message")
            super().message(session, content, facts)

    async def waited():
        await asyncio.sleep(0)
        order.append("waited")

    handler = Slow()
    session = in_data(handler)
    pending = session.receive(b"one\r\n")
    assert pending is not None
    assert session.receive(b"two\r\n.\r\nNOOP\r\n") is None
    settle(session, pending)
    assert session.output() == replies.ACCEPTED.octets + replies.NOTHING_DONE.octets
    assert handler.messages == [b"one\r\ntwo\r\n"]
    assert order[:2] == ["write", "waited"]
    assert order[-1] == "message"


# ---------------------------------------------------------------------------------------------------------------------
# Limits of a session


def test_r23_recipients_beyond_the_limit_are_452_and_the_rest_are_kept() -> None:
    handler = Open()
    session = greeted(handler, ServerSettings(max_recipients=100))
    written = say(session, b"MAIL FROM:<>\r\n" + b"RCPT TO:<c@d.example>\r\n" * 102)
    assert codes(written) == [b"250"] * 101 + [b"452"] * 2
    assert codes(say(session, b"DATA\r\n.\r\n")) == [b"354", b"250"]


def test_r23_too_many_errors_close_with_421() -> None:
    session = greeted(Open(), ServerSettings(max_errors=3))
    written = say(session, b"X\r\nX\r\nX\r\nNOOP\r\n")
    assert codes(written) == [b"500", b"500", b"421"]
    assert session.closing


def test_an_accepted_message_resets_the_error_count() -> None:
    session = greeted(Open(), ServerSettings(max_errors=3))
    written = say(session, (b"X\r\nX\r\n" + ENVELOPE + b"DATA\r\n.\r\n") * 3)
    assert b"421" not in codes(written)


def test_r23_too_many_commands_close_with_421() -> None:
    session = greeted(Open(), ServerSettings(max_commands=5))
    assert codes(say(session, b"NOOP\r\n" * 9)) == [b"250"] * 4 + [b"421"]
    assert session.closing


@pytest.mark.parametrize(
    "bad", [{"max_recipients": 99}, {"max_size": 65535}, {"max_body_line": 997}, {"max_errors": 0}]
)
def test_r23_limits_below_the_standard_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ServerSettings(**bad)


# ---------------------------------------------------------------------------------------------------------------------
# Start and end of a session


@pytest.mark.parametrize("async_", [False, True])
def test_a_refused_connection_gets_the_refusal_as_its_greeting(async_: bool) -> None:
    class Refusing(Open):
        def connect(self, session):
            return later(replies.TOO_MANY_CONNECTIONS) if async_ else replies.TOO_MANY_CONNECTIONS

    async def later(value):
        return value

    session = ServerSession(Refusing())
    settle(session, session.start())
    assert session.output() == replies.TOO_MANY_CONNECTIONS.octets
    assert session.closing


def test_r7_octets_before_the_greeting_are_not_executed() -> None:
    async def slow():
        return None

    class Slow(Open):
        def connect(self, session):
            return slow()

    session = ServerSession(Slow())
    pending = session.start()
    assert session.receive(b"EHLO early.example\r\nMAIL FROM:<>\r\n") is None
    assert session.output() == b"554 5.5.1 Protocol error: data received before the greeting\r\n"
    assert session.closing
    settle(session, pending)
    assert session.output() == b""
    assert session.helo == ""


def test_r7_octets_after_quit_are_dropped() -> None:
    handler = Open()
    session = greeted(handler)
    assert say(session, b"QUIT\r\n" + ENVELOPE + b"DATA\r\nx\r\n.\r\n", b"NOOP\r\n") == replies.GOODBYE.octets
    assert handler.messages == []


def test_timeout_and_shutdown_reply_421_and_close() -> None:
    for end, reply in ((ServerSession.expire, replies.TIMED_OUT), (ServerSession.shutdown, replies.SHUTTING_DOWN)):
        session = greeted(Open())
        end(session)
        assert session.output() == reply.octets
        assert session.closing


def test_shutdown_waits_for_the_end_of_a_message() -> None:
    handler = Open()
    session = in_data(handler)
    session.shutdown()
    assert session.output() == b""
    assert say(session, b"x\r\n.\r\nNOOP\r\n") == replies.ACCEPTED.octets + replies.SHUTTING_DOWN.octets
    assert handler.messages == [b"x\r\n"]


@pytest.mark.parametrize(
    ("end", "reply"),
    [(ServerSession.shutdown, replies.SHUTTING_DOWN), (ServerSession.retire, replies.SHORTAGE)],
)
def test_a_client_that_begins_a_transaction_with_each_message_is_ended_too(
    end: Callable[[ServerSession], None], reply: Reply
) -> None:
    handler = Open()
    session = greeted(handler)
    say(session, ENVELOPE + b"BDAT 1\r\na")
    end(session)
    assert session.output() == b""
    assert say(session, b"BDAT 3 LAST\r\nb\r\n" + ENVELOPE + b"BDAT 1\r\na") == replies.ACCEPTED.octets + reply.octets
    assert session.closing
    assert not session.input_drained, "more may arrive, at which the last reply must not be lost"
    assert handler.messages == [b"ab\r\n"]


def test_commands_that_a_hook_held_up_are_not_carried_out_after_the_end_of_the_session() -> None:
    async def later():
        return None

    class Slow(Open):
        def message(self, session, content, facts):
            super().message(session, content, facts)
            return later()

    session = in_data(Slow())
    pending = session.receive(b"x\r\n.\r\n" + ENVELOPE + b"DATA\r\ny\r\n.\r\n")
    session.retire()
    assert session.output() == b""
    settle(session, pending)
    assert session.output() == replies.ACCEPTED.octets + replies.SHORTAGE.octets


def test_r6_content_cut_off_by_the_end_of_the_connection_is_discarded() -> None:
    handler = Failing("never", FULL)
    session = in_data(handler)
    say(session, b"half a mess")
    session.eof()
    session.lost()
    session.lost()
    assert handler.discarded == 1
    assert handler.gone == 1


def test_a_batch_before_the_end_of_the_stream_still_gets_its_replies() -> None:
    async def later():
        return None

    class Slow(Open):
        def mail(self, session, reverse_path, parameters):
            return later()

    session = greeted(Slow())
    pending = session.receive(ENVELOPE + b"NOOP\r\n")
    session.eof()
    assert not session.closing
    settle(session, pending)
    assert codes(session.output()) == [b"250"] * 3
    assert session.closing


# ---------------------------------------------------------------------------------------------------------------------
# Hooks


def test_r26_an_awaited_hook_that_raises_is_451() -> None:
    async def broken():
        raise ZeroDivisionError

    class Broken(Open):
        def recipient(self, session, forward_path, parameters):
            return broken()

    session = greeted(Broken())
    assert codes(say(session, ENVELOPE + b"NOOP\r\n")) == [b"250", b"451", b"250"]
    assert session.failures == 1


@pytest.mark.parametrize("hook", ["mail", "recipient", "message", "verify"])
def test_r26_a_hook_result_of_the_wrong_type_is_451(hook: str) -> None:
    async def wrong():
        return "250 OK"

    for value in ("250 OK", wrong()):
        handler = Open()
        setattr(handler, hook, lambda *args, value=value: value)
        session = greeted(handler)
        written = say(session, b"VRFY x\r\n" + ENVELOPE + b"DATA\r\n", b"NOOP\r\n.\r\n")
        assert b"451 4.3.0 Local error in processing\r\n" in written
        settle(session, session.receive(b"RSET\r\n"))
        assert not session.closing


def test_a_reply_of_421_from_a_hook_closes() -> None:
    class Tired(Open):
        def mail(self, session, reverse_path, parameters):
            return replies.reply(421, "3.2", "Enough")

    session = greeted(Tired())
    assert say(session, ENVELOPE) == b"421 4.3.2 Enough\r\n"
    assert session.closing


def test_hooks_see_the_state_of_the_session() -> None:
    seen = []

    class Curious(Open):
        def message(self, session, content, facts):
            transaction = session.transaction
            seen.append((session.helo, session.esmtp, str(transaction.reverse_path), transaction.parameters))
            seen.append([str(recipient.address) for recipient in transaction.recipients])

    session = greeted(Curious())
    say(
        session,
        b"MAIL FROM:<a@b.example> SIZE=3\r\nRCPT TO:<c@D.example>\r\nRCPT TO:<e@f.example>\r\nDATA\r\nx\r\n.\r\n",
    )
    assert seen == [("client.example", True, "a@b.example", {"SIZE": 3}), ["c@D.example", "e@f.example"]]
    assert session.transaction is None


# ---------------------------------------------------------------------------------------------------------------------
# Extension by embedding programs


@dataclass(frozen=True, eq=False)
class Colour(Extension):
    """The example of docs/architecture.md: an extension that uses most parts of its interface."""

    colours: tuple[str, ...] = ("BLUE",)

    keyword = "XCOLOUR"
    claimed = True
    hook = "paint"
    extra_octets: ClassVar = {"RCPT": 500}
    every_recipient = True
    on_request = True
    queue_parameters: ClassVar = frozenset({"XDRY"})
    report_parameters: ClassVar = frozenset({"XCOLOUR"})

    @property
    def mail_parameters(self):
        return {"XCOLOUR": self.colour, "XDRY": typed(str)}

    @property
    def rcpt_parameters(self):
        return {"XCOLOUR": self.colour}

    @property
    def verbs(self):
        return {"XPAINT": Verb(self.paint, frozenset({ServerState.IDLE}), needs=(ESMTP,))}

    def colour(self, session, value, given):
        return value if value in self.colours else replies.BAD_PARAMETER

    def paint(self, session, command):
        session.consult("paint", command.argument.decode(), then=self.painted)

    def painted(self, session, reply):
        session.reply(replies.reply(250, "0.0", "Painted") if reply is None else reply)

    def advertise(self, offer):
        return " ".join(("XCOLOUR", *self.colours))

    def next_hop_refusal(self, envelope, offered, *, verified):
        return None if "XCOLOUR" in offered else replies.BAD_PARAMETER

    def outgoing_recipient(self, message, recipient, offered):
        return {"XCOLOUR": message.envelope.parameters["XCOLOUR"]}


class Painter(Open):
    def paint(self, session, argument):
        return replies.NOT_ALLOWED if argument == "black" else None


def test_an_extension_is_one_class_and_one_entry() -> None:
    handler = Painter()
    settings = ServerSettings(extensions=(*EXTENSIONS, Colour(("BLUE", "RED")))).serving(handler)
    session = ServerSession(handler, settings)
    session.start()
    session.output()
    assert say(session, b"XPAINT x\r\n") == b"503 5.5.1 Send EHLO first\r\n"
    assert b"250 XCOLOUR BLUE RED\r\n" in say(session, b"EHLO client.example\r\n")
    assert say(session, b"HELP\r\nXPAINT x\r\n").endswith(b"XPAINT\r\n250 2.0.0 Painted\r\n")
    assert codes(say(session, b"XPAINT black\r\nMAIL FROM:<> XCOLOUR=GREEN\r\n")) == [b"550", b"501"]
    transaction = b"MAIL FROM:<> XCOLOUR=RED XDRY=1\r\nRCPT TO:<c@d.example> XCOLOUR=BLUE\r\nXPAINT x\r\n"
    assert codes(say(session, transaction)) == [b"250", b"250", b"503"]
    assert settings.limits.command_line == 512 + 500
    assert codes(say(greeted(Painter()), b"XPAINT\r\nMAIL FROM:<> XCOLOUR=BLUE\r\n")) == [b"500", b"555"]
    unclaimed = ServerSettings(extensions=settings.extensions).serving(Open())
    assert codes(say(greeted(Open(), unclaimed), b"XPAINT x\r\n")) == [b"502"]


def test_an_extension_can_act_towards_the_next_hop() -> None:
    extensions = (*EXTENSIONS, Colour())
    recipient = Recipient(Address.parse("c@d.example"))
    envelope = Envelope(Address.parse("a@b.example"), (recipient,), {"XCOLOUR": "BLUE"})
    message = Outgoing(envelope, None, eight_bit=False, smtputf8=False)
    assert next_hop_refusal(envelope, {}, verified=True, extensions=extensions) is replies.BAD_PARAMETER
    assert next_hop_refusal(envelope, {"XCOLOUR": ""}, verified=True, extensions=extensions) is None
    assert outgoing_recipient(message, recipient, {"XCOLOUR": ""}, extensions) == {"XCOLOUR": "BLUE"}
    plain = replace(message, envelope=envelope._replace(parameters={}))
    assert outgoing_recipient(plain, recipient, {}, extensions) == {}


# ---------------------------------------------------------------------------------------------------------------------
# The reply texts


def test_every_fault_of_the_wire_has_its_reply() -> None:
    for table in (replies.SENDER_FAULTS, replies.RECIPIENT_FAULTS, replies.FAULT_REPLIES):
        assert set(table) == set(FAULTS)
    assert replies.SENDER_FAULTS["domain-empty"].enhanced == "5.1.7"  # RFC 3463 §3.2: bad sender's mailbox syntax
    assert replies.RECIPIENT_FAULTS["domain-empty"].enhanced == "5.1.3"  # bad destination mailbox syntax
    assert replies.FAULT_REPLIES["argument-missing"].code == 501
    assert replies.FAULT_REPLIES["line-too-long"].code == 500


def test_the_class_of_an_enhanced_code_is_that_of_the_reply() -> None:
    catalogue = {name: value for name, value in vars(replies).items() if isinstance(value, Reply)}
    assert len(catalogue) > 30
    for name, reply in catalogue.items():
        if reply.enhanced is not None:
            assert reply.enhanced[0] == str(reply.code)[0], name
    assert replies.START_CONTENT.enhanced is None  # RFC 2034 §4
