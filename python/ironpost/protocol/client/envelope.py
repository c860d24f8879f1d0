"""The commands of one client transaction: MAIL with its parameters, RCPT for each recipient, the content as one chunk.

Promises: recipients that the peer cannot serve, because of its extensions or limits, are settled before anything is
sent for them. Content sent by BDAT gets the same line ends as by DATA, unless it is BODY=BINARYMIME (SECURITY R4).
Refuses: text with NUL, and command lines with CR, LF or NUL (SECURITY R17).

Standards: RFC 5321 §4.1.1.2, §4.1.1.3; RFC 3030 §2 and §3; RFC 6152 §3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ironpost import wire
from ironpost.model import BodyType, Outcome, Reply
from ironpost.protocol import replies
from ironpost.protocol.client.states import ClientStep
from ironpost.protocol.extensions import Outgoing, outgoing, outgoing_recipient

if TYPE_CHECKING:
    from ironpost.model import Address
    from ironpost.protocol.client.session import ClientSession
    from ironpost.protocol.client.transaction import OutgoingTransaction
    from ironpost.protocol.extensions import Parameters

OPTIONAL: Final = ("SIZE", "AUTH")
"""Parameters of MAIL without which the message can still be sent."""

CHUNK_LIMIT: Final = 64 * 1024
"""Maximum octets of content for which BDAT is used; larger content is streamed by DATA.

BDAT is sent after the replies to the envelope, although RFC 3030 §4.2 allows pipelining it: a peer that refuses the
envelope and then does not consume the chunk (the fault of SECURITY R5) would execute it as commands."""


def describe(session: ClientSession, transaction: OutgoingTransaction) -> Outgoing:
    """Collect the facts on which extensions base their parameters."""
    eight_bit = transaction.eight_bit
    # Streamed content is declared as 8-bit if that is supported, else checked as it is sent.
    session.only_ascii = eight_bit is None and "8BITMIME" not in session.offered
    return Outgoing(
        transaction.envelope,
        transaction.size,
        not session.only_ascii if eight_bit is None else eight_bit,
        # RFC 6531 §3.2: a peer without SMTPUTF8 can get messages that are ASCII, or have an ASCII form.
        transaction.needs_smtputf8 if "SMTPUTF8" in session.offered else transaction.depends_on_smtputf8,
        transaction.now,
        session.verified,
        session.authenticated,
    )


def mail(session: ClientSession, transaction: OutgoingTransaction, message: Outgoing) -> bytes | None:
    """Render the MAIL command; return None if the transaction was settled because the peer does not support it."""
    added = outgoing(message, session.offered, session.extensions)
    session.binary = not isinstance(added, Reply) and added.get("BODY") is BodyType.BINARY
    limit = session.limits.transactions
    if limit is not None and session.transactions > limit:
        added = replies.PEER_WANTS_FEWER_MESSAGES
    elif session.binary:
        if not session.chunking:
            added = replies.PEER_LACKS_BINARY
    elif transaction.content is not None and b"\0" in transaction.content:
        # RFC 2045 §2.8: neither 7-bit nor 8-bit text. A peer that drops NUL sees different line starts (R3).
        added = replies.PEER_LACKS_BINARY
    sender = _address(session, transaction.envelope.reverse_path)
    if isinstance(sender, Reply):
        added = sender
    if isinstance(added, Reply):
        transaction.unsupported = True
        transaction.settle_rest(Outcome.of(added, session.remote), ClientStep.MAIL)
        return None
    if session.without_optional:
        added = {key: value for key, value in added.items() if key not in OPTIONAL}
    return line(f"MAIL FROM:<{sender}>{_arguments(added)}")


def recipients(
    session: ClientSession, transaction: OutgoingTransaction, message: Outgoing
) -> list[tuple[ClientStep, int, bytes]]:
    """Render the RCPT commands for the recipients that this peer can serve; the others are settled."""
    limit = session.limits.recipients
    commands: list[tuple[ClientStep, int, bytes]] = []
    for number, recipient in enumerate(transaction.recipients):
        added = outgoing_recipient(message, recipient, session.offered, session.extensions)
        address = _address(session, recipient.address)
        if isinstance(address, Reply):
            added = address
        elif limit is not None and len(commands) == limit:
            added = replies.PEER_WANTS_FEWER_RECIPIENTS
        if isinstance(added, Reply):
            transaction.settle(number, Outcome.of(added, session.remote), ClientStep.RCPT)
        else:
            command = line(f"RCPT TO:<{address}>{_arguments(added) if added else ''}")
            commands.append((ClientStep.RCPT, number, command))
    transaction.unsupported = not commands
    return commands


def chunk(session: ClientSession, transaction: OutgoingTransaction) -> bytes | None:
    """Render the whole content as one last chunk (RFC 3030 §2); return None if DATA is to be used."""
    content = transaction.content
    if content is not None and session.binary:
        return b"BDAT %d LAST\r\n%b" % (len(content), content)
    if content is None or not session.chunking or len(content) > CHUNK_LIMIT or "CHUNKING" not in session.offered:
        return None
    # SECURITY R4: encoding for DATA and removing the dots again gives the same line ends as DATA.
    encoder = wire.DataEncoder()
    normalised = wire.dot_unstuff(encoder.feed(content) + encoder.finish()[: -len(b".\r\n")])
    return b"BDAT %d LAST\r\n%b" % (len(normalised), normalised)


def _address(session: ClientSession, address: Address) -> Address | Reply:
    """Return the form of an address for this peer, or the refusal if it has none."""
    if not address.needs_smtputf8 or "SMTPUTF8" in session.offered:
        return address
    try:
        return address.in_ascii()
    except ValueError:
        return replies.PEER_LACKS_SMTPUTF8


def _arguments(parameters: Parameters) -> str:
    return "".join(f" {key}" if value is None else f" {key}={value}" for key, value in parameters.items())


def line(text: str) -> bytes:
    """Render a command line.

    Raises:
        ValueError: it contains CR, LF or NUL, which the types of the model already exclude (SECURITY R17).
    """
    octets = text.encode()
    if b"\r" in octets or b"\n" in octets or b"\0" in octets:
        raise ValueError(f"CR, LF or NUL in a command line: {text!r}")
    return octets + b"\r\n"
