"""Authentication-Results: what is written and read, and which fields of others are removed."""

from __future__ import annotations

import authres
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ironpost.mail_auth import (
    DkimAnswer,
    DkimResult,
    DmarcAnswer,
    DmarcPolicy,
    DmarcRecord,
    DmarcResult,
    MethodResult,
    SpfAnswer,
    SpfResult,
    of_dkim,
    of_dmarc,
    of_spf,
    results_field,
    without_forged,
)
from ironpost.mail_auth.results import VALUE_LIMIT, confirmed_domain
from ironpost.message.header import HeaderError
from ironpost.message.section import Header
from ironpost.wire import unfold

OURS = ["us.example", "Mx.Us.Example", "xn--bcher-kva.example"]


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_field_has_the_results_in_order() -> None:
    spf = SpfAnswer(SpfResult.PASS, "192.0.2.1 matches mx of a.example", "a.example", "mailfrom")
    record = DmarcRecord(policy=DmarcPolicy.REJECT)
    dmarc = DmarcAnswer(DmarcResult.FAIL, "no", "a.example", DmarcPolicy.REJECT, (), "a.example", record)
    field = results_field("us.example", [of_spf(spf), MethodResult("dkim", "none"), of_dmarc(dmarc)])
    assert unfold(field).decode() == (
        'Authentication-Results: us.example; spf=pass reason="192.0.2.1 matches mx of a.example" '
        "smtp.mailfrom=a.example; dkim=none; "
        'dmarc=fail reason="no" header.from=a.example policy.dmarc=reject\r\n'
    )
    assert all(len(line) <= 78 for line in field.split(b"\r\n"))


def test_without_results_the_field_says_none() -> None:
    assert results_field("us.example", []) == b"Authentication-Results: us.example; none\r\n"


def test_dmarc_without_a_record_has_no_policy() -> None:
    assert of_dmarc(DmarcAnswer(DmarcResult.NONE, "", "a.example")).properties == (("header.from", "a.example"),)
    assert of_dmarc(DmarcAnswer(DmarcResult.PERMERROR, "")).properties == ()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a.example", "a.example"),
        ("jo@a.example", "jo@a.example"),
        ("@a.example", "@a.example"),
        ("a b", '"a b"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("x; spf=pass", '"x; spf=pass"'),
        ("(x", '"(x"'),
        ("a@b@c", '"a@b@c"'),
        ("", '""'),
        ("x\r\nX-Evil: 1", '"x\\\\r\\\\nX-Evil: 1"'),
        ("bücher", '"b\\\\xfccher"'),
        ("x" * 1000, f'"{"x" * VALUE_LIMIT}"'),
    ],
)
def test_r43_a_value_is_quoted_unless_it_is_a_token_or_an_address(value: str, written: str) -> None:
    result = MethodResult("spf", "pass", (("smtp.mailfrom", value),))
    assert result.summary == f"spf=pass smtp.mailfrom={written}"
    assert unfold(results_field("us.example", [result])).decode().endswith(f" smtp.mailfrom={written}\r\n")


def test_a_field_has_the_name_of_its_service() -> None:
    with pytest.raises(HeaderError, match="authserv-id is empty"):
        results_field("", [])


@pytest.mark.parametrize("name", ["", "a b", "spf=pass", "a;", "ä", "-", "a\r\n"])
def test_r43_names_are_keywords(name: str) -> None:
    for result in (MethodResult(name, "pass"), MethodResult("spf", name), MethodResult("spf", "pass", ((name, "x"),))):
        with pytest.raises(HeaderError):
            results_field("us.example", [result])


@given(st.text(max_size=80), st.text(max_size=80))
@example("\U0001f600" * 500, '"' * 500)
def test_r43_any_value_is_one_field_that_authres_reads(value: str, reason: str) -> None:
    result = MethodResult("spf", "fail", (("smtp.mailfrom", value),), reason)
    field = results_field("us.example", [result, MethodResult("dmarc", "pass")])
    assert len(Header(field + b"\r\n").section.fields) == 1
    read = authres.AuthenticationResultsHeader.parse(unfold(field).decode().removesuffix("\r\n"))
    assert read.authserv_id == "us.example"
    assert [(each.method, each.result) for each in read.results] == [("spf", "fail"), ("dmarc", "pass")]


# -- removing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        " us.example; spf=pass",
        "us.example;none",
        " US.EXAMPLE 1; dkim=pass",
        " us.example.; dkim=pass",
        ' "us.example"; dkim=pass',
        ' "us\\.example"; dkim=pass',
        " (a (nested) comment) us.example (another); dkim=pass",
        "\r\n us.example\r\n ; dkim=pass",
        " mx.us.example; dkim=pass",
        " bücher.example; dkim=pass",
        " us.example 2; dkim=pass",  # versions that a reader may understand, and we do not
        " them.example 2; dkim=pass",
        " them.example dkim=pass",
        " ; dkim=pass",
        "",
        " (us.example",
        ' "us.example',
    ],
)
def test_r48_a_field_that_could_be_ours_is_removed(body: str) -> None:
    for name in ("Authentication-Results", "AUTHENTICATION-results", "Authentication-Results "):
        octets = f"A: 1\r\n{name}:{body}\r\nB: 2\r\n\r\n".encode()
        assert without_forged(Header(octets), OURS) == b"A: 1\r\nB: 2\r\n\r\n"


@pytest.mark.parametrize(
    "field",
    [
        "Authentication-Results: them.example; spf=pass",
        "Authentication-Results: not-us.example; spf=pass (us.example)",
        "Authentication-Results: sub.us.example 1; none",
        "ARC-Authentication-Results: i=1; us.example; spf=pass",
        "X-Authentication-Results: us.example; spf=pass",
    ],
)
def test_fields_of_others_are_kept(field: str) -> None:
    octets = f"{field}\r\nB: 2\r\n\r\n".encode()
    assert without_forged(Header(octets), OURS) == octets


def test_r48_all_forged_fields_are_removed() -> None:
    forged = b"Authentication-Results: us.example; spf=pass\r\n"
    kept = b"Authentication-Results: them.example; spf=pass\r\n"
    assert without_forged(Header(forged + kept + forged + forged + kept + forged), OURS) == kept + kept


@given(st.binary(max_size=60))
def test_r22_any_field_is_kept_or_removed(body: bytes) -> None:
    octets = b"Authentication-Results:" + body + b"\r\nB: 2\r\n\r\n"
    rest = without_forged(Header(octets), OURS)
    assert rest == octets or len(rest) < len(octets)


# -- reading ----------------------------------------------------------------------------------------------------------

DMARC = MethodResult("dmarc", "pass", (("header.from", "A.example"), ("policy.dmarc", "reject")))
SIGNED = [MethodResult("dkim", "pass", (("header.d", f"{name}.example"), ("header.i", "@x.example"))) for name in "bc"]
TRACE = b"Received: by us.example; Tue, 14 Nov 2023 00:00:00 +0000\r\n"


def confirmed(*results: MethodResult, above: bytes = b"", below: bytes = b"") -> str:
    return confirmed_domain(Header(above + results_field("us.example", results) + TRACE + below + b"\r\nbody"))


def test_the_author_is_confirmed_by_dmarc_else_the_signer() -> None:
    assert confirmed(*SIGNED, DMARC) == "a.example"
    assert confirmed(MethodResult("dkim", "fail", (("header.d", "x.example"),)), *SIGNED) == "b.example"
    assert confirmed(*SIGNED, DMARC._replace(result="fail"), above=b"X-Policy: y\r\n") == "b.example"
    assert confirmed(of_dkim(DkimAnswer(DkimResult.PASS, "", "x.example", testing=True)), *SIGNED) == "b.example"
    assert confirmed(of_dkim(DkimAnswer(DkimResult.PASS, "", "x.example"))) == "x.example"
    assert confirmed(MethodResult("spf", "pass", (("smtp.mailfrom", "a.example"),))) == ""
    assert confirmed() == ""


def test_r48_results_below_our_trace_field_confirm_nothing() -> None:
    assert confirmed(below=results_field("us.example", [DMARC, *SIGNED])) == ""
    assert confirmed_domain(Header(TRACE + results_field("us.example", [DMARC]))) == ""


@given(st.text(), st.text(), st.text())
@example("", "; dmarc=pass header.from=x.example", 'a"; dmarc=pass header.from=x.example')
def test_r48_no_value_confirms_a_domain(reason: str, mailfrom: str, author: str) -> None:
    spf = MethodResult("spf", "fail", (("smtp.mailfrom", mailfrom),), reason)
    dmarc = MethodResult("dmarc", "fail", (("header.from", author),), reason)
    assert confirmed(spf, dmarc) == ""
    assert confirmed(spf, dmarc, DMARC) == "a.example"
