"""Random dialogues with a session, compared with a model of a transaction.

A dialogue is played in lockstep: each line is sent when the reply to the one before is there, so it is known what each
octet was for. After every step the invariants are checked. Then the same octets are played again, cut elsewhere, in
batches, with hooks that suspend: the same must be said, and the same messages taken.

    state never leaks across RSET, EHLO, STARTTLS, XCLIENT      (SECURITY R11, R14)
    never two messages from one, whatever its content      (SECURITY R1, R2)
    one reply for each command, content or chunk, in order
    memory is bounded: at most one spool, and never more in it than the limit
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP, SMTP, SUBMISSION, Dialect
from ironpost.protocol.extensions.xforward import ForwardedOrigin
from ironpost.protocol.server.commands import ServerState
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import MESSAGE_SIZE_MINIMUM, ServerSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsHandshake, TlsInfo
from ironpost.server import BaseHandler

LIMIT = MESSAGE_SIZE_MINIMUM
FRONT = Peer("192.0.2.1", 1)


class Spool:
    """A spool that records its input; its handler counts open spools."""

    def __init__(self, handler: Model) -> None:
        self.size = 0
        self.pieces: list[bytes] = []
        self.handler = handler
        handler.spools += 1

    def write(self, piece: bytes) -> Any:
        self.size += len(piece)
        assert self.size <= LIMIT
        self.pieces.append(piece)
        return self.handler.later(None)

    def discard(self) -> None:
        self.handler.spools -= 1


@dataclass
class Model(BaseHandler):
    """A handler whose results depend only on the arguments, so that a dialogue can be repeated."""

    suspends: bool = False
    spools: int = 0
    taken: list[tuple[Any, ...]] = field(default_factory=list)

    def later(self, answer: Any) -> Any:
        return self._later(answer) if self.suspends else answer

    async def _later(self, answer: Any) -> Any:
        await asyncio.sleep(0)
        return answer

    def hello(self, session: ServerSession, verb: str, domain: str) -> Any:
        return self.later(replies.NOT_ALLOWED if domain.startswith("evil") else None)

    def mail(self, session: ServerSession, reverse_path: Any, parameters: Any) -> Any:
        return self.later(replies.NOT_ALLOWED if reverse_path.local_part == "no" else None)

    def recipient(self, session: ServerSession, forward_path: Any, parameters: Any) -> Any:
        return self.later(replies.NOT_ACCEPTED_HERE if forward_path.local_part == "no" else None)

    def content(self, session: ServerSession) -> Any:
        assert self.spools == 0
        assert session.transaction is not None
        if session.transaction.reverse_path.local_part == "full":
            return self.later(replies.NO_ROOM)
        return self.later(Spool(self))

    def message(self, session: ServerSession, content: Spool, facts: Any) -> Any:
        transaction = session.transaction
        assert transaction is not None
        self.spools -= 1
        octets = b"".join(content.pieces)
        assert len(octets) == facts.size
        self.taken.append(
            (
                *(session.helo, session.esmtp, session.secure, session.identity, session.peer.ip),
                *(str(transaction.reverse_path), [str(each.address) for each in transaction.recipients]),
                *(dict(transaction.parameters), dict(session.state_of(ForwardedOrigin).attributes), octets),
            )
        )
        return self.later(replies.NOT_TAKEN if b"refuse" in octets else None)


def authenticate(session: ServerSession, command: Any) -> Any:
    """A substitute for AUTH: one line with the name."""

    def named(session: ServerSession, octets: bytes | None) -> None:
        if octets is None or not octets.isalnum():
            session.reply(replies.reply(501, "5.2", "Malformed"))
        else:
            session.identity = Identity(octets.decode("ascii", "replace"), "TEST")
            session.reply(replies.reply(235, "7.0", "OK"))

    if session.state is not ServerState.IDLE or session.identity is not None or command.fault is not None:
        return replies.BAD_SEQUENCE
    session.write(b"334 \r\n")
    session.read_line(named)
    return None


def opened(dialect: Dialect, model: Model) -> ServerSession:
    configured = ServerSettings(
        "mx.example",
        max_size=LIMIT,
        max_errors=10_000,
        dialect=dialect,
        starttls=True,
        front_ends=(ip_network("192.0.2.0/24"),),
    )
    session = ServerSession(model, configured, FRONT, {"AUTH": authenticate})
    settle(session, session.start())
    return session


LOOP = asyncio.new_event_loop()


def settle(session: ServerSession, pending: Any) -> None:
    """Await what a hook returned, as the driver of a session does."""
    while pending is not None:
        pending = session.answer(LOOP.run_until_complete(pending))


def say(session: ServerSession, octets: bytes) -> bytes:
    settle(session, session.receive(octets))
    if isinstance(session.want, TlsHandshake):
        written = session.output()
        session.tls_started(TlsInfo("TLSv1.3"))
        return written
    return session.output()


def answers(written: bytes) -> list[bytes]:
    """Split output into replies; fail on anything else."""
    found: list[bytes] = []
    for line in written.split(b"\r\n")[:-1]:
        assert re.fullmatch(rb"[2-5]\d\d[ -][ -~]*", line), line
        if line[3:4] == b" ":
            found.append(line[:3])
    assert written == b"" or written.endswith(b"\r\n")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Dialogues

HOSTS = st.sampled_from([b"a.example", b"b.example", b"evil.example", b"[192.0.2.1]"])
BOXES = st.sampled_from(
    [b"a@b.example", b"c@d.example", b"no@b.example", b"full@b.example", b"", b"a b@c", b"postmaster"]
)
LINES = st.one_of(
    st.tuples(st.sampled_from([b"EHLO ", b"EHLO ", b"HELO ", b"LHLO ", b"LHLO "]), HOSTS).map(b"".join),
    st.tuples(
        st.just(b"MAIL FROM:<"),
        BOXES,
        st.sampled_from([b">", b">", b"> SIZE=9", b"> BODY=8BITMIME", b"> X=1", b"> SIZE=99999999"]),
    ).map(b"".join),
    st.tuples(st.just(b"RCPT TO:<"), BOXES, st.just(b">")).map(b"".join),
    st.tuples(st.just(b"RCPT TO:<"), BOXES, st.just(b">")).map(b"".join),
    st.sampled_from(
        [b"DATA", b"DATA", b"RSET", b"NOOP", b"VRFY x", b"HELP", b"STARTTLS", b"AUTH TEST", b"TURN", b"XYZ"]
    ),
    st.sampled_from(
        [b"XCLIENT ADDR=203.0.113.5", b"XCLIENT LOGIN=front", b"XFORWARD NAME=fwd.example", b"ETRN x.example"]
    ),
)
MUTATIONS = st.tuples(
    st.sampled_from(["as it is"] * 12 + ["cut", "insert", "case", "double"]),
    st.integers(0, 40),
    st.sampled_from([b"\0", b"\r", b"\n", b" ", b"\xff", b"<", b".", b"x" * 3000, b"\n.\n", b"\rQUIT\n"]),
)
CONTENT = st.lists(
    st.sampled_from(
        [
            *(b"Subject: x", b"\r\n", b"\r\n\r\n", b".", b"..", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r.\r\n", b".\r\n"),
            *(b"\r\n.\n", b"\r\n.\r", b"\0", b"\xff", b"refuse", b"x" * 1000, b"y" * (LIMIT // 2)),
            *(b"MAIL FROM:<evil@evil.example>\r\nRCPT TO:<evil@evil.example>\r\nDATA\r\n", b"QUIT\r\n", b"\r\n.\r\n"),
        ]
    ),
    max_size=8,
).map(b"".join)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("line"), LINES, MUTATIONS, CONTENT),
        st.tuples(
            st.just("chunk"), st.sampled_from([b"", b"", b" LAST", b" LAST", b" last", b" FIRST"]), MUTATIONS, CONTENT
        ),
        st.tuples(
            st.sampled_from(["mail", "chunked", "open", "open", "secure", "login"]), st.just(b""), MUTATIONS, CONTENT
        ),
    ),
    min_size=4,
    max_size=25,
)


def mutated(line: bytes, mutation: tuple[str, int, bytes]) -> bytes:
    """Mutate a line without adding CRLF."""
    kind, at, octets = mutation
    at = min(at, len(line))
    if kind == "cut":
        line = line[:at]
    elif kind == "insert":
        line = line[:at] + octets + line[at:]
    elif kind == "case":
        line = line.swapcase()
    elif kind == "double":
        line = line + line
    return re.sub(rb"\r+\n|\r+\Z", b"", line)


def ended(content: bytes) -> bytes:
    """Return the content up to its first end, or with an end appended."""
    whole = content + (b"" if content.endswith(b"\r\n") or not content else b"\r\n") + b".\r\n"
    return whole[: (b"\r\n" + whole).index(b"\r\n.\r\n") + 3]


@dataclass
class Expected:
    """The model: the state of session and transaction according to the replies."""

    helo: str = ""
    esmtp: bool = False
    secure: bool = False
    login: str | None = None
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)

    def reset(self) -> None:
        self.sender, self.recipients, self.chunks = None, [], []


def known(line: bytes, start: bytes) -> str:
    return line[len(start) : line.index(b">")].decode()


def follow(expected: Expected, line: bytes, code: bytes) -> None:
    """Update the model after a positive reply."""
    verb = line[:8].upper().split(b" ")[0]
    if verb in {b"EHLO", b"HELO", b"LHLO"} and code == b"250":
        expected.reset()
        expected.helo, expected.esmtp = line.split(b" ", 1)[1].strip().decode(), verb != b"HELO"
    elif verb == b"RSET" and code == b"250":
        expected.reset()
    elif verb == b"MAIL" and code == b"250":
        expected.reset()
        expected.sender = known(line, b"MAIL FROM:<")
    elif verb == b"RCPT" and code == b"250":
        expected.recipients.append(known(line, b"RCPT TO:<"))
    elif verb in {b"STARTTLS", b"XCLIENT"} and code == b"220":
        secure = expected.secure or verb == b"STARTTLS"
        vars(expected).update(vars(Expected(secure=secure)))
        if b"LOGIN=" in line.upper():
            login = re.split(rb"LOGIN=", line, flags=re.IGNORECASE)[1].rstrip(b" ").decode()
            expected.login = login or expected.login


class Player:
    """Plays steps in lockstep and records the octets, by the layer on which they were sent."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.model = Model()
        self.session = opened(dialect, self.model)
        self.written = [self.session.output()]
        self.sent = [b""]
        self.expected = Expected()

    def send(self, octets: bytes) -> list[bytes]:
        self.sent[-1] += octets
        secure = self.session.secure
        written = say(self.session, octets)
        self.written[-1] += written
        if self.session.secure and not secure:
            self.sent.append(b"")
            self.written.append(b"")
        return answers(written)

    def one(self, octets: bytes) -> bytes:
        """Send octets that must get exactly one reply."""
        said = self.send(octets)
        assert len(said) == 1, (octets[:80], said)
        return said[0]

    def line(self, line: bytes, content: bytes) -> None:
        taken = len(self.model.taken)
        code = self.one(line + b"\r\n")
        if code == b"334":
            name = b"jo" if len(content) % 2 else b"j o"
            if self.one(name + b"\r\n") == b"235":
                self.expected.login = "jo"
        elif code == b"354":
            whole = ended(content)
            said = self.send(whole)
            recipients = len(self.expected.recipients)
            assert len(said) == (recipients if self.dialect.per_recipient else 1)
            assert len(self.model.taken) - taken <= 1
            if len(self.model.taken) > taken:
                stuffed = whole[:-3].replace(b"\r\n.", b"\r\n")
                self.arrived(stuffed.removeprefix(b".") if whole[:1] == b"." else stuffed)
            self.expected.reset()
        else:
            assert len(self.model.taken) == taken
            follow(self.expected, line, code)

    def play(self, kind: str, content: bytes) -> None:
        """Play sequences that are rare in random dialogues."""
        hello = b"LHLO a.example" if self.dialect.per_recipient else b"EHLO a.example"
        strict = kind in {"mail", "chunked", "open"}
        self.line(hello, content)
        if not self.session.secure and (kind == "secure" or (strict and self.dialect.encrypt)):
            self.line(b"STARTTLS", content)
            self.line(hello, content)
        if self.session.identity is None and (kind == "login" or (strict and self.dialect.authenticate)):
            self.line(b"AUTH TEST", content)
        if strict:
            self.line(b"MAIL FROM:<a@b.example>", content)
            self.line(b"RCPT TO:<c@d.example>", content)
        if kind == "mail":
            self.line(b"DATA", content)
        elif kind == "chunked":
            self.chunk(b"", content)
            self.chunk(b" LAST", content)

    def chunk(self, last: bytes, content: bytes) -> None:
        taken, recipients = len(self.model.taken), len(self.expected.recipients)
        content = content[: LIMIT // 2]
        said = self.send(b"BDAT %d%s\r\n" % (len(content), last) + content)
        if last == b" FIRST":
            assert said in ([b"501", b"421"], [b"530", b"421"])  # RFC 5321 §3.8: 421 before a close
            assert self.session.closing  # the end of the octets is unknown
            return
        complete = last != b"" and len(self.model.taken) > taken
        assert len(said) == (recipients if self.dialect.per_recipient and len(said) != 1 else 1)
        if complete:
            self.arrived(b"".join([*self.expected.chunks, content]))
        if last == b"" and said == [b"250"]:
            self.expected.chunks.append(content)
        elif said != [b"503"] or complete or last == b"":
            self.expected.reset()

    def arrived(self, content: bytes) -> None:
        """Check that the handler got the messages that the replies acknowledged, and no others."""
        helo, esmtp, secure, identity, _, sender, recipients, _, _, octets = self.model.taken[-1]
        expected = self.expected
        assert (helo, esmtp, secure) == (expected.helo, expected.esmtp, expected.secure)
        assert (identity.name if identity else None) == expected.login
        assert (sender, recipients) == (expected.sender, expected.recipients)
        assert octets == content
        assert "evil" not in sender
        assert secure or not self.dialect.encrypt
        assert identity is not None or not self.dialect.authenticate

    def check(self) -> None:
        """Check the invariants between two steps."""
        session, model = self.session, self.model
        assert session.pending is None
        assert session.failures == 0
        assert session.output() == b""
        if session.state in {ServerState.READY, ServerState.IDLE, ServerState.CLOSED}:
            assert (session.transaction, session.spool) == (None, None) or session.state is ServerState.CLOSED
            assert model.spools == 0
        assert model.spools <= 1
        assert session.secure is self.expected.secure
        if not session.closing:
            assert (session.identity.name if session.identity else None) == self.expected.login
            assert (session.helo, session.esmtp) == (self.expected.helo, self.expected.esmtp)


STRICT = SUBMISSION._replace(encrypt=True)
"""A dialect that requires TLS and authentication."""


@pytest.mark.parametrize("dialect", [SMTP, LMTP, STRICT], ids=lambda dialect: dialect.name)
@settings(max_examples=250, deadline=None)
@given(steps=STEPS, cuts=st.lists(st.integers(1, 400), min_size=1, max_size=6))
def test_r11_r14_random_dialogues_keep_the_invariants_in_any_fragmentation(
    dialect: Dialect, steps: list[tuple[str, bytes, Any, bytes]], cuts: list[int]
) -> None:
    player = Player(dialect)
    for kind, line, mutation, content in steps:
        if kind == "chunk":
            player.chunk(line, content)
        elif kind != "line":
            player.play(kind, content)
        else:
            player.line(mutated(line, mutation), content)
        player.check()
        if player.session.closing:
            break
    for suspends in (False, True):
        model = Model(suspends)
        session = opened(dialect, model)
        written = session.output()
        for octets, expected in zip(player.sent, player.written, strict=True):
            at, turn = 0, 0
            while at < len(octets):
                size = cuts[turn % len(cuts)] if len(octets) < 20_000 else cuts[turn % len(cuts)] * 400
                written += say(session, octets[at : at + size])
                at, turn = at + size, turn + 1
            assert written == expected
            written = b""
        assert model.taken == player.model.taken
        session.lost()
        assert model.spools == 0
    player.session.lost()
    assert player.model.spools == 0
