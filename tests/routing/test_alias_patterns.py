"""Aliases by regular expression: what matches, what is filled in, and which expressions are refused."""

from __future__ import annotations

import pytest

from ironpost.compose.directory import directory
from ironpost.config import ConfigError, parse
from ironpost.model import Address
from ironpost.routing.alias_patterns import AliasPattern, compiled
from ironpost.routing.directory import Alias, Entry, Mailbox, Unknown

A = Address.parse

SHOP = r"""
[local]
domains = ["mail.example", "shop.example"]
[[mailbox]]
address = "ada@mail.example"
[[alias]]
pattern = 'Sales-(?:x-)?([a-z]+)@(mail|shop)\.example'
targets = ["{1}@mail.example", "archive+{1}@other.example"]
[[alias]]
pattern = '(?P<who>.+)-list@shop\.example'
targets = ["{who}@lists.example"]
[[alias]]
pattern = '.*@shop\.example'
targets = ["ada@mail.example"]
[[alias]]
address = "@mail.example"
targets = ["ada@mail.example"]
[[alias]]
address = "sales-jo@mail.example"
targets = ["jo@other.example"]
"""


def find(text: str) -> Entry:
    entry = directory(parse(SHOP)).find(A(text))
    assert isinstance(entry, tuple)
    return entry


@pytest.mark.parametrize(
    ("address", "targets", "reason"),
    [
        ("SALES-Max@mail.example", ["max@mail.example", "archive+max@other.example"], "it matches alias[1] (Sales-"),
        ("sales-x-jo@shop.example", ["jo@mail.example", "archive+jo@other.example"], "it matches alias[1] (Sales-"),
        ("sales-jo@mail.example", ["jo@other.example"], "sales-jo@mail.example: alias[5]"),
        ("sales-jo+news@mail.example", ["jo@other.example"], "sales-jo@mail.example with the detail news: alias[5]"),
        ("garden-list@shop.example", ["garden@lists.example"], "it matches alias[2]"),
        ("garden@shop.example", ["ada@mail.example"], "it matches alias[3]"),
        ("any@mail.example", ["ada@mail.example"], "@mail.example: alias[4]"),
    ],
)
def test_patterns_come_after_addresses_and_before_the_catch_all(address: str, targets: list[str], reason: str) -> None:
    entry = find(address)
    assert isinstance(entry, Alias)
    assert [str(target) for target in entry.targets] == targets
    assert reason in entry.reason


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ('"a b-list"@shop.example', '"a b"@lists.example'),
        ('"x@evil.example>,-list"@shop.example', '"x@evil.example>,"@lists.example'),
        ('"{who}-list"@shop.example', "{who}@lists.example"),
        ('"\\"-list"@shop.example', '"\\""@lists.example'),
    ],
)
def test_r42_what_a_group_matched_stays_text(address: str, target: str) -> None:
    entry = find(address)
    assert isinstance(entry, Alias)
    assert [str(each) for each in entry.targets] == [target]


def test_a_target_that_is_not_an_address_is_not_reached() -> None:
    pattern = AliasPattern(r"(.*)@mail\.example", [A("{1}{1}{1}{1}@other.example")], "here")
    assert pattern.record("jo@mail.example") is not None
    assert pattern.record("@mail.example") is None
    assert pattern.record("j" * 64 + "@mail.example") is None


def test_with_a_pattern_other_addresses_do_not_exist() -> None:
    text = "local.domains = ['mail.example']\n[[alias]]\npattern = 'x.*@mail\\.example'\ntargets = ['y@mail.example']"
    found = directory(parse(text))
    assert found.has_aliases
    kinds = [type(found.find(A(f"{name}@mail.example"))) for name in ("x1", "y", "abuse")]
    assert kinds == [Alias, Unknown, Mailbox]


@pytest.mark.parametrize(
    "expression",
    [r"(.+)-(.+)@mail\.example", r"((a|b|c)+)-x@(mail|shop)\.example", r"[a-z]{1,10}\d{4}(\.[a-z]{2,3})?@m\.example"],
)
def test_an_expression_that_ends_soon_is_accepted(expression: str) -> None:
    assert compiled(expression).fullmatch("nobody") is None


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        (r"(a+)+@mail\.example", "could take too long"),
        (r"(a|aa)+@mail\.example", "could take too long"),
        (r"(a*)*@mail\.example", "could take too long"),
        (r"(.*)(.*)(.*)@mail\.example", "could take too long"),
        (r"((a?){20}){20}@mail\.example", "could take too long"),
        (r"(a?){200}@mail\.example", "could take too long"),
        (r"(.)\1@mail\.example", "groupref, which is not supported"),
        (r"(?=x).*@mail\.example", "assert, which is not supported"),
        (r"(x@mail\.example", "invalid regular expression: missing )"),
        ("x" * 501, "more than 500 characters"),
    ],
)  # fmt: skip
def test_r42_an_expression_that_could_take_too_long_is_refused(expression: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"pattern|regular expression") as caught:
        parse(f"[[alias]]\npattern = '{expression}'\ntargets = ['jo@localhost']")
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("pattern = 'x(.)@localhost'\ntargets = ['{2}@localhost']", "the pattern has no group 2"),
        ("pattern = 'x(.)@localhost'\ntargets = ['{0}@localhost']", "the pattern has no group 0"),
        ("pattern = 'x(.)@localhost'\ntargets = ['{who}@localhost']", "the pattern has no group who"),
        ("pattern = 'x'\naddress = 'x@localhost'\ntargets = ['jo@localhost']", "either address or pattern"),
        ("targets = ['jo@localhost']", "either address or pattern"),
    ],
)
def test_a_wrong_entry_is_refused(keys: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse(f"[[alias]]\n{keys}")
