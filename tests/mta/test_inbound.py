"""Incoming mail, through a server session without a socket: the replies, the commits, and their order."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from tests.policy.policy_kit import checks as configured_checks

from ironpost.message.header import HeaderError
from ironpost.message.section import Header
from ironpost.model import Address
from ironpost.model.patterns import Addresses, Domains
from ironpost.mta.inbound import Inbound
from ironpost.policy import Check, Policy
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.extensions.xforward import ForwardedOrigin
from ironpost.protocol.replies import NOT_ACCEPTED_HERE
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings as SessionSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo
from ironpost.queue.store import NewMessage, QueuedMessage, QueuedRecipient, StoreFull
from ironpost.routing.archive import ArchiveRule
from ironpost.routing.directory import refusal
from ironpost.routing.mail_directory import MailDirectory
from ironpost.telemetry.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from ironpost.mta.signing import Signing
    from ironpost.protocol.dialect import Dialect
    from ironpost.routing.directory import Directory
    from ironpost.routing.rewriting import Rewriting

LOCAL, OUTSIDE = "127.0.0.1", "198.51.100.7"
NOW = 880127706.0


class Spool:
    def __init__(self) -> None:
        self.octets = b""
        self.discarded = False

    @property
    def size(self) -> int:
        return len(self.octets)

    def write(self, piece: bytes) -> None:
        self.octets += piece

    def discard(self) -> None:
        self.discarded = True


class Content:
    def __init__(self, octets: bytes) -> None:
        self.octets = octets

    @property
    def size(self) -> int:
        return len(self.octets)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.octets

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


class Store:
    """A store that commits when the test calls `finish`."""

    def __init__(self) -> None:
        self.spools: list[Spool] = []
        self.hints: list[int | None] = []
        self.asked: list[tuple[NewMessage, asyncio.Future[QueuedMessage]]] = []
        self.fails: Exception | None = None
        self.coroutine = False

    def spool(self, size_hint: int | None = None) -> Spool:
        self.hints.append(size_hint)
        if self.fails is not None:
            raise self.fails
        self.spools.append(Spool())
        return self.spools[-1]

    def commit(self, message: NewMessage) -> Awaitable[QueuedMessage]:
        if self.fails is not None:
            raise self.fails
        future: asyncio.Future[QueuedMessage] = asyncio.get_running_loop().create_future()
        self.asked.append((message, future))

        async def wait() -> QueuedMessage:
            return await future

        return wait() if self.coroutine else future

    def finish(self, number: int = -1) -> QueuedMessage:
        message, future = self.asked[number]
        rows = tuple(QueuedRecipient(n, row) for n, row in enumerate(message.envelope.recipients))
        spool = message.content
        assert isinstance(spool, Spool)
        done = QueuedMessage(
            message.id, message.envelope, message.accepted, Content(message.prefix + spool.octets), rows
        )
        future.set_result(done)
        return done


class World:
    """A clock that stands still, and a `Random` that counts."""

    def __init__(self) -> None:
        self.given = 0

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 5.0

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def token(self) -> str:
        self.given += 1
        return f"Q{self.given}"

    def uniform(self, low: float, high: float) -> float:
        return low

    def shuffle(self, items: list[str]) -> None:
        del items


class Talk:
    """A session over an `Inbound`; `say` sends lines and returns the replies."""

    def __init__(
        self, *checks: Check, ip: str = LOCAL, role: str = "mx", dialect: Dialect = SMTP,
        archives: tuple[ArchiveRule, ...] = (), rewriting: Rewriting | None = None, signing: Signing | None = None,
        directory: Directory | None = None, **more: Any,
    ) -> None:  # fmt: skip
        self.store = Store()
        self.accepted: list[QueuedMessage] = []
        self.metrics = Counters()
        world = World()
        policy = Policy([*checks, *configured_checks(local_domains=["example.org"])])
        inbound = Inbound(
            store=self.store, policy=policy, clock=world, random=world, hostname="mx.example",
            accept=self.accepted.append, role=role, archives=archives,
            metrics=self.metrics, rewriting=rewriting, signing=signing, directory=directory,
        )  # fmt: skip
        self.session = ServerSession(inbound, SessionSettings("mx.example", dialect=dialect, **more), Peer(ip, 25000))
        self.pending = self.session.start()

    def say(self, *lines: str | bytes) -> str:
        octets = b"".join(line if isinstance(line, bytes) else f"{line}\r\n".encode() for line in lines)
        self.pending = self.session.receive(octets)
        return self.session.output().decode()

    async def settle(self) -> str:
        """Await pending hooks until there is none; return the replies."""
        while self.pending is not None:
            try:
                value = await self.pending
            except Exception as error:  # noqa: BLE001 - as the connection does
                self.pending = self.session.fail(error)
            else:
                self.pending = self.session.answer(value)
        return self.session.output().decode()

    def start(
        self, *recipients: str, mail: str = "MAIL FROM:<sender@example.net>", hello: str = "EHLO a.example"
    ) -> str:
        return self.say(hello, mail, *(f"RCPT TO:<{r}>" for r in recipients or ("jo@example.org",)), "DATA")


MESSAGE = "Subject: x\r\n\r\n..dot\r\n.\r\n"


def test_250_is_sent_only_after_the_store_has_committed() -> None:
    async def run() -> None:
        talk = Talk()
        assert "354" in talk.start()
        assert talk.say(MESSAGE.encode()) == ""
        assert talk.pending is not None
        await asyncio.sleep(0)
        assert not talk.accepted
        done = talk.store.finish()
        assert await talk.settle() == "250 2.0.0 Queued as Q1\r\n"
        assert talk.accepted == [done]

    asyncio.run(run())


@pytest.mark.parametrize("coroutine", [False, True])
def test_the_message_is_committed_with_its_received_field_and_envelope(coroutine: bool) -> None:
    async def run() -> None:
        talk = Talk()
        talk.store.coroutine = coroutine
        talk.start(mail="MAIL FROM:<sender@example.net> SIZE=200")
        talk.say(MESSAGE.encode())
        await asyncio.sleep(0)
        assert talk.store.hints == [200]
        ((message, _),) = talk.store.asked
        assert message.prefix.replace(b"\r\n ", b" ") == (
            b"Received: from a.example ([127.0.0.1]) by mx.example with ESMTP id Q1 for <jo@example.org>;"
            b" Fri, 21 Nov 1997 15:55:06 +0000\r\n"
        )
        assert message.content is talk.store.spools[0]
        assert talk.store.spools[0].octets == b"Subject: x\r\n\r\n.dot\r\n"
        assert not talk.store.spools[0].discarded
        assert (message.id, message.accepted) == ("Q1", NOW)
        assert str(message.envelope.reverse_path) == "sender@example.net"
        assert message.envelope.origin == (type(message.envelope.origin))(
            "127.0.0.1", "a.example", "ESMTP", listener="mx"
        )
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("hello", "mail", "keyword"),
    [
        ("HELO a.example", "MAIL FROM:<>", "SMTP"),
        ("EHLO a.example", "MAIL FROM:<>", "ESMTP"),
        ("EHLO a.example", "MAIL FROM:<> SMTPUTF8", "UTF8SMTP"),
    ],
)
def test_received_names_the_protocol(hello: str, mail: str, keyword: str) -> None:
    async def run() -> None:
        talk = Talk()
        talk.start(hello=hello, mail=mail)
        talk.say(MESSAGE.encode())
        assert f" with {keyword} id Q1" in talk.store.asked[0][0].prefix.decode().replace("\r\n ", " ")
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_received_has_no_for_clause_with_several_recipients() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start("jo@example.org", "flo@example.org")
        talk.say(MESSAGE.encode())
        message, _ = talk.store.asked[0]
        assert len(message.envelope.recipients) == 2
        assert b"@" not in message.prefix
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_relaying_is_denied_to_untrusted_clients_and_nothing_is_spooled() -> None:
    talk = Talk(ip=OUTSIDE)
    answers = talk.start("jo@elsewhere.example").splitlines()
    assert answers[-2:] == ["550 5.7.1 Relay access denied", "554 5.5.1 No valid recipients"]
    assert talk.store.spools == []


def test_r48_a_loop_is_refused_with_5_4_6_and_discarded() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        hops = b"Received: by a.example; x\r\n" * 100
        assert talk.say(hops + b"\r\nx\r\n.\r\n").startswith("554 5.4.6 ")
        assert talk.store.spools[0].discarded
        assert talk.store.asked == []
        talk.say("MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
        assert talk.say(hops[27:] + b"\r\nx\r\n.\r\n") == ""
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreFull("full"), "452 4.3.1 "),
        (OSError(28, "No space left on device"), "452 4.3.1 "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "452 4.3.1 "),
        (OSError(5, "I/O error"), "451 4.3.0 "),
        (RuntimeError("bug"), "451 4.3.0 "),
        (TimeoutError("no answer"), "451 4.3.0 "),
    ],
)
@pytest.mark.parametrize("when", ["spool", "commit", "later"])
def test_f16_a_failing_store_is_451_and_452_only_if_it_is_full(error: Exception, expected: str, when: str) -> None:
    async def run() -> None:
        talk = Talk()
        talk.say("EHLO a.example")
        if when == "spool":
            talk.store.fails = error
            assert talk.start().splitlines()[-1].startswith(expected)
        else:
            talk.start()
            if when == "commit":
                talk.store.fails = error
            answer = talk.say(MESSAGE.encode())
            if when == "later":
                talk.store.asked[0][1].set_exception(error)
                answer = await talk.settle()
            assert answer.startswith(expected)
            assert talk.store.spools[0].discarded
        if when != "spool" or isinstance(error, OSError):  # otherwise the session replies instead of the hook
            reason = "full" if expected.startswith("452") else "failed"
            assert talk.metrics.snapshot()["store_faults"] == {reason: 1}
        assert talk.accepted == []
        talk.store.fails = None
        assert "354" in talk.say("RSET", "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_durable_message_reaches_the_queue_runner_after_its_client_disconnected(coroutine: bool) -> None:
    async def run() -> None:
        talk = Talk()
        talk.store.coroutine = coroutine
        talk.start()
        talk.say(MESSAGE.encode())
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(talk.pending)  # type: ignore[arg-type]
        waiting.cancel()
        talk.session.lost()
        await asyncio.sleep(0)
        done = talk.store.finish()
        for _ in range(4):
            await asyncio.sleep(0)
        assert talk.accepted == [done]
        assert not talk.store.spools[0].discarded

    asyncio.run(run())


def test_a_closing_store_is_451() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(MESSAGE.encode())
        talk.store.asked[0][1].cancel()
        assert (await talk.settle()).startswith("451 4.3.0 ")

    asyncio.run(run())


@pytest.mark.parametrize("other", [b"X: " + b"x" * 900 + b"\r\n", b""])
@pytest.mark.parametrize(("count", "code"), [(99, "250"), (100, "554")])
def test_r48_hops_are_counted_in_header_sections_of_any_size(other: bytes, count: int, code: str) -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        content = (b"Received: by a.example; x\r\n" + other) * count + b"\r\n" + b"Received: x\r\n" * 200
        said = ""
        for at in range(0, len(content), 7001):
            said += talk.say(content[at : at + 7001])
        said += talk.say(b".\r\n")
        if talk.store.asked:
            talk.store.finish()
        assert (said + await talk.settle()).startswith(code)

    asyncio.run(run())


def test_r44_the_log_has_one_line_for_each_message_refusal_and_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ironpost.inbound")

    async def run() -> None:
        talk = Talk(ip=OUTSIDE)
        talk.say("EHLO a.example", "MAIL FROM:<> SMTPUTF8", 'RCPT TO:<"a\u2028b"@elsewhere.example>')
        talk.say("RCPT TO:<jo@example.org>", "DATA")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        await talk.settle()
        talk.say("QUIT")
        talk.session.lost()

    asyncio.run(run())
    lines = [record.getMessage() for record in caplog.records]
    assert all(line.isascii() and line.isprintable() for line in lines)
    refused, accepted, session = (json.loads(line) for line in lines)
    assert refused["event"] == "refused"
    assert refused["recipient"] == "a\u2028b@elsewhere.example"
    assert refused["reasons"] == [f"relay: elsewhere.example is not local, and {OUTSIDE} is not trusted"]
    assert accepted["event"] == "accepted"
    assert (accepted["id"], accepted["recipients"], accepted["sender"]) == ("Q1", ["jo@example.org"], "")
    # f63: they have the same id
    assert {refused["session"], accepted["session"]} == {session["session"]}
    assert len(session["session"]) == 16
    assert session == {
        "event": "session", "session": session["session"], "listener": "mx", "ip": OUTSIDE, "port": 25000,
        "name": None, "via": None, "helo": "a.example", "tls": None, "cipher": None, "identity": None,
        "commands": 6, "messages": 1,
        "octets": accepted["size"], "refused": 1, "errors": 1, "failed_logins": 0, "failed_hooks": 0, "ended": None,
        "seconds": 0.0,
    }  # fmt: skip


def test_f63_two_sessions_have_two_ids(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ironpost.inbound")
    for _ in range(2):
        talk = Talk()
        talk.say("QUIT")
        talk.session.lost()
    first, second = (json.loads(record.getMessage())["session"] for record in caplog.records)
    assert first != second


def test_the_log_has_the_origin_given_by_xforward(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ironpost.inbound")

    async def run() -> None:
        talk = Talk()
        talk.say("EHLO a.example")
        talk.session.state_of(ForwardedOrigin).attributes = {
            "NAME": "spike.example",
            "IDENT": "4F2",
        }  # as XFORWARD does
        talk.say("MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        await talk.settle()
        assert not talk.session.has_state(ForwardedOrigin)

    asyncio.run(run())
    (accepted,) = (json.loads(record.getMessage()) for record in caplog.records)
    assert accepted["forwarded"] == ["NAME=spike.example", "IDENT=4F2"]


def test_a_host_name_that_is_invalid_in_received_is_refused_at_once() -> None:
    world = World()
    with pytest.raises(HeaderError, match="mx example"):
        Inbound(
            store=Store(), policy=Policy([]), clock=world, random=world, hostname="mx example",  # type: ignore[arg-type]
            accept=lambda message: None,
        )  # fmt: skip


def test_without_an_accepting_check_every_recipient_is_refused() -> None:
    world = World()
    inbound = Inbound(
        store=Store(), policy=Policy([]), clock=world, random=world, hostname="mx.example",  # type: ignore[arg-type]
        accept=lambda message: None,
    )  # fmt: skip
    session = ServerSession(inbound, SessionSettings("mx.example"), Peer(LOCAL, 1))
    session.start()
    session.receive(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<jo@localhost>\r\n")
    assert session.output().endswith(b"550 5.7.1 Relay access denied\r\n")


def test_the_stored_message_starts_with_one_received_field() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(b"Received: by old.example; x\r\n\r\nbody\r\n.\r\n")
        body = await talk.store.finish().body.head(10_000)
        await talk.settle()
        fields = Header(body)
        assert [field.name for field in fields.section.fields] == ["Received", "Received"]
        assert fields.values("Received")[1] == b"by old.example; x"

    asyncio.run(run())


# -- submission, LMTP, TLS


def submitted(content: bytes) -> tuple[str, Store]:
    """Submit content; return the reply and the store."""

    async def run() -> tuple[str, Store]:
        talk = Talk(role="submission", dialect=SUBMISSION)
        talk.session.tls = TlsInfo("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256")
        talk.session.identity = Identity("ada@example.org", "PLAIN")
        assert "354" in talk.start(mail="MAIL FROM:<ada@example.org>")
        answer = talk.say(content + b".\r\n")
        if talk.store.asked:
            talk.store.finish()
        return answer + await talk.settle(), talk.store

    return asyncio.run(run())


def test_submitted_header_sections_are_completed_and_bodies_unchanged() -> None:
    answer, store = submitted(b"From: ada@example.org\r\nBcc: eve@example.org\r\n\r\nBcc: ..\r\n")
    assert answer == "250 2.0.0 Queued as Q1\r\n"
    ((message, _),) = store.asked
    assert message.prefix.endswith(b"\r\nDate: Fri, 21 Nov 1997 15:55:06 +0000\r\nMessage-ID: <Q1@mx.example>\r\n")
    assert store.spools[0].octets == b"From: ada@example.org\r\n\r\nBcc: ..\r\n"


def test_a_submission_without_a_body_is_stored_whole() -> None:
    answer, store = submitted(b"From: ada@example.org\r\nDate: x\r\n")
    assert answer.startswith("250 ")
    assert store.spools[0].octets == b"From: ada@example.org\r\nDate: x\r\n"


def test_an_invalid_submission_is_554_and_discarded() -> None:
    answer, store = submitted(b"To: jo@example.org\r\n\r\nbody\r\n")
    assert answer == "554 5.6.0 Message has no From field (RFC 5322 section 3.6)\r\n"
    assert store.asked == []
    assert store.spools[0].discarded


def test_a_submission_has_its_protocol_in_received_and_its_login_in_the_envelope() -> None:
    _, store = submitted(b"From: ada@example.org\r\n\r\n")
    ((message, _),) = store.asked
    field = message.prefix.decode().replace("\r\n ", " ")
    assert " with ESMTPSA id Q1 for <jo@example.org> tls TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; Fri" in field
    assert "ada" not in field.partition("\r\n")[0]
    assert message.envelope.origin.identity == "ada@example.org"


def test_the_origin_of_a_message_reflects_ehlo_and_login_at_its_time() -> None:
    async def run() -> None:
        talk = Talk()
        for hello, mail, identity in [
            ("EHLO a.example", "MAIL FROM:<>", None),
            ("EHLO b.example", "MAIL FROM:<>", None),
            ("NOOP", "MAIL FROM:<> SMTPUTF8", None),
            ("NOOP", "MAIL FROM:<>", Identity("ada", "PLAIN")),
            ("HELO c.example", "MAIL FROM:<>", Identity("ada", "PLAIN")),
        ]:
            talk.session.identity = identity
            talk.start(hello=hello, mail=mail)
            talk.say(MESSAGE.encode())
            talk.store.finish()
            await talk.settle()
        origins = [message.envelope.origin for message, _ in talk.store.asked]
        assert [(each.helo, each.protocol, each.identity) for each in origins] == [
            ("a.example", "ESMTP", ""),
            ("b.example", "ESMTP", ""),
            ("b.example", "UTF8SMTP", ""),
            ("b.example", "ESMTPA", "ada"),
            ("c.example", "SMTP", "ada"),
        ]

    asyncio.run(run())


def test_relayed_mail_is_not_normalised() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(b"Bcc: a@example.org\r\nhello\r\n.\r\n")
        ((message, _),) = talk.store.asked
        assert message.prefix.count(b":") == 3  # Received, and the colons in its time
        assert talk.store.spools[0].octets == b"Bcc: a@example.org\r\nhello\r\n"
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_under_lmtp_each_recipient_gets_a_reply_after_one_commit() -> None:
    async def run() -> None:
        talk = Talk(role="lmtp", dialect=LMTP)
        talk.start("jo@example.org", "flo@example.org", hello="LHLO a.example")
        assert talk.say(MESSAGE.encode()) == ""
        assert len(talk.store.asked) == 1
        talk.store.finish()
        assert await talk.settle() == "250 2.0.0 Queued as Q1\r\n" * 2

    asyncio.run(run())


def test_a_session_is_counted_when_it_ends() -> None:
    async def run() -> Counters:
        talk = Talk(ip=OUTSIDE)
        talk.start("jo@elsewhere.example", "jo@example.org")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        await talk.settle()
        talk.say("NONSENSE", "QUIT")
        talk.session.lost()
        return talk.metrics

    counts = asyncio.run(run()).snapshot()
    assert counts["commands"] == {"": 7}
    # The greeting, EHLO, MAIL, RCPT, 354, 250, QUIT; the refused relay and the unknown command.
    assert counts["replies"] == {"4yz": 0, "5yz": 2, "positive": 7}
    assert counts["recipients_refused"] == {"": 1}
    assert counts["messages"] == {"accepted": 1}
    assert counts["octets"][""] > 0


def test_f29_a_session_ended_by_endless_content_is_counted() -> None:
    talk = Talk(max_size=65_536)
    talk.start()
    piece = b"x" * (1 << 20)
    while not talk.session.closing:
        talk.say(piece)
    (spool,) = talk.store.spools
    assert spool.discarded
    talk.session.lost()
    assert talk.metrics.snapshot()["sessions_ended"] == {"size": 1}


def test_an_archive_copy_for_an_address_that_does_not_exist_fails_alone() -> None:
    async def run() -> None:
        listed = MailDirectory(Domains(["example.org"]), listed=Addresses(["jo@example.org"]), has_aliases=False)
        rule = ArchiveRule(("example.org",), Address.parse("archive@example.org"))
        talk = Talk(archives=(rule,), directory=listed)
        talk.start("jo@example.org")
        talk.say(MESSAGE.encode())
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the expansion is a task
        done = talk.store.finish()
        await talk.settle()
        assert [(each.recipient.address.local_part, refusal(each.recipient)) for each in done.recipients] == [
            ("jo", None), ("archive", NOT_ACCEPTED_HERE),
        ]  # fmt: skip

    asyncio.run(run())


@pytest.mark.parametrize("dialect", [SMTP, LMTP])
def test_an_archive_copy_is_committed_with_the_message_and_the_client_does_not_see_it(dialect: Dialect) -> None:
    async def run() -> None:
        rule = ArchiveRule(("example.org",), Address.parse("archive@vault.example"))
        talk = Talk(archives=(rule,), dialect=dialect)
        talk.start("jo@example.org", "ada@example.org", hello="LHLO a" if dialect is LMTP else "EHLO a.example")
        talk.say(MESSAGE.encode())
        await asyncio.sleep(0)
        done = talk.store.finish()
        replies = await talk.settle()
        assert replies.count("250 2.0.0 Queued as Q1") == replies.count("\r\n") == (2 if dialect is LMTP else 1)
        assert [str(each.recipient.address) for each in done.recipients] == [
            "jo@example.org", "ada@example.org", "archive@vault.example",
        ]  # fmt: skip

    asyncio.run(run())
