"""Content far over the size limit is refused before its end. No I/O."""

from __future__ import annotations

import pytest
from tests.protocol.test_server_session import ENVELOPE, Open, codes, greeted, in_data, say

from ironpost.protocol import replies
from ironpost.protocol.dialect import LMTP
from ironpost.protocol.server.settings import EXCESS, ServerSettings
from ironpost.server import MemorySpool

LIMIT = 65_536
SETTINGS = ServerSettings(max_size=LIMIT)
FAR = SETTINGS.max_read
ENDED = replies.TOO_LARGE.octets + replies.CONTENT_ENDLESS.octets
LINE = b"." + b"x" * 1022 + b"\r\n"
"""A line of content that starts with a dot; the decoder removes one octet."""


class Watching(Open):
    """A handler that records the input of its spools."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.discarded = 0

    def content(self, session):
        outer = self

        class Spool(MemorySpool):
            def write(self, piece):
                super().write(piece)
                outer.largest = max(outer.largest, self.size)

            def discard(self):
                super().discard()
                outer.discarded += 1

        return Spool()


def lines(octets: int) -> bytes:
    """Return content of about this many octets, without dot-stuffing."""
    return LINE * (octets // (len(LINE) - 1) + 1)


def test_f29_the_margin_beyond_the_size_limit() -> None:
    assert FAR == LIMIT + EXCESS
    assert ServerSettings(max_size=10 * EXCESS).max_read == 20 * EXCESS
    assert ServerSettings(max_size=(1 << 63) - 1).max_read == (1 << 63) - 1


@pytest.mark.parametrize("step", [4096, 1 << 20])
def test_f29_data_without_an_end_is_refused_and_the_session_ends(step: int) -> None:
    handler = Watching()
    session = in_data(handler, SETTINGS)
    piece = lines(step)
    fed = 0
    written = b""
    while not session.closing:
        written += say(session, piece)
        fed += len(piece)
        assert fed < 2 * FAR, "it is read on and on"
    assert written == ENDED
    assert fed <= FAR * 1.01 + 2 * len(piece)
    assert (handler.largest <= LIMIT, handler.discarded, handler.messages) == (True, 1, [])
    assert session.refusals == 1
    assert session.ended is replies.CONTENT_ENDLESS
    assert say(session, b"\r\n.\r\nMAIL FROM:<a@b.example>\r\n") == b""


@pytest.mark.parametrize("octets", [LIMIT + 1, 4 * LIMIT, FAR - 4096])
def test_f29_data_somewhat_too_large_keeps_its_session(octets: int) -> None:
    handler = Watching()
    session = in_data(handler, SETTINGS)
    assert say(session, lines(octets) + b".\r\nNOOP\r\n") == replies.TOO_LARGE.octets + replies.NOTHING_DONE.octets
    assert (handler.largest <= LIMIT, handler.discarded) == (True, 1)
    assert codes(say(session, ENVELOPE + b"DATA\r\n", b"x\r\n.\r\n")) == [b"250", b"250", b"354", b"250"]


def test_f29_each_message_has_the_whole_margin() -> None:
    session = in_data(Open(), SETTINGS)
    for _ in range(3):
        assert codes(say(session, lines(FAR - 4096) + b".\r\n")) == [b"552"]
        assert codes(say(session, ENVELOPE + b"DATA\r\n")) == [b"250", b"250", b"354"]


def test_f29_every_octet_is_progress() -> None:
    """Otherwise slow content over the limit would be refused as idle."""
    session = in_data(Open(), SETTINGS)
    say(session, lines(4 * LIMIT))
    assert session.octets > 4 * LIMIT


def test_f29_lmtp_replies_for_each_recipient() -> None:
    session = greeted(Open(), ServerSettings(max_size=LIMIT, dialect=LMTP), hello=b"LHLO x.example\r\n")
    assert codes(say(session, ENVELOPE + b"RCPT TO:<e@d.example>\r\nDATA\r\n")) == [b"250", b"250", b"250", b"354"]
    assert say(session, lines(FAR)) == replies.TOO_LARGE.octets + ENDED


def test_f29_content_that_cannot_be_stored_is_bounded_too() -> None:
    class Broken(MemorySpool):
        def write(self, piece):
            raise OSError("I/O error")

    class Fails(Open):
        def content(self, session):
            return Broken()

    session = in_data(Fails(), SETTINGS)
    assert say(session, lines(FAR)) == ENDED


# ---------------------------------------------------------------------------------------------------------------------
# Chunks, which announce their size (RFC 3030 §2)


@pytest.mark.parametrize("last", [b"", b" LAST"])
def test_f29_a_chunk_that_goes_far_beyond_is_refused_before_its_octets(last: bytes) -> None:
    handler = Watching()
    session = greeted(handler, SETTINGS)
    say(session, ENVELOPE)
    assert say(session, b"BDAT %d%b\r\nMAIL FROM:<evil@b.example>\r\n" % (FAR + 1, last)) == ENDED
    assert session.closing
    assert say(session, b"QUIT\r\n") == b""
    assert session.octets == 0


def test_f29_chunks_together_go_far_beyond() -> None:
    handler = Watching()
    session = greeted(handler, SETTINGS)
    assert codes(say(session, ENVELOPE, b"BDAT 65536\r\n", b"x" * LIMIT)) == [b"250", b"250", b"250"]
    assert say(session, b"BDAT %d\r\n" % (FAR - LIMIT + 1)) == ENDED
    assert (handler.discarded, handler.messages) == (1, [])


@pytest.mark.parametrize("last", [b"", b" LAST"])
def test_f29_a_chunk_somewhat_too_large_is_discarded_and_then_refused(last: bytes) -> None:
    """RFC 3030 §2: the receiver must accept and discard the data before it sends the code."""
    handler = Watching()
    session = greeted(handler, SETTINGS)
    say(session, ENVELOPE)
    chunk = b"BDAT %d%b\r\n" % (FAR, last)
    assert say(session, chunk + b"QUIT\r\n" * 10, b"x" * (FAR - 61)) == b""
    assert say(session, b"xNOOP\r\n") == replies.TOO_LARGE.octets + replies.NOTHING_DONE.octets
    assert (handler.largest <= LIMIT, handler.discarded) == (True, 1)


def test_f29_chunks_pipelined_after_a_failed_one_are_discarded() -> None:
    session = greeted(Open(), SETTINGS)
    chunk = b"BDAT 40000\r\n" + b"x" * 40_000
    said = say(session, ENVELOPE + chunk * 5 + b"BDAT 2 LAST\r\nxxNOOP\r\n")
    assert codes(said) == [b"250", b"250", b"250", b"552", b"503", b"503", b"503", b"503", b"250"]
    assert codes(say(session, ENVELOPE + b"BDAT 2 LAST\r\nxx")) == [b"250", b"250", b"250"]


@pytest.mark.parametrize("before", [b"", b"MAIL FROM:<a@b.example>\r\n"])
def test_f29_a_chunk_out_of_sequence_is_bounded_too(before: bytes) -> None:
    session = greeted(Open(), SETTINGS)
    say(session, before)
    assert say(session, b"BDAT %d LAST\r\n" % (FAR + 1)) == ENDED
    assert session.closing
