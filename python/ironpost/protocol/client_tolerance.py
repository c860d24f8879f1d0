"""The protocol errors that our client tolerates in a server, because nothing depends on them.

Promises: framing is never relaxed: a reply whose end is in doubt ends the session (SECURITY R18, R19). Each tolerance
has a name, is counted under it when it is used (`model.ports.Metrics`, `client_tolerances`), and can be switched off.

It is no tolerance to understand any reply of RFC 5321 §4.2 by its first digit: §4.3.2 demands it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Tolerance(Enum):
    """One of them; the value is its name in the configuration and in the counter."""

    AUTH_LINES = "auth-lines"
    """`AUTH=LOGIN`, as servers wrote it before RFC 2554, and several AUTH lines of one EHLO reply are read together."""
    CHALLENGES = "challenges"
    """Of a mechanism that does not depend on the server's challenges (PLAIN, LOGIN, EXTERNAL) they are answered
    whatever they say, and also if they come once more."""
    FEWER_PARAMETERS = "fewer-parameters"
    """A server that offers SIZE or AUTH and then rejects the parameter in MAIL gets MAIL without it."""
    FINAL_REPLY = "final-reply"
    """A reply to the content that starts with three digits and then breaks the framing is understood by the first of
    them; the session ends. To send the message again would be to deliver it twice (RFC 1047)."""
    NO_BDAT = "no-bdat"
    """A server that offers CHUNKING and then rejects BDAT gets DATA, on a new connection."""
    REPLY_CODES = "reply-codes"
    """A reply code with a second digit above 5 is read by its first digit (`client_codes`)."""


TOLERANCES: Final = frozenset(Tolerance)
"""All of them, which is the default."""
