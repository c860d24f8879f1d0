"""The three dialects of the protocol: SMTP, submission and LMTP.

Promises: every difference between them is a field of `Dialect`; sessions depend on the dialect, not on a port number. A
dialect is a value, so variants can be derived: `SUBMISSION._replace(encrypt=True)`.

Standards: RFC 5321 §4.1.1.1; RFC 6409 §3.1 and §4.3 (submission); RFC 2033 §4 (LMTP); RFC 3848 and RFC 6531 §4.3
(`with` keywords).
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Dialect(NamedTuple):
    """The variant of the protocol on one kind of listener."""

    name: str
    """The name in the configuration and in logs."""
    service: str
    """The word after the name in the greeting (RFC 5321 §4.2, RFC 2033 §4.1)."""
    hello: frozenset[str]
    """The verbs that open the session."""
    per_recipient: bool = False
    """A complete message gets one reply for each accepted recipient (RFC 2033 §4.2)."""
    authenticate: bool = False
    """Clients must authenticate first: 530 5.7.0 (RFC 4954 §6, RFC 6409 §4.3)."""
    encrypt: bool = False
    """Clients must use TLS: 530 5.7.0 (RFC 3207 §4)."""

    def with_keyword(
        self, *, extended: bool, utf8: bool = False, secure: bool = False, authenticated: bool = False
    ) -> str:
        """Return the protocol for the `with` clause of Received (RFC 3848; RFC 6531 §4.3 if SMTPUTF8 was used)."""
        if not extended:
            return "SMTP"
        base = "LMTP" if self.per_recipient else "SMTP" if utf8 else "ESMTP"
        return ("UTF8" if utf8 else "") + base + ("S" if secure else "") + ("A" if authenticated else "")


_HELLO: Final = frozenset({"EHLO", "HELO"})

SMTP: Final = Dialect("SMTP", "ESMTP", _HELLO)
"""Relay between mail servers (RFC 5321)."""
SUBMISSION: Final = Dialect("SUBMISSION", "ESMTP", _HELLO, authenticate=True)
"""Submission by mail user agents (RFC 6409); authentication is required (RFC 6409 §4.3)."""
LMTP: Final = Dialect("LMTP", "LMTP", frozenset({"LHLO"}), per_recipient=True)
"""Delivery to a mail store without a queue (RFC 2033)."""
