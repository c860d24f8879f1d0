"""Failure reports about DMARC: when one is wanted, and every field of it, read with the email package."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reports.dmarc_kit import FAILED, MIDNIGHT, PASSED, SPF

from ironpost.mail_auth import (
    Authenticated,
    DkimAnswer,
    DkimFailure,
    DkimResult,
    DmarcEvaluation,
    DmarcPolicy,
    DmarcResult,
    Override,
    OverrideType,
    SpfResult,
)
from ironpost.mail_auth.dmarc_record import parse_record
from ironpost.message.section import Header
from ironpost.model import NULL, Address
from ironpost.model.parameters import EnvelopeId
from ironpost.reports.dmarc.failure import HEADER_OCTETS, Failure, failure_of, is_automatic
from ironpost.reports.dmarc.failure_mail import message, redacted

CONTACT = Address.parse("reports@ours.example")
HEADER = Header(
    b"Received: from x by relay.example for <jo@here.example>; Sat, 1 Jan 2022 00:00:00 +0000\r\n"
    b"From: Ada <ada@a.example>\r\nTo: Jo <jo@here.example>,\r\n flo@here.example\r\nSubject: secret plan\r\n"
)
KEY = b"key"


def asking(fo: str, evaluation: DmarcEvaluation = FAILED, tags: str = "") -> DmarcEvaluation:
    """The same evaluation by a record with the tag `fo`."""
    record = parse_record(f"v=DMARC1; p=reject; ruf=mailto:x@a.example; fo={fo};{tags}".encode())
    return replace(evaluation, answer=replace(evaluation.answer, record=record), header=HEADER)


def failed(evaluation: DmarcEvaluation) -> Failure:
    failure = failure_of(evaluation)
    assert failure is not None
    return failure


def kind(evaluation: DmarcEvaluation) -> str | None:
    failure = failure_of(evaluation)
    return None if failure is None else failure.kind


BOTH = replace(
    PASSED,
    answer=replace(PASSED.answer, alignment=(Authenticated("spf", "a.example"), Authenticated("dkim", "a.example"))),
)
"""Both methods confirm the author, beside a signature that is not valid."""
UNSIGNED = replace(PASSED, dkim=())
UNKNOWN = replace(PASSED, dkim=(DkimAnswer(DkimResult.TEMPERROR, "", "a.example"),))
SIGNED = replace(
    BOTH,
    answer=replace(BOTH.answer, alignment=(Authenticated("dkim", "a.example"),)),
    dkim=(DkimAnswer(DkimResult.PASS, "", "a.example"),),
    spf=replace(SPF, result=SpfResult.SOFTFAIL),
)
"""The message of a forwarder that did not change it."""


@pytest.mark.parametrize(
    ("evaluation", "wanted"),
    [
        (FAILED, {"0": "dmarc", "1": "dmarc", "d": "signature", "s": "spf", "d:s": "signature", "1:d:s": "dmarc"}),
        (PASSED, {"0": None, "1": "dmarc", "d": "signature", "s": None, "d:s": "signature", "1:d:s": "dmarc"}),
        (BOTH, {"0": None, "1": None, "d": "signature", "s": None, "d:s": "signature", "1:d:s": "signature"}),
        (UNSIGNED, {"0": None, "1": "dmarc", "d": None, "s": None, "d:s": None, "1:d:s": "dmarc"}),
        (UNKNOWN, {"0": None, "1": None, "d": None, "s": None, "d:s": None, "1:d:s": None}),
        (SIGNED, {"0": None, "1": "dmarc", "d": None, "s": "spf", "d:s": "spf", "1:d:s": "dmarc"}),
    ],
    ids=["failed", "passed", "both", "unsigned", "unknown", "signed"],
)
def test_the_tag_fo_says_what_is_reported(evaluation: DmarcEvaluation, wanted: dict[str, str | None]) -> None:
    assert {fo: kind(asking(fo, evaluation)) for fo in wanted} == wanted


def test_what_nobody_may_ask_for_is_not_reported() -> None:
    assert kind(asking("1")) == "dmarc"
    assert kind(FAILED) is None, "the record has no tag ruf"
    assert kind(asking("1", tags="psd=y")) is None
    forwarded = replace(asking("1"), overrides=(Override(OverrideType.MAILING_LIST),))
    assert kind(forwarded) is None
    for result in (DmarcResult.NONE, DmarcResult.TEMPERROR, DmarcResult.PERMERROR):
        assert kind(replace(asking("1"), answer=replace(asking("1").answer, result=result))) is None


@pytest.mark.parametrize(
    "fields",
    [
        b"Auto-Submitted: auto-replied\r\n",
        b"auto-submitted: Auto-Generated; x=y\r\n",
        b'Content-Type: multipart/report; report-type=feedback-report; boundary="x"\r\n',
        b"content-type: Message/Feedback-Report\r\n",
        b"To: someone <x@here.example>, Reports <reports@OURS.example>\r\n",
        b"Cc: reports@ours.example\r\n",
    ],
)
def test_a_message_that_may_answer_a_report_is_automatic(fields: bytes) -> None:
    assert is_automatic(replace(FAILED, header=Header(fields)), CONTACT)


def test_bounces_and_mail_of_the_reporter_are_automatic_and_other_mail_is_not() -> None:
    assert failure_of(replace(asking("1"), reverse_path=NULL)) is None
    assert is_automatic(replace(FAILED, reverse_path=CONTACT, header=HEADER), CONTACT)
    for fields in (b"", b"Auto-Submitted: no\r\n", b"Content-Type: multipart/mixed; boundary=report\r\n"):
        assert not is_automatic(replace(FAILED, header=Header(HEADER.octets + fields)), CONTACT)


def test_r23_one_field_is_searched_for_the_reporter() -> None:
    header = Header(b"To: x@here.example\r\n" * 50 + b"To: reports@ours.example\r\n")
    assert not is_automatic(replace(FAILED, header=header), CONTACT)
    long = Header(b"To: " + b"x@here.example, " * 130 + b"reports@ours.example\r\n")
    assert not is_automatic(replace(FAILED, header=long), CONTACT)


def reported(evaluation: DmarcEvaluation, incidents: int = 1) -> tuple[EmailMessage, EmailMessage, bytes]:
    """A report, its fields in message/feedback-report, and the header section in it."""
    octets = message(
        failed(evaluation),
        [Address.parse("x@a.example")],
        contact=CONTACT,
        host="mx.ours.example",
        incidents=incidents,
        now=MIDNIGHT,
        token="T0KEN",
        key=KEY,
    )
    assert octets.isascii()
    assert all(len(line) <= 998 for line in octets.split(b"\r\n"))
    read = message_from_bytes(octets, policy=policy.default)
    assert isinstance(read, EmailMessage)
    words, fields, section = read.iter_parts()
    assert [each.get_content_type() for each in (words, fields, section)] == [
        "text/plain",
        "message/feedback-report",
        "text/rfc822-headers",
    ]
    (found,) = fields.get_payload()  # type: ignore[misc]
    assert isinstance(found, EmailMessage)
    assert not found.defects
    content = section.get_payload(decode=True)
    assert isinstance(content, bytes)
    return read, found, content


def test_every_field_of_a_report() -> None:
    records = (("a.example", b'v=spf1 include:b.example exists:"x\\ -all'), ("b.example", b"v=spf1 " + b"a " * 200))
    spf = replace(SPF, result=SpfResult.FAIL, records=records)
    evaluation = replace(asking("1"), spf=spf, envelope_id=EnvelopeId.of("id+7"), ip="2001:db8::1")
    read, fields, section = reported(evaluation, incidents=7)
    assert (read["From"], read["To"]) == ("reports@ours.example", "x@a.example")
    assert read["Subject"] == "DMARC failure report about mail from a.example"
    assert read["Auto-Submitted"] == "auto-generated"
    assert read.get_content_type() == "multipart/report"
    assert read.get_param("report-type") == "feedback-report"
    assert parsedate_to_datetime(read["Date"]).timestamp() == MIDNIGHT
    assert fields.items() == [
        ("Feedback-Type", "auth-failure"),
        ("User-Agent", "ironpost"),
        ("Version", "1"),
        ("Auth-Failure", "dmarc"),
        (
            "Authentication-Results",
            'mx.ours.example; dmarc=fail reason="spf of a.example confirms a.example" header.from=a.example'
            " policy.dmarc=reject",
        ),
        ("Identity-Alignment", "dkim, spf"),
        ("Reported-Domain", "a.example"),
        ("Original-Mail-From", "<news@a.example>"),
        ("Source-IP", "IPv6:2001:db8::1"),
        ("Arrival-Date", read["Date"]),
        ("Reporting-MTA", "dns; mx.ours.example"),
        ("Original-Envelope-Id", "id+7"),
        ("Incidents", "7"),
        ("Delivery-Result", "reject"),
        ("DKIM-Domain", "a.example"),
        ("DKIM-Identity", "@a.example"),
        ("DKIM-Selector", "s1"),
        ("SPF-DNS", 'txt : a.example : "v=spf1 include:b.example exists:\\"x\\\\ -all"'),
        ("SPF-DNS", f'txt : b.example : "v=spf1 {"a " * 200}"'),
    ]
    assert b"Subject: secret plan\r\n" in section


def test_what_is_not_known_or_does_not_fail_is_left_out() -> None:
    evaluation = replace(asking("1", UNSIGNED), disposition=DmarcPolicy.NONE)
    _, fields, _ = reported(evaluation)
    absent = {"Original-Envelope-Id", "Incidents", "Delivery-Result", "DKIM-Domain", "SPF-DNS", "Original-Rcpt-To"}
    assert absent.isdisjoint(fields)
    assert (fields["Identity-Alignment"], fields["Source-IP"]) == ("dkim", "192.0.2.1")
    assert reported(replace(asking("1"), disposition=DmarcPolicy.QUARANTINE))[1]["Delivery-Result"] == "policy"


@pytest.mark.parametrize(("fo", "method", "alignment"), [("d", "dkim", "none"), ("s", "spf", "dkim, spf")])
def test_a_report_about_one_method_has_the_fields_of_that_method(fo: str, method: str, alignment: str) -> None:
    spf = replace(SPF, result=SpfResult.FAIL, records=(("a.example", b"v=spf1 -all"),))
    evaluation = asking(fo, BOTH if fo == "d" else replace(FAILED, spf=spf))
    _, fields, _ = reported(evaluation)
    assert fields["Auth-Failure"] == {"d": "signature", "s": "spf"}[fo]
    assert fields["Authentication-Results"].startswith(f"mx.ours.example; {method}=fail ")
    assert fields["Identity-Alignment"] == alignment
    assert ("DKIM-Domain" in fields, "SPF-DNS" in fields) == (fo == "d", fo == "s")


def test_a_report_about_a_signature_says_what_is_wrong_with_it() -> None:
    signature = DkimAnswer(DkimResult.PERMERROR, "", "a.example", "s1", failure=DkimFailure.REVOKED)
    _, fields, _ = reported(asking("d", replace(BOTH, dkim=(signature,))))
    assert (fields["Auth-Failure"], fields["DKIM-Domain"], fields["DKIM-Selector"]) == ("revoked", "a.example", "s1")


def test_the_signature_of_the_author_is_reported_before_others() -> None:
    listed = [
        DkimAnswer(DkimResult.NEUTRAL, "no domain is known"),
        DkimAnswer(DkimResult.PASS, "", "a.example"),
        DkimAnswer(DkimResult.FAIL, "", "list.example", "s2"),
        DkimAnswer(DkimResult.FAIL, "", "news.a.example", "s3"),
        DkimAnswer(DkimResult.POLICY, "", "a.example", "s4"),
    ]
    chosen = []
    while (failure := failed(replace(asking("0"), dkim=tuple(listed)))).signature is not None:
        chosen.append(failure.signature.selector)
        listed.remove(failure.signature)
    assert chosen == ["s4", "s3", "s2"]


def test_local_parts_of_recipients_become_codes() -> None:
    octets = (
        b"Received: from x\r\n (HELO c.example) by y with SMTP for <Jo@here.example>; now\r\n"
        b'To: "Jo, Smith" <jo@here.example>, "jo x"@here.example, "jo"@here.example\r\n'
        b"Delivered-To: jo @here.example\r\nX-Original-To: j\xc3\xb6@here.example\r\nResent-cc: jo@here.example\r\n"
        b"From: jo@a.example\r\nReply-To: jo@a.example\r\nIn-Reply-To: <jo@a.example>\r\nSubject: Re: jo@a\r\n\r\n"
    )
    found = redacted(Header(octets), KEY)
    received, kept = found[: found.index(b"From:")], found[found.index(b"From:") :]
    assert kept == octets[octets.index(b"From:") :].removesuffix(b"\r\n")
    assert b"jo@" not in received.lower()
    assert b"j\xc3\xb6" not in received
    assert b"(HELO c.example) by y with SMTP for <" in received
    (code,) = {each.split(b"<")[1].split(b"@")[0] for each in received.split(b"\r\n") if b'"Jo, Smith"' in each}
    assert received.count(code + b"@here.example") == 4, "equal local parts have equal codes"
    assert code + b" @here.example" in received
    assert redacted(Header(octets), b"another") != found


@pytest.mark.parametrize(
    "field",
    [
        b"Delivered-To: jo-smith",
        b"Original-Recipient: rfc822; jo-smith",
        b'To: "broken <jo-smith@here.example>',
        b"To: x jo-smith@here.example",
        b"To: <jo-smith>@here.example",
        b'To: "jo-smith@here.example" <x@here.example>',
        b"To: =?utf-8?q?jo-smith=40here.example?= <x@here.example>",
        b"Received: from x (jo-smith@here.example) by y; now",
        b"Received: from x by y for jo-smith@here.example (",
    ],
)
def test_what_may_hide_a_recipient_becomes_a_code(field: bytes) -> None:
    found = redacted(Header(field + b"\r\nSubject: jo-smith\r\n"), KEY)
    assert found.startswith(field.partition(b":")[0] + b": ")
    assert found.endswith(b"\r\nSubject: jo-smith\r\n")
    assert found.count(b"jo-smith") == 1
    bare = redacted(Header(b"Delivered-To: jo-smith\r\nTo: Jo-Smith@here.example\r\n"), KEY).split()
    assert bare[3] == bare[1] + b"@here.example"


GAPS = st.sampled_from([b"", b" ", b"\r\n ", b"(x)", b" (a (jo-smith@x) \\) y) "])
WORDS = st.sampled_from([b"jo-smith", b'"jo-smith"', b'"a\\"jo-smith"', b'"jo-smith\\\\"', b'"jo-smith@x"'])


@given(
    st.lists(st.tuples(WORDS, GAPS, GAPS), min_size=1, max_size=3), GAPS, st.sampled_from(["To", "Received", "Rcpt"])
)
def test_no_form_of_a_local_part_survives(words: list[tuple[bytes, bytes, bytes]], gap: bytes, name: str) -> None:
    local_part = b".".join(before + word + after for word, before, after in words)
    field = b"%s: for <%s@%shere.example>; now\r\n" % (name.encode(), local_part, gap)
    found = redacted(Header(field + b"Subject: x\r\n"), KEY)
    assert b"jo-smith" not in found
    assert b"here.example" in found
    assert found.endswith(b"\r\nSubject: x\r\n")


@given(st.binary(max_size=300), st.sampled_from([b"To", b"Received"]))
def test_no_local_part_survives_in_any_field(octets: bytes, name: bytes) -> None:
    before = octets.replace(b"\r", b"").replace(b"\n", b" ")
    section = Header(name + b": " + before + b" jo-smith@here.example\r\n")
    assert b"jo-smith" not in redacted(section, KEY)


def test_r23_a_large_header_section_is_shortened() -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 900) for number in range(200))
    failure = failed(replace(asking("0"), header=Header(HEADER.octets + fields)))
    octets = failure.evaluation.header.octets
    assert len(octets) <= HEADER_OCTETS
    assert (HEADER.octets + fields).startswith(octets)
    assert octets.endswith(b"x\r\n")
    one = Header(b"X: " + b"x" * HEADER_OCTETS + b"\r\n")
    assert failed(replace(asking("0"), header=one)).evaluation.header.octets == b""


@given(st.text(max_size=40), st.text(max_size=2000), st.binary(max_size=2000))
def test_r43_nothing_in_a_message_adds_a_field(name: str, text: str, octets: bytes) -> None:
    hostile = DkimAnswer(DkimResult.FAIL, text, f"a{name}", text, identity=text)
    spf = replace(SPF, result=SpfResult.FAIL, reason=text, records=((name, octets),))
    evaluation = replace(asking("1"), spf=spf, dkim=(hostile,), header=Header(octets))
    evaluation = replace(evaluation, answer=replace(evaluation.answer, reason=text))
    _, fields, _ = reported(evaluation)
    assert set(fields.keys()) <= {
        "Feedback-Type", "User-Agent", "Version", "Auth-Failure", "Authentication-Results", "Identity-Alignment",
        "Reported-Domain", "Original-Mail-From", "Source-IP", "Arrival-Date", "Reporting-MTA", "Delivery-Result",
        "DKIM-Domain", "DKIM-Identity", "DKIM-Selector", "SPF-DNS",
    }  # fmt: skip
