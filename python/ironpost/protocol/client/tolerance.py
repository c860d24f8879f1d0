"""The harmless protocol errors of servers that our client tolerates.

Promises: framing is never relaxed: a reply whose end is uncertain ends the session (SECURITY R18, R19). Each tolerance
has a name, is counted under it when used (`model.ports.Metrics`, `client_tolerances`), and can be disabled.

Interpreting a reply by its first digit (RFC 5321 §4.2) is not a tolerance: §4.3.2 requires it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class Tolerance(Enum):
    """A tolerance; the value is its name in the configuration and in metrics."""

    AUTH_LINES = "auth-lines"
    """Several AUTH lines in an EHLO reply, and the form `AUTH=LOGIN` from before RFC 2554, are combined."""
    CHALLENGES = "challenges"
    """The client responds to malformed or repeated challenges if the mechanism (PLAIN, LOGIN, EXTERNAL) does not depend
    on them."""
    FEWER_PARAMETERS = "fewer-parameters"
    """A server that offers SIZE or AUTH and then rejects the parameter in MAIL gets MAIL without it."""
    FINAL_REPLY = "final-reply"
    """A malformed reply to the content that starts with three digits is interpreted by the first digit, and the session
    ends. Sending the message again would deliver it twice (RFC 1047)."""
    NO_BDAT = "no-bdat"
    """A server that offers CHUNKING and then rejects BDAT gets DATA, on a new connection."""
    REPLY_CODES = "reply-codes"
    """A reply code with a second digit above 5 is read by its first digit (`codes`)."""


TOLERANCES: Final = frozenset(Tolerance)
"""All tolerances, which is the default."""
