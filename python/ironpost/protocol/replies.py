"""The catalogue: every reply our server sends on its own behalf, named, in one place.

Promises: logic names a reply and never spells one; each is rendered once, at import. The class digit of an enhanced
status code is computed from the reply code, so the two cannot disagree (RFC 2034 §4); subject and detail are data.
Refuses: nothing here echoes what a client sent.

Standards: RFC 5321 §4.2.2 and §4.3.2 (codes), RFC 2034 §4 (no enhanced code in the greeting, in replies to EHLO and
HELO, and with 354), RFC 3463 §3 (subjects and details).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.reply import Reply
from ironpost.wire.interface import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def reply(code: int, detail: str | None, *text: str) -> Reply:
    """A reply whose enhanced code is the class of `code` and `detail` (`subject.detail`); none if detail is None."""
    return Reply(code, None if detail is None else f"{code // 100}.{detail}", text)


def waiting(messages: int) -> Reply:
    """253: so many messages wait for the node, and were started (RFC 1985 §5.1)."""
    return reply(253, "0.0", f"{messages} pending messages started")


def queued(identifier: str) -> Reply:
    """250: the message is durable under that identifier, which is ours and of letters and digits."""
    return reply(250, "0.0", f"Queued as {identifier}")


def malformed(sentence: str) -> Reply:
    """554: the content is no message; the sentence is ours and says why (RFC 6409 §6.3)."""
    return reply(554, "6.0", sentence)


def solicited(classes: Iterable[str]) -> Reply:
    """550: no solicitation of these classes, which are from our own settings (RFC 3865 §2.4)."""
    return reply(550, "7.1", f"SOLICIT={','.join(classes)}")


# Positive
SENDER_OK: Final = reply(250, "1.0", "Sender OK")
RECIPIENT_OK: Final = reply(250, "1.5", "Recipient OK")
START_CONTENT: Final = reply(354, None, "End data with <CR><LF>.<CR><LF>")
CHUNK_OK: Final = reply(250, "0.0", "Chunk OK")
ACCEPTED: Final = reply(250, "0.0", "Message accepted")
RESET: Final = reply(250, "0.0", "Reset")
NOTHING_DONE: Final = reply(250, "0.0", "OK")
AUTHENTICATED: Final = reply(235, "7.0", "Authentication succeeded")
CANNOT_VERIFY: Final = reply(252, "1.5", "Cannot verify, send mail and see")
GOODBYE: Final = reply(221, "0.0", "Goodbye")
READY_FOR_TLS: Final = reply(220, "0.0", "Ready to start TLS")

# Mail on demand (RFC 1985 §5.1, RFC 2645 §7)
QUEUE_STARTED: Final = reply(250, "0.0", "Queuing started")
NOTHING_WAITS: Final = reply(251, "0.0", "No messages waiting")
NODE_FAILED: Final = reply(458, "3.0", "Unable to queue messages now")
NODE_NOT_ALLOWED: Final = reply(459, "7.1", "Node not allowed: it is not this client's")
REVERSING: Final = reply(250, "0.0", "OK, now reversing the connection")
TURN_REFUSED: Final = reply(450, "7.1", "ATRN request refused: a domain is not this client's")
TURN_RUNNING: Final = reply(450, "7.1", "ATRN request refused: another one is being served")
CANNOT_TURN: Final = reply(451, "3.0", "Unable to process ATRN request now")
NOT_FETCHED: Final = reply(450, "4.0", "Waits until it is fetched with ATRN")
NO_MAIL: Final = reply(453, "0.0", "You have no mail")

# Closing (421 may answer any command: RFC 5321 §3.8, §4.2.3)
TIMED_OUT: Final = reply(421, "4.2", "Nothing came in time, closing")
SHUTTING_DOWN: Final = reply(421, "3.2", "Server is shutting down, closing")
TOO_MANY_ERRORS: Final = reply(421, "7.0", "Too many errors, closing")
TOO_MANY_COMMANDS: Final = reply(421, "7.0", "Too many commands, closing")
TOO_MANY_TRANSACTIONS: Final = reply(421, "7.0", "Too many messages in one session, closing")
TOO_MANY_CONNECTIONS: Final = reply(421, "3.2", "Too many connections, try again later")
TOO_MANY_FROM_NETWORK: Final = reply(421, "7.0", "Too many connections from your network, try again later")
TOO_MANY_NEW: Final = reply(421, "7.0", "Too many new connections from your network in a minute, try again later")
CHUNK_LOST: Final = reply(421, "5.0", "The end of the chunk is not known, closing")
NO_QUIT: Final = reply(421, "4.2", "No QUIT in time, closing")
NO_HELLO: Final = reply(421, "4.2", "No EHLO or HELO in time, closing")
TOO_SLOW: Final = reply(421, "7.0", "Content comes more slowly than this server allows, closing")
SESSION_TOO_LONG: Final = reply(421, "7.0", "Session lasts longer than this server allows, closing")
INTERNAL: Final = reply(421, "3.0", "Internal error, closing")
EARLY_TALKER: Final = reply(554, "5.1", "You spoke before the greeting, closing")

# Sequence and syntax
BAD_SEQUENCE: Final = reply(503, "5.1", "Bad sequence of commands")
HELLO_FIRST: Final = reply(503, "5.1", "Send EHLO or HELO first")
TLS_ALREADY: Final = reply(503, "5.1", "TLS is active already")
TLS_FIRST: Final = reply(530, "7.0", "Must issue a STARTTLS command first")
AUTHENTICATION_FIRST: Final = reply(530, "7.0", "Authentication required")
NOT_ALLOWED: Final = reply(550, "7.1", "Not allowed to this client")
NESTED_MAIL: Final = reply(503, "5.1", "A transaction is open, send RSET first")
EHLO_FIRST: Final = reply(503, "5.1", "Send EHLO first")
IN_TRANSACTION: Final = reply(503, "5.1", "Not inside a transaction, finish it or send RSET")
MAIL_FIRST: Final = reply(503, "5.1", "Send MAIL first")
RECIPIENT_FIRST: Final = reply(503, "5.1", "No valid recipients")
NO_RECIPIENTS: Final = reply(554, "5.1", "No valid recipients")
UNKNOWN_VERB: Final = reply(500, "5.2", "Command not recognized")
NOT_IMPLEMENTED: Final = reply(502, "5.1", "Command not implemented")
TURN_INSECURE: Final = reply(502, "5.1", "TURN would give mail to anybody who asks, see ATRN (RFC 2645)")
NO_TERMINALS: Final = reply(502, "5.1", "Mail to terminals is obsolete and not implemented, use MAIL")
UNKNOWN_PARAMETER: Final = reply(555, "5.4", "Parameter not recognized")
BAD_PARAMETER: Final = reply(501, "5.4", "Parameter value not allowed")
BAD_ATTRIBUTE: Final = reply(501, "5.4", "Attribute not recognized, or its value not allowed")
BAD_NODE: Final = reply(501, "5.4", "Not a fully qualified domain name")

# What extensions refuse
ENCRYPTION_NEEDED: Final = reply(530, "7.10", "Encryption needed")
BY_TOO_SHORT: Final = reply(555, "5.4", "Deliver-by time is shorter than the least taken here")
HELD_TOO_LONG: Final = reply(501, "5.4", "Release time is later than the latest taken here")
BAD_URL: Final = reply(501, "5.4", "BURL needs an absolute URI, and perhaps LAST")
URL_NOT_FOLLOWED: Final = reply(554, "7.8", "URL resolution requires trust relationship")  # RFC 4468 §6
BINARY_NEEDS_CHUNKS: Final = reply(503, "5.1", "Binary content comes by BDAT only")

# Authentication (RFC 4954 §4, §6). What is wrong with credentials is never said.
AUTH_AGAIN: Final = reply(503, "5.1", "Already authenticated")
AUTH_UNKNOWN_MECHANISM: Final = reply(504, "5.4", "Authentication mechanism not offered")
AUTH_NEEDS_TLS: Final = reply(538, "7.11", "Encryption required for requested authentication mechanism")
AUTH_SERVER_FIRST: Final = reply(501, "7.0", "This mechanism takes no initial response")
AUTH_MALFORMED: Final = reply(501, "5.2", "Cannot decode response")
AUTH_LINE_TOO_LONG: Final = reply(500, "5.6", "Authentication exchange line is too long")
AUTH_CANCELLED: Final = reply(501, "7.0", "Authentication cancelled")
AUTH_FAILED: Final = reply(535, "7.8", "Authentication credentials invalid")
AUTH_UNAVAILABLE: Final = reply(454, "7.0", "Temporary authentication failure")
AUTH_WAIT: Final = reply(454, "7.0", "Too many failed logins, try again later")

# Addresses
SENDER_NEEDS_SMTPUTF8: Final = reply(550, "6.7", "Non-ASCII address without SMTPUTF8")
RECIPIENT_NEEDS_SMTPUTF8: Final = reply(553, "6.7", "Non-ASCII address without SMTPUTF8")
NOT_ACCEPTED_HERE: Final = reply(550, "1.1", "No such recipient here")
NOT_TAKEN: Final = reply(554, "3.2", "This server takes no messages")
RELAY_DENIED: Final = reply(550, "7.1", "Relaying denied")
TOO_MANY_RECIPIENTS: Final = reply(452, "5.3", "Too many recipients")

# Content
TOO_LARGE: Final = reply(552, "3.4", "Message is larger than the limit")
BARE_NEWLINE: Final = reply(550, "6.0", "Bare CR or LF in content, lines end with CRLF")
EIGHT_BIT_UNDECLARED: Final = reply(550, "6.0", "8-bit content without BODY=8BITMIME")
NUL_OCTET: Final = reply(550, "6.0", "NUL octet in content")
LINE_TOO_LONG: Final = reply(550, "6.0", "Line in content is longer than the limit")
LOOP_DETECTED: Final = reply(554, "4.6", "Too many hops, the message goes in circles")
NO_ROOM: Final = reply(452, "3.1", "Insufficient system storage")

# Our own faults
HOOK_FAILED: Final = reply(451, "3.0", "Local error in processing")

# What our client says for a next hop that lacks what a message needs
PEER_TOO_SMALL: Final = reply(552, "3.4", "Message is larger than the next hop's limit")
PEER_LACKS_8BIT: Final = reply(554, "6.3", "Next hop does not take 8-bit content")
PEER_LACKS_BINARY: Final = reply(554, "6.3", "Next hop does not take binary content")
PEER_LACKS_SMTPUTF8: Final = reply(550, "6.7", "Next hop does not take non-ASCII addresses or header")
PEER_LACKS_STARTTLS: Final = reply(554, "7.10", "Encryption needed, server offers none")
PEER_LACKS_MECHANISM: Final = reply(554, "7.4", "Server offers no way to log in that can be used here")
PEER_UNTRUSTED: Final = reply(554, "7.0", "Server does not do its part of the login")
HANDSHAKE_FAILED: Final = reply(451, "7.5", "TLS handshake failed")
PEER_LACKS_REQUIRETLS: Final = reply(550, "7.30", "REQUIRETLS support required, next hop has none")  # RFC 8689 §4.2.1
PEER_NOT_VERIFIED: Final = reply(550, "7.10", "Encryption needed, next hop is not verified")  # RFC 8689 §4.2.1
PEER_LACKS_DELIVERBY: Final = reply(550, "3.3", "Next hop does not promise delivery by the time left")
BY_EXPIRED: Final = reply(550, "4.7", "Delivery time expired")  # RFC 2852 §4.1.3
PEER_LACKS_FUTURERELEASE: Final = reply(550, "3.3", "Next hop does not hold messages until then")
PEER_LACKS_RRVS: Final = reply(550, "7.19", "Next hop cannot tell since when the mailbox is valid")  # RFC 7293 §15.3
PEER_WANTS_NO_SOLICITING: Final = reply(550, "7.1", "Next hop wants no solicitation of this class")
PEER_WANTS_FEWER_RECIPIENTS: Final = reply(452, "5.3", "Next hop takes fewer recipients at once")
PEER_WANTS_FEWER_MESSAGES: Final = reply(452, "3.2", "Next hop takes no more messages on this connection")

# ---------------------------------------------------------------------------------------------------------------------
# Faults of the wire: the one mapping

_LINE: Final = frozenset({"line-too-long", "bare-cr", "bare-lf", "nul", "verb-malformed"})
_SYNTAX: Final = "argument-", "parameter-", "chunk-"
"""Families that are about the argument as such. Whatever else can be wrong in MAIL or RCPT is about the address."""


def _fault_replies(address_detail: str) -> Mapping[str, Reply]:
    table = {}
    for fault, sentence in FAULTS.items():
        if fault in _LINE:
            table[fault] = reply(500, "5.2", sentence)
        elif fault.startswith(_SYNTAX):
            table[fault] = reply(501, "5.4", sentence)
        else:
            table[fault] = reply(501, address_detail, sentence)
    return table


SENDER_FAULTS: Final = _fault_replies("1.7")
"""Fault id to reply in MAIL: bad sender's mailbox address syntax (RFC 3463 §3.2)."""
RECIPIENT_FAULTS: Final = _fault_replies("1.3")
"""Fault id to reply in RCPT: bad destination mailbox address syntax (RFC 3463 §3.2)."""
FAULT_REPLIES: Final = _fault_replies("5.4")
"""Fault id to reply everywhere else."""
