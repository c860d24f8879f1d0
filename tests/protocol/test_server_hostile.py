"""Any octets in any pieces: the session does not raise, and its replies do not depend on the pieces (SECURITY R22)."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ironpost.protocol.server.session import ServerSession
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import BaseHandler

FRAGMENTS = [
    b"EHLO x.example\r\n",
    b"HELO x\r\n",
    b"MAIL FROM:<a@b.example> SIZE=5 BODY=8BITMIME\r\n",
    b"MAIL FROM:<>\r\n",
    b"RCPT TO:<c@d.example>\r\n",
    b"DATA\r\n",
    b"BDAT 4\r\n",
    b"BDAT 3 LAST\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT x\r\n",
    b"RSET\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN\r\n",
    b"VRFY x\r\n",
    b"QUIT\r\n",
    b"\r\n.\r\n",
    b".\r\n",
    b"..x\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\xff",
    b" ",
    b"<",
]
OCTETS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.binary(max_size=5))).map(b"".join)


class Open(BaseHandler):
    def __init__(self):
        self.messages = []

    def recipient(self, session, forward_path, parameters):
        return None

    def message(self, session, content, facts):
        assert len(content.content) == facts.size
        self.messages.append(content.content)


def converse(pieces):
    handler = Open()
    session = ServerSession(handler, ServerSettings(max_errors=1000))
    assert session.start() is None
    written = session.output()
    for piece in pieces:
        assert session.receive(piece) is None
        written += session.output()
    session.eof()
    session.lost()
    return written, handler.messages, session.failures


@settings(max_examples=300, deadline=None)
@given(OCTETS, st.integers(min_value=1, max_value=7))
@example(b"".join([FRAGMENTS[0], *FRAGMENTS[2:6:2], b"BDAT 4\r\nMAILDATA\r\n"]), 1)
def test_r22_any_octets_in_any_pieces_get_the_same_replies(octets: bytes, size: int) -> None:
    whole = converse([octets])
    assert converse([octets[at : at + size] for at in range(0, len(octets), size)]) == whole
    written, _, failures = whole
    assert failures == 0
    assert written.endswith(b"\r\n")
    assert all(line[:3].isdigit() and line[3:4] in {b" ", b"-"} for line in written.splitlines())
