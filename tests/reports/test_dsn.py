"""Reports about failures, read by the standard library's `email` package (RFC 3464, RFC 6522, RFC 6533)."""

from __future__ import annotations

from dataclasses import dataclass
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reports.dsn_kit import groups, parts, read

from ironpost.model import NULL, Address, Disposition, Envelope, Outcome, Recipient, Reply
from ironpost.model.parameters import DeliverBy, EnvelopeId, HoldUntil, Notify, OriginalRecipient, Return
from ironpost.queue.store import QueuedMessage, QueuedRecipient
from ironpost.reports import failure_report, report_envelope
from ironpost.reports.dsn import wanted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ACCEPTED = 880127706.0
NOW = ACCEPTED + 3600
TOKEN = "T0KENnotguessable"
SMALL = b"Message-ID: <original@example.org>\r\nSubject: hello\r\n\r\n.dot\r\n--report-x\r\nlast line\r\n"


@dataclass
class Content:
    octets: bytes
    length: int | None = None

    @property
    def size(self) -> int:
        return len(self.octets) if self.length is None else self.length

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.octets

    async def head(self, limit: int) -> bytes:
        return self.octets[:limit]


def outcome(reply: Reply, remote: str = "mx.example.net [192.0.2.9]") -> Outcome:
    return Outcome(Disposition.FAILED, reply, remote, asked=bool(remote))


UNKNOWN = outcome(Reply(550, "5.1.1", ("No such", "user here")))


def queued(
    *recipients: str | Recipient, sender: str = "sender@example.org", content: bytes = SMALL, size: int | None = None,
    parameters: dict[str, object] | None = None,
) -> QueuedMessage:  # fmt: skip
    rows = tuple(r if isinstance(r, Recipient) else Recipient(Address.parse(r)) for r in recipients)
    envelope = Envelope(Address.parse(sender), rows, parameters or {})
    waiting = tuple(QueuedRecipient(n, row) for n, row in enumerate(rows))
    return QueuedMessage("QID1", envelope, ACCEPTED, Content(content, size), waiting)


def octets(message: QueuedMessage, *outcomes: Outcome, head: bytes | None = None) -> bytes:
    given_ = outcomes or (UNKNOWN,) * len(message.recipients)
    return failure_report(
        message, list(zip(message.recipients, given_, strict=True)), reporting_mta="mx.example", now=NOW,
        message_id=TOKEN, head=message.body.octets if head is None else head,  # type: ignore[attr-defined]
    )  # fmt: skip


def test_it_is_a_report_to_the_sender_that_no_robot_answers() -> None:
    report = read(octets(queued("jo@example.net")))
    assert report["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example>"
    assert report["To"] == "sender@example.org"
    assert report["Auto-Submitted"] == "auto-replied"  # RFC 3834 §5.1
    assert report["Message-ID"] == f"<{TOKEN}@mx.example>"
    assert report["In-Reply-To"] == report["References"] == "<original@example.org>"
    assert parsedate_to_datetime(report["Date"]).timestamp() == NOW
    assert report.get_content_type() == "multipart/report"
    assert report["Content-Type"].params["report-type"] == "delivery-status"


def test_f27_addresses_are_written_in_their_valid_form() -> None:
    content = octets(queued("x..y@b_c.example", sender=".a..b.@some_host.example"))
    assert b'\r\nTo: <".a..b."@some_host.example>\r\n' in content
    assert groups(content)[1]["Final-Recipient"] == 'rfc822; "x..y"@b_c.example'
    assert b'\r\n<"x..y"@b_c.example>\r\n' in content


def test_the_fields_of_the_message_and_of_each_recipient() -> None:
    content = octets(
        queued("jo@example.net", "flo@example.com"),
        UNKNOWN,
        outcome(Reply(550, "5.1.2", ("No such domain",)), remote=""),
    )
    about, jo, flo = groups(content)
    assert about.items() == [("Reporting-MTA", "dns; mx.example"), ("Arrival-Date", "Fri, 21 Nov 1997 15:55:06 +0000")]
    assert jo.items() == [
        ("Final-Recipient", "rfc822; jo@example.net"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.example.net"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 No such user here"),
        ("Last-Attempt-Date", "Fri, 21 Nov 1997 16:55:06 +0000"),
    ]
    assert flo["Final-Recipient"] == "rfc822; flo@example.com"
    assert flo["Remote-MTA"] is None
    assert flo["Diagnostic-Code"] == "smtp; 550 5.1.2 No such domain"


def test_the_words_name_who_failed_and_why() -> None:
    text = parts(octets(queued("jo@example.net", "flo@example.com")))[0].get_payload()
    assert "<jo@example.net>" in text
    assert "<flo@example.com>" in text
    assert "mx.example.net [192.0.2.9] said: 550 5.1.1 No such user here" in text
    assert "QID1" in text


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(554, None, ("no",)), "5.0.0"),
        (Reply(451, None, ("later",)), "4.0.0"),
        (Reply(450, "4.4.7", ("x",)), "4.4.7"),
    ],
)
def test_the_status_is_the_enhanced_code_or_the_class_alone(reply: Reply, status: str) -> None:
    assert groups(octets(queued("jo@example.net"), outcome(reply)))[1]["Status"] == status


def test_a_small_message_comes_back_whole() -> None:
    content = octets(queued("jo@example.net"))
    returned = parts(content)[2]
    assert returned.get_content_type() == "message/rfc822"
    assert SMALL in content


def test_of_a_large_message_the_header_section_comes_back() -> None:
    returned = parts(octets(queued("jo@example.net", size=10_000_000)))[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload() == "Message-ID: <original@example.org>\r\nSubject: hello\r\n"


def test_of_8_bit_content_the_header_section_comes_back_in_7_bits() -> None:
    """RFC 6522 §4 allows quoted-printable for headers; a message/rfc822 must not be encoded (RFC 2046 §5.2.1)."""
    content = octets(queued("jo@example.net", content="Subject: grüße\r\n\r\nkörper\r\n".encode()))
    assert content.isascii()
    returned = parts(content)[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload(decode=True) == "Subject: grüße\r\n".encode()


def test_the_original_recipient_and_the_envelope_id_are_repeated() -> None:
    recipient = Recipient(Address.parse("jo@example.net"), {"ORCPT": "rfc822;jo+2Bx@example.com"})
    about, jo = groups(octets(queued(recipient, parameters={"ENVID": "id+3D1"})))
    assert about["Original-Envelope-Id"] == "id=1"
    assert jo["Original-Recipient"] == "rfc822; jo+x@example.com"


def test_what_the_sender_asked_for_is_typed_and_repeated() -> None:
    asked = {
        "ENVID": EnvelopeId.of("id=1"),
        "HOLDFOR": 3600,
        "HOLDUNTIL": HoldUntil(1_764_054_600),
        "BY": DeliverBy(1_764_058_200, returned=False),
    }
    recipient = Recipient(Address.parse("jo@example.net"), {"ORCPT": OriginalRecipient.of("jo+x@example.com")})
    about, jo = groups(octets(queued(recipient, parameters=asked)))
    assert about["Original-Envelope-Id"] == "id=1"
    assert jo["Original-Recipient"] == "rfc822; jo+x@example.com"
    assert about["Future-Release-Request"] == "for;3600"  # RFC 4865 §5.1.2
    assert about["Deliver-By-Date"] == "Tue, 25 Nov 2025 08:10:00 +0000"  # RFC 2852 §5
    del asked["HOLDFOR"]
    about, _ = groups(octets(queued(recipient, parameters=asked)))
    assert about["Future-Release-Request"] == "until;2025-11-25T07:10:00Z"
    about, _ = groups(octets(queued(recipient)))
    assert not {"Future-Release-Request", "Deliver-By-Date"} & set(about.keys())


@pytest.mark.parametrize(
    "asked", [{"RET": Return.HDRS}, {"REQUIRETLS": None}, {"RET": Return.FULL, "REQUIRETLS": None}]
)
def test_only_the_header_section_comes_back_where_that_is_asked_or_must_be(asked: dict[str, object]) -> None:
    returned = parts(octets(queued("jo@example.net", parameters=asked)))[2]
    assert returned.get_content_type() == "text/rfc822-headers"
    full = parts(octets(queued("jo@example.net", parameters={"RET": Return.FULL})))[2]
    assert full.get_content_type() == "message/rfc822"


def test_a_report_is_as_protected_and_as_urgent_as_its_message() -> None:  # RFC 8689 §5, RFC 6710 §4.6
    asked = {"REQUIRETLS": None, "MT-PRIORITY": 3, "RET": Return.FULL, "ENVID": EnvelopeId("a"), "HOLDFOR": 60}
    envelope = report_envelope(queued("jo@example.net", parameters=asked))
    assert envelope is not None
    assert envelope.parameters == {"REQUIRETLS": None, "MT-PRIORITY": 3}


@pytest.mark.parametrize(
    ("notify", "answer"),
    [
        (None, True),
        (Notify.NEVER, False),
        (Notify.SUCCESS | Notify.DELAY, False),
        (Notify.FAILURE, True),
        (Notify.SUCCESS | Notify.FAILURE, True),
    ],
)
def test_failure_is_reported_to_those_who_want_to_hear_of_it(notify: Notify | None, answer: bool) -> None:
    recipient = Recipient(Address.parse("jo@example.net"), {} if notify is None else {"NOTIFY": notify})
    assert wanted(recipient) is answer


@pytest.mark.parametrize(
    "value", ["rfc822;a+0D+0ABcc:+20x", "a b;x@y", "rfc822;+GG", "rfc822", "rfc822;", ";x", "rfc822;+FF@example.org"]
)
def test_r43_an_original_recipient_that_hides_something_is_left_out(value: str) -> None:
    recipient = Recipient(Address.parse("jo@example.net"), {"ORCPT": value})
    content = octets(queued(recipient, parameters={"ENVID": "a+0D+0Ab"}))
    about, jo = groups(content)
    assert "Original-Recipient" not in jo
    assert "Original-Envelope-Id" not in about
    assert b"Bcc" not in content


def test_a_utf8_recipient_of_an_ascii_sender_is_reported_in_7_bits() -> None:
    content = octets(queued("jö@example.net", parameters={"SMTPUTF8": None}))
    assert content.isascii()
    report = read(content)
    assert report["Content-Type"].params["report-type"] == "global-delivery-status"
    status = parts(content)[1]
    assert status.get_content_type() == "message/global-delivery-status"
    assert status["Content-Transfer-Encoding"] == "quoted-printable"
    assert "Final-Recipient: utf-8; jö@example.net\r\n" in decoded(content, 2)


def decoded(content: bytes, number: int) -> str:
    """The number-th body part, decoded; the standard library does not decode parts of type message."""
    import quopri

    boundary = read(content).get_boundary()
    assert boundary is not None
    part = content.split(f"--{boundary}".encode())[number].split(b"\r\n\r\n", 1)
    return quopri.decodestring(part[1]).decode() if b"quoted-printable" in part[0] else part[1].decode()


def test_a_utf8_sender_gets_a_utf8_report() -> None:
    original = "Subject: grüße\r\n\r\nkörper\r\n".encode()
    message = queued("jö@example.net", sender="päul@example.org", content=original, parameters={"SMTPUTF8": None})
    content = octets(message)
    assert "To: <päul@example.org>\r\n".encode() in content
    assert "Final-Recipient: utf-8; jö@example.net\r\n" in decoded(content, 2)
    assert b"Content-Type: message/global\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + original in content
    envelope = report_envelope(message)
    assert envelope is not None
    assert envelope.smtputf8
    assert envelope.body_type == "8BITMIME"


def test_a_utf8_original_recipient_is_up_converted() -> None:
    """RFC 6533 §4.1."""
    recipient = Recipient(Address.parse("jö@example.net"), {"ORCPT": "utf-8;p\\x{E4}ul@example.org"})
    content = octets(queued(recipient, parameters={"SMTPUTF8": None}))
    assert "Original-Recipient: utf-8; päul@example.org\r\n" in decoded(content, 2)


def test_the_envelope_of_a_report_has_the_null_reverse_path() -> None:
    envelope = report_envelope(queued("jo@example.net"))
    assert envelope is not None
    assert envelope.reverse_path == NULL
    assert [str(recipient.address) for recipient in envelope.recipients] == ["sender@example.org"]
    assert not envelope.parameters


def test_there_is_never_a_report_about_a_report() -> None:
    bounce = queued("sender@example.org", sender="")
    assert report_envelope(bounce) is None
    with pytest.raises(ValueError, match="null reverse-path"):
        octets(bounce)


def test_a_report_about_nothing_is_a_misuse() -> None:
    message = queued("jo@example.net")
    with pytest.raises(ValueError, match="at least one"):
        failure_report(message, [], reporting_mta="mx.example", now=NOW, message_id=TOKEN, head=SMALL)


def test_a_boundary_in_the_content_does_not_split_the_report() -> None:
    hostile = (
        b"Subject: x\r\n\r\n--report-" + TOKEN.encode() + b"--\r\n--report-" + TOKEN.encode() + b"\r\n\r\nmore\r\n"
    )
    content = octets(queued("jo@example.net", content=hostile))
    assert len(parts(content)) == 3
    assert hostile in content


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0")), min_size=1), st.text())
def test_r20_whatever_a_peer_says_adds_no_field_and_no_part(lines: list[str], remote: str) -> None:
    content = octets(queued("jo@example.net"), outcome(Reply(550, "5.1.1", tuple(lines)), remote))
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    about, jo = groups(content)
    assert about.keys() == ["Reporting-MTA", "Arrival-Date"]
    assert set(jo.keys()) <= {
        "Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
    }  # fmt: skip
    assert jo["Action"] == "failed"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_r43_whatever_the_message_was_the_report_keeps_its_form(original: bytes) -> None:
    content = octets(queued("jo@example.net", content=original))
    report = message_from_bytes(content, policy=policy.SMTP)
    assert report.keys().count("Subject") == 1
    assert len(report.get_payload()) == 3
    assert report.get_boundary() == f"report-{TOKEN}"
    assert content.isascii()
    assert content.count(b"\n") == content.count(b"\r\n")


def test_an_invalid_message_id_is_not_repeated() -> None:
    for line in (
        b"Message-ID: no brackets",
        b"Message-ID: <a@b>\r\n <c@d>",
        b"Message-ID: <" + b"a" * 900 + b"@b>",
        b"X: y",
    ):
        report = read(octets(queued("jo@example.net", content=line + b"\r\n\r\nx\r\n")))
        assert report["In-Reply-To"] is None
        assert report["References"] is None


def test_a_sender_with_a_line_separator_still_gets_a_report() -> None:
    content = octets(queued("jo@example.net", sender="a\u2028b@example.org"))
    assert b"To: <a\\u2028b@example.org>\r\n" in content


@pytest.mark.parametrize(
    ("remote", "named"),
    [
        ("mx.example.net [192.0.2.9]:2525", "dns; mx.example.net"),
        ("[192.0.2.9]:2525", "dns; [192.0.2.9]"),
        ("[2001:db8::9]:2525", "dns; [2001:db8::9]"),
        ("[2001:db8::9]", "dns; [2001:db8::9]"),
    ],
)
def test_f46_a_remote_mta_has_no_port(remote: str, named: str) -> None:  # RFC 3464 §2.3.5
    content = octets(queued("joe@example.net"), outcome(Reply(550, "5.1.1", ("no",)), remote))
    assert f"Remote-MTA: {named}\r\n".encode() in content
