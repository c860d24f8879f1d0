"""BURL: content is fetched from where the client says, instead of being sent (RFC 4468). Submission only (§3.1).

Claimed: the handler's `burl` fetches. It decides which URLs it follows, for whom, and with whose credentials (§3.3,
§8): here a URL is only looked at for its form. What it gives is content like a chunk's: it may stand between chunks,
counts against the limit of size, and is judged at the end with all the rest, so nothing comes in by a URL that could
not come in by BDAT. Whatever fails ends the transaction (§3.2).
Refuses: a client that did not authenticate (§8), BURL without a recipient or out of place, what is no absolute URI.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from ironpost import wire
from ironpost.model import Reply, Verdict
from ironpost.protocol import content, replies
from ironpost.protocol.commands import State
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions.base import Extension, Offer
from ironpost.protocol.verdicts import NOWHERE, Stage, settle
from ironpost.wire import BodyEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server import ServerSession
    from ironpost.protocol.settings import Settings
    from ironpost.wire.interface import Command

_ARGUMENT: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*:[!-~]+)( LAST)?", re.IGNORECASE)  # RFC 4468 §3.5
_URL_OCTETS: Final = 1536
"""What a URL may need beyond 512 octets of command line; RFC 4468 says nothing of it."""


def _burl(session: ServerSession, command: Command) -> None:
    if not session.esmtp or session.state not in {State.RCPT, State.CONTENT}:
        return session.refuse(replies.NO_RECIPIENTS if session.state is State.MAIL else replies.BAD_SEQUENCE)
    found = _ARGUMENT.fullmatch(command.argument)
    if session.identity is None or command.fault is not None or found is None:
        if session.state is State.CONTENT:
            session.drop_transaction()  # see commands.interrupted
        return session.refuse(replies.AUTHENTICATION_FIRST if session.identity is None else replies.BAD_URL)
    fetch = partial(_fetch, found[1].decode("ascii"), found[2] is not None)
    if session.state is State.CONTENT:
        return fetch(session)
    begin(session)
    assert session.transaction is not None  # RCPT is inside one
    session.transaction.fetch = fetch
    session.by_data = False
    return content.ask(session)


def begin(session: ServerSession) -> None:
    """Content begins, by a chunk or by a URL, and the other may follow."""
    if session.transaction is not None:
        session.transaction.scanner = Scanner(session.settings)


def _fetch(url: str, last: bool, session: ServerSession) -> None:
    if session.spool is NOWHERE:  # what is dropped is not fetched
        return _fetched(session, b"", last)
    try:
        answer = session.handler.burl(session, url, last)
    except Exception as exc:  # noqa: BLE001 - R26: whatever a hook raises, the session goes on
        answer = session.raised(exc)
    if hasattr(answer, "__await__"):
        return session.wait(cast("Awaitable[Any]", answer), partial(_fetched, last=last))
    return _fetched(session, answer, last)


def _fetched(session: ServerSession, answer: Any, last: bool) -> None:
    if isinstance(answer, Verdict):
        answer = settle(session, answer, Stage.OTHER)
        if hasattr(answer, "__await__"):
            return session.wait(answer, partial(_fetched, last=last))
    if not isinstance(answer, bytes) and not (isinstance(answer, Reply) and not answer.positive):
        answer = session.raised(TypeError(f"the burl hook answered {answer!r:.60}, not bytes or a refusal"))
    if isinstance(answer, Reply):
        session.drop_transaction()
        return session.reply(answer)
    assert session.transaction is not None
    session.transaction.fetch = None
    content.piece(session, answer)
    if session.pending is not None:
        return session.wait(session.pending, partial(_stored, last=last))
    return content.end(session, NOTHING._replace(last=last))


def _stored(session: ServerSession, answer: Any, last: bool) -> None:
    content.written(session, answer)
    content.end(session, NOTHING._replace(last=last))


NOTHING: Final = BodyEnd(False, 0, False, False, False, False, 0, -1)
"""The facts about no content: those of a transaction with BURL come from its `Scanner`."""


class Scanner:
    """Facts about content of which the framer sees only the chunks: all of it goes through a framer of its own."""

    def __init__(self, settings: Settings) -> None:
        self._framer = wire.ServerFramer(settings.limits, settings.newlines)

    def piece(self, octets: bytes) -> None:
        """The next octets, be they of a chunk or of a URL."""
        for _ in self._framer.feed(b"BDAT %d\r\n%b" % (len(octets), octets)):
            pass

    def facts(self, *, last: bool) -> BodyEnd:
        """About everything so far."""
        events = list(self._framer.feed(b"BDAT 0 LAST\r\n" if last else b"BDAT 0\r\n"))
        end = events[-1]
        assert isinstance(end, BodyEnd), "a chunk of no octets is a command and its end"
        return end


class Burl(Extension):
    keyword = "BURL"
    claimed = True
    extra_octets: ClassVar = {"BURL": _URL_OCTETS}
    verbs: ClassVar = {"BURL": _burl}

    def available(self, settings: Settings) -> bool:
        return settings.dialect.name == SUBMISSION.name and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        """What it can do is said to those who may use it (RFC 4468 §3.1)."""
        return " ".join(("BURL", *offer.settings.burl)) if offer.authenticated else "BURL"
