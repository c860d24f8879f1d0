"""What a server session forgets, and when: the table behind `ServerSession.drop_transaction` and `restart`.

Promises: every attribute in which a session could remember something of its client stands here, with what ends it; a
test sets each of them, says each command, and looks. Whatever is not in the table is ours: what we are writing, what
was not interpreted yet, how we were configured.

    RSET, EHLO, HELO, LHLO   end the transaction (RFC 5321 §4.1.1.5, §4.1.4); so does the end of its message
    STARTTLS                 ends all that was learned in clear (RFC 3207 §4.2, SECURITY R11)
    XCLIENT                  ends all that was learned of the client that spoke until then (SECURITY R14)
    nothing                  ends what would let a client shed its record: errors, failed logins, limits
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


class Until(Enum):
    """What ends a memory; whatever ends a later member ends the earlier ones too."""

    TRANSACTION = "RSET, EHLO, HELO, LHLO, and the end of the message"
    HELLO = "the next EHLO, HELO or LHLO that is accepted"
    SESSION = "STARTTLS and XCLIENT"
    CLIENT = "XCLIENT"
    CONNECTION = "nothing but the end of the connection"


MEMORY: Final[Mapping[str, Until]] = MappingProxyType(
    {
        # One mail transaction (RFC 5321 §3.3), with whatever part of its content has come.
        "transaction": Until.TRANSACTION,
        "forwarded": Until.TRANSACTION,
        "spool": Until.TRANSACTION,
        "refusal": Until.TRANSACTION,
        # What the client calls itself, and whether extensions apply.
        "helo": Until.HELLO,
        "esmtp": Until.HELLO,
        # Authentication outlives transactions and EHLO (RFC 4954 §4), but was done on one layer by one client.
        "identity": Until.SESSION,
        # Verdicts about the connection were given before TLS, and nobody will be asked again: TLS must not shed them.
        "quarantine": Until.CLIENT,
        "dropping": Until.CLIENT,
        "peer": Until.CLIENT,
        # TLS is a fact of the connection; so is the front end's own address, by which it is trusted.
        "tls": Until.CONNECTION,
        "trusted": Until.CONNECTION,
        # Counted against whoever opened the connection, whoever it speaks for.
        "commands": Until.CONNECTION,
        "errors": Until.CONNECTION,
        "failed_logins": Until.CONNECTION,
        "failures": Until.CONNECTION,
        "lenient_hellos": Until.CONNECTION,
        "messages": Until.CONNECTION,
        "transactions": Until.CONNECTION,
        "octets": Until.CONNECTION,
        "replies": Until.CONNECTION,
        "refusals": Until.CONNECTION,
        "deferrals": Until.CONNECTION,
        # The handler's own memory; it is asked `connect` or `hello` again and decides itself.
        "extra": Until.CONNECTION,
    }
)
"""Attribute of `ServerSession` to what ends it."""
