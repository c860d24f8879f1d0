"""Where reports about DMARC go: the record, and the consent of other organizations (RFC 9990 §4)."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from ironpost.model import Address
from ironpost.model.dns import ResolverError
from ironpost.reports.destination import MAX_DESTINATIONS
from ironpost.reports.dmarc.destinations import published_destinations, willing_recipients
from ironpost.testing.resolver import StaticResolver

OTHER = Address.parse("reports@red.other.example")
TUTORIAL = Path(__file__).resolve().parents[2] / "docs/tutorial.md"
CONSENT = "a.example._report._dmarc.red.other.example"


def published(*records: str) -> list[str]:
    resolver = StaticResolver(txt={"_dmarc.a.example": [each.encode() for each in records]})
    return [str(each.address) for each in asyncio.run(published_destinations("a.example", resolver))]


def willing(to: Address = OTHER, domain: str = "a.example", **txt: list[str]) -> list[str]:
    records = {name.replace("__", "."): [each.encode() for each in found] for name, found in txt.items()}
    found = asyncio.run(willing_recipients(domain, to, StaticResolver(txt=records)))
    return [str(each) for each in found]


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([], []),
        (["v=spf1 -all"], []),
        (["v=DMARC1; p=none"], []),
        (["v=DMARC1; p=none; rua=mailto:x@a.example", "v=DMARC1; p=none"], []),
        (["v=DMARC1; p=none; rua=mailto:x@a.example,mailto:y@b.example!10m"], ["x@a.example", "y@b.example"]),
        (["v=DMARC1; p=none; rua=mailto:x@a.example, mailto:x@a.example"], ["x@a.example"]),
        (["v=DMARC1; p=none; rua=https://a.example/,mailto:,mailto:x,ftp:x,mailto:x@a.example"], ["x@a.example"]),
    ],
)
def test_only_mail_destinations_of_one_record_are_used(records: list[str], found: list[str]) -> None:
    assert published(*records) == found


def test_destinations_are_limited() -> None:
    uris = ",".join(f"mailto:x{number}@a.example" for number in range(MAX_DESTINATIONS + 2))
    assert len(published(f"v=DMARC1; p=none; rua={uris}")) == MAX_DESTINATIONS


@pytest.mark.parametrize(
    ("domain", "to"),
    [
        ("a.example", "x@a.example"),
        ("a.example", "x@A.example"),
        ("news.a.example", "x@a.example"),
        ("a.example", "x@mx.reports.a.example"),
    ],
)
def test_the_own_organization_needs_no_consent(domain: str, to: str) -> None:
    record = {"_dmarc__a__example": ["v=DMARC1; p=none"]}
    assert willing(Address.parse(to), domain, **record) == [to]


@pytest.mark.parametrize(
    ("consent", "found"),
    [
        ([], []),
        (["v=spf1 -all"], []),
        (["v=DMARC2"], []),
        (["v=DMARC1"], [str(OTHER)]),
        (["v=DMARC1;", "words"], [str(OTHER)]),
        (["v=DMARC1; rua=mailto:new@red.other.example"], ["new@red.other.example"]),
        (["v=DMARC1", "v=DMARC1; rua=mailto:new@RED.other.example"], ["new@RED.other.example"]),
        (["v=DMARC1; rua=mailto:victim@b.example"], []),
        (["v=DMARC1; rua=mailto:new@red.other.example,mailto:victim@b.example"], []),
        (["v=DMARC1; rua=https://red.other.example/"], []),
    ],
)
def test_another_organization_must_consent(consent: list[str], found: list[str]) -> None:
    assert willing(**{CONSENT.replace(".", "__"): consent}) == found


def test_domains_below_a_public_suffix_are_different_organizations() -> None:
    record = {"_dmarc__example": ["v=DMARC1; p=none; psd=y"]}
    assert willing(Address.parse("x@other.example"), "a.example", **record) == []


def test_a_name_that_is_too_long_does_not_consent() -> None:
    long = ".".join(["x" * 60] * 3) + ".example"
    assert willing(Address.parse(f"x@{long}"), "y" * 60 + ".a.example") == []


def test_address_literals_do_not_consent() -> None:
    assert willing(Address.parse("x@[192.0.2.1]")) == []


@pytest.mark.parametrize("failing", ["_dmarc.a.example", "_dmarc.red.other.example", CONSENT])
def test_r27_a_failed_query_decides_nothing(failing: str) -> None:
    with pytest.raises(ResolverError):
        asyncio.run(willing_recipients("a.example", OTHER, StaticResolver(failing=[failing])))


def test_the_addresses_in_the_records_of_the_tutorial_are_authorised() -> None:
    rows = re.findall(r"^\| (.*?) \| TXT \| `(v=DMARC1[^`]*)` \|", TUTORIAL.read_text(), re.M)
    txt = {name: [record.encode()] for names, record in rows for name in re.findall(r"`(.*?)`", names)}
    resolver = StaticResolver(txt=txt)
    assert sorted(txt) == ["_dmarc.mail.example", "_dmarc.shop.example"]
    for domain in ("mail.example", "shop.example"):
        (found,) = asyncio.run(published_destinations(domain, resolver))
        assert found.address is not None
        assert asyncio.run(willing_recipients(domain, found.address, resolver)) == (found.address,)
