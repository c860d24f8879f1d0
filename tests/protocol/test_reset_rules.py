"""The lifetime of session state: which command clears which attribute, so that nothing leaks into the next mail.

RSET, EHLO, HELO, LHLO   end the transaction (RFC 5321 §4.1.1.5, §4.1.4); so does the end of its message
STARTTLS                 clears everything learned before TLS (RFC 3207 §4.2, SECURITY R11)
XCLIENT                  clears everything learned about the client before (SECURITY R14)
nothing                  clears what would let a client shed its record: errors, failed logins, limits
"""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_network

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, say, settle

from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.extensions import EXTENSIONS
from ironpost.protocol.extensions.xforward import ForwardedOrigin
from ironpost.protocol.server import extension_state
from ironpost.protocol.server.extension_state import ExtensionState
from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.protocol.server.transaction import Identity, Peer, TlsInfo, Transaction
from ironpost.server import MemorySpool


class Lifetime(Enum):
    """What clears an attribute; whatever clears a later member clears the earlier ones too."""

    TRANSACTION = "RSET, EHLO, HELO, LHLO, and the end of the message"
    HELLO = "the next EHLO, HELO or LHLO that is accepted"
    SESSION = "STARTTLS and XCLIENT"
    CLIENT = "XCLIENT"
    CONNECTION = "nothing but the end of the connection"


LIFETIMES = {
    # One mail transaction (RFC 5321 §3.3), with the content received so far.
    "transaction": Lifetime.TRANSACTION,
    "spool": Lifetime.TRANSACTION,
    "received": Lifetime.TRANSACTION,
    "refusal": Lifetime.TRANSACTION,
    # The client's name, and whether extensions apply.
    "helo": Lifetime.HELLO,
    "esmtp": Lifetime.HELLO,
    # Authentication outlives transactions and EHLO (RFC 4954 §4), but was done on one layer by one client.
    "identity": Lifetime.SESSION,
    # Verdicts about the connection are not repeated after TLS, so TLS must not clear them.
    "quarantine": Lifetime.CLIENT,
    "dropping": Lifetime.CLIENT,
    "peer": Lifetime.CLIENT,
    # TLS belongs to the connection, and so does the front end's own address, by which it is trusted.
    "tls": Lifetime.CONNECTION,
    "trusted": Lifetime.CONNECTION,
    # Counted for the host that opened the connection, whichever client it names.
    "commands": Lifetime.CONNECTION,
    "errors": Lifetime.CONNECTION,
    "failures": Lifetime.CONNECTION,
    "leniencies": Lifetime.CONNECTION,
    "messages": Lifetime.CONNECTION,
    "transactions": Lifetime.CONNECTION,
    "octets": Lifetime.CONNECTION,
    "replies": Lifetime.CONNECTION,
    "refusals": Lifetime.CONNECTION,
    "deferrals": Lifetime.CONNECTION,
    # The handler's own; its `connect` and `hello` hooks are called again, and may clear it.
    "extra": Lifetime.CONNECTION,
}
"""The lifetime of each attribute of `ServerSession` that holds something about its client."""

SETTINGS = ServerSettings("mx.example", starttls=True, front_ends=(ip_network("192.0.2.0/24"),))
PEER = Peer("192.0.2.9", 25, name="front.example")
FRESH = ServerSession(Open(), SETTINGS, PEER)
NOT_ABOUT_THE_CLIENT = {
    *(
        "handler",
        "settings",
        "table",
        "state",
        "by_data",
        "chunk_refusal",
        "ignores_chunk",
        "on_flush",
        "closing",
        "input_drained",
        "want",
    ),
    *("proposed_hello", "proposed_transaction", "proposed_recipient", "ended", "full", "window", "id"),
}
"""Public attributes that hold nothing about the client beyond the current command."""

COMMANDS = {
    Lifetime.TRANSACTION: ("RSET", "EHLO", "HELO"),
    Lifetime.HELLO: ("EHLO", "HELO"),
    Lifetime.SESSION: ("STARTTLS", "XCLIENT"),
    Lifetime.CLIENT: ("XCLIENT",),
    Lifetime.CONNECTION: (),
}
LINES = {
    "RSET": b"RSET\r\n",
    "EHLO": b"EHLO second.example\r\n",
    "HELO": b"HELO second.example\r\n",
    "STARTTLS": b"STARTTLS\r\n",
    "XCLIENT": b"XCLIENT ADDR=203.0.113.9\r\n",
}


def opened(hello: bytes = b"EHLO first.example\r\n") -> ServerSession:
    session = ServerSession(Open(), SETTINGS, PEER)
    settle(session, session.start())
    session.output()
    say(session, hello)
    return session


def give(session: ServerSession, line: str) -> None:
    assert codes(say(session, LINES[line]))[-1] in {b"250", b"220"}
    if line == "STARTTLS":
        session.tls_started(TlsInfo("TLSv1.3"))


def ends(until: Lifetime, line: str) -> bool:
    order = list(Lifetime)
    return any(line in COMMANDS[each] for each in order[order.index(until) :]) or line in COMMANDS[until]


def test_the_table_has_every_attribute_about_the_client() -> None:
    slots = {name for kind in ServerSession.__mro__ for name in getattr(kind, "__slots__", ())}
    public = {name for name in slots if not name.startswith("_")} | {"identity"}
    assert set(LIFETIMES) == public - NOT_ABOUT_THE_CLIENT, (
        "which command clears the new attribute? Add it to LIFETIMES"
    )


MARKS = {
    "transaction": Transaction(None, {}),
    "spool": MemorySpool(10),
    "received": 9,
    "refusal": replies.NO_ROOM,
    "helo": "leak.example",
    "esmtp": "leak",
    "identity": Identity("leak", "PLAIN"),
    "quarantine": ("leak",),
    "dropping": True,
    "peer": Peer("192.0.2.77"),
    "tls": None,
    "trusted": True,
    "commands": 50,
    "errors": 3,
    "failures": 1,
    "leniencies": {"hello": 1},
    "messages": 4,
    "transactions": 8,
    "octets": 5,
    "replies": 60,
    "refusals": 6,
    "deferrals": 7,
    "extra": object(),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("name", LIFETIMES)
def test_r11_r14_each_command_clears_the_attributes_in_the_table(name: str, line: str) -> None:
    session = opened()
    if name != "tls":  # STARTTLS is not available under TLS
        setattr(session, name, MARKS[name])
    give(session, line)
    value = getattr(session, name)
    if ends(LIFETIMES[name], line):
        expected = {"peer": "203.0.113.9", "helo": "second.example", "esmtp": line == "EHLO"}
        if line in {"EHLO", "HELO"} or name == "peer":
            assert (value.ip if name == "peer" else value) == expected.get(name, getattr(FRESH, name))
        else:
            assert value == getattr(FRESH, name)
    elif name in {"commands", "replies"}:
        assert value >= MARKS[name]
    elif name == "tls":
        assert value == (TlsInfo("TLSv1.3") if line == "STARTTLS" else None)
    else:
        assert value is MARKS[name] or value == MARKS[name]


class Notes(ExtensionState):
    """A test double."""

    lifetime = extension_state.Lifetime.SESSION

    def __init__(self, settings):
        super().__init__(settings)
        self.hostname = settings.hostname


STATES = [Notes, *(extension.state for extension in EXTENSIONS if extension.state is not None)]
"""The state of every extension."""


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("kind", STATES)
def test_r11_r14_each_command_clears_the_state_of_extensions_as_declared(kind: type, line: str) -> None:
    session = opened()
    state = session.state_of(kind)
    assert session.state_of(kind) is state
    give(session, line)
    assert session.has_state(kind) is not ends(Lifetime[kind.lifetime.name], line)
    assert (session.state_of(kind) is state) is not ends(Lifetime[kind.lifetime.name], line)


def test_the_state_of_an_extension_belongs_to_one_session_and_is_created_from_its_settings() -> None:
    first, second = opened(), opened()
    assert first.state_of(Notes) is not second.state_of(Notes)
    assert first.state_of(Notes).hostname == "mx.example"


def test_the_end_of_the_message_clears_the_state_of_its_transaction() -> None:
    session = opened()
    kept, cleared = session.state_of(Notes), session.state_of(ForwardedOrigin)
    say(session, ENVELOPE + b"DATA\r\nx\r\n.\r\n")
    assert session.state_of(Notes) is kept
    assert session.state_of(ForwardedOrigin) is not cleared


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("chunked", [False, True])
def test_no_transaction_continues_after_a_clearing_command(line: str, chunked: bool) -> None:
    session = opened()
    say(session, ENVELOPE)
    if chunked:
        if line in {"STARTTLS", "XCLIENT"}:
            assert codes(say(session, b"BDAT 1\r\nx" + LINES[line])) == [b"250", b"503"]
        else:
            say(session, b"BDAT 1\r\nx")
            give(session, line)
    elif line == "XCLIENT":
        assert codes(say(session, LINES[line] + b"RSET\r\n")) == [b"503", b"250"]
        give(session, line)
    else:
        give(session, line)
    assert session.transaction is None
    assert session.spool is None
    assert codes(say(session, b"BDAT 1 LAST\r\nyDATA\r\nRCPT TO:<c@d.example>\r\n")) == [b"503"] * 3
    assert session.handler.messages == []


def test_r11_no_hook_result_crosses_the_start_of_tls() -> None:
    """STARTTLS is handled only when no hook is pending, so no result can arrive under TLS."""
    session = opened()
    pending = session.receive(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\n")
    assert pending is None
    assert codes(session.output()) == [b"250", b"220"]
    session.tls_started(TlsInfo("TLSv1.3"))
    assert session.pending is None
    assert session.transaction is None
    assert say(session, b"RCPT TO:<c@d.example>\r\n").startswith(b"503")


def test_lhlo_ends_the_transaction_like_ehlo() -> None:
    session = ServerSession(Open(), ServerSettings(dialect=LMTP))
    settle(session, session.start())
    say(session, b"LHLO a.example\r\n" + ENVELOPE + b"LHLO b.example\r\n")
    assert (session.helo, session.transaction) == ("b.example", None)


def test_r11_a_refused_ehlo_changes_nothing() -> None:  # RFC 5321 §4.1.4
    class Picky(Open):
        def hello(self, session, verb, domain):
            return replies.NOT_ALLOWED if domain == "evil.example" else None

    session = ServerSession(Picky(), SETTINGS)
    settle(session, session.start())
    say(session, b"EHLO a.example\r\n" + ENVELOPE)
    assert codes(say(session, b"EHLO evil.example\r\nDATA\r\n")) == [b"550", b"354"]
    assert session.helo == "a.example"
