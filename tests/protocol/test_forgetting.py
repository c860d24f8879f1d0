"""What a session forgets and when, against the table in `protocol.forgetting`: nothing leaks into the next mail."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, say, settle

from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.forgetting import MEMORY, Until
from ironpost.protocol.server import ServerSession
from ironpost.protocol.settings import Settings
from ironpost.protocol.transaction import Identity, Peer, Tls, Transaction
from ironpost.server import MemorySpool

SETTINGS = Settings("mx.example", starttls=True, xclient=(ip_network("192.0.2.0/24"),))
PEER = Peer("192.0.2.9", 25, name="front.example")
FRESH = ServerSession(Open(), SETTINGS, PEER)
NO_MEMORY = {
    *("handler", "settings", "dialogue", "state", "by_data", "chunk_refusal", "closing", "heard_out", "want"),
    *("successor", "candidate", "ended", "full", "window", "id"),
}
"""Public attributes that hold nothing of the client beyond the command that is being handled."""

COMMANDS = {
    Until.TRANSACTION: ("RSET", "EHLO", "HELO"),
    Until.HELLO: ("EHLO", "HELO"),
    Until.SESSION: ("STARTTLS", "XCLIENT"),
    Until.CLIENT: ("XCLIENT",),
    Until.CONNECTION: (),
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
        session.tls_started(Tls("TLSv1.3"))


def ends(until: Until, line: str) -> bool:
    order = list(Until)
    return any(line in COMMANDS[each] for each in order[order.index(until) :]) or line in COMMANDS[until]


def test_the_table_names_every_attribute_that_remembers() -> None:
    slots = {name for kind in ServerSession.__mro__ for name in getattr(kind, "__slots__", ())}
    public = {name for name in slots if not name.startswith("_")} | {"identity"}
    assert set(MEMORY) == public - NO_MEMORY, "what ends the new attribute's memory? Say so in protocol/forgetting.py"


MARKS = {
    "transaction": Transaction(None, {}),
    "forwarded": {"NAME": "leak"},
    "spool": MemorySpool(10),
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
    "failed_logins": 2,
    "failures": 1,
    "lenient_hellos": 1,
    "messages": 4,
    "transactions": 8,
    "octets": 5,
    "replies": 60,
    "refusals": 6,
    "deferrals": 7,
    "extra": object(),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("name", MEMORY)
def test_r11_r14_each_command_forgets_what_the_table_says(name: str, line: str) -> None:
    session = opened()
    if name != "tls":  # TLS has no STARTTLS behind it
        setattr(session, name, MARKS[name])
    give(session, line)
    value = getattr(session, name)
    if ends(MEMORY[name], line):
        expected = {"peer": "203.0.113.9", "helo": "second.example", "esmtp": line == "EHLO"}
        if line in {"EHLO", "HELO"} or name == "peer":
            assert (value.ip if name == "peer" else value) == expected.get(name, getattr(FRESH, name))
        else:
            assert value == getattr(FRESH, name)
    elif name in {"commands", "replies"}:
        assert value >= MARKS[name]
    elif name == "tls":
        assert value == (Tls("TLSv1.3") if line == "STARTTLS" else None)
    else:
        assert value is MARKS[name] or value == MARKS[name]


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_transaction_never_goes_on_behind_them(line: str, chunked: bool) -> None:
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


def test_r11_the_handlers_answer_that_was_out_when_tls_came_is_not_for_tls() -> None:
    """STARTTLS is interpreted only when nothing is out, so no answer can cross over."""
    session = opened()
    pending = session.receive(b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\n")
    assert pending is None
    assert codes(session.output()) == [b"250", b"220"]
    session.tls_started(Tls("TLSv1.3"))
    assert session.pending is None
    assert session.transaction is None
    assert say(session, b"RCPT TO:<c@d.example>\r\n").startswith(b"503")


def test_lhlo_forgets_the_transaction_as_ehlo_does() -> None:
    session = ServerSession(Open(), Settings(dialect=LMTP))
    settle(session, session.start())
    say(session, b"LHLO a.example\r\n" + ENVELOPE + b"LHLO b.example\r\n")
    assert (session.helo, session.transaction) == ("b.example", None)


def test_r11_a_hello_that_is_refused_changes_nothing() -> None:  # RFC 5321 §4.1.4
    class Picky(Open):
        def hello(self, session, verb, domain):
            return replies.NOT_ALLOWED if domain == "evil.example" else None

    session = ServerSession(Picky(), SETTINGS)
    settle(session, session.start())
    say(session, b"EHLO a.example\r\n" + ENVELOPE)
    assert codes(say(session, b"EHLO evil.example\r\nDATA\r\n")) == [b"550", b"354"]
    assert session.helo == "a.example"
