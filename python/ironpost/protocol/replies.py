"""The catalogue of replies that the server and the client generate themselves.

Promises: other modules refer to replies by name; each is rendered once, at import. The class of an enhanced status code
is computed from the reply code, so the two cannot disagree (RFC 2034 §4); subject and detail are data. No reply echoes
input from a client.

Standards: RFC 5321 §4.2.2 and §4.3.2 (codes), RFC 2034 §4 (no enhanced code in the greeting, in replies to EHLO and
HELO, and with 354), RFC 3463 §3 (subjects and details).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost.model.body import lacks_room
from ironpost.model.reply import Reply
from ironpost.wire.interface import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def reply(code: int, detail: str | None, *text: str) -> Reply:
    """Create a reply; its enhanced code is the class of `code` and `detail` (`subject.detail`), or None without it."""
    return Reply(code, None if detail is None else f"{code // 100}.{detail}", text)


def waiting(messages: int) -> Reply:
    """Create the reply to ETRN with the number of messages that are being sent: 253 (RFC 1985 §5.1)."""
    return reply(253, "0.0", f"{messages} pending messages started")


def queued(identifier: str) -> Reply:
    """Create the reply for a durable message: 250 with its queue id, of letters and digits."""
    return reply(250, "0.0", f"Queued as {identifier}")


def storage_failed(error: BaseException) -> Reply:
    """Return the reply for an error in storing: 452 if storage is full, else 451 (RFC 5321 §4.2.3; RFC 3463 §3.4)."""
    return NO_ROOM if lacks_room(error) else HOOK_FAILED


def malformed(sentence: str) -> Reply:
    """Create the reply for content that is not a valid message: 554 with the reason in `sentence` (RFC 6409 §6.3)."""
    return reply(554, "6.0", sentence)


def solicited(classes: Iterable[str]) -> Reply:
    """Create the refusal of these classes of solicitation: 550 (RFC 3865 §2.4)."""
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
CANNOT_VERIFY: Final = reply(252, "1.5", "Cannot VRFY user, but will accept message and attempt delivery")
GOODBYE: Final = reply(221, "0.0", "Goodbye")
READY_FOR_TLS: Final = reply(220, "0.0", "Ready to start TLS")

# Mail on demand (RFC 1985 §5.1, RFC 2645 §7)
QUEUE_STARTED: Final = reply(250, "0.0", "Queuing started")
NOTHING_WAITS: Final = reply(251, "0.0", "No messages waiting")
NODE_FAILED: Final = reply(458, "3.0", "Unable to queue messages now")
NODE_NOT_ALLOWED: Final = reply(459, "7.1", "Node not allowed: not this client's node")
REVERSING: Final = reply(250, "0.0", "OK, now reversing the connection")
TURN_REFUSED: Final = reply(450, "7.1", "ATRN request refused: not this client's domain")
TURN_RUNNING: Final = reply(450, "7.1", "ATRN request refused: another ATRN session is active")
CANNOT_TURN: Final = reply(451, "3.0", "Unable to process ATRN request now")
NOT_FETCHED: Final = reply(450, "4.0", "Held for collection by ATRN")
NO_MAIL: Final = reply(453, "0.0", "You have no mail")

# Closing (421 may answer any command: RFC 5321 §3.8, §4.2.3)
TIMED_OUT: Final = reply(421, "4.2", "Timeout exceeded, closing transmission channel")
SHUTTING_DOWN: Final = reply(421, "3.2", "Service shutting down, closing transmission channel")
TOO_MANY_ERRORS: Final = reply(421, "7.0", "Too many errors, closing transmission channel")
TOO_MANY_COMMANDS: Final = reply(421, "7.0", "Too many commands, closing transmission channel")
TOO_MANY_TRANSACTIONS: Final = reply(421, "7.0", "Too many messages in one session, closing transmission channel")
TOO_MANY_CONNECTIONS: Final = reply(421, "3.2", "Too many connections, try again later")
SHORTAGE: Final = reply(421, "3.2", "Insufficient system resources, try again later")
TOO_MANY_FROM_NETWORK: Final = reply(421, "7.0", "Too many concurrent connections from your network, try again later")
TOO_MANY_NEW: Final = reply(421, "7.0", "Connection rate limit exceeded for your network, try again later")
CHUNK_LOST: Final = reply(421, "5.0", "Cannot determine the end of the chunk, closing transmission channel")
NO_QUIT: Final = reply(421, "4.2", "Timeout waiting for QUIT, closing transmission channel")
NO_HELLO: Final = reply(421, "4.2", "Timeout waiting for EHLO or HELO, closing transmission channel")
CONTENT_ENDLESS: Final = reply(421, "3.4", "Message far larger than the size limit, closing transmission channel")
TOO_SLOW: Final = reply(421, "7.0", "Message data rate too low, closing transmission channel")
SESSION_TOO_LONG: Final = reply(421, "7.0", "Session time limit exceeded, closing transmission channel")
INTERNAL: Final = reply(421, "3.0", "Internal server error, closing transmission channel")
EARLY_TALKER: Final = reply(554, "5.1", "Protocol error: data received before the greeting")

# Sequence and syntax
BAD_SEQUENCE: Final = reply(503, "5.1", "Bad sequence of commands")
HELLO_FIRST: Final = reply(503, "5.1", "Send EHLO or HELO first")
TLS_ALREADY: Final = reply(503, "5.1", "TLS already active")
TLS_FIRST: Final = reply(530, "7.0", "Must issue a STARTTLS command first")
AUTHENTICATION_FIRST: Final = reply(530, "7.0", "Authentication required")
NOT_ALLOWED: Final = reply(550, "7.1", "Insufficient authorization")
NESTED_MAIL: Final = reply(503, "5.1", "Nested MAIL command")
EHLO_FIRST: Final = reply(503, "5.1", "Send EHLO first")
IN_TRANSACTION: Final = reply(503, "5.1", "MAIL transaction in progress")
MAIL_FIRST: Final = reply(503, "5.1", "Send MAIL first")
RECIPIENT_FIRST: Final = reply(503, "5.1", "No valid recipients")
NO_RECIPIENTS: Final = reply(554, "5.1", "No valid recipients")
UNKNOWN_VERB: Final = reply(500, "5.2", "Command not recognized")
NOT_IMPLEMENTED: Final = reply(502, "5.1", "Command not implemented")
TURN_INSECURE: Final = reply(502, "5.1", "TURN is insecure and not implemented, use ATRN (RFC 2645)")
NO_TERMINALS: Final = reply(502, "5.1", "Command is obsolete and not implemented, use MAIL")
UNKNOWN_PARAMETER: Final = reply(555, "5.4", "Parameter not recognized")
BAD_PARAMETER: Final = reply(501, "5.4", "Invalid parameter value")
BAD_ATTRIBUTE: Final = reply(501, "5.4", "Unknown attribute or invalid attribute value")
BAD_NODE: Final = reply(501, "5.4", "Not a fully qualified domain name")

# Refusals by extensions
ENCRYPTION_NEEDED: Final = reply(530, "7.10", "Encryption needed")
BY_TOO_SHORT: Final = reply(555, "5.4", "Deliver-by time is below the minimum")
HELD_TOO_LONG: Final = reply(501, "5.4", "Release time is too far in the future")
BAD_URL: Final = reply(501, "5.4", "Syntax: BURL absolute-URI [LAST]")
URL_NOT_FOLLOWED: Final = reply(554, "7.8", "URL resolution requires trust relationship")  # RFC 4468 §6
BINARY_NEEDS_CHUNKS: Final = reply(503, "5.1", "BODY=BINARYMIME requires BDAT")

# Authentication (RFC 4954 §4, §6). The replies do not disclose why credentials are invalid.
AUTH_AGAIN: Final = reply(503, "5.1", "Already authenticated")
AUTH_UNKNOWN_MECHANISM: Final = reply(504, "5.4", "Unrecognized authentication type")
AUTH_NEEDS_TLS: Final = reply(538, "7.11", "Encryption required for requested authentication mechanism")
AUTH_SERVER_FIRST: Final = reply(501, "7.0", "Initial response not allowed for this mechanism")
AUTH_MALFORMED: Final = reply(501, "5.2", "Cannot decode base64 response")
AUTH_LINE_TOO_LONG: Final = reply(500, "5.6", "Authentication exchange line is too long")
AUTH_CANCELLED: Final = reply(501, "7.0", "Authentication cancelled")
AUTH_FAILED: Final = reply(535, "7.8", "Authentication credentials invalid")
AUTH_UNAVAILABLE: Final = reply(454, "7.0", "Temporary authentication failure")
AUTH_WAIT: Final = reply(454, "7.0", "Too many failed login attempts, try again later")

# Addresses
SENDER_NEEDS_SMTPUTF8: Final = reply(550, "6.7", "Internationalized address requires SMTPUTF8")
RECIPIENT_NEEDS_SMTPUTF8: Final = reply(553, "6.7", "Internationalized address requires SMTPUTF8")
NOT_ACCEPTED_HERE: Final = reply(550, "1.1", "User unknown")
NOT_TAKEN: Final = reply(554, "3.2", "This server does not accept mail")
RELAY_DENIED: Final = reply(550, "7.1", "Relay access denied")
TOO_MANY_RECIPIENTS: Final = reply(452, "5.3", "Too many recipients")

# Content
TOO_LARGE: Final = reply(552, "3.4", "Message size exceeds fixed limit")
BARE_NEWLINE: Final = reply(550, "6.0", "Bare CR or LF in message, lines must end with CRLF")
EIGHT_BIT_UNDECLARED: Final = reply(550, "6.0", "8-bit message without BODY=8BITMIME")
NUL_OCTET: Final = reply(550, "6.0", "Message contains NUL octets")
LINE_TOO_LONG: Final = reply(550, "6.0", "Message contains a line that is too long")
LOOP_DETECTED: Final = reply(554, "4.6", "Too many hops, mail loop")
KEY_REUSED: Final = reply(554, "6.0", "Idempotency-Key was used for another message: use a new key for this one")
KEY_PENDING: Final = reply(451, "3.0", "A message with this Idempotency-Key is being stored: submit it again later")
NO_ROOM: Final = reply(452, "3.1", "Insufficient system storage")


# Decided by an operator (RFC 3463 §3.4)
def returned(why: str) -> Reply:
    """Create the reason for mail that an operator returns to its sender: 554, with `why` if it is not empty."""
    return reply(554, "3.0", f"Returned by the administrator{': ' if why else ''}{why}")


# Local errors
HOOK_FAILED: Final = reply(451, "3.0", "Local error in processing")

# Generated by our client for a next hop that does not support what a message requires
PEER_TOO_SMALL: Final = reply(552, "3.4", "Message size exceeds the next hop's limit")
PEER_LACKS_8BIT: Final = reply(554, "6.3", "Next hop does not support 8BITMIME")
PEER_LACKS_BINARY: Final = reply(554, "6.3", "Next hop does not support BINARYMIME")
PEER_LACKS_SMTPUTF8: Final = reply(550, "6.7", "Next hop does not support SMTPUTF8")
PEER_LACKS_UTF8_HEADER: Final = reply(550, "6.9", "Next hop does not support SMTPUTF8, which the header section needs")
PEER_LACKS_STARTTLS: Final = reply(554, "7.10", "Encryption required, but the server does not offer STARTTLS")
PEER_LACKS_MECHANISM: Final = reply(554, "7.4", "Server does not offer a usable authentication mechanism")
PEER_UNTRUSTED: Final = reply(554, "7.0", "Server did not prove its identity")
HANDSHAKE_FAILED: Final = reply(451, "7.5", "TLS handshake failed")
PEER_LACKS_REQUIRETLS: Final = reply(
    550, "7.30", "REQUIRETLS support required, but the next hop does not offer it"
)  # RFC 8689 §4.2.1
PEER_NOT_VERIFIED: Final = reply(
    550, "7.10", "Encryption required, but the next hop's certificate is not verified"
)  # RFC 8689 §4.2.1
PEER_NAME_NOT_VERIFIED: Final = reply(
    550, "7.10", "Encryption required, but the next hop's name is from an MX record that is not authenticated"
)  # RFC 8689 §4.2.1
PEER_NOT_IN_STS_POLICY: Final = reply(
    451, "7.5", "Next hop is not in the MTA-STS policy of the recipient's domain"
)  # RFC 8461 §5
PEER_LACKS_DELIVERBY: Final = reply(550, "3.3", "Next hop does not support DELIVERBY for the time left")
BY_EXPIRED: Final = reply(550, "4.7", "Delivery time expired")  # RFC 2852 §4.1.3
BY_LATE: Final = reply(451, "4.7", "Delivery time expired")  # RFC 2852 §4.1.3
PEER_LACKS_FUTURERELEASE: Final = reply(550, "3.3", "Next hop does not support FUTURERELEASE until the requested time")
PEER_LACKS_RRVS: Final = reply(550, "7.19", "Next hop does not support RRVS")  # RFC 7293 §15.3
PEER_WANTS_NO_SOLICITING: Final = reply(550, "7.1", "Next hop refuses solicitation of this class")
PEER_WANTS_FEWER_RECIPIENTS: Final = reply(452, "5.3", "Next hop accepts fewer recipients per transaction")
PEER_WANTS_FEWER_MESSAGES: Final = reply(452, "3.2", "Next hop accepts no more messages on this connection")

# ---------------------------------------------------------------------------------------------------------------------
# Replies to the faults of the wire

_LINE: Final = frozenset({"line-too-long", "bare-cr", "bare-lf", "nul", "verb-malformed"})
_SYNTAX: Final = "argument-", "parameter-", "chunk-"
"""Prefixes of faults that concern the syntax of the argument. All other faults in MAIL or RCPT concern the address."""


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
"""The reply to each fault in MAIL, by its id; faults of the address are X.1.7 (RFC 3463 §3.2)."""
RECIPIENT_FAULTS: Final = _fault_replies("1.3")
"""The reply to each fault in RCPT, by its id; faults of the address are X.1.3 (RFC 3463 §3.2)."""
FAULT_REPLIES: Final = _fault_replies("5.4")
"""The reply to each fault in other commands, by its id."""
