"""Delivery status notifications: bounces for failed messages, warnings about delayed ones, reports of relayed ones.

Promises: `failure_report` is a multipart/report (RFC 6522 §3) of three parts: text for people, a
message/delivery-status (RFC 3464 §2), and the returned content: the whole message if it is small and plain, else its
header section. It is 7-bit, so that any route can carry it, unless the sender's address needs SMTPUTF8. Neither a peer
nor the message can add a field or a part to it (SECURITY R20, R43). It is marked so that no robot answers it
(RFC 3834 §5).
Refuses: a report about a report: `report_envelope` is None for a null reverse-path (RFC 5321 §4.5.5).

Standards: RFC 3464, RFC 6522, RFC 6533 §3 and §4 (UTF-8 addresses), RFC 3834 §5, RFC 3461 §4 (what the sender asked
for), RFC 8689 §5 (REQUIRETLS), RFC 6710 §4.6 (priority), RFC 4865 §5.1.2 and RFC 2852 §5 (fields).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ironpost import wire
from ironpost.message import header
from ironpost.message.dates import date_time
from ironpost.message.received import checked_name
from ironpost.message.section import Header
from ironpost.model import NULL, BodyType, Envelope, Origin, Recipient
from ironpost.model.parameters import Notify, Return
from ironpost.protocol.extensions import headers_only, report_fields, report_parameters
from ironpost.reports import mime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ironpost.model import Address, Outcome, Value
    from ironpost.queue.store import QueuedMessage, QueuedRecipient

Failure: TypeAlias = "tuple[QueuedRecipient, Outcome]"
"""A recipient and the outcome of its delivery."""

RETURNED_OCTETS: Final = 64 * 1024
"""Maximum octets of `head`: smaller messages are returned whole, larger ones as their header section."""
DIAGNOSTIC_LENGTH: Final = 2000
"""Maximum length of a peer's reply that a report repeats, in characters."""

_MESSAGE_ID: Final = re.compile(rb"<[!-;=?-~]{3,250}>")
_STATUS: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")  # RFC 3463 §2
_PORT: Final = re.compile(r"(?<=\]):[0-9]+\Z")
_ADDRESS_TYPE: Final = re.compile(r"[A-Za-z0-9-]{1,32}")


def report_envelope(message: QueuedMessage) -> Envelope | None:
    """Return the envelope of a report about `message`: null reverse-path, to its sender (RFC 3464 §2).

    None if the sender is null: no bounce is sent then (RFC 5321 §4.5.5, §6.1).
    """
    sender = message.envelope.reverse_path
    if sender.is_null:
        return None
    parameters: dict[str, Value] = {"BODY": BodyType.EIGHT_BIT, "SMTPUTF8": None} if sender.needs_smtputf8 else {}
    parameters |= report_parameters(message.envelope.parameters)
    return Envelope(NULL, (Recipient(sender),), parameters, Origin())


class _Form(NamedTuple):
    """What differs between the reports about failures, delays and relaying."""

    subject: str
    introduction: tuple[str, ...]
    action: str
    """RFC 3464 §2.3.3."""
    retry_until: float | None = None
    """Seconds since 1970 (RFC 3464 §2.3.9)."""


_FAILED: Final = _Form(
    "Undelivered mail: your message could not be delivered",
    (
        "Your message could not be delivered to the recipients below.",
        "No further attempts will be made. Technical details follow for your mail administrator.",
    ),
    "failed",
)


_RELAYED: Final = _Form(
    "Relayed mail: your message was passed on",
    (
        "Your message was passed on to the mail systems of the recipients below.",
        "Whether and when it is delivered is up to them.",
    ),
    "relayed",
)


def relay_wanted(recipient: Recipient) -> bool:
    """Whether the sender wants to know that mail was relayed (RFC 2852 §4.1.4): always, except with NOTIFY=NEVER."""
    return recipient.parameters.get("NOTIFY") is not Notify.NEVER


def warning_wanted(recipient: Recipient) -> bool:
    """Whether the sender wants a warning of a delay (RFC 3461 §4.1); true without NOTIFY, which leaves it to us."""
    notify = recipient.parameters.get("NOTIFY")
    return not isinstance(notify, Notify) or Notify.DELAY in notify


def wanted(recipient: Recipient) -> bool:
    """Whether the sender wants a bounce for this recipient (RFC 3461 §4.1); true without NOTIFY."""
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
    """Return the content of the message that reports failed recipients to the sender.

    Args:
        message: the message that failed.
        failures: at least one recipient with its outcome.
        reporting_mta: the name of this server, a domain or an address literal.
        now: seconds since 1970-01-01 UTC: when the report is written and when the last attempt was made.
        message_id: a fresh token of `ports.Random.token`; it becomes the Message-ID and, since it cannot be guessed,
            the boundary.
        head: the first octets of the message's body, `RETURNED_OCTETS` at most.

    Raises:
        ValueError: no failures, a null reverse-path, or an invalid `reporting_mta`.
    """
    return _report(message, failures, _FAILED, reporting_mta, now, message_id, head)


def delay_report(
    message: QueuedMessage,
    delays: Sequence[Failure],
    *,
    reporting_mta: str,
    now: float,
    message_id: str,
    head: bytes,
    retry_until: float,
) -> bytes:
    """Return the content of the message that warns the sender of a delay.

    Args:
        message: the delayed message.
        delays: at least one recipient with the outcome of the last attempt.
        reporting_mta: see `failure_report`; so are `now`, `message_id` and `head`.
        now: seconds since 1970.
        message_id: a fresh token.
        head: the first octets of the message's body; only its header section is returned (RFC 3461 §4.3).
        retry_until: seconds since 1970 when the message expires.

    Raises:
        ValueError: see `failure_report`.
    """
    form = _Form(
        "Delayed mail: your message has not been delivered yet",
        (
            "Your message has not been delivered to the recipients below yet.",
            f"You need not send it again. Attempts continue until {date_time(retry_until)}.",
        ),
        "delayed",
        retry_until,
    )
    return _report(message, delays, form, reporting_mta, now, message_id, head)


def relay_report(
    message: QueuedMessage,
    relays: Sequence[Failure],
    *,
    reporting_mta: str,
    now: float,
    message_id: str,
    head: bytes,
) -> bytes:
    """Return the content of the message that tells the sender that mail was relayed. Parameters: see `failure_report`.

    Only the header section of the message is returned (RFC 3461 §4.3).
    """
    return _report(message, relays, _RELAYED, reporting_mta, now, message_id, head)


def _report(
    message: QueuedMessage,
    failures: Sequence[Failure],
    form: _Form,
    reporting_mta: str,
    now: float,
    message_id: str,
    head: bytes,
) -> bytes:
    sender = message.envelope.reverse_path
    if sender.is_null:
        raise ValueError(f"message {message.id} has a null reverse-path: no report is sent about it (RFC 5321 §4.5.5)")
    if not failures:
        raise ValueError(f"a report about message {message.id} needs at least one recipient")
    checked_name(reporting_mta)
    utf8 = sender.needs_smtputf8
    # RFC 6533 §4.4: the UTF-8 media types where something needs them, the traditional ones everywhere else.
    status_utf8 = any(recipient.recipient.address.needs_smtputf8 for recipient, _ in failures)
    status_type = "message/global-delivery-status" if status_utf8 else "message/delivery-status"
    parts = (
        _words(message, failures, form, reporting_mta, utf8=utf8),
        mime.part(status_type, _status(message, failures, form, reporting_mta, now, utf8=status_utf8), utf8=utf8),
        _returned(message, head, utf8=utf8, whole=form is _FAILED),
    )
    boundary, body = mime.multipart(parts, f"report-{message_id}")
    report_type = status_type.partition("/")[2]
    fields = [
        header.field("Date", (date_time(now),)),
        header.field("From", ("Mail", "Delivery", "System", f"<MAILER-DAEMON@{reporting_mta}>")),
        header.field("To", (header.path(sender),), utf8=utf8),
        header.field("Subject", tuple(form.subject.split())),
        header.field("Message-ID", (f"<{message_id}@{reporting_mta}>",)),
        *_references(head),
        header.field("Auto-Submitted", ("auto-replied",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/report;", f"report-type={report_type};", f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body


def _references(head: bytes) -> list[bytes]:
    """Return In-Reply-To and References to the message that failed (RFC 3834 §3.1.6), if its Message-ID is valid."""
    identifier = Header(head).first("Message-ID")
    if identifier is None or _MESSAGE_ID.fullmatch(identifier) is None:
        return []
    text = identifier.decode("ascii")
    return [header.field("In-Reply-To", (text,)), header.field("References", (text,))]


def _words(
    message: QueuedMessage, failures: Sequence[Failure], form: _Form, reporting_mta: str, *, utf8: bool
) -> bytes:
    """Return the human-readable part."""
    lines = [
        f"This is the mail system at {reporting_mta}.",
        "",
        *form.introduction,
        "",
    ]
    for recipient, outcome in failures:
        lines.append(header.path(recipient.recipient.address))
        who = f"{header.shown(outcome.remote, utf8=True)} said: " if outcome.remote else ""
        lines.append(f"    {who}{header.shown(_diagnostic(outcome), utf8=True)}")
        lines.append("")
    lines.append(f"Queue id of the message: {message.id}.")
    text = "\r\n".join(lines)
    return mime.part(
        f"text/plain; charset={'us-ascii' if text.isascii() else 'utf-8'}", text.encode("utf-8"), utf8=utf8
    )


def _status(
    message: QueuedMessage, failures: Sequence[Failure], form: _Form, reporting_mta: str, now: float, *, utf8: bool
) -> bytes:
    """Return the machine-readable part: per-message fields, then a group for each recipient (RFC 3464 §2.1)."""
    groups = [_about_message(message, reporting_mta)]
    groups += [_about_recipient(recipient, outcome, form, now, utf8=utf8) for recipient, outcome in failures]
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
    fields += [header.field(name, (body,)) for name, body in report_fields(message.envelope.parameters).items()]
    return b"".join(fields)


def _about_recipient(recipient: QueuedRecipient, outcome: Outcome, form: _Form, now: float, *, utf8: bool) -> bytes:
    fields = []
    original = recipient.recipient.parameters.get("ORCPT")
    if original:
        kind, _, address = str(original).partition(";")
        if _ADDRESS_TYPE.fullmatch(kind):
            fields += _copied("Original-Recipient", kind, address, utf8=utf8)  # RFC 3464 §2.3.1
    fields += [
        header.field("Final-Recipient", _typed(recipient.recipient.address), utf8=utf8),  # RFC 3464 §2.3.2
        header.field("Action", (form.action,)),  # RFC 3464 §2.3.3
        header.field("Status", (_enhanced(outcome),)),  # RFC 3464 §2.3.4
    ]
    if outcome.remote:
        host = _PORT.sub("", outcome.remote.split(" ", 1)[0])  # an mta-name has no port
        fields.append(header.field("Remote-MTA", ("dns;", *header.words(host))))  # RFC 3464 §2.3.5
    # RFC 3464 §2.3.6: without a Remote-MTA the code is from this server.
    fields.append(header.field("Diagnostic-Code", ("smtp;", *header.words(_diagnostic(outcome)))))
    fields.append(header.field("Last-Attempt-Date", (date_time(now),)))  # RFC 3464 §2.3.7
    if form.retry_until is not None:
        fields.append(header.field("Will-Retry-Until", (date_time(form.retry_until),)))  # RFC 3464 §2.3.9
    return b"".join(fields)


def _typed(address: Address) -> tuple[str, ...]:
    """The address with its type: rfc822 (RFC 3464 §2.3.2), or utf-8 (RFC 6533 §3)."""
    text = str(address)
    if text.isascii():
        return ("rfc822;", text)
    # A field cannot contain control characters, so the address is written in the 7-bit form of RFC 6533 §3.
    return ("utf-8;", text if header.shown(text, utf8=True) == text else wire.utf8_addr_xtext_encode(text))


def _diagnostic(outcome: Outcome) -> str:
    """The reply, truncated if it is very long."""
    return str(outcome.reply)[:DIAGNOSTIC_LENGTH]


def _copied(name: str, kind: str, encoded: str, *, utf8: bool = False) -> list[bytes]:
    """Return a field from an envelope parameter, decoded (RFC 3461 §4, RFC 6533 §3); none if it is not text."""
    try:
        if kind.lower() == "utf-8":
            text = wire.utf8_addr_xtext_decode(encoded)
            if not utf8:
                text = wire.utf8_addr_xtext_encode(text)
        else:
            text = wire.xtext_decode(encoded).decode("ascii")
        return [header.field(name, (f"{kind};", text) if kind else (text,), utf8=utf8)]
    except ValueError:  # xtext can encode CR and LF: then the field is omitted (SECURITY R43)
        return []


def _enhanced(outcome: Outcome) -> str:
    """Return the enhanced status code, or the one that the reply code's class implies (RFC 3463 §3.1)."""
    enhanced = outcome.reply.enhanced
    if enhanced is not None and _STATUS.fullmatch(enhanced):
        return enhanced
    return f"{outcome.reply.code // 100}.0.0"


def _returned(message: QueuedMessage, head: bytes, *, utf8: bool, whole: bool) -> bytes:
    """Return the returned content: the message if it is small and needs no encoding, else its header section.

    RET=HDRS also selects the header section. A message/rfc822 part may not be encoded (RFC 2046 §5.2.1), so 8-bit
    content is returned as its header section, which may be (RFC 6522 §4), unless the route back supports UTF-8 and the
    part is a message/global.
    """
    foreign = message.envelope.smtputf8 and not head.isascii()
    asked = message.envelope.parameters
    sparing = asked.get("RET") is Return.HDRS or headers_only(asked)  # RFC 3461 §4.3, RFC 8689 §5
    if whole and message.body.size <= len(head) and not sparing:
        if mime.is_plain(mime.lines_of(head)):
            return mime.part("message/rfc822", head)
        if foreign and b"\0" not in head:
            return mime.part("message/global", head, utf8=utf8)
    section = Header(head).section
    kind = "message/global-headers" if foreign else "text/rfc822-headers"
    return mime.part(kind, head[: section.end], utf8=utf8)
