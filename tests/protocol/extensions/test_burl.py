"""BURL: content from a URL of the client, under the rules of chunks (RFC 4468)."""

from __future__ import annotations

import asyncio

import pytest
from tests.protocol.extensions.parameter_kit import SUBMISSION_FOR_ALL, Keeper, offers, settings
from tests.protocol.test_server_session import ENVELOPE, codes, greeted, say

from ironpost.model import Reply
from ironpost.model.verdict import drop, reject
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.server.transaction import Identity
from ironpost.server import BaseHandler

URL = b"imap://ada@imap.example/outbox;uid=25;urlauth=submit+ada:internal:91354a"
REMOTE = {
    "imap://h/whole": b"Subject: x\r\n\r\nhi\r\n",
    "imap://h/part": b"part\r\n",
    "imap://h/cr": b"a\r",
    "imap://h/lf": b"\nb\r\n",
    "imap://h/nul": b"\0",
    "imap://h/bare": b"a\n.\nb\r\n",
    "imap://h/big": b"x" * 70_000,
    "imap://h/empty": b"",
}


class Fetcher(Keeper):
    """A handler that fetches from REMOTE, at once or as an awaitable."""

    def __init__(self, later: bool = False) -> None:
        super().__init__()
        self.later = later
        self.asked: list[tuple[str, bool]] = []

    def burl(self, session, url, last):
        self.asked.append((url, last))
        answer = REMOTE.get(url, Reply(554, "5.6.6", ("IMAP URL resolution failed",)))
        return asyncio.sleep(0, answer) if self.later else answer


def opened(handler=None, **options):
    session = greeted(handler or Fetcher(), settings(dialect=SUBMISSION_FOR_ALL, max_size=65_536, **options))
    session.identity = Identity("ada", "PLAIN")
    return session


@pytest.fixture(params=[False, True], ids=["at once", "later"])
def fetcher(request) -> Fetcher:
    return Fetcher(request.param)


def test_it_is_offered_on_submission_if_claimed() -> None:  # RFC 4468 §3.1
    session = opened()
    assert "BURL imap" in offers(session)
    session.identity = None
    assert "BURL" in offers(session)
    for without in (settings(), settings(dialect=SUBMISSION_FOR_ALL, claims=frozenset())):
        session = greeted(Fetcher(), without)
        assert not any(line.startswith("BURL") for line in offers(session))
        assert codes(say(session, ENVELOPE + b"BURL " + URL + b" LAST\r\n"))[-1] == b"502"


def test_a_message_from_a_url(fetcher: Fetcher) -> None:
    session = opened(fetcher)
    assert codes(say(session, ENVELOPE + b"BURL imap://h/whole LAST\r\n" + ENVELOPE)) == [b"250"] * 5
    assert fetcher.asked == [("imap://h/whole", True)]
    assert fetcher.messages == [REMOTE["imap://h/whole"]]


@pytest.mark.parametrize("hook", ["mail", "recipient"])
@pytest.mark.parametrize("octets", [b"BURL imap://h/whole LAST\r\n", b"BDAT 3\r\nx\r\nBURL imap://h/whole LAST\r\n"])
def test_for_dropped_mail_no_url_is_fetched(fetcher: Fetcher, hook: str, octets: bytes) -> None:
    setattr(fetcher, hook, lambda *_: drop("unwanted"))
    session = opened(fetcher)
    assert set(codes(say(session, ENVELOPE + octets))) == {b"250"}
    assert (fetcher.asked, fetcher.messages) == ([], [])


def test_the_url_arrives_as_it_was_sent(fetcher: Fetcher) -> None:
    assert codes(say(opened(fetcher), ENVELOPE + b"burl " + URL + b" last\r\n"))[-1] == b"554"
    assert fetcher.asked == [(URL.decode(), True)]


def test_urls_and_chunks_may_be_mixed(fetcher: Fetcher) -> None:  # RFC 4468 §3.2
    session = opened(fetcher)
    written = say(
        session,
        ENVELOPE
        + b"BDAT 12\r\nSubject: x\r\nBURL imap://h/part\r\nBDAT 2\r\n\r\n"
        + b"BURL imap://h/part\r\nBURL imap://h/empty LAST\r\n",
    )
    assert codes(written) == [b"250"] * 7
    assert fetcher.messages == [b"Subject: x\r\npart\r\n\r\npart\r\n"]
    written = say(session, ENVELOPE + b"BURL imap://h/part\r\nBDAT 3 LAST\r\nb\r\n")
    assert codes(written) == [b"250"] * 4
    assert fetcher.messages[1] == b"part\r\nb\r\n"


def test_r1_crlf_split_between_url_and_chunk_is_a_line_ending(fetcher: Fetcher) -> None:
    session = opened(fetcher)
    assert codes(say(session, ENVELOPE + b"BURL imap://h/cr\r\nBURL imap://h/lf LAST\r\n"))[-1] == b"250"
    assert codes(say(session, ENVELOPE + b"BDAT 1\r\n\rBURL imap://h/lf LAST\r\n"))[-1] == b"250"
    assert codes(say(session, ENVELOPE + b"BURL imap://h/cr\r\nBDAT 1 LAST\r\n\n"))[-1] == b"250"
    assert len(fetcher.messages) == 3


@pytest.mark.parametrize(
    "commands",
    [
        b"BURL imap://h/bare LAST\r\n",
        b"BURL imap://h/nul LAST\r\n",
        b"BURL imap://h/cr LAST\r\n",
        b"BURL imap://h/lf LAST\r\n",
        b"BURL imap://h/big LAST\r\n",
        b"BURL imap://h/cr\r\nBURL imap://h/part LAST\r\n",
        b"BDAT 1\r\n\rBURL imap://h/part LAST\r\n",
        b"BURL imap://h/bare\r\nBDAT 1 LAST\r\nx",
        b"BDAT 60000\r\n" + b"x" * 60_000 + b"BDAT 5000\r\n" + b"x" * 5000 + b"BURL imap://h/whole\r\n" * 30,
    ],
)
def test_r1_content_from_a_url_has_the_rules_of_chunks(fetcher: Fetcher, commands: bytes) -> None:
    session = opened(fetcher)
    assert {b"550", b"552"} & set(codes(say(session, ENVELOPE + commands)))
    assert fetcher.messages == []
    assert codes(say(session, b"NOOP\r\n" + ENVELOPE)) == [b"250"] * 3


def test_a_fetch_that_fails_ends_the_transaction(fetcher: Fetcher) -> None:
    session = opened(fetcher)
    written = say(session, ENVELOPE + b"BDAT 1\r\nxBURL imap://h/none\r\nBDAT 1 LAST\r\nyNOOP\r\n")
    assert codes(written)[2:] == [b"250", b"554", b"503", b"250"]
    assert session.transaction is None
    assert fetcher.messages == []


@pytest.mark.parametrize("answer", [None, "text", Reply(250, "2.0.0", ("fine",)), OSError("no"), ConnectionError("no")])
@pytest.mark.parametrize("later", [False, True])
def test_r26_the_session_continues_whatever_the_hook_does(answer: object, later: bool) -> None:
    class Odd(Fetcher):
        def burl(self, session, url, last):
            async def soon():
                if isinstance(answer, Exception):
                    raise answer
                return answer

            if later:
                return soon()
            if isinstance(answer, Exception):
                raise answer
            return answer

    session = opened(Odd())
    assert codes(say(session, ENVELOPE + b"BURL imap://h/x LAST\r\nNOOP\r\n"))[2:] == [b"451", b"250"]
    assert session.failures == 1


def test_the_hook_may_return_a_refusal() -> None:
    class Judge(Fetcher):
        def burl(self, session, url, last):
            return reject("not yours", code=554)

    assert codes(say(opened(Judge()), ENVELOPE + b"BURL imap://h/x LAST\r\n"))[-1] == b"554"


def test_it_is_not_offered_without_the_hook() -> None:
    handler = BaseHandler()
    served = settings(dialect=SUBMISSION_FOR_ALL).serving(handler)
    assert not [line for line in offers(greeted(handler, served)) if "BURL" in line]
    assert codes(say(greeted(handler, served), b"BURL imap://h/x LAST\r\n")) == [b"502"]


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        (b"", b"BURL imap://h/whole LAST", b"503"),
        (b"MAIL FROM:<a@b.example>\r\n", b"BURL imap://h/whole LAST", b"554"),
        (ENVELOPE, b"BURL", b"501"),
        (ENVELOPE, b"BURL LAST", b"501"),
        (ENVELOPE, b"BURL /relative LAST", b"501"),
        (ENVELOPE, b"BURL imap://h/whole FIRST", b"501"),
        (ENVELOPE, b"BURL imap://h/whole LAST LAST", b"501"),
        (ENVELOPE, b"BURL imap://h/\xc3\xb6 LAST", b"501"),
        (ENVELOPE + b"BDAT 1\r\nx", b"BURL bad", b"501"),
    ],
)
def test_out_of_sequence_or_malformed_it_is_refused_without_calling_the_hook(
    before: bytes, command: bytes, code: bytes
) -> None:
    handler = Fetcher()
    session = opened(handler)
    say(session, before)
    assert codes(say(session, command + b"\r\n")) == [code]
    assert handler.asked == []
    if b"BDAT" in before:
        assert session.transaction is None


def test_it_requires_authentication() -> None:  # RFC 4468 §8
    handler = Fetcher()
    session = opened(handler)
    session.identity = None
    assert codes(say(session, ENVELOPE + b"BURL imap://h/whole LAST\r\n"))[-1] == b"530"
    session = greeted(handler, settings(dialect=SUBMISSION))
    assert codes(say(session, b"BURL imap://h/whole LAST\r\n")) == [b"530"]
    assert handler.asked == []


def test_a_refused_spool_refuses_the_url() -> None:
    class Full(Fetcher):
        def content(self, session):
            return Reply(452, "4.3.1", ("Full",))

    handler = Full()
    session = opened(handler)
    assert codes(say(session, ENVELOPE + b"BURL imap://h/whole LAST\r\nNOOP\r\n"))[2:] == [b"452", b"250"]
    assert handler.asked == []
    assert session.transaction is None


def test_a_spool_that_suspends_is_awaited(fetcher: Fetcher) -> None:
    class Slow:
        size = 0

        def __init__(self) -> None:
            self.content = b""

        def write(self, piece):
            self.content += piece
            return asyncio.sleep(0)

        def discard(self):
            pass

    fetcher.content = lambda session: asyncio.sleep(0, Slow())
    session = opened(fetcher)
    assert codes(say(session, ENVELOPE + b"BURL imap://h/part\r\nBURL imap://h/part LAST\r\n")) == [b"250"] * 4
    assert fetcher.messages == [b"part\r\npart\r\n"]


def test_a_long_url_fits_into_the_command_line() -> None:
    handler = Fetcher()
    url = b"imap://h/" + b"x" * 1500
    assert codes(say(opened(handler), ENVELOPE + b"BURL " + url + b"\r\n"))[-1] == b"554"
    assert handler.asked == [(url.decode(), False)]
