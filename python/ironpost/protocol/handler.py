"""The handler port: the questions a server session asks, and what counts as an answer.

Promises: the session asks in the order of the transaction, one question at a time; it asks nothing whose answer cannot
matter (an unparsable command, a MAIL inside a transaction). An answer may be given at once, or be an awaitable; only
an awaitable costs a turn of the event loop. A hook that raises is answered 451 4.3.0 and the session goes on
(SECURITY R26).

    None                 the usual positive reply
    Reply                that reply; 4yz and 5yz refuse
    Verdict              what `model.verdict` says of it
    an awaitable of those   the session waits, and reads nothing meanwhile

Under LMTP `message` may answer with one of the first three for each recipient (`MessageAnswer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from ironpost.model import Address, Reply, Value, Verdict
    from ironpost.model.body import Spool
    from ironpost.protocol.server import ServerSession
    from ironpost.wire import BodyEnd

Said: TypeAlias = "Verdict | Reply | None"
Answer: TypeAlias = "Said | Awaitable[Said]"
ContentAnswer: TypeAlias = "Spool | Verdict | Reply | Awaitable[Spool | Verdict | Reply]"
Each: TypeAlias = "Sequence[Said] | Mapping[Address, Said] | Mapping[str, Said]"
"""One answer for each recipient: in their order, or by address."""
MessageAnswer: TypeAlias = "Said | Each | Awaitable[Said | Each]"
"""Answers that differ are for dialects that reply for each recipient; SMTP has one reply, so they must agree there."""

Fetched: TypeAlias = "bytes | Reply | Awaitable[bytes | Reply]"


class Handler(Protocol):
    """One per server; the session that asks is the first argument of every hook.

    `session.peer`, `session.helo`, `session.tls`, `session.identity`, `session.transaction` (reverse_path, recipients,
    parameters) say what is known.
    """

    claims: frozenset[str]
    """Keywords of the extensions that whoever takes the messages will honour; see `Extension.claimed`."""

    def connect(self, session: ServerSession) -> Answer:
        """A client connected. A refusal is the greeting (554 or 421), and the connection closes (RFC 5321 §3.1)."""
        ...

    def hello(self, session: ServerSession, verb: str, domain: str) -> Answer:
        """EHLO or HELO with what the client calls itself. None: the usual reply with the extensions."""
        ...

    def mail(self, session: ServerSession, reverse_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """MAIL. The extensions have checked the parameters they own, and made typed values of them."""
        ...

    def recipient(self, session: ServerSession, forward_path: Address, parameters: Mapping[str, Value]) -> Answer:
        """RCPT. Never an open relay: a handler that cannot say why it accepts a recipient refuses it."""
        ...

    def content(self, session: ServerSession) -> ContentAnswer:
        """DATA, or the first BDAT: where the content goes. A Reply refuses instead of 354."""
        ...

    def message(self, session: ServerSession, content: Spool, facts: BodyEnd) -> MessageAnswer:
        """The true end was reached and nothing is wrong with the content's form.

        A positive answer takes the responsibility (RFC 5321 §4.2.5): give it only when the message is durable. The
        handler owns `content` from here: it commits or discards it. Under LMTP a single answer holds for every
        recipient.
        """
        ...

    def verify(self, session: ServerSession, argument: str) -> Answer:
        """VRFY. None: 252 2.1.5 (RFC 5321 §3.5.3)."""
        ...

    def expand(self, session: ServerSession, argument: str) -> Answer:
        """EXPN of a mailing list, for a handler that claims EXPN. None: 252 2.1.5 (RFC 5321 §3.5.3)."""
        ...

    def etrn(self, session: ServerSession, argument: str) -> Answer:
        """ETRN with its option character, for a handler that claims ETRN: whether the client may start this queue is
        the handler's to say. None: 250, the queue was started (RFC 1985 §5)."""
        ...

    def turn(self, session: ServerSession, domains: tuple[str, ...]) -> Answer:
        """ATRN of an authenticated client, for a handler that claims ATRN; no domains: all that the client may have.
        None: 250, and the connection changes its direction (RFC 2645 §5.3): `session.successor` must have been set to
        what makes the protocol that goes on with it."""
        ...

    def burl(self, session: ServerSession, url: str, last: bool) -> Fetched:
        """BURL of an authenticated client, for a handler that claims BURL: the octets that the URL stands for
        (RFC 4468 §3.2). Whether it is followed is the handler's to say: a URL may lead anywhere (§8). Hold no more than
        `session.settings.max_size`. A Reply refuses, and the transaction is over."""
        ...

    def pause(self, session: ServerSession, seconds: float, then: Any) -> Awaitable[Any]:
        """Not a question: something to await that gives `then` after so many seconds (`model.verdict.tarpit`)."""
        ...

    def disconnect(self, session: ServerSession) -> None:
        """The connection is gone, however it ended. Content that was not handed over has been discarded."""
        ...
