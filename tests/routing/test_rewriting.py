"""Address rewriting: which rule decides, what it makes of envelopes and header sections, and which rules conflict."""

from __future__ import annotations

import email
import email.policy
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ironpost.message.section import Header
from ironpost.model import NULL, Address, Envelope, Origin, Recipient
from ironpost.model.patterns import AddressPattern
from ironpost.routing.rewriting import Place, RewriteRule, Rewriting, Rewritten, conflict
from ironpost.storage.drop import ORIGIN

A = Address.parse


def rule(to: str, *addresses: str, name: str = "rule", **more: object) -> RewriteRule:
    local_part, _, domain = to.rpartition("@")
    return RewriteRule(tuple(map(AddressPattern, addresses)), domain, local_part, name=name, **more)  # type: ignore[arg-type]


def header(rules: Rewriting, octets: bytes, *, own: bool = True) -> tuple[bytes, list[Rewritten]]:
    changes: list[Rewritten] = []
    return rules.header(Header(octets), changes, own=own), changes


CANONICAL = rule("jo.smith@mail.example", "jo@mail.example", name="canonical")
OLD = rule("@mail.example", "old.example", name="old")
MASQUERADE = rule("@mail.example", "*.mail.example", name="masquerade", exceptions=frozenset({"root"}))
RULES = (CANONICAL, OLD, MASQUERADE)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("jo@mail.example", "jo.smith@mail.example"),
        ("JO@Mail.Example", "jo.smith@mail.example"),
        ("ada@old.example", "ada@mail.example"),
        ("jo@old.example", "jo.smith@mail.example"),
        ("jo@host.mail.example", "jo.smith@mail.example"),
        ("Ada@host.mail.example", "Ada@mail.example"),
        ('"ada b"@host.mail.example', '"ada b"@mail.example'),
        ("ÄDA@host.mail.example", "ÄDA@mail.example"),
        ("root@host.mail.example", None),
        ("Root@host.mail.example", None),
        ("root@old.example", "root@mail.example"),
        ("ada@mail.example", None),
        ("ada@far.example", None),
        ("ada@a.old.example", None),
        ("postmaster", None),
        ("", None),
    ],
)
def test_the_first_rule_that_matches_decides(address: str, expected: str | None) -> None:
    for place in Place:
        found = Rewriting(RULES).find(place, A(address))
        assert (None if found is None else str(found.after)) == expected


def test_an_address_that_would_be_too_long_stays() -> None:
    longer = rule("@" + "a" * 60 + ".example", "old.example")
    assert Rewriting([longer]).find(Place.FORWARD_PATH, A("x" * 200 + "@old.example")) is None


def test_a_rule_applies_in_its_places_only() -> None:
    rules = Rewriting([rule("@mail.example", "old.example", places=frozenset({Place.FORWARD_PATH}))])
    assert [place for place in Place if rules.find(place, A("jo@old.example"))] == [Place.FORWARD_PATH]
    assert not rules.changes_headers(own=True)


def test_an_envelope_is_rewritten_and_its_recipients_become_one() -> None:
    domains = ("old.example", "mail.example", "far.example")
    envelope = Envelope(A("jo@mail.example"), tuple(Recipient(A(f"ada@{each}")) for each in domains))
    changes: list[Rewritten] = []
    found = Rewriting(RULES).envelope(envelope, changes)
    assert str(found.reverse_path) == "jo.smith@mail.example"
    assert [str(each.address) for each in found.recipients] == ["ada@mail.example", "ada@far.example"]
    assert (str(found.recipients[0].original), found.recipients[1].original) == ("ada@old.example", None)
    assert str(found.recipients[0].parameters["ORCPT"]) == "rfc822;ada@old.example"
    assert [str(each) for each in changes] == [
        "reverse-path: jo@mail.example becomes jo.smith@mail.example by canonical",
        "forward-path: ada@old.example becomes ada@mail.example by old",
    ]


def test_an_envelope_without_a_match_is_the_same() -> None:
    envelope = Envelope(NULL, (Recipient(A("ada@far.example")), Recipient(A("ada@far.example"))))
    changes: list[Rewritten] = []
    assert Rewriting(RULES).envelope(envelope, changes) is envelope
    assert changes == []


HEADER = (
    b"Received: by x (jo@mail.example)\r\n"
    b"From: Jo <jo@mail.example>\r\nSender: ada@old.example\r\nreply-to: jo@mail.example\r\n"
    b"To: Ada <ada@old.example>,\r\n eve@far.example\r\nCc: T: ada@old.example;\r\nBcc: ada@old.example\r\n"
    b"Resent-From: jo@mail.example\r\nResent-To: ada@old.example\r\n"
    b"Subject: ada@old.example\r\nX-To: ada@old.example\r\n\r\n"
)


def test_the_fields_of_a_header_section_are_rewritten() -> None:
    octets, changes = header(Rewriting(RULES), HEADER)
    lines = octets.decode().split("\r\n")
    assert lines == [
        "Received: by x (jo@mail.example)",
        "From: Jo <jo.smith@mail.example>", "Sender: ada@mail.example", "reply-to: jo.smith@mail.example",
        "To: Ada <ada@mail.example>,", " eve@far.example", "Cc: T: ada@mail.example;", "Bcc: ada@mail.example",
        "Resent-From: jo.smith@mail.example", "Resent-To: ada@mail.example",
        "Subject: ada@old.example", "X-To: ada@old.example", "", "",
    ]  # fmt: skip
    assert len(changes) == 8
    before, after = (email.message_from_bytes(each, policy=email.policy.default) for each in (HEADER, octets))
    assert before.keys() == after.keys()


def test_places_divide_the_fields() -> None:
    rules = Rewriting([rule("@mail.example", "old.example", places=frozenset({Place.ORIGINATOR_FIELDS}))])
    octets, changes = header(rules, b"From: a@old.example\r\nTo: b@old.example\r\n\r\n")
    assert octets == b"From: a@mail.example\r\nTo: b@old.example\r\n\r\n"
    assert [each.place for each in changes] == [Place.ORIGINATOR_FIELDS]


def test_mail_of_others_changes_by_rules_for_all_clients_only() -> None:
    rules = Rewriting([OLD, rule("@mail.example", "older.example", all_clients=True)])
    octets = b"To: a@old.example, b@older.example\r\n\r\n"
    assert header(rules, octets, own=False)[0] == b"To: a@old.example, b@mail.example\r\n\r\n"
    assert rules.changes_headers(own=False)
    assert not Rewriting([OLD]).changes_headers(own=False)
    assert header(Rewriting([OLD]), HEADER, own=False) == (HEADER, [])


def test_fields_before_a_line_that_cannot_be_parsed_are_rewritten() -> None:
    octets = b"To: a@old.example\r\nno field\r\nCc: a@old.example\r\n\r\n"
    assert header(Rewriting([OLD]), octets)[0] == octets.replace(b"old", b"mail", 1)


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        (Origin("127.0.0.1", listener="mx"), True),
        (Origin("198.51.100.7", listener="mx"), False),
        (Origin("198.51.100.7", identity="jo", listener="submission"), True),
        (Origin("127.0.0.1", listener="lmtp"), False),
        (Origin("", listener="mx"), False),
        (Origin(), True),
        (ORIGIN, True),
    ],
)
def test_whose_mail_is_own(origin: Origin, own: bool) -> None:
    assert Rewriting(RULES).is_own(origin) is own


@pytest.mark.parametrize(
    "rules",
    [
        RULES,
        (rule("@mail.example", "mail.example", "*.mail.example"),),
        (rule("jo@mail.example", "jo@mail.example", "jo@old.example"),),
        (
            rule("a@mail.example", "b@mail.example", places=frozenset({Place.REVERSE_PATH})),
            rule("b@mail.example", "a@mail.example", places=frozenset({Place.FORWARD_PATH})),
        ),
        (),
    ],
)
def test_rules_that_are_stable(rules: tuple[RewriteRule, ...]) -> None:
    assert conflict(rules) == ""


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (
            (rule("b@x.example", "a@x.example", name="one"), rule("a@x.example", "b@x.example", name="two")),
            "a@x.example becomes b@x.example by one, and the next time a@x.example by two",
        ),
        (
            (rule("@b.example", "a.example", name="one"), rule("@c.example", "b.example", name="two")),
            "any-name@a.example becomes any-name@b.example by one, and the next time any-name@c.example by two",
        ),
    ],
)
def test_rules_whose_result_changes_the_next_time_conflict(rules: tuple[RewriteRule, ...], sentence: str) -> None:
    assert sentence in conflict(rules)


NAMES = st.sampled_from(["a", "b", "c"])
DOMAINS = st.sampled_from(["a.example", "b.example", "x.a.example", "y.a.example"])
PATTERNS = st.one_of(
    st.builds("{}@{}".format, NAMES, DOMAINS), DOMAINS, st.just("*.a.example"), st.just("*.example"), st.just("*")
)
RULE = st.builds(
    lambda to, patterns, exceptions: rule(to, *patterns, exceptions=exceptions),
    st.builds("{}@{}".format, st.one_of(st.just(""), NAMES), DOMAINS),
    st.lists(PATTERNS, min_size=1, max_size=2),
    st.frozensets(NAMES, max_size=1),
)


@given(st.lists(RULE, min_size=1, max_size=3).filter(lambda rules: not conflict(rules)))
def test_without_a_conflict_rewriting_twice_is_the_same_as_once(rules: list[RewriteRule]) -> None:
    rewriting = Rewriting(rules)
    for name, domain in product("abcd", ("a.example", "b.example", "x.a.example", "z.example", "z.test")):
        found = rewriting.find(Place.FORWARD_PATH, A(f"{name}@{domain}"))
        if found is not None:
            assert rewriting.find(Place.FORWARD_PATH, found.after) is None


@settings(max_examples=400, deadline=None)
@given(st.lists(RULE, min_size=1, max_size=4))
def test_every_conflict_is_found(rules: list[RewriteRule]) -> None:
    rewriting = Rewriting(rules)
    names = ("a", "b", "c", "any-name")
    domains = ("a.example", "b.example", "x.a.example", "y.a.example", "z.a.example", "z.example", "z.test")
    changes = []
    for name, domain in product(names, domains):
        found = rewriting.find(Place.FORWARD_PATH, A(f"{name}@{domain}"))
        changes.append(found is not None and rewriting.find(Place.FORWARD_PATH, found.after) is not None)
    assert bool(conflict(rules)) is any(changes)
