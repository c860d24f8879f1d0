"""Mail in, driven through a server session without a socket: what is answered, what is committed, and when."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from ironpost.message.header import Header, HeaderError
from ironpost.model.verdict import Verdict, drop, quarantine
from ironpost.policy import NEUTRAL, Finding, Policy, Stage
from ironpost.policy.checks import configured
from ironpost.policy.settings import Settings
from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION
from ironpost.protocol.server import ServerSession
from ironpost.protocol.settings import Settings as SessionSettings
from ironpost.protocol.transaction import Identity, Peer, Tls
from ironpost.queue.store import NewMessage, QueuedMessage, QueuedRecipient, StoreFull
from ironpost.service.content import HEAD
from ironpost.service.inbound import Inbound
from ironpost.service.metrics import Counters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from ironpost.policy import Check, Facts
    from ironpost.protocol.dialect import Dialect

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
    """Commits when the test says so."""

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
    """Time stands still; chance counts."""

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
    """A session over an Inbound; `say` sends and gives what is answered."""

    def __init__(
        self, *checks: Check, ip: str = LOCAL, accept: Callable[[QueuedMessage], None] | None = None, role: str = "mx",
        dialect: Dialect = SMTP, **more: Any,
    ) -> None:  # fmt: skip
        self.store = Store()
        self.accepted: list[QueuedMessage] = []
        self.metrics = Counters()
        world = World()
        policy = Policy([*checks, *configured(Settings.of(local_domains=["example.org"]))])
        inbound = Inbound(
            store=self.store, policy=policy, clock=world, random=world, hostname="mx.example",
            accept=accept or self.accepted.append, role=role, metrics=self.metrics,
        )  # fmt: skip
        self.session = ServerSession(inbound, SessionSettings("mx.example", dialect=dialect, **more), Peer(ip, 25000))
        self.pending = self.session.start()

    def say(self, *lines: str | bytes) -> str:
        octets = b"".join(line if isinstance(line, bytes) else f"{line}\r\n".encode() for line in lines)
        self.pending = self.session.receive(octets)
        return self.session.output().decode()

    async def settle(self) -> str:
        """Awaits questions until none is out; what is answered."""
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


def test_250_comes_when_the_store_has_committed_and_not_before() -> None:
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
        assert message.envelope.origin == (type(message.envelope.origin))("127.0.0.1", "a.example", "ESMTP")
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


def test_several_recipients_are_not_told_of_each_other() -> None:
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


def test_relaying_is_denied_to_strangers_and_nothing_is_spooled() -> None:
    talk = Talk(ip=OUTSIDE)
    answers = talk.start("jo@elsewhere.example").splitlines()
    assert answers[-2:] == ["550 5.7.1 Relaying denied", "554 5.5.1 No valid recipients"]
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
        (OSError(5, "I/O error"), "451 4.3.0 "),
        (RuntimeError("bug"), "451 4.3.0 "),
        (TimeoutError("no answer"), "451 4.3.0 "),
    ],
)
@pytest.mark.parametrize("when", ["spool", "commit", "later"])
def test_f16_a_failing_store_costs_the_transaction_and_only_one_without_room_says_so(
    error: Exception, expected: str, when: str
) -> None:
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
        if when != "spool" or isinstance(error, OSError):  # else the session answers for the hook
            reason = "full" if expected.startswith("452") else "failed"
            assert talk.metrics.snapshot()["storage_faults"] == {reason: 1}
        assert talk.accepted == []
        talk.store.fails = None
        assert "354" in talk.say("RSET", "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_message_that_became_durable_reaches_the_runner_though_its_client_is_gone(coroutine: bool) -> None:
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


def test_a_runner_that_raises_does_not_take_back_the_250(caplog: pytest.LogCaptureFixture) -> None:
    def broken(message: QueuedMessage) -> None:
        raise RuntimeError(message.id)

    async def run() -> None:
        talk = Talk(accept=broken)
        talk.start()
        talk.say(MESSAGE.encode())
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())
    assert any("did not take message Q1" in record.message for record in caplog.records)


def test_a_store_that_closes_answers_451() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(MESSAGE.encode())
        talk.store.asked[0][1].cancel()
        assert (await talk.settle()).startswith("451 4.3.0 ")

    asyncio.run(run())


@pytest.mark.parametrize("other", [b"X: " + b"x" * 900 + b"\r\n", b""])
@pytest.mark.parametrize(("count", "code"), [(99, "250"), (100, "554")])
def test_r48_hops_are_counted_beyond_the_head_that_policy_sees(other: bytes, count: int, code: str) -> None:
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


class Looks:
    """A check that answers later, and remembers what it saw."""

    name = "looks"

    def __init__(self, stage: Stage, verdict: Verdict | None = NEUTRAL, error: Exception | None = None) -> None:
        self.stage = stage
        self.verdict = verdict
        self.error = error
        self.seen: list[tuple[str, str, int, bytes]] = []

    async def judge(self, facts: Facts) -> Finding:
        self.seen.append((facts.ip, facts.helo, facts.size, facts.head))
        if self.error is not None:
            raise self.error
        return Finding(self.verdict, "looked")


@pytest.mark.parametrize("stage", list(Stage))
def test_a_check_that_waits_can_refuse_at_every_stage(stage: Stage) -> None:
    async def run() -> None:
        talk = Talk(Looks(stage, Verdict.refuse(replies.reply(550, "7.1", "Not you"))))
        # No enhanced code in a greeting and in answers to EHLO (RFC 2034 §4); a greeting refuses with 554.
        refusal = {Stage.CONNECT: "554 Not you", Stage.HELLO: "550 Not you"}.get(stage, "550 5.7.1 Not you")
        said = await talk.settle()
        for line in ("EHLO a.example", "MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA", MESSAGE.encode()):
            said += talk.say(line)
            said += await talk.settle()
            if refusal in said:
                break
        assert refusal in said
        assert talk.store.asked == []
        assert all(spool.discarded for spool in talk.store.spools)

    asyncio.run(run())


def test_a_check_on_content_sees_its_head_and_no_more_than_64_kib() -> None:
    async def run() -> None:
        check = Looks(Stage.CONTENT)
        talk = Talk(check)
        await talk.settle()
        talk.start()
        content = b"Subject: x\r\n\r\n" + (b"a" * 998 + b"\r\n") * 200
        for at in range(0, len(content), 4096):
            talk.say(content[at : at + 4096])
        talk.say(b".\r\n")
        settled = asyncio.create_task(talk.settle())
        while not talk.store.asked:
            await asyncio.sleep(0)
        talk.store.finish()
        assert (await settled).startswith("250 ")
        assert check.seen == [(LOCAL, "a.example", len(content), content[:HEAD])]
        assert talk.store.spools[0].octets == content
        assert talk.session.extra.facts.head == b""

    asyncio.run(run())


def test_r26_a_check_that_raises_costs_451_and_the_content_is_discarded() -> None:
    async def run() -> None:
        talk = Talk(Looks(Stage.CONTENT, error=RuntimeError("bug")))
        await talk.settle()
        talk.start()
        talk.say(MESSAGE.encode())
        assert (await talk.settle()).startswith("451 4.3.0 ")
        assert talk.store.spools[0].discarded
        assert talk.say("NOOP").startswith("250 ")

    asyncio.run(run())


def test_r44_the_journal_has_one_line_for_each_message_refusal_and_session(caplog: pytest.LogCaptureFixture) -> None:
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
    # f63: one id joins them
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


def test_the_journal_says_what_a_front_end_said_of_where_the_message_comes_from(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "ironpost.inbound")

    async def run() -> None:
        talk = Talk()
        talk.say("EHLO a.example")
        talk.session.forwarded = {"NAME": "spike.example", "IDENT": "4F2"}  # as XFORWARD does
        talk.say("MAIL FROM:<>", "RCPT TO:<jo@example.org>", "DATA")
        talk.say(MESSAGE.encode())
        talk.store.finish()
        await talk.settle()
        assert talk.session.forwarded == {}

    asyncio.run(run())
    (accepted,) = (json.loads(record.getMessage()) for record in caplog.records)
    assert accepted["forwarded"] == ["NAME=spike.example", "IDENT=4F2"]


def test_a_host_name_that_cannot_stand_in_received_is_refused_at_once() -> None:
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
    assert session.output().endswith(b"550 5.7.1 Relaying denied\r\n")


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
    """The answer to content on a submission listener, and the store."""

    async def run() -> tuple[str, Store]:
        talk = Talk(role="submission", dialect=SUBMISSION)
        talk.session.tls = Tls("TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256")
        talk.session.identity = Identity("ada@example.org", "PLAIN")
        assert "354" in talk.start(mail="MAIL FROM:<ada@example.org>")
        answer = talk.say(content + b".\r\n")
        if talk.store.asked:
            talk.store.finish()
        return answer + await talk.settle(), talk.store

    return asyncio.run(run())


def test_what_users_submit_is_mended_and_the_body_is_not_touched() -> None:
    answer, store = submitted(b"From: ada@example.org\r\nBcc: eve@example.org\r\n\r\nBcc: ..\r\n")
    assert answer == "250 2.0.0 Queued as Q1\r\n"
    ((message, _),) = store.asked
    assert message.prefix.endswith(b"\r\nDate: Fri, 21 Nov 1997 15:55:06 +0000\r\nMessage-ID: <Q1@mx.example>\r\n")
    assert store.spools[0].octets == b"From: ada@example.org\r\n\r\nBcc: ..\r\n"


def test_a_submission_without_a_body_is_stored_whole() -> None:
    answer, store = submitted(b"From: ada@example.org\r\nDate: x\r\n")
    assert answer.startswith("250 ")
    assert store.spools[0].octets == b"From: ada@example.org\r\nDate: x\r\n"


def test_a_submission_that_is_no_message_is_554_and_discarded() -> None:
    answer, store = submitted(b"To: jo@example.org\r\n\r\nbody\r\n")
    assert answer == "554 5.6.0 Message has no From field (RFC 5322 section 3.6)\r\n"
    assert store.asked == []
    assert store.spools[0].discarded


def test_a_submission_says_how_it_came_and_its_envelope_says_who_sent_it() -> None:
    _, store = submitted(b"From: ada@example.org\r\n\r\n")
    ((message, _),) = store.asked
    field = message.prefix.decode().replace("\r\n ", " ")
    assert " with ESMTPSA id Q1 for <jo@example.org> tls TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256; Fri" in field
    assert "ada" not in field.partition("\r\n")[0]
    assert message.envelope.origin.identity == "ada@example.org"


def test_each_message_has_the_origin_of_its_moment() -> None:
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


def test_on_relay_nothing_is_mended() -> None:
    async def run() -> None:
        talk = Talk()
        talk.start()
        talk.say(b"Bcc: a@example.org\r\nhello\r\n.\r\n")
        ((message, _),) = talk.store.asked
        assert message.prefix.count(b":") == 3  # Received, and the colons of its time
        assert talk.store.spools[0].octets == b"Bcc: a@example.org\r\nhello\r\n"
        talk.store.finish()
        await talk.settle()

    asyncio.run(run())


def test_under_lmtp_each_recipient_is_answered_behind_the_one_commit() -> None:
    async def run() -> None:
        talk = Talk(role="lmtp", dialect=LMTP)
        talk.start("jo@example.org", "flo@example.org", hello="LHLO a.example")
        assert talk.say(MESSAGE.encode()) == ""
        assert len(talk.store.asked) == 1
        talk.store.finish()
        assert await talk.settle() == "250 2.0.0 Queued as Q1\r\n" * 2

    asyncio.run(run())


class Says:
    """A check of the content with one verdict."""

    name = "says"
    stage = Stage.CONTENT

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def judge(self, facts: Facts) -> Finding:
        return Finding(self.verdict, "so it is")


def test_what_is_dropped_reads_like_what_is_taken_and_is_not_stored(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        talk = Talk(Says(drop("abuse")))
        talk.start()
        assert talk.say(MESSAGE.encode()) == "250 2.0.0 Queued as Q1\r\n"
        assert talk.store.asked == []
        assert talk.store.spools[0].discarded
        assert talk.metrics.snapshot()["messages"] == {"dropped": 1}

    with caplog.at_level(logging.INFO, "ironpost.inbound"):
        asyncio.run(run())
    (dropped,) = (json.loads(each.getMessage()) for each in caplog.records)
    assert (dropped["event"], dropped["action"], dropped["reasons"]) == ("policy", "drop", ["says: so it is"])


def test_what_is_quarantined_is_stored_and_held() -> None:
    async def run() -> None:
        talk = Talk(Says(quarantine("odd")))
        talk.start()
        talk.say(MESSAGE.encode())
        ((message, _),) = talk.store.asked
        assert message.held
        talk.store.finish()
        assert (await talk.settle()).startswith("250 ")

    asyncio.run(run())


def test_a_session_is_counted_when_it_is_over() -> None:
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
    # The greeting, EHLO, MAIL, RCPT, 354, 250, QUIT; the relay and the nonsense.
    assert counts["replies"] == {"4yz": 0, "5yz": 2, "positive": 7}
    assert counts["recipients_refused"] == {"": 1}
    assert counts["messages"] == {"accepted": 1}
    assert counts["octets"][""] > 0
