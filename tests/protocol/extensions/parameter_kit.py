"""A server whose handler claims every extension, and a session of our client with it, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.protocol.test_server_session import Open, greeted, say

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.tls import TlsLevel, Verification
from ironpost.protocol.client.session import ClientSession, ClientState, OutgoingTransaction
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import TlsInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ironpost.model import Reply, Value

NOW = 1_764_054_600.0  # 2025-11-25T07:10:00Z
CLAIMS = frozenset({"DSN", "REQUIRETLS", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY", "RRVS", "BINARYMIME", "BURL"})
TLS = TlsInfo("TLSv1.3")
SUBMISSION_FOR_ALL = SUBMISSION._replace(authenticate=False)


class Clock:
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


class Keeper(Open):
    """A handler that also records envelopes."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[tuple[dict[str, Value], list[dict[str, Value]]]] = []

    def message(self, session, content, facts):
        transaction = session.transaction
        self.envelopes.append((dict(transaction.parameters), [dict(to.parameters) for to in transaction.recipients]))
        return super().message(session, content, facts)


def settings(clock: Clock | None = None, **options: object) -> ServerSettings:
    """Return the settings of a server with all these extensions by default."""
    return ServerSettings("mx.example", **{"claims": CLAIMS, "now": clock or Clock(), **options})  # type: ignore[arg-type]


def open_session(chosen: ServerSettings | None = None, *, tls: bool = False) -> ServerSession:
    """Return a session after EHLO."""
    session = greeted(Keeper(), chosen or settings(), hello=b"")
    session.tls = TLS if tls else None
    say(session, b"EHLO client.example\r\n")
    return session


def offers(session: ServerSession) -> list[str]:
    """Return the lines of the EHLO reply after the first."""
    return [line[4:] for line in say(session, b"EHLO client.example\r\n").decode().splitlines()[1:]]


def mail(session: ServerSession, parameters: str) -> str:
    """Send MAIL with these parameters in a new transaction; return the reply."""
    say(session, b"RSET\r\n")
    return say(session, f"MAIL FROM:<a@a.example> {parameters}\r\n".encode()).decode().rstrip()


def rcpt(session: ServerSession, parameters: str) -> str:
    """Send RCPT with these parameters in a new transaction; return the reply."""
    mail(session, "")
    return say(session, f"RCPT TO:<b@b.example> {parameters}\r\n".encode()).decode().rstrip()


def converse(
    chosen: ServerSettings,
    parameters: Mapping[str, Value] | None = None,
    recipients: tuple[Mapping[str, Value], ...] = ({},),
    *,
    tls: bool = False,
    verified: bool = False,
    now: float = NOW,
    sender: str = "a@a.example",
    content: bytes = b"Subject: x\r\n\r\nhi\r\n",
    pieces: tuple[bytes, ...] | None = None,
) -> tuple[list[Reply], Keeper, str]:
    """Send one message from our client to our server; return the replies, the messages, and the client's commands."""
    handler = Keeper()
    server = ServerSession(handler, chosen)
    server.tls = TLS if tls else None
    client = ClientSession("client.example")
    if tls:
        client.tls = Verification(TlsLevel.AUTHENTICATED if verified else TlsLevel.ENCRYPTED, "")
    server.start()
    said = b""

    def exchange() -> None:
        nonlocal said
        while (down := server.output()) or (up := client.output()):
            if down:
                client.receive(down)
                continue
            said += up
            assert server.receive(up) is None

    exchange()
    to = tuple(Recipient(Address.parse(f"b{n}@b.example"), each) for n, each in enumerate(recipients))
    held = content if pieces is None else None
    sent = OutgoingTransaction(Envelope(Address.parse(sender), to, parameters or {}), content=held)
    sent.now = now
    client.begin(sent)
    exchange()
    for piece in pieces or ():
        if client.state is ClientState.CONTENT:
            client.content(piece)
            exchange()
    if pieces is not None and client.state is ClientState.CONTENT:
        client.end_content()
        exchange()
    assert sent.done
    return [outcome.reply for outcome in sent.outcomes if outcome is not None], handler, said.decode("latin-1")
