"""What a client session says for one transaction: MAIL with its parameters, RCPT for each recipient, the content as one
chunk where that is best.

Promises: what the peer does not offer, or does not take at once, is settled here, before anything is said of it.
Counted content has the line ends that DATA would have given it, unless it is any octets (SECURITY R4).
Refuses: content with NUL where it is text, and a command line that holds CR, LF or NUL (SECURITY R17).

Standards: RFC 5321 §4.1.1.2, §4.1.1.3; RFC 3030 §2 and §3; RFC 6152 §3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model import BodyType, Outcome, Reply
from ironpost.protocol import replies
from ironpost.protocol.client_transaction import Step
from ironpost.protocol.extensions import Outgoing, outgoing, outgoing_recipient

if TYPE_CHECKING:
    from ironpost.model import Address
    from ironpost.protocol.client import ClientSession
    from ironpost.protocol.client_transaction import Transaction
    from ironpost.protocol.extensions import Parameters

INFORMING: Final = ("SIZE", "AUTH")
"""Parameters of MAIL that a message can do without."""

CHUNK_LIMIT: Final = 64 * 1024
"""Octets of content up to which BDAT is used; larger content is streamed by DATA.

BDAT waits for the envelope's replies, although RFC 3030 §4.2 lets it go out with the envelope: a peer that refuses the
envelope and then does not consume the chunk's octets (the fault of SECURITY R5) would execute them as commands."""


def described(session: ClientSession, transaction: Transaction) -> Outgoing:
    """What the extensions decide by."""
    eight_bit = transaction.eight_bit
    # Content that is only known as a stream is declared as 8-bit where that is allowed, else watched as it passes.
    session.only_ascii = eight_bit is None and "8BITMIME" not in session.offered
    return Outgoing(
        transaction.envelope,
        transaction.size,
        not session.only_ascii if eight_bit is None else eight_bit,
        # RFC 6531 §3.2: a peer without SMTPUTF8 can have what is ASCII, or has an ASCII form.
        transaction.needs_smtputf8 if "SMTPUTF8" in session.offered else transaction.depends_on_smtputf8,
        transaction.now,
        session.verified,
        session.authenticated,
    )


def mail(session: ClientSession, transaction: Transaction, message: Outgoing) -> bytes | None:
    """The MAIL command; None if the transaction was settled because the peer lacks something."""
    added = outgoing(message, session.offered, session.extensions)
    session.binary = not isinstance(added, Reply) and added.get("BODY") is BodyType.BINARY
    limit = session.limits.transactions
    if limit is not None and session.transactions > limit:
        added = replies.PEER_WANTS_FEWER_MESSAGES
    elif session.binary:
        if not session.chunking:
            added = replies.PEER_LACKS_BINARY
    elif transaction.content is not None and b"\0" in transaction.content:
        # RFC 2045 §2.8: neither 7-bit nor 8-bit text. A peer that drops NUL sees other line starts than we do (R3).
        added = replies.PEER_LACKS_BINARY
    sender = _address(session, transaction.envelope.reverse_path)
    if isinstance(sender, Reply):
        added = sender
    if isinstance(added, Reply):
        transaction.unsupported = True
        transaction.settle_rest(Outcome.of(added, session.remote), Step.MAIL)
        return None
    if session.bare:
        added = {key: value for key, value in added.items() if key not in INFORMING}
    return line(f"MAIL FROM:<{sender}>{_arguments(added)}")


def recipients(session: ClientSession, transaction: Transaction, message: Outgoing) -> list[tuple[Step, int, bytes]]:
    """RCPT for each recipient that this peer can serve; the others are settled."""
    limit = session.limits.recipients
    commands: list[tuple[Step, int, bytes]] = []
    for number, recipient in enumerate(transaction.recipients):
        added = outgoing_recipient(message, recipient, session.offered, session.extensions)
        address = _address(session, recipient.address)
        if isinstance(address, Reply):
            added = address
        elif limit is not None and len(commands) == limit:
            added = replies.PEER_WANTS_FEWER_RECIPIENTS
        if isinstance(added, Reply):
            transaction.settle(number, Outcome.of(added, session.remote), Step.RCPT)
        else:
            command = line(f"RCPT TO:<{address}>{_arguments(added) if added else ''}")
            commands.append((Step.RCPT, number, command))
    transaction.unsupported = not commands
    return commands


def chunk(session: ClientSession, transaction: Transaction) -> bytes | None:
    """The whole content as one last chunk (RFC 3030 §2), None where DATA is better or all there is."""
    content = transaction.content
    if content is not None and session.binary:
        return b"BDAT %d LAST\r\n%b" % (len(content), content)
    if content is None or not session.chunking or len(content) > CHUNK_LIMIT or "CHUNKING" not in session.offered:
        return None
    # SECURITY R4: counted content gets the line ends that DATA would have given it: encoded, then un-stuffed.
    encoder = wire.DataEncoder()
    normalised = wire.dot_unstuff(encoder.feed(content) + encoder.finish()[: -len(b".\r\n")])
    return b"BDAT %d LAST\r\n%b" % (len(normalised), normalised)


def _address(session: ClientSession, address: Address) -> Address | Reply:
    """How an address is written for this peer, or why it cannot be: that concerns this address alone."""
    if not address.needs_smtputf8 or "SMTPUTF8" in session.offered:
        return address
    try:
        return address.in_ascii()
    except ValueError:
        return replies.PEER_LACKS_SMTPUTF8


def _arguments(parameters: Parameters) -> str:
    return "".join(f" {key}" if value is None else f" {key}={value}" for key, value in parameters.items())


def line(text: str) -> bytes:
    """A command line. The types of the model hold no CR or LF; this is the last gate (SECURITY R17)."""
    octets = text.encode()
    if b"\r" in octets or b"\n" in octets or b"\0" in octets:
        raise ValueError(f"a command line cannot hold CR, LF or NUL: {text!r}")
    return octets + b"\r\n"
