"""A failure report about DMARC as a message.

Promises: a message is 7-bit, unless the address of a recipient needs SMTPUTF8. Nothing in the reported message can add
a field or a part (SECURITY R43). It contains the header section of the reported message and never its body. In fields
that name recipients and in trace fields, local parts are replaced by codes (`redacted`), and so is all that may hide
one; the envelope recipients are not named at all.
Limitations: display names remain, and so does a recipient without a domain beside others that have one.
Standards: RFC 5965 §2, §3 (form, fields); RFC 6591 §3 and RFC 9991 §4 (fields about authentication); RFC 6590 §3
(codes); RFC 3834 §5.
"""

from __future__ import annotations

import hmac
import re
from typing import TYPE_CHECKING, Final

from ironpost.mail_auth import DmarcPolicy, results_field
from ironpost.message import header
from ironpost.message.address_list import all_addresses, tokens, unquoted
from ironpost.message.dates import date_time
from ironpost.model.network import address_literal
from ironpost.reports import mime
from ironpost.reports.dmarc.mail import to_field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ironpost.message.address_list import Token
    from ironpost.message.section import Header
    from ironpost.model import Address
    from ironpost.reports.dmarc.failure import Failure

TEXT: Final = 1000
"""Characters of a value that is written."""
CODE: Final = 12
"""Characters of the code that replaces a local part."""

_DELIVERY: Final = {DmarcPolicy.REJECT: "reject", DmarcPolicy.QUARANTINE: "policy"}
"""Delivery-Result (RFC 6591 §3.2.2). The fate of other mail is not known when it is reported."""
_RECIPIENTS: Final = re.compile(r"(?:.+-)?(?:to|cc|bcc|rcpt|recipients?)", re.IGNORECASE)
_ORIGINATORS: Final = frozenset({"reply-to", "in-reply-to"})
"""Fields that `_RECIPIENTS` matches, but which name no recipients."""
_TRACE: Final = frozenset({"received", "x-received", "x-forwarded-for"})
_WORDS: Final = frozenset({"atom", "quoted"})


def message(
    failure: Failure,
    to: Sequence[Address],
    *,
    contact: Address,
    host: str,
    incidents: int,
    now: float,
    token: str,
    key: bytes,
) -> bytes:
    """Return the message with a report.

    Args:
        failure: what is reported.
        to: where it is sent.
        contact: the author of the report, in ASCII.
        host: the name of this server.
        incidents: the number of similar messages that this report stands for.
        now: when the reported message arrived, in seconds since 1970.
        token: an unguessable text, for the boundary and the Message-ID.
        key: makes codes that only this server can reproduce.
    """
    answer = failure.evaluation.answer
    parts = (
        mime.part("text/plain; charset=us-ascii", _introduction(failure, host, now).encode("ascii")),
        mime.part("message/feedback-report", _feedback(failure, host, now, incidents)),
        mime.part("text/rfc822-headers", redacted(failure.evaluation.header, key)),
    )
    boundary, body = mime.multipart(parts, f"dmarc-failure-{token}")
    fields = [
        header.field("Date", (date_time(now),)),
        header.field("From", (f"<{contact}>",)),
        to_field(to),
        header.field("Subject", ("DMARC", "failure", "report", "about", "mail", "from", answer.author)),
        header.field("Message-ID", (f"<{token}@{contact.domain}>",)),
        header.field("Auto-Submitted", ("auto-generated",)),
        header.field("MIME-Version", ("1.0",)),
        header.field("Content-Type", ("multipart/report;", "report-type=feedback-report;", f'boundary="{boundary}"')),
    ]
    return b"".join(fields) + b"\r\n" + body


def redacted(section: Header, key: bytes) -> bytes:
    """Return the fields of a header section without the local parts of recipients (RFC 6590 §3).

    In fields that name recipients, and in trace fields, which may do so, each local part is replaced by a code, which
    is the same for equal local parts. So are encoded words, and comments and quoted strings with an at sign, and the
    value of a field that has no addresses or is not valid.

    Args:
        section: the header section.
        key: without it the local part for a code cannot be searched for.
    """

    def code(text: bytes) -> bytes:
        return hmac.digest(key, text.lower(), "sha256").hex()[:CODE].encode("ascii")

    pieces: list[bytes] = []
    for each in section.section.fields:
        name, body = each.name.lower(), section.octets[each.value : each.end]
        if name in _TRACE or (_RECIPIENTS.fullmatch(name) and name not in _ORIGINATORS):
            body = _coded(body.removesuffix(b"\r\n"), code, has_addresses=name not in _TRACE) + b"\r\n"
        pieces += (section.octets[each.start : each.value], body)
    return b"".join(pieces)


def _coded(body: bytes, code: Callable[[bytes], bytes], *, has_addresses: bool) -> bytes:
    """A field body with codes.

    Args:
        body: without its CRLF.
        code: returns the code for a local part or another text.
        has_addresses: it must be a list of addresses.
    """
    read = list(tokens(body + b";"))
    if not read or read[-1].start != len(body) or (has_addresses and not _is_address_list(body)):
        return b" " + code(body.strip())
    pieces: list[bytes] = []
    at = 0
    for run, is_local_part in _runs(read):
        comments, text = body[at : run[0].start], body[run[0].start : run[-1].end]
        at = run[-1].end
        pieces.append(b" (%s) " % code(comments) if _may_hide(comments) else comments)
        pieces.append(code(b"".join(map(unquoted, run))) if is_local_part or _may_hide(text) else text)
    return b"".join(pieces[:-1])  # without the semicolon


def _is_address_list(body: bytes) -> bool:
    try:
        return bool(all_addresses(body))
    except ValueError:
        return False


def _may_hide(text: bytes) -> bool:
    """Whether an address may be in comments or words."""
    return text != b"@" and (b"@" in text or b"=?" in text)


def _runs(read: list[Token]) -> Iterator[tuple[list[Token], bool]]:
    """Words with dots between them, and whether an at sign follows; each other token is alone.

    Args:
        read: ends with a token that is not a word.
    """
    run: list[Token] = []
    for token in read:
        is_word = token.kind in _WORDS
        if run and (not (is_word or token.kind == ".") or (is_word and run[-1].kind in _WORDS)):
            yield run, token.kind == "@"
            run = []
        if is_word or token.kind == ".":
            run.append(token)
        else:
            yield [token], False


def _introduction(failure: Failure, host: str, now: float) -> str:
    evaluation = failure.evaluation
    return (
        f"This is an authentication failure report of {host} about a message\r\n"
        f"whose author is in {evaluation.answer.author}.\r\n\r\n"
        f"It was received from {evaluation.ip} on {date_time(now)}.\r\n"
        f"DMARC: {evaluation.answer.result}, {header.shown(evaluation.answer.reason)[:TEXT]}.\r\n\r\n"
        "Its header section is attached. Codes stand for the local parts of its recipients."
    )


def _feedback(failure: Failure, host: str, now: float, incidents: int) -> bytes:
    """The fields of message/feedback-report."""
    evaluation, signature, spf = failure.evaluation, failure.signature, failure.spf
    fields = [
        header.field("Feedback-Type", ("auth-failure",)),
        header.field("User-Agent", ("ironpost",)),
        header.field("Version", ("1",)),
        header.field("Auth-Failure", (failure.kind,)),
        results_field(host, (failure.result,)),
        header.field("Identity-Alignment", (", ".join(failure.methods) or "none",)),
        header.field("Reported-Domain", (evaluation.answer.author,)),
        header.field("Original-Mail-From", (f"<{header.shown(str(evaluation.reverse_path))}>",)),
        header.field("Source-IP", (address_literal(evaluation.ip).strip("[]"),)),
        header.field("Arrival-Date", (date_time(now),)),
        header.field("Reporting-MTA", ("dns;", host)),
    ]
    if evaluation.envelope_id is not None:
        fields += _field("Original-Envelope-Id", evaluation.envelope_id.text)
    if incidents > 1:
        fields += _field("Incidents", str(incidents))
    if evaluation.disposition in _DELIVERY:
        fields += _field("Delivery-Result", _DELIVERY[evaluation.disposition])
    if signature is not None:
        fields += _field("DKIM-Domain", signature.domain[:TEXT])
        fields += _field("DKIM-Identity", signature.identity[:TEXT])
        fields += _field("DKIM-Selector", signature.selector[:TEXT])
    for domain, record in () if spf is None else spf.records:
        text = re.sub(r'(["\\])', r"\\\1", record[:TEXT].decode("ascii", "backslashreplace"))
        fields += _field("SPF-DNS", f'txt : {domain} : "{text}"')
    return b"".join(fields)


def _field(name: str, text: str) -> list[bytes]:
    """A field with any text; none if that is empty."""
    words = header.words(text)
    return [header.field(name, words)] if words else []
