"""DMARC: records, the tree walk, alignment and policies."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironpost.mail_auth import (
    Authenticated,
    DmarcAnswer,
    DmarcPolicy,
    DmarcResult,
    Records,
    RecordType,
    SpfAnswer,
    SpfResult,
    evaluate_dmarc,
)
from ironpost.mail_auth.dmarc import TreeWalker, author_domain
from ironpost.mail_auth.dmarc_record import PROBLEM_LIMIT, RECORD_LIMIT, URI_LIMIT, Psd, parse_record, select_record
from ironpost.message.section import Header
from ironpost.testing.resolver import StaticResolver

REJECT = "v=DMARC1; p=reject"


class Zones(StaticResolver):
    """Publishes DMARC records, and notes the names that are looked up."""

    def __init__(self, records: dict[str, str], **tables: Any) -> None:
        txt = {f"_dmarc.{domain}": [text.encode()] for domain, text in records.items()}
        super().__init__(txt=txt, **tables)
        self.asked: list[str] = []

    async def resolve(self, name: str, kind: RecordType, /) -> Records[Any]:
        self.asked.append(name)
        return await super().resolve(name, kind)


@dataclass
class Signed:
    domain: str
    result: str = "pass"
    testing: bool = False


def evaluate(resolver: Any, author: str, *, spf: str = "", dkim: tuple[str, ...] = (), field: str = "") -> DmarcAnswer:
    """Evaluate a message of jo@AUTHOR for which SPF passed for one domain, and DKIM for others."""
    message = f"From: {field or f'Jo <jo@{author}>'}\r\nSubject: hi\r\n\r\nhello\r\n".encode()
    checked = SpfAnswer(SpfResult.PASS, "", spf, "mailfrom") if spf else None
    signatures = [Signed(domain) for domain in dkim]
    return asyncio.run(evaluate_dmarc(message, spf=checked, dkim=signatures, resolver=resolver))


def organization(resolver: Zones, domain: str) -> str:
    return asyncio.run(TreeWalker(resolver).organization(domain))


# -- records ----------------------------------------------------------------------------------------------------------


def test_a_record_has_policies_modes_and_addresses() -> None:
    record = parse_record(
        b"v=DMARC1; p=Reject; sp=quarantine;np=none ; adkim=s; aspf=r; t=y; psd=n; fo=1:d:s; x=y; "
        b"rua=mailto:a@x.example!10m, mailto:b@x.example; ruf=mailto:c@x.example;"
    )
    assert (record.policy, record.subdomains, record.nonexistent) == ("reject", "quarantine", "none")
    assert (record.strict_dkim, record.strict_spf, record.testing, record.psd) == (True, False, True, Psd.NO)
    assert record.aggregate == ("mailto:a@x.example", "mailto:b@x.example")
    assert record.failure == ("mailto:c@x.example",)
    assert record.failure_options == {"1", "d", "s"}
    assert record.applies


@pytest.mark.parametrize(
    ("text", "policies"),
    [
        ("p=reject", ("reject", "reject", "reject")),
        ("p=reject; sp=quarantine", ("reject", "quarantine", "quarantine")),
        ("p=reject; np=none", ("reject", "reject", "none")),
        ("p=none; sp=none; np=reject", ("none", "none", "reject")),
        ("p=reject; p=none", ("reject", "reject", "reject")),
    ],
)
def test_policies_of_subdomains_default_to_the_next_wider_one(text: str, policies: tuple[str, str, str]) -> None:
    record = parse_record(f"v=DMARC1; {text}".encode())
    assert (record.policy, record.subdomains, record.nonexistent) == policies


@pytest.mark.parametrize("policy", ["", "p=deny; ", "p=reject; sp=deny; ", "p=reject; np=x; "])
def test_a_record_without_a_valid_policy_counts_only_if_reports_are_wanted(policy: str) -> None:
    record = parse_record(f"v=DMARC1; {policy}rua=mailto:a@x.example".encode())
    assert (record.policy, record.subdomains, record.nonexistent) == ("none", "none", "none")
    assert record.applies
    assert not parse_record(f"v=DMARC1; {policy}rua=nonsense".encode()).applies


@pytest.mark.parametrize(
    "record", [b"", b"v=DMARC1x; p=none", b"v=dmarc1; p=none", b"p=none; v=DMARC1", b" v=DMARC1", b"v=spf1 -all"]
)
def test_what_does_not_start_with_the_version_is_not_a_record(record: bytes) -> None:
    assert select_record([record]) is None


def test_of_several_records_none_counts() -> None:
    assert select_record([b"v=DMARC1; p=none", b"v=DMARC1; p=reject"]) is None
    assert select_record([b"v=spf1 -all", b"v=DMARC1; p=reject"]) is not None


@pytest.mark.parametrize("options", ["", "0:1", "x", "d:d", "0:1:d:s", ":"])
def test_failure_options_that_are_invalid_count_as_0(options: str) -> None:
    assert parse_record(f"v=DMARC1; p=none; fo={options}".encode()).failure_options == {"0"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the tag p is missing"),
        ("p=deny", "invalid value of the tag p: 'deny'"),
        ("p=none; sp=x", "invalid value of the tag sp: 'x'"),
        ("p=none; adkim=strict", "invalid value of the tag adkim: 'strict'"),
        ("p=none; t=yes", "invalid value of the tag t: 'yes'"),
        ("p=none; psd=x", "invalid value of the tag psd: 'x'"),
        ("p=none; fo=0:1; ruf=mailto:a@x.example", "invalid value of the tag fo: '0:1'"),
        ("p=none; rua=a@x.example, b@x.example", "invalid value of the tag rua: 'a@x.example, b@x.example'"),
        ("p=none; p=reject", "the tag p occurs more than once; the first one counts"),
        ("p=none; oops", "invalid tag 'oops'"),
        ("p=none\0", "invalid tag 'p=none\\x00'"),
    ],
)
def test_a_record_names_its_problems(text: str, problem: str) -> None:
    assert problem in parse_record(f"v=DMARC1; {text}".encode()).problems


def test_r23_a_part_of_a_long_record_is_read_and_few_problems_are_kept() -> None:
    version, rua = b"v=DMARC1; p=reject", b";rua=mailto:a@x.example"
    for size, aggregate in ((RECORD_LIMIT, ("mailto:a@x.example",)), (RECORD_LIMIT + 1, ())):
        record = parse_record(version + (b";!" * size)[: size - len(version + rua)] + rua)
        assert (record.policy, record.aggregate) == ("reject", aggregate)
        problems = list(record.problems)
        if not aggregate:
            assert problems.pop(0) == "the record has 8193 octets; at most 8192 are read"
        assert problems == ["invalid tag '!'"] * PROBLEM_LIMIT
    assert "the tag p is missing" in parse_record(b"v=DMARC1" + b" " * RECORD_LIMIT + b"; p=reject").problems


@pytest.mark.parametrize("text", ["p=none", "p=none;", "p=none; x=1; rua=mailto:a@x.example!10m,https://x.example/a"])
def test_a_record_without_problems(text: str) -> None:
    assert parse_record(f"v=DMARC1; {text}".encode()).problems == ()


@given(st.one_of(st.binary(max_size=80), st.text("vpsrnadkimfout=;:, !DMARC1-@.\t\0", max_size=80).map(str.encode)))
def test_r22_any_octets_after_the_version_are_a_record(octets: bytes) -> None:
    record = parse_record(b"v=DMARC1;" + octets)
    assert record.text.isascii()
    assert record.policy in set(DmarcPolicy)


def test_r23_white_space_is_read_in_linear_time() -> None:
    assert parse_record(b"v=DMARC1; p=" + b" " * 8_000 + b"\x01").problems == (
        "invalid tag 'p=" + " " * 78 + "'",
        "the tag p is missing",
    )


def test_r23_only_some_addresses_of_a_list_are_read() -> None:
    record = parse_record(b"v=DMARC1; p=none; rua=" + b",".join([b"mailto:a@x.example"] * 400))
    assert len(record.aggregate) == URI_LIMIT


# -- tree walk --------------------------------------------------------------------------------------------------------


def test_r52_a_walk_looks_up_at_most_eight_names() -> None:
    resolver = Zones({})
    evaluate(resolver, "a.b.c.d.e.f.g.h.i.j.mail.example.com")
    assert resolver.asked == [  # RFC 9989 §4.10
        "_dmarc.a.b.c.d.e.f.g.h.i.j.mail.example.com",
        "_dmarc.g.h.i.j.mail.example.com",
        "_dmarc.h.i.j.mail.example.com",
        "_dmarc.i.j.mail.example.com",
        "_dmarc.j.mail.example.com",
        "_dmarc.mail.example.com",
        "_dmarc.example.com",
        "_dmarc.com",
    ]


def test_r52_a_name_of_eight_labels_is_not_skipped_over() -> None:
    resolver = Zones({})
    evaluate(resolver, "a.b.c.d.e.f.g.example")
    assert resolver.asked[:3] == [
        "_dmarc.a.b.c.d.e.f.g.example",
        "_dmarc.b.c.d.e.f.g.example",
        "_dmarc.c.d.e.f.g.example",
    ]
    assert len(resolver.asked) == 8


@pytest.mark.parametrize(
    ("records", "found"),
    [  # RFC 9989 §4.10.2
        ({"mail.example.com": REJECT, "example.com": REJECT}, "example.com"),
        ({"mail.example.com": f"{REJECT}; psd=n", "example.com": REJECT}, "mail.example.com"),
        ({"com": f"{REJECT}; psd=y"}, "example.com"),
        ({"example.com": f"{REJECT}; psd=y"}, "mail.example.com"),
        ({"a.mail.example.com": f"{REJECT}; psd=y"}, "a.mail.example.com"),
        ({}, "a.mail.example.com"),
        ({"com": REJECT}, "example.com"),  # not of the RFC: see the module
    ],
)
def test_the_organizational_domain_follows_from_the_records(records: dict[str, str], found: str) -> None:
    assert organization(Zones(records), "a.mail.example.com") == found


def literally(domain: str, psd: dict[str, str]) -> str:
    """The organizational domain, step by step as RFC 9989 §4.10 and §4.10.2 have it.

    Args:
        domain: where the walk starts.
        psd: the domains that have a record, with its tag `psd`.
    """
    found = []
    target = domain
    while target:
        if target in psd:
            found.append(target)
            if psd[target] in {"y", "n"}:
                break
        labels = target.split(".")
        target = ".".join(labels[-7:]) if target == domain and len(labels) >= 8 else ".".join(labels[1:])
    for name in found:
        if psd[name] == "n":
            return name
        if psd[name] == "y" and name != domain:
            count = len(name.split(".")) + 1
            return ".".join(domain.split(".")[-count:])
    return min(found, key=lambda name: len(name.split("."))) if found else domain


LABELS = st.lists(st.sampled_from("ab"), min_size=1, max_size=11)


@given(LABELS, st.dictionaries(st.integers(1, 11), st.sampled_from("ynu"), max_size=4))
def test_r52_the_walk_agrees_with_the_steps_of_the_rfc(labels: list[str], published: dict[int, str]) -> None:
    psd = {".".join([*labels, "example"][-count - 1 :]): value for count, value in published.items()}
    zones = Zones({name: f"{REJECT}; psd={value}" for name, value in psd.items()})
    domain = ".".join([*labels, "example"])
    assert organization(zones, domain) == literally(domain, psd)
    assert len(zones.asked) <= 8


def test_the_simple_example_of_the_rfc() -> None:
    resolver = Zones({"example.com": REJECT, "signing.example.com": REJECT})
    answer = evaluate(resolver, "example.com", spf="example.com", dkim=("signing.example.com",))
    assert answer.alignment == (Authenticated("spf", "example.com"), Authenticated("dkim", "signing.example.com"))
    assert (answer.result, answer.policy_domain) == (DmarcResult.PASS, "example.com")


def test_the_deep_example_of_the_rfc() -> None:
    author = "a.b.c.d.e.f.g.h.i.j.k.example.com"
    resolver = Zones({"example.com": REJECT, "signing.example.com": REJECT})
    assert len(evaluate(resolver, author, spf="example.com", dkim=("signing.example.com",)).alignment) == 2
    failed = evaluate(resolver, author)
    assert (failed.result, failed.policy_domain) == (DmarcResult.FAIL, "example.com")


def test_the_example_of_the_rfc_with_a_public_suffix_domain() -> None:
    records = {"bank.example": f"{REJECT}; psd=y", "giant.bank.example": "v=DMARC1; p=quarantine"}
    answer = evaluate(
        Zones(records), "giant.bank.example", spf="mail.giant.bank.example", dkim=("mail.mega.bank.example",)
    )
    assert answer.alignment == (Authenticated("spf", "mail.giant.bank.example"),)
    assert answer.policy_domain == "giant.bank.example"


# -- alignment --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modes", "domain", "passes"),
    [
        ("", "example.com", True),
        ("", "EXAMPLE.com.", True),
        ("", "mail.example.com", True),
        ("", "example.net", False),
        ("", "badexample.com", False),
        ("", "com", False),
        ("; aspf=s; adkim=s", "example.com", True),
        ("; aspf=s; adkim=s", "mail.example.com", False),
    ],
)
def test_a_domain_must_be_of_the_same_organization_or_the_same(modes: str, domain: str, passes: bool) -> None:
    resolver = Zones({"example.com": REJECT + modes})
    expected = DmarcResult.PASS if passes else DmarcResult.FAIL
    assert evaluate(resolver, "example.com", spf=domain).result is expected
    assert evaluate(resolver, "example.com", dkim=("other.example", domain)).result is expected


def test_each_method_has_its_mode() -> None:
    resolver = Zones({"example.com": f"{REJECT}; adkim=s"})
    both = evaluate(resolver, "example.com", spf="mail.example.com", dkim=("mail.example.com",))
    assert both.alignment == (Authenticated("spf", "mail.example.com"),)


def test_what_did_not_pass_does_not_count() -> None:
    message = b"From: jo@example.com\r\n\r\n"
    spf = SpfAnswer(SpfResult.SOFTFAIL, "", "example.com", "mailfrom")
    signatures = [Signed("example.com", "fail"), Signed("other.example", "temperror")]
    resolver = Zones({"example.com": REJECT})
    answer = asyncio.run(evaluate_dmarc(message, spf=spf, dkim=signatures, resolver=resolver))
    assert (answer.result, answer.policy) == (DmarcResult.FAIL, DmarcPolicy.REJECT)


def test_the_signature_of_a_domain_that_is_testing_does_not_count() -> None:
    message, resolver = b"From: jo@example.com\r\n\r\n", Zones({"example.com": REJECT})
    signatures = [Signed("example.com", testing=True)]
    answer = asyncio.run(evaluate_dmarc(message, spf=None, dkim=signatures, resolver=resolver))
    assert (answer.result, answer.policy, answer.alignment) == (DmarcResult.FAIL, DmarcPolicy.REJECT, ())
    assert answer.reason.startswith("neither SPF nor DKIM passed")


def test_an_author_without_a_record_has_no_result() -> None:
    answer = evaluate(Zones({}), "example.com", spf="example.com")
    assert (answer.result, answer.policy, answer.record) == (DmarcResult.NONE, DmarcPolicy.NONE, None)


def test_a_top_level_domain_does_not_align_the_domains_below_it() -> None:
    resolver = Zones({"gov": "v=DMARC1; p=reject"})
    assert evaluate(resolver, "a.gov", spf="b.gov").result is DmarcResult.FAIL


# -- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "domain", "policy"),
    [
        ("p=reject; sp=quarantine; np=none", "example.com", "reject"),
        ("p=reject; sp=quarantine; np=none", "here.example.com", "quarantine"),
        ("p=reject; sp=quarantine; np=none", "gone.example.com", "none"),
        ("p=none; np=reject", "here.example.com", "none"),
        ("p=none; np=reject", "gone.example.com", "reject"),
        ("p=reject; t=y", "example.com", "quarantine"),
        ("p=quarantine; t=y", "example.com", "none"),
        ("p=none; sp=reject; t=y", "here.example.com", "quarantine"),
    ],
)
def test_the_policy_depends_on_where_the_author_is(tags: str, domain: str, policy: str) -> None:
    resolver = Zones({"example.com": f"v=DMARC1; {tags}"}, addresses={"here.example.com": []})
    answer = evaluate(resolver, domain)
    assert (answer.result, answer.policy) == (DmarcResult.FAIL, policy)
    assert f"asks for {policy}" in answer.reason


def test_the_policy_of_a_public_suffix_domain_applies_below_it() -> None:
    resolver = Zones({"bank.example": "v=DMARC1; p=none; sp=reject; psd=y"}, addresses={"x.bank.example": []})
    answer = evaluate(resolver, "x.bank.example")
    assert (answer.policy_domain, answer.policy) == ("bank.example", "reject")


def test_records_between_the_author_and_the_organization_do_not_count() -> None:
    records = {"b.example.com": REJECT, "example.com": "v=DMARC1; p=none"}
    assert evaluate(Zones(records), "a.b.example.com").policy_domain == "example.com"


def test_a_record_without_policy_and_addresses_is_not_applied() -> None:
    answer = evaluate(Zones({"example.com": "v=DMARC1; p=oops"}), "example.com")
    assert (answer.result, answer.policy) == (DmarcResult.NONE, DmarcPolicy.NONE)


# -- failures of DNS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["_dmarc.a.example.com", "_dmarc.example.com", "a.example.com"])
def test_r27_a_query_that_fails_is_a_temporary_error(failing: str) -> None:
    resolver = Zones({"example.com": f"{REJECT}; np=none"}, failing=[failing])
    answer = evaluate(resolver, "a.example.com", spf="other.example")
    assert (answer.result, answer.policy) == (DmarcResult.TEMPERROR, DmarcPolicy.NONE)
    assert failing in answer.reason


@pytest.mark.parametrize(
    ("spf", "dkim", "reason"),
    [("temperror", "fail", "spf of example.com"), ("fail", "temperror", "dkim of sub.example.com")],
)
def test_r27_an_aligned_domain_that_could_not_be_checked_does_not_fail(spf: str, dkim: str, reason: str) -> None:
    message, resolver = b"From: jo@example.com\r\n\r\n", Zones({"example.com": REJECT})
    checked, signature = SpfAnswer(SpfResult(spf), "", "example.com", "mailfrom"), Signed("sub.example.com", dkim)
    answer = asyncio.run(evaluate_dmarc(message, spf=checked, dkim=[signature], resolver=resolver))
    assert (answer.result, answer.policy) == (DmarcResult.TEMPERROR, DmarcPolicy.NONE)
    assert answer.reason == f"{reason} could not be checked"


def test_r27_a_domain_that_passes_outweighs_one_that_cannot_be_looked_up() -> None:
    resolver = Zones({"example.com": REJECT}, failing=["_dmarc.x.example.com", "_dmarc.com"])
    assert evaluate(resolver, "example.com", spf="x.example.com").result is DmarcResult.TEMPERROR
    assert evaluate(resolver, "example.com", spf="x.example.com", dkim=("example.com",)).result is DmarcResult.PASS


# -- authors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "domain"),
    [
        ("jo@example.com", "example.com"),
        ('"evil@other.example" <jo@Example.com>', "example.com"),
        ("=?utf-8?q?jo=40other.example?= <jo@example.com>", "example.com"),
        ("jo@example.com, al@example.com", "example.com"),
        ("Example, Inc. <jo@example.com>", "example.com"),
        ("jo@bücher.example", "xn--bcher-kva.example"),
        ("Team: jo@example.com;", "example.com"),
        ("jo\r\n @example.com (a@b.example)", "example.com"),
        ("jo@example.com <jo@example.com>", "example.com"),
        ("J. Doe <jo@example.com>,, jo@example.com", "example.com"),
    ],
)
def test_the_author_is_the_domain_of_from(field: str, domain: str) -> None:
    assert author_domain(Header(f"From: {field}\r\n\r\n".encode())) == domain


@pytest.mark.parametrize(
    "header",
    [
        "Subject: x",
        "From: a@x.example\r\nFrom: b@x.example",
        "From: a@x.example, b@y.example",
        "From: <a@x.example> <b@y.example>",
        "From: a@x.example ), b@y.example",
        "From: a@x.example\x01, b@y.example",
        "From: a@x.example (b@y.example",
        'From: a@x.example, "b@y.example',
        "From: Team:;",
        "From: " + ", ".join(["jo@x.example"] * 150),
        "From: jo",
        "From: )",
        "From: jo@[192.0.2.1]",
        "From: jo@[192.0.2.1], b@x.example",
        "From: jo@" + "x" * 64 + ".example",
    ],
)
def test_a_message_without_exactly_one_author_is_a_permanent_error(header: str) -> None:
    message = f"{header}\r\n\r\nFrom: jo@example.com\r\n".encode()
    answer = asyncio.run(evaluate_dmarc(message, spf=None, dkim=[], resolver=Zones({})))
    assert (answer.result, answer.author) == (DmarcResult.PERMERROR, "")
    assert "From" in answer.reason or "domain name" in answer.reason


HIDDEN = [
    "CEO <ceo@bank.example.>, b@evil.example",
    "ceo@bank.example., b@evil.example",
    "ceo@bank..example, b@evil.example",
    ".ceo@bank.example, b@evil.example",
    "ceo.@bank.example, b@evil.example",
    "ceo..x@bank.example, b@evil.example",
    "@bank.example, b@evil.example",
    "\udcff ceo@bank.example, b@evil.example",
    "ceo@-bank.example, b@evil.example",
    "ceo@bank_.example, b@evil.example",
    "ceo@bank.example@x, b@evil.example",
    "ceo@bank.example b, x@evil.example",
    f"{'c' * 70}@bank.example, b@evil.example",
    "ceo@[192.0.2.1], b@evil.example",
    "=?utf-8?q?ceo=40bank.example?=, b@evil.example",
    "ceo@bank.example <b@evil.example>",
    "ceo@bank.example. <b@evil.example>",
    "ceo@bank.example <ceo@bank.example.>, b@evil.example",
    "<ceo@bank.example.>, G: b@evil.example;",
    "ceo@bank.example: b@evil.example;",
    "<ceo@bank.example, b@evil.example>",
    "<ceo@bank.example, <b@evil.example>",
    "<ceo@bank.example: b@evil.example>",
    "<@bank.example: b@evil.example>",
    "b@evil.example, <ceo@bank.example",
    "b@evil.example <ceo@bank.example",
    "b@evil.example ceo@bank.example",
    "b@evil.example> ceo@bank.example",
]
"""Fields From whose sender must not pass for evil.example, since readers could see bank.example."""


@pytest.mark.parametrize("field", HIDDEN)
def test_r49_an_author_that_is_not_valid_hides_beside_no_other(field: str) -> None:
    resolver = Zones({"evil.example": REJECT, "bank.example": REJECT})
    message = f"From: {field}\r\n\r\n".encode("utf-8", "surrogateescape")
    answer = asyncio.run(evaluate_dmarc(message, spf=None, dkim=[Signed("evil.example")], resolver=resolver))
    assert (answer.result, answer.author) == (DmarcResult.PERMERROR, "")
    assert "From" in answer.reason
    assert answer.reason.isascii()


@pytest.mark.parametrize(
    "section",
    [
        b"From: b@evil.example\r\nbroken\r\nFrom: ceo@bank.example\r\n",
        b"X: y\nFrom: ceo@bank.example\r\nFrom: b@evil.example\r\n",
        b"X: y\rFrom: ceo@bank.example\r\nFrom: b@evil.example\r\n",
        b"From: b@evil.example\r\nX: y\r\r\n From: ceo@bank.example\r\n",
        b"From: b@evil.example\nFrom: ceo@bank.example\n",
    ],
)
@pytest.mark.parametrize("body", [b"", b"\r\nHi\nthere\r\n"])
def test_r49_a_header_section_that_can_be_read_in_two_ways_has_no_author(section: bytes, body: bytes) -> None:
    resolver = Zones({"evil.example": REJECT, "bank.example": REJECT})
    answer = asyncio.run(evaluate_dmarc(section + body, spf=None, dkim=[Signed("evil.example")], resolver=resolver))
    assert (answer.result, answer.author) == (DmarcResult.PERMERROR, "")
    assert answer.reason.isascii()


def test_a_bare_line_end_in_the_body_does_not_matter() -> None:
    assert author_domain(Header(b"From: jo@example.com\r\n\r\nHi\nthere\r\n")) == "example.com"


@given(st.binary(max_size=120), st.text(max_size=60))
def test_r22_any_message_has_a_result(octets: bytes, domain: str) -> None:
    resolver = Zones({"example.com": REJECT})
    for message in (octets, b"From: " + octets, f"From: a@{domain}".encode("utf-8", "replace")):
        answer = asyncio.run(evaluate_dmarc(message, spf=None, dkim=[Signed(domain)], resolver=resolver))
        assert answer.result in set(DmarcResult)
        assert answer.reason.isascii()
