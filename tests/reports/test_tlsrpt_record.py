"""The record `_smtp._tls.DOMAIN` (RFC 8460 §3 and appendix A)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.model import Address
from ironpost.reports.destination import MAX_DESTINATIONS, MAX_URI, Destination, destination
from ironpost.reports.tlsrpt.record import RecordError, name_of, parse, select

MAIL = Destination("mailto:reports@a.example", Address.parse("reports@a.example"))
HTTPS = Destination("https://reporting.example/v1/tlsrpt", None)


def test_the_name_of_the_record() -> None:
    assert name_of("a.example") == "_smtp._tls.a.example"


@pytest.mark.parametrize(
    ("record", "destinations"),
    [
        (b"v=TLSRPTv1;rua=mailto:reports@a.example", [MAIL]),
        (b"v=TLSRPTv1; rua=https://reporting.example/v1/tlsrpt", [HTTPS]),
        (b"v=TLSRPTv1;rua=mailto:reports@a.example,https://reporting.example/v1/tlsrpt;", [MAIL, HTTPS]),
        (b"v=TLSRPTv1; \trua=mailto:reports@a.example \t, https://reporting.example/v1/tlsrpt ; ", [MAIL, HTTPS]),
        (b"v=TLSRPTv1;rua=mailto:reports@a.example,mailto:reports@a.example", [MAIL]),
        (b"v=TLSRPTv1;x-new.2_a=any:thing;rua=mailto:reports@a.example;RUA=other", [MAIL]),
    ],
)
def test_a_valid_record(record: bytes, destinations: list[Destination]) -> None:
    found = parse(record)
    assert list(found.destinations) == destinations
    assert found.text == record.decode()
    assert found.unusable == ()


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (b"v=TLSRPTv2;rua=mailto:r@a.example", "starts with"),
        (b"v=tlsrptv1;rua=mailto:r@a.example", "starts with"),
        (b" v=TLSRPTv1;rua=mailto:r@a.example", "starts with"),
        (b"v=TLSRPTv1", "starts with"),
        (b"v=TLSRPTv1;", "field 1"),
        (b"v=TLSRPTv1;;rua=mailto:r@a.example", "field 1"),
        (b"v=TLSRPTv1;rua=mailto:r@a.example;;", "field 2"),
        (b"v=TLSRPTv1;rua", "field 1"),
        (b"v=TLSRPTv1;rua=", "field 1"),
        (b"v=TLSRPTv1;rua =mailto:r@a.example", "field 1"),
        (b"v=TLSRPTv1;-x=1;rua=mailto:r@a.example", "field 1"),
        (b"v=TLSRPTv1;x=1 2;rua=mailto:r@a.example", "field 1"),
        (b"v=TLSRPTv1;" + b"x" * 33 + b"=1;rua=mailto:r@a.example", "field 1"),
        (b"v=TLSRPTv1;x=1", "no rua"),
        (b"v=TLSRPTv1;rua=mailto:r@a.example;rua=mailto:s@a.example", "more than one rua"),
        (b"v=TLSRPTv1;rua=mailto:r@\xc3\xa4.example", "not ASCII"),
        (b"v=TLSRPTv1;rua=mailto:r@a.example\x00", "field 1"),
    ],
)
def test_an_invalid_record(record: bytes, why: str) -> None:
    with pytest.raises(RecordError, match=why):
        parse(record)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("", "empty"),
        ("mailto:r@a.example!10m", "not a URI"),
        ("mailto:a@b.example%2Cc@d.example", "more than one address"),
        ("mailto:", "no address"),
        ("mailto:postmaster", "no address"),
        ("mailto:a@b@c", "."),
        ("mailto:%ff@a.example", "."),
        ("mailto:r%0d%0aBcc:x@a.example", "."),
        ("http://reporting.example/", "neither"),
        ("ftp:x", "neither"),
        ("https:///path", "no valid host name"),
        ("https://[::1/", "no valid host name"),
        ("https://user:pw@x.example/", "user name"),
        ("https://x.example:99999/", "."),
        ("https://x.example:0/", "port"),
        ("https://127.1/", "its host is not an address in canonical form$"),
        ("https://-x%20.example/", "no valid host name"),
        ("https://a.example/" + "x" * MAX_URI, "longer"),
    ],
)
def test_a_uri_that_cannot_be_used(uri: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        destination(uri)


def test_header_fields_of_a_mailto_uri_are_ignored_and_its_address_is_decoded() -> None:
    assert destination("mailto:r%2Bx@a.example?subject=hello").address == Address.parse("r+x@a.example")
    assert destination("MAILTO:r@a.example").address == Address.parse("r@a.example")


def test_a_uri_that_cannot_be_used_leaves_the_others() -> None:
    found = parse(b"v=TLSRPTv1;rua=ftp:x,mailto:reports@a.example")
    assert found.destinations == (MAIL,)
    assert [each.uri for each in found.unusable] == ["ftp:x"]
    assert parse(b"v=TLSRPTv1;rua=ftp:x").destinations == ()


def test_the_number_of_destinations_is_limited() -> None:
    uris = ",".join(f"mailto:r{number}@a.example" for number in range(MAX_DESTINATIONS + 2))
    found = parse(f"v=TLSRPTv1;rua={uris}".encode())
    assert len(found.destinations) == MAX_DESTINATIONS
    assert len(found.unusable) == 2


def test_exactly_one_record_counts() -> None:
    one = b"v=TLSRPTv1;rua=mailto:reports@a.example"
    assert select([b"v=spf1 -all", one, b"v=TLSRPTv1 ;rua=x"]).destinations == (MAIL,)
    for records in ([], [b"v=spf1 -all"], [one, one]):
        with pytest.raises(RecordError):
            select(records)


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_octets_are_parsed_or_refused(octets: bytes) -> None:
    with suppress(RecordError):
        parse(b"v=TLSRPTv1;" + octets)


@settings(deadline=None)
@given(st.text(alphabet="mailto:hps/%@.,?!x0d\x00ä[]", max_size=40))
def test_any_uri_is_parsed_or_refused(uri: str) -> None:
    with suppress(ValueError):
        destination(uri)
