"""State that an extension keeps in each session, and the events that clear it.

Promises: the session clears the state when its `lifetime` ends, so that nothing leaks into the next message, through
STARTTLS (RFC 3207 §4.2, SECURITY R11), or from one client of a front end to the next (SECURITY R14).

An extension declares a subclass of `ExtensionState`; `ServerSession.state_of` returns the session's instance and
creates it on first use.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ironpost.protocol.server.session import ServerSession
    from ironpost.protocol.server.settings import ServerSettings
    from ironpost.wire import BodyEnd


class Lifetime(Enum):
    """How long the state of an extension is kept; the end of a longer lifetime also ends the shorter ones."""

    TRANSACTION = auto()
    """Until RSET, EHLO, HELO, LHLO, or the end of the message (RFC 5321 §4.1.1.5, §4.1.4)."""
    SESSION = auto()
    """Until STARTTLS or XCLIENT."""
    CONNECTION = auto()
    """Until the end of the connection: for state that clients must not be able to clear, such as counts of failures."""


class ExtensionState:
    """The base class of the state of extensions; an instance is created with the settings of the session."""

    lifetime: ClassVar[Lifetime]
    """The event that clears the state."""

    def __init__(self, settings: ServerSettings) -> None:
        del settings


class ContentSource(ExtensionState):
    """The state of an extension that supplies content from another source than the connection (RFC 4468).

    Such content may be mixed with chunks. The framer sees only the chunks, so this class collects the facts about all
    of the content.
    """

    lifetime: ClassVar[Lifetime] = Lifetime.TRANSACTION
    fetch: Callable[[ServerSession], None] | None = None
    """Fetches the first piece of content once its spool is open; None if the first piece is a chunk."""

    def piece(self, octets: bytes) -> None:
        """Scan the next octets, from either source."""
        raise NotImplementedError

    def facts(self, *, last: bool) -> BodyEnd:
        """Return the facts about all pieces so far; `last` is True at the end of the content."""
        raise NotImplementedError
