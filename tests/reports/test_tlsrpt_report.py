"""Reports about TLS: the example of RFC 8460 appendix B, a round trip, the message, and hostile reports."""

from __future__ import annotations

import base64
import gzip
import json
import tracemalloc
import zlib
from contextlib import suppress
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ironpost.message.header import HeaderError
from ironpost.model import Address
from ironpost.reports.daily import DAY
from ironpost.reports.received import MAX_LEVELS, ReportError, decompressed
from ironpost.reports.tlsrpt import mail
from ironpost.reports.tlsrpt.report import (
    MAX_COUNT,
    MAX_DEPTH,
    MAX_OCTETS,
    MAX_VALUES,
    Failure,
    Policy,
    PolicyResult,
    Report,
    compressed,
    decoded,
    encoded,
    filename,
)

APPENDIX_B: dict[str, Any] = {
    "organization-name": "Company-X",
    "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
    "contact-info": "sts-reporting@company-x.example",
    "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
    "policies": [
        {
            "policy": {
                "policy-type": "sts",
                "policy-string": ["version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"],
                "policy-domain": "company-y.example",
                "mx-host": "*.mail.company-y.example",
            },
            "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
            "failure-details": [
                {
                    "result-type": "certificate-expired",
                    "sending-mta-ip": "2001:db8:abcd:0012::1",
                    "receiving-mx-hostname": "mx1.mail.company-y.example",
                    "failed-session-count": 100,
                },
                {
                    "result-type": "starttls-not-supported",
                    "sending-mta-ip": "2001:db8:abcd:0013::1",
                    "receiving-mx-hostname": "mx2.mail.company-y.example",
                    "receiving-ip": "203.0.113.56",
                    "failed-session-count": 200,
                    "additional-information": "https://reports.company-x.example/report_info?id=5065427c-23d3",
                },
                {
                    "result-type": "validation-failure",
                    "sending-mta-ip": "198.51.100.62",
                    "receiving-ip": "203.0.113.58",
                    "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                    "failed-session-count": 3,
                    "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                },
            ],
        }
    ],
}
START = 1_459_468_800
EXAMPLE = Report(
    "Company-X",
    "sts-reporting@company-x.example",
    "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
    START,
    START + DAY - 1,
    (
        PolicyResult(
            Policy(
                "sts",
                "company-y.example",
                ("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
                ("*.mail.company-y.example",),
            ),
            5326,
            303,
            (
                (Failure("certificate-expired", "2001:db8:abcd:0012::1", "mx1.mail.company-y.example"), 100),
                (
                    Failure(
                        "starttls-not-supported",
                        "2001:db8:abcd:0013::1",
                        "mx2.mail.company-y.example",
                        "203.0.113.56",
                        information="https://reports.company-x.example/report_info?id=5065427c-23d3",
                    ),
                    200,
                ),
                (
                    Failure(
                        "validation-failure",
                        "198.51.100.62",
                        "mx-backup.mail.company-y.example",
                        "203.0.113.58",
                        reason="X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED",
                    ),
                    3,
                ),
            ),
        ),
    ),
)


def test_the_example_of_the_rfc_is_read() -> None:
    assert decoded(json.dumps(APPENDIX_B).encode()) == EXAMPLE


def test_the_example_of_the_rfc_is_written() -> None:
    expected = json.loads(json.dumps(APPENDIX_B))
    (only,) = expected["policies"]
    only["policy"]["mx-host"] = [only["policy"]["mx-host"]]  # RFC 8460 §4.4: an array, unlike the example
    assert json.loads(encoded(EXAMPLE)) == expected


def test_what_is_empty_is_left_out() -> None:
    report = EXAMPLE._replace(policies=(PolicyResult(Policy("no-policy-found", "a.example"), 1, 0),))
    (found,) = json.loads(encoded(report))["policies"]
    assert found == {
        "policy": {"policy-type": "no-policy-found", "policy-string": [], "policy-domain": "a.example"},
        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
    }


text = st.text(max_size=20)
counts = st.integers(0, MAX_COUNT)
failures = st.builds(Failure, st.text(min_size=1, max_size=20), text, text, text, text, text, text)
results = st.builds(
    PolicyResult,
    st.builds(Policy, text, text, st.lists(text, max_size=3).map(tuple), st.lists(text, max_size=3).map(tuple)),
    counts,
    counts,
    st.lists(st.tuples(failures, counts), max_size=3).map(tuple),
)
moments = st.integers(0, 4_000_000_000)
reports = st.builds(Report, text, text, text, moments, moments, st.lists(results, max_size=3).map(tuple))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reports)
def test_a_report_is_read_as_it_was_written(report: Report) -> None:
    assert decoded(encoded(report)) == report
    assert decompressed(compressed(report), MAX_OCTETS) == encoded(report)


def test_equal_reports_are_equal_octets() -> None:
    assert compressed(EXAMPLE) == compressed(EXAMPLE)


def test_the_name_of_the_file() -> None:
    assert filename(EXAMPLE, "company-y.example") == (
        "company-x.example!company-y.example!1459468800!1459555199.json.gz"
    )


# -- the message ------------------------------------------------------------------------------------------------------


def read(octets: bytes) -> EmailMessage:
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def test_the_message() -> None:
    report = EXAMPLE._replace(id="16892.company-y.example@company-x.example")
    content = mail.message(
        report, "company-y.example", Address.parse("tls@company-y.example"), now=START + DAY, token="T0KEN"
    )
    assert content.isascii()
    assert max(map(len, content.split(b"\r\n"))) <= 998
    message = read(content)
    assert message["Subject"] == (
        "Report Domain: company-y.example Submitter: company-x.example "
        "Report-ID: <16892.company-y.example@company-x.example>"
    )
    assert message["From"] == "sts-reporting@company-x.example"
    assert message["To"] == "tls@company-y.example"
    assert message["TLS-Report-Domain"] == "company-y.example"
    assert message["TLS-Report-Submitter"] == "company-x.example"
    assert message["TLS-Required"] == "No"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "tlsrpt"
    words, attached = message.iter_parts()
    assert isinstance(words, EmailMessage)
    assert isinstance(attached, EmailMessage)
    assert words.get_content_type() == "text/plain"
    assert "sts: 5326 sessions succeeded, 303 failed." in words.get_content()
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert attached["Content-Transfer-Encoding"] == "base64"
    assert attached.get_filename() == "company-x.example!company-y.example!1459468800!1459555199.json.gz"
    assert decoded(decompressed(attached.get_payload(decode=True), MAX_OCTETS)) == report


def test_r43_nothing_in_a_report_adds_a_field_or_a_part() -> None:
    hostile = "x\r\nBcc: y@a.example\r\n\r\n--tlsrpt-T0KEN\r\n"
    (result,) = EXAMPLE.policies
    policies = (result._replace(policy=Policy(hostile, hostile, (hostile,), (hostile,))),)
    to = Address.parse("tls@company-y.example")
    message = read(mail.message(EXAMPLE._replace(policies=policies), "a.example", to, now=START, token="T0KEN"))
    assert message["Bcc"] is None
    assert len(list(message.iter_parts())) == 2
    with pytest.raises(HeaderError):
        mail.message(EXAMPLE, hostile, to, now=START, token="T0KEN")
    with pytest.raises(HeaderError):
        mail.message(EXAMPLE._replace(id=hostile), "a.example", to, now=START, token="T0KEN")


def test_a_recipient_that_needs_smtputf8() -> None:
    to = Address.parse("jö@company-y.example")
    content = mail.message(EXAMPLE, "company-y.example", to, now=START, token="T0KEN")
    assert "To: <jö@company-y.example>\r\n".encode() in content


# -- received messages ------------------------------------------------------------------------------------------------


WRITTEN = mail.message(EXAMPLE, "company-y.example", Address.parse("tls@company-y.example"), now=START, token="T0KEN")


def attached(media_type: str, encoding: str, content: bytes, boundary: str = "b") -> bytes:
    """A message with a text and a file."""
    return (
        f'Content-Type: multipart/report; report-type="tlsrpt"; boundary={boundary}\r\n\r\npreamble\r\n'
        f"--b\r\nContent-Type: text/plain\r\n\r\nwords\r\n--b \r\nContent-Type: {media_type}\r\n"
        f"Content-Transfer-Encoding: {encoding}\r\n\r\n"
    ).encode() + content + b"\r\n--b--\r\nepilogue\r\n"  # fmt: skip


JSON = encoded(EXAMPLE)


@pytest.mark.parametrize(
    "octets",
    [
        JSON,
        b"\r\n " + JSON,
        compressed(EXAMPLE),
        WRITTEN,
        WRITTEN.replace(b"\r\n", b"\n"),
        b"Received: by mx\r\n" + WRITTEN,
        attached("application/tlsrpt+json", "7bit", JSON),
        attached("Application/TLSRPT+json; charset=utf-8", "8BIT", JSON, '"b"'),
        attached("application/tlsrpt+json", "quoted-printable", JSON.replace(b"=", b"=3D")),
        attached("application/tlsrpt+gzip", "base64", base64.encodebytes(compressed(EXAMPLE))),
        b"Content-Type: multipart/mixed; boundary=out\r\n\r\n--out\r\n"
        + attached("application/tlsrpt+json", "7bit", JSON)
        + b"\r\n--out--\r\n",
        b"Content-Type: application/tlsrpt+json\r\n\r\n" + JSON,
    ],
)
def test_a_report_is_found_in_a_file_or_a_message(octets: bytes) -> None:
    assert decoded(mail.extracted(octets)) == EXAMPLE


def nested(levels: int) -> bytes:
    message = b"Content-Type: application/tlsrpt+json\r\n\r\n" + JSON
    for level in range(levels):
        head = f"Content-Type: multipart/mixed; boundary=b{level}x\r\n\r\n--b{level}x\r\n"
        message = head.encode() + message + f"\r\n--b{level}x--\r\n".encode()
    return message


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"", "neither a report"),
        (b"Subject: hello\r\n\r\nwords\r\n", "neither a report"),
        (b"\xff\xfe\x00", "neither a report"),
        (b"Content-Type: multipart/report\r\n\r\n--b\r\n\r\n", "neither a report"),
        (attached("application/gzip", "base64", b"H4s="), "neither a report"),
        (attached("application/tlsrpt+json", "uuencode", JSON), "unknown transfer encoding 'uuencode'$"),
        (attached("application/tlsrpt+json", "X" * 900 + "\x1b", JSON), f"unknown transfer encoding '{'x' * 40}'$"),
        (attached("application/tlsrpt+gzip", "base64", b"A"), "invalid base64"),
        (attached("application/tlsrpt+gzip", "base64", b"AAAA"), "invalid gzip"),
        (nested(MAX_LEVELS + 1), "neither a report"),
        (nested(300), "neither a report"),
        (b"Content-Type: multipart/report; boundary=b\r\n\r\n" + b"--b\r\n" * 500_000, "neither a report"),
    ],
)
def test_r23_other_messages_are_refused(octets: bytes, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        mail.extracted(octets)


def test_r23_a_message_is_not_copied_often() -> None:
    message = b"Subject: hello" + b"\r\n" * 1_000_000
    tracemalloc.start()
    with pytest.raises(ReportError, match="neither a report"):
        mail.extracted(message)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * len(message)


def test_a_report_at_the_deepest_level_is_found() -> None:
    assert decoded(mail.extracted(nested(MAX_LEVELS))) == EXAMPLE


# -- hostile reports --------------------------------------------------------------------------------------------------


def changed(path: str, value: Any) -> bytes:
    """The example with another value at a path, or without it if the value is `...`."""
    report = json.loads(json.dumps(APPENDIX_B))
    *above, last = path.split("/")
    inner = report
    for name in above:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(report).encode()


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("organization-name", ..., "organization-name is not a string"),
        ("organization-name", None, "organization-name is not a string"),
        ("organization-name", ["Company-X"], "organization-name is not a string"),
        ("contact-info", {}, "contact-info"),
        ("report-id", 7, "report-id"),
        ("date-range", "2016", "date-range is not an object"),
        ("date-range/start-datetime", "yesterday", "start-datetime is not a date and time"),
        ("date-range/start-datetime", "2016-04-01T00:00:00", "start-datetime is not a time since 1970"),
        ("date-range/start-datetime", "0001-01-01T00:00:00+23:00", "start-datetime is not a time since 1970"),
        ("date-range/end-datetime", "9999-12-31T23:59:59-23:00", "end-datetime is not a time since 1970"),
        ("date-range/end-datetime", 5, "end-datetime"),
        ("policies", ..., "policies is not an array"),
        ("policies", {"0": 1}, "policies is not an array"),
        ("policies", ["x"], "a policy is not an object"),
        ("policies/0/policy", ..., "policy is not an object"),
        ("policies/0/policy/policy-type", 1, "policy-type"),
        ("policies/0/policy/policy-string", [1], "policy-string is not an array of strings"),
        ("policies/0/policy/mx-host", {"a": "b"}, "mx-host"),
        ("policies/0/summary", [], "summary is not an object"),
        ("policies/0/summary/total-successful-session-count", "1", "total-successful"),
        ("policies/0/summary/total-successful-session-count", True, "total-successful"),
        ("policies/0/summary/total-failure-session-count", -1, "total-failure"),
        ("policies/0/summary/total-failure-session-count", 1.5, "total-failure"),
        ("policies/0/summary/total-failure-session-count", MAX_COUNT + 1, "total-failure"),
        ("policies/0/failure-details", "x", "failure-details is not an array"),
        ("policies/0/failure-details/0/result-type", ..., "result-type"),
        ("policies/0/failure-details/0/failed-session-count", ..., "failed-session-count"),
        ("policies/0/failure-details/0/receiving-ip", [], "receiving-ip"),
    ],
)
def test_r23_values_of_another_type_are_refused(path: str, value: object, why: str) -> None:
    with pytest.raises(ReportError, match=why):
        decoded(changed(path, value))


def test_unknown_members_and_types_are_accepted() -> None:
    assert decoded(changed("new", [1, {}])) == EXAMPLE
    found = decoded(changed("policies/0/failure-details/0/result-type", "new-failure"))
    assert found.policies[0].details[0][0].type == "new-failure"
    assert decoded(changed("policies/0/failure-details", ...)).policies[0].details == ()


@pytest.mark.parametrize(
    "octets",
    [b"", b"[]", b"null", b"{", b'{"a":}', b"\xff\xfe", b'"\\', b'{"a":"' + b"\\" * 99, b"{" * 1000, b"1" * 5000],
)
def test_r23_what_is_not_a_report_is_refused(octets: bytes) -> None:
    with pytest.raises(ReportError):
        decoded(octets)


def test_r23_depth_is_limited() -> None:
    def nested(levels: int) -> bytes:
        return changed("new", json.loads("[" * levels + "]" * levels))

    assert decoded(nested(MAX_DEPTH - 1)) == EXAMPLE
    for octets in (nested(MAX_DEPTH), b"[" * 1_000_000 + b"]" * 1_000_000, b'{"a":' * 200_000):
        with pytest.raises(ReportError, match=r"levels deep|too many"):
            decoded(octets)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_r23_other_encodings_are_refused_because_the_limits_are_those_of_octets(encoding: str) -> None:
    text = '["\u0122"' + ",[" * 5000 + "]" * 5000 + "]"
    with pytest.raises(ReportError):
        decoded(text.encode(encoding))


def test_r23_brackets_in_strings_do_not_count() -> None:
    assert decoded(changed("new", '[{"\\' * 100)) == EXAMPLE


@pytest.mark.parametrize("piece", [b"[],", b"1,", b"{},", b'"",'])
def test_r23_the_number_of_values_is_limited(piece: bytes) -> None:
    octets = b"[" + piece * ((MAX_OCTETS - 3) // len(piece)) + b"1]"
    with pytest.raises(ReportError, match="too many"):
        decoded(octets)


def test_r23_many_quotes_are_scanned_in_linear_time() -> None:
    with pytest.raises(ReportError):
        decoded(b'"' + b'\\"' * (MAX_OCTETS // 2 - 1))


def test_r23_size_is_limited() -> None:
    with pytest.raises(ReportError, match="octets"):
        decoded(b" " * (MAX_OCTETS + 1))
    assert MAX_VALUES * 64 < 2 * MAX_OCTETS, "the smallest object has 64 octets"


def test_r23_decompression_is_limited_by_ratio_and_size() -> None:
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(ReportError, match=f"more than {100 * len(bomb)} octets"):
        decompressed(bomb, MAX_OCTETS)
    incompressible = bytes(range(256)) * 1000
    large = zlib.compressobj(0, wbits=zlib.MAX_WBITS | 16)
    stored = b"".join(large.compress(incompressible) for _ in range(100)) + large.flush()
    with pytest.raises(ReportError, match=f"more than {MAX_OCTETS} octets"):
        decompressed(stored, MAX_OCTETS)


def test_what_is_not_one_gzip_member_is_refused() -> None:
    whole = compressed(EXAMPLE)
    for octets, why in (
        (b"", "incomplete"),
        (b"{}", "gzip"),
        (whole[:-1], "incomplete"),
        (whole + b"x", "after its end"),
        (whole + whole, "after its end"),
        (whole[:-8] + b"\0" * 8, "gzip"),
    ):
        with pytest.raises(ReportError, match=why):
            decompressed(octets, MAX_OCTETS)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    for read_it in (partial(decompressed, max_octets=MAX_OCTETS), decoded):
        with suppress(ReportError):
            read_it(octets)
