"""BURL: content is fetched from a URL instead of being sent (RFC 4468). Submission only (§3.1).

Promises: fetched content is treated like a chunk: it can be mixed with chunks, counts towards the size limit, and is
checked at the end with the rest, so a URL cannot supply content that BDAT could not. Any failure ends the transaction
(§3.2). Refuses: clients that have not authenticated (§8), BURL without a recipient or out of sequence, and a URL that
is not an absolute URI.

The handler's `burl` hook fetches the content. It decides which URLs to follow, for which clients, and with which
credentials (§3.3, §8); only the form of the URL is checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeAlias

from ironpost import wire
from ironpost.model import Reply, Verdict
from ironpost.protocol import replies
from ironpost.protocol.dialect import SUBMISSION
from ironpost.protocol.extensions.base import Extension, Offer
from ironpost.protocol.server import content
from ironpost.protocol.server.extension_state import ContentSource
from ironpost.protocol.server.settle import DROPPED, HookStage, settle
from ironpost.protocol.server.states import AUTHENTICATED, ESMTP, ServerState, Verb
from ironpost.wire import BodyEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire.interface import Command

_ARGUMENT: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*:[!-~]+)( LAST)?", re.IGNORECASE)  # RFC 4468 §3.5
_URL_OCTETS: Final = 1536
"""Octets for a URL in addition to the 512 of a command line; RFC 4468 specifies no number."""

Fetched: TypeAlias = "bytes | Reply | Awaitable[bytes | Reply]"
"""The result of the `burl` hook: the content, or a refusal."""


class BurlHandler(Protocol):
    """The hook of a handler that offers BURL."""

    def burl(self, session: ServerSession, url: str, last: bool) -> Fetched:
        """Return the content at a URL (RFC 4468 §3.2), at most `session.settings.max_size` octets.

        A URL may refer to any host (§8): decide whether to follow it. A refusal ends the transaction.

        Args:
            session: the client's session.
            url: an absolute URI.
            last: whether this is the last part of the content.
        """
        ...


def _burl(session: ServerSession, command: Command) -> None:
    match = _ARGUMENT.fullmatch(command.argument)
    if command.fault is not None or match is None:
        if session.state is ServerState.CONTENT:
            session.drop_transaction()
        return session.refuse(replies.BAD_URL)
    fetch = partial(_fetch, match[1].decode("ascii"), match[2] is not None)
    if session.state is ServerState.CONTENT:
        return fetch(session)
    session.state_of(BurlContent).fetch = fetch
    return content.begin_chunks(session)


def _fetch(url: str, last: bool, session: ServerSession) -> None:
    if session.spool is DROPPED:  # no need to fetch it
        return _fetched(session, b"", last)
    return session.query("burl", url, last, then=partial(_fetched, last=last))


def _fetched(session: ServerSession, result: Any, last: bool) -> None:
    if isinstance(result, Verdict):
        result = settle(session, result, HookStage.OTHER)
        if hasattr(result, "__await__"):
            return session.wait(result, partial(_fetched, last=last))
    if not isinstance(result, bytes) and not (isinstance(result, Reply) and not result.positive):
        result = session.raised(TypeError(f"the burl hook returned {result!r:.60}, not bytes or a refusal"))
    if isinstance(result, Reply):
        session.drop_transaction()
        return session.reply(result)
    session.state_of(BurlContent).fetch = None
    content.piece(session, result)
    if session.pending is not None:
        return session.wait(session.pending, partial(_stored, last=last))
    return content.end(session, EMPTY._replace(last=last))


def _stored(session: ServerSession, result: Any, last: bool) -> None:
    content.written(session, result)
    content.end(session, EMPTY._replace(last=last))


EMPTY: Final = BodyEnd(False, 0, False, False, False, False, 0, -1)
"""The facts about empty content; those of a transaction with BURL come from `BurlContent`."""


class BurlContent(ContentSource):
    """Feeds all content, of chunks and of URLs, through a separate framer."""

    def __init__(self, settings: ServerSettings) -> None:
        self._framer = wire.ServerFramer(settings.limits, settings.newlines)

    def piece(self, octets: bytes) -> None:
        for _ in self._framer.feed(b"BDAT %d\r\n%b" % (len(octets), octets)):
            pass

    def facts(self, *, last: bool) -> BodyEnd:
        events = list(self._framer.feed(b"BDAT 0 LAST\r\n" if last else b"BDAT 0\r\n"))
        end = events[-1]
        assert isinstance(end, BodyEnd), "an empty chunk is a command and its end"
        return end


@dataclass(frozen=True, eq=False)
class Burl(Extension):
    schemes: tuple[str, ...] = ("imap",)
    """The capabilities that EHLO lists for authenticated clients (RFC 4468 §3.3)."""

    keyword = "BURL"
    claimed = True
    hook = "burl"
    extra_octets: ClassVar = {"BURL": _URL_OCTETS}
    state = BurlContent
    verbs: ClassVar = {
        "BURL": Verb(
            _burl,
            frozenset({ServerState.RCPT, ServerState.CONTENT}),
            needs=(ESMTP, AUTHENTICATED),
            sequence={ServerState.MAIL: replies.NO_RECIPIENTS},
        )
    }

    def available(self, settings: ServerSettings) -> bool:
        return settings.dialect.name == SUBMISSION.name and super().available(settings)

    def advertise(self, offer: Offer) -> str:
        # RFC 4468 §3.1: the capabilities are listed for clients that may use it.
        return " ".join(("BURL", *self.schemes)) if offer.authenticated else "BURL"
