"""Archive copies: which messages get one, once, and silently."""

from __future__ import annotations

import pytest

from ironpost.model import Address, Envelope, Recipient
from ironpost.model.parameters import Notify
from ironpost.routing.archive import ArchiveRule, archived

A = Address.parse
VAULT = A("archive@vault.example")
RULES = (ArchiveRule(("mail.example", "*.shop.example"), VAULT), ArchiveRule(("other.example",), A("x@other.example")))


def copies(sender: str, *recipients: str, rules: tuple[ArchiveRule, ...] = RULES) -> list[str]:
    given = tuple(Recipient(A(each)) for each in recipients)
    found = archived(Envelope(A(sender) if sender else Address("", ""), given), rules)
    assert found.recipients[: len(given)] == given
    for copy in found.recipients[len(given) :]:
        assert copy.parameters["NOTIFY"] is Notify.NEVER
    return [str(copy.address) for copy in found.recipients[len(given) :]]


@pytest.mark.parametrize(
    ("sender", "recipients", "expected"),
    [
        ("jo@mail.example", ["x@far.example"], ["archive@vault.example"]),
        ("x@far.example", ["jo@Mail.Example"], ["archive@vault.example"]),
        ("jo@mail.example", ["ada@mail.example", "eve@a.shop.example"], ["archive@vault.example"]),
        ("", ["jo@mail.example"], ["archive@vault.example"]),
        ("x@far.example", ["jo@mail.example", "y@other.example"], ["archive@vault.example", "x@other.example"]),
        ("x@far.example", ["y@near.example"], []),
        ("x@far.example", ["y@shop.example"], []),
    ],
)
def test_a_message_of_a_domain_is_copied_once(sender: str, recipients: list[str], expected: list[str]) -> None:
    assert copies(sender, *recipients) == expected


def test_several_rules_with_one_address_make_one_copy() -> None:
    rules = (ArchiveRule(("mail.example",), VAULT), ArchiveRule(("*",), VAULT))
    assert copies("jo@mail.example", "x@far.example", rules=rules) == ["archive@vault.example"]


def test_without_a_match_the_envelope_is_the_same() -> None:
    envelope = Envelope(A("x@far.example"), (Recipient(A("y@near.example")),))
    assert archived(envelope, RULES) is envelope
