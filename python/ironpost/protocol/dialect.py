"""The three dialects of the protocol that one session speaks: SMTP, submission and LMTP.

Promises: everything in which they differ is a field here; sessions and tables ask the dialect and know no port number.
A dialect is a value: `SUBMISSION._replace(encrypt=True)` is one too.

Standards: RFC 5321 §4.1.1.1; RFC 6409 §3.1 and §4.3 (submission); RFC 2033 §4 (LMTP); RFC 3848 and RFC 6531 §4.3
(`with` keywords).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """What one kind of listener speaks."""

    name: str
    service: str
    """The word behind the name in the greeting (RFC 5321 §4.2, RFC 2033 §4.1)."""
    hello: frozenset[str]
    """The verbs that open the dialogue."""
    per_recipient: bool = False
    """A complete message gets one reply for each accepted recipient (RFC 2033 §4.2)."""
    authenticate: bool = False
    """Nothing is done for a client that did not authenticate: 530 5.7.0 (RFC 4954 §6, RFC 6409 §4.3)."""
    encrypt: bool = False
    """Nothing is done without TLS: 530 5.7.0 (RFC 3207 §4)."""

    def with_keyword(
        self, *, extended: bool, utf8: bool = False, secure: bool = False, authenticated: bool = False
    ) -> str:
        """The protocol in the `with` clause of Received (RFC 3848; RFC 6531 §4.3 when SMTPUTF8 was used)."""
        if not extended:
            return "SMTP"
        base = "LMTP" if self.per_recipient else "SMTP" if utf8 else "ESMTP"
        return ("UTF8" if utf8 else "") + base + ("S" if secure else "") + ("A" if authenticated else "")


_HELLO: Final = frozenset({"EHLO", "HELO"})

SMTP: Final = Dialect("SMTP", "ESMTP", _HELLO)
"""Between mail servers (RFC 5321)."""
SUBMISSION: Final = Dialect("SUBMISSION", "ESMTP", _HELLO, authenticate=True)
"""From a user's program (RFC 6409); authentication is a must (RFC 6409 §4.3)."""
LMTP: Final = Dialect("LMTP", "LMTP", frozenset({"LHLO"}), per_recipient=True)
"""Into a mail store, without a queue of its own behind it (RFC 2033)."""
