"""`[[local.delivery]]`: which entry decides, and what is wrong with others."""

from __future__ import annotations

import pytest

from ironpost.compose.delivery import routes
from ironpost.config import ConfigError, parse
from ironpost.model import Address
from ironpost.routing.route import Kind


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ('recipients = ["*"]', "expected the table of a delivery agent: "),
        ('recipients = []\ndiscard = {}', "the list is empty"),
        ('recipients = ["a b"]\ndiscard = {}', 'is neither an address, a domain, "*.domain" nor "*"'),
        ('recipients = ["*"]\ndiscard = 5', "expected a table"),
        ('recipients = ["*"]\ndiscard = {a = 1}', "unknown key; this table has no keys"),
        ("discard = {}", "recipients"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_local_delivery_is_explained(entry: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[local]\n[[local.delivery]]\n{entry}\n", "c.toml")
    assert sentence in str(caught.value)


def test_the_first_entry_of_local_delivery_that_matches_decides() -> None:
    found = parse(
        '[local]\ndomains = ["mail.example"]\n[[local.delivery]]\nrecipients = ["noreply@mail.example"]\ndiscard = {}\n'
    )
    decided = {each: routes(found).decide(Address.parse(f"{each}@mail.example")) for each in ("NoReply", "jo")}
    assert decided["NoReply"].route.kind is Kind.DISCARD
    assert decided["NoReply"].reasons[-1] == "local.delivery[1] matches by noreply@mail.example: discard"
    assert decided["jo"].route.kind is Kind.LOCAL
