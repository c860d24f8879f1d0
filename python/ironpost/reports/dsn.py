"""Delivery status notifications: the report that a message failed.

Promises: `failure_report` is a multipart/report (RFC 6522 §3) of three parts: words for a person, a
message/delivery-status (RFC 3464 §2), and what came back: the whole message if it is small and plain, else its header
section. It is 7-bit, so that any way back takes it, unless the sender's own address needs SMTPUTF8. Nothing that a peer
or the message said can add a field or a part to it (SECURITY R20, R43). It is marked so that no robot answers it
(RFC 3834 §5).
Refuses: a report about a report: `report_envelope` is None for a null reverse-path (RFC 5321 §4.5.5).

Standards: RFC 3464, RFC 6522, RFC 6533 §3 and §4 (UTF-8 addresses), RFC 3834 §5, RFC 3461 §4 (what the sender asked
for), RFC 8689 §5 (REQUIRETLS), RFC 6710 §4.6 (priority), RFC 4865 §5.1.2 and RFC 2852 §5 (fields).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from ironpost import wire
from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.message.received import checked_name
from ironpost.model import NULL, BodyType, Envelope, Origin, Recipient
from ironpost.model.parameters import DeliverBy, Notify, Return
from ironpost.reports import mime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address, Outcome, Value
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

Failure: TypeAlias = "tuple[QueuedRecipient, Outcome]"
"""One recipient and why it failed."""

RETURNED_OCTETS: Final = 64 * 1024
"""What a caller should give as `head`: messages up to this size come back whole, of longer ones the header section."""
DIAGNOSTIC_LENGTH: Final = 2000
"""Characters of a peer's reply that a report repeats."""

_MESSAGE_ID: Final = re.compile(rb"<[!-;=?-~]{3,250}>")
_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")  # RFC 3463 §2
_PORT: Final = re.compile(r"(?<=\]):[0-9]+\Z")
_ADDRESS_TYPE: Final = re.compile(r"[A-Za-z0-9-]{1,32}")


def report_envelope(message: QueuedMessage) -> Envelope | None:
    """The envelope of a report about `message`: null reverse-path, to its sender (RFC 3464 §2).

    None if the sender is null: then no report is sent, about whatever (RFC 5321 §4.5.5, §6.1).
    """
    sender = message.envelope.reverse_path
    if sender.is_null:
        return None
    parameters: dict[str, Value] = {"BODY": BodyType.EIGHT_BIT, "SMTPUTF8": None} if sender.needs_smtputf8 else {}
    asked = message.envelope.parameters
    parameters |= {keyword: asked[keyword] for keyword in ("REQUIRETLS", "MT-PRIORITY") if keyword in asked}
    return Envelope(NULL, (Recipient(sender),), parameters, Origin())


def wanted(recipient: Recipient) -> bool:
    """Whether the sender is to hear that this recipient failed (RFC 3461 §4.1); said nothing, they are."""
    notify = recipient.parameters.get("NOTIFY")
    return not isinstance(notify, Notify) or Notify.FAILURE in notify


def failure_report(
    message: QueuedMessage,
    failures: Sequence[Failure],
    *,
    reporting_mta: str,
    now: float,
    message_id: str,
    head: bytes,
) -> bytes:
    """The content of the message that tells the sender which recipients failed, and why.

    Args:
        message: what failed.
        failures: at least one recipient with its outcome.
        reporting_mta: our own name, a domain or an address literal.
        now: seconds since 1970-01-01 UTC: when the report is written and when the last attempt was made.
        message_id: a fresh token of `ports.Random.token`; it becomes the Message-ID and, as nobody can guess it, the
            boundary.
        head: the first octets of the message's body, `RETURNED_OCTETS` at most.

    Raises:
        ValueError: no failures, a null reverse-path, or a name that is none.
    """
    sender = message.envelope.reverse_path
    if sender.is_null:
        raise ValueError(f"message {message.id} has a null reverse-path: no report is sent about it (RFC 5321 §4.5.5)")
    if not failures:
        raise ValueError(f"a report about message {message.id} needs at least one failed recipient")
    checked_name(reporting_mta)
    utf8 = sender.needs_smtputf8
    # RFC 6533 §4.4: the UTF-8 media types where something needs them, the traditional ones everywhere else.
    status_utf8 = any(recipient.recipient.address.needs_smtputf8 for recipient, _ in failures)
    status_type = "message/global-delivery-status" if status_utf8 else "message/delivery-status"
    parts = (
        _words(message, failures, reporting_mta, utf8=utf8),
        mime.part(status_type, _status(message, failures, reporting_mta, now, utf8=status_utf8), utf8=utf8),
        _returned(message, head, utf8=utf8),
    )
    boundary, body = mime.multipart(parts, f"report-{message_id}")
    report_type = status_type.partition("/")[2]
    fields = [
        header.field("Date", (date_time(now),)),
        header.field("From", ("Mail", "Delivery", "System", f"<MAILER-DAEMON@{reporting_mta}>")),
        header.field("To", (header.path(sender),), utf8=utf8),
        header.field("Subject", ("Undelivered", "mail:", "your", "message", "could", "not", "be", "delivered")),
        header.field("Message-ID", (f"<{message_id}@{reporting_mta}>",)),
        *_references(head),
        header.field("Auto-Submitted", ("auto-replied",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/report;", f"report-type={report_type};", f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body


def _references(head: bytes) -> list[bytes]:
    """In-Reply-To and References to the message that failed (RFC 3834 §3.1.6), if it names itself properly."""
    identifier = header.Header(head).first("Message-ID")
    if identifier is None or _MESSAGE_ID.fullmatch(identifier) is None:
        return []
    text = identifier.decode("ascii")
    return [header.field("In-Reply-To", (text,)), header.field("References", (text,))]


def _words(message: QueuedMessage, failures: Sequence[Failure], reporting_mta: str, *, utf8: bool) -> bytes:
    """The part for a person."""
    lines = [
        f"This is the mail system at {reporting_mta}.",
        "",
        "Your message could not be delivered to the recipients below.",
        "Nothing more will be tried. The details follow for whoever helps you.",
        "",
    ]
    for recipient, outcome in failures:
        lines.append(header.path(recipient.recipient.address))
        who = f"{header.shown(outcome.remote, utf8=True)} said: " if outcome.remote else ""
        lines.append(f"    {who}{header.shown(_diagnostic(outcome), utf8=True)}")
        lines.append("")
    lines.append(f"Our name for the message was {message.id}.")
    text = "\r\n".join(lines)
    return mime.part(
        f"text/plain; charset={'us-ascii' if text.isascii() else 'utf-8'}", text.encode("utf-8"), utf8=utf8
    )


def _status(
    message: QueuedMessage, failures: Sequence[Failure], reporting_mta: str, now: float, *, utf8: bool
) -> bytes:
    """The part for programs: per-message fields, then a group for each recipient (RFC 3464 §2.1)."""
    groups = [_about_message(message, reporting_mta)]
    groups += [_about_recipient(recipient, outcome, now, utf8=utf8) for recipient, outcome in failures]
    return b"\r\n".join(groups)


def _about_message(message: QueuedMessage, reporting_mta: str) -> bytes:
    fields = []
    envelope_id = message.envelope.parameters.get("ENVID")
    if envelope_id:
        fields += _copied("Original-Envelope-Id", "", str(envelope_id))  # RFC 3464 §2.2.1
    fields += [
        header.field("Reporting-MTA", ("dns;", reporting_mta)),  # RFC 3464 §2.2.2
        header.field("Arrival-Date", (date_time(message.accepted),)),  # RFC 3464 §2.2.5
    ]
    asked = message.envelope.parameters
    if isinstance(by := asked.get("BY"), DeliverBy):
        fields.append(header.field("Deliver-By-Date", (date_time(by.deadline),)))  # RFC 2852 §5
    hold = f"for;{asked['HOLDFOR']}" if "HOLDFOR" in asked else f"until;{asked.get('HOLDUNTIL', '')}"
    if "HOLDUNTIL" in asked:
        fields.append(header.field("Future-Release-Request", (hold,)))  # RFC 4865 §5.1.2
    return b"".join(fields)


def _about_recipient(recipient: QueuedRecipient, outcome: Outcome, now: float, *, utf8: bool) -> bytes:
    fields = []
    original = recipient.recipient.parameters.get("ORCPT")
    if original:
        kind, _, address = str(original).partition(";")
        if _ADDRESS_TYPE.fullmatch(kind):
            fields += _copied("Original-Recipient", kind, address, utf8=utf8)  # RFC 3464 §2.3.1
    fields += [
        header.field("Final-Recipient", _typed(recipient.recipient.address), utf8=utf8),  # RFC 3464 §2.3.2
        header.field("Action", ("failed",)),  # RFC 3464 §2.3.3
        header.field("Status", (_enhanced(outcome),)),  # RFC 3464 §2.3.4
    ]
    if outcome.remote:
        host = _PORT.sub("", outcome.remote.split(" ", 1)[0])  # an mta-name has no port
        fields.append(header.field("Remote-MTA", ("dns;", *header.words(host))))  # RFC 3464 §2.3.5
    # RFC 3464 §2.3.6: without a Remote-MTA the code is our own.
    fields.append(header.field("Diagnostic-Code", ("smtp;", *header.words(_diagnostic(outcome)))))
    fields.append(header.field("Last-Attempt-Date", (date_time(now),)))  # RFC 3464 §2.3.7
    return b"".join(fields)


def _typed(address: Address) -> tuple[str, ...]:
    """The address with its type: rfc822 (RFC 3464 §2.3.2), or utf-8 (RFC 6533 §3)."""
    text = str(address)
    if text.isascii():
        return ("rfc822;", text)
    # A control character cannot stand in a field: then the address goes in the 7-bit form of RFC 6533 §3.
    return ("utf-8;", text if header.shown(text, utf8=True) == text else wire.utf8_addr_xtext_encode(text))


def _diagnostic(outcome: Outcome) -> str:
    """The reply; of one that is absurdly long, its start."""
    return str(outcome.reply)[:DIAGNOSTIC_LENGTH]


def _copied(name: str, kind: str, encoded: str, *, utf8: bool = False) -> list[bytes]:
    """A field from an envelope parameter, decoded (RFC 3461 §4, RFC 6533 §3); none if what it hides is not text."""
    try:
        if kind.lower() == "utf-8":
            text = wire.utf8_addr_xtext_decode(encoded)
            if not utf8:
                text = wire.utf8_addr_xtext_encode(text)
        else:
            text = wire.xtext_decode(encoded).decode("ascii")
        return [header.field(name, (f"{kind};", text) if kind else (text,), utf8=utf8)]
    except ValueError:  # xtext can hide CR and LF: then the field is left out (SECURITY R43)
        return []


def _enhanced(outcome: Outcome) -> str:
    """The enhanced status code, or what the reply code's class alone says (RFC 3463 §3.1)."""
    enhanced = outcome.reply.enhanced
    if enhanced is not None and _STATUS.fullmatch(enhanced):
        return enhanced
    return f"{4 if outcome.reply.transient else 5}.0.0"


def _returned(message: QueuedMessage, head: bytes, *, utf8: bool) -> bytes:
    """What comes back: the message if `head` is all of it, needs no encoding, and is wanted, else its header section.

    A message/rfc822 part may not be encoded (RFC 2046 §5.2.1), so 8-bit content comes back as its header section,
    which may be (RFC 6522 §4), unless the way back takes UTF-8 and the part is a message/global.
    """
    foreign = message.envelope.smtputf8 and not head.isascii()
    asked = message.envelope.parameters
    sparing = asked.get("RET") is Return.HDRS or "REQUIRETLS" in asked  # RFC 3461 §4.3, RFC 8689 §5
    if message.body.size <= len(head) and not sparing:
        if mime.is_plain(mime.lines_of(head)):
            return mime.part("message/rfc822", head)
        if foreign and b"\0" not in head:
            return mime.part("message/global", head, utf8=utf8)
    section = wire.scan_header(head)
    kind = "message/global-headers" if foreign else "text/rfc822-headers"
    return mime.part(kind, head[: section.end], utf8=utf8)
