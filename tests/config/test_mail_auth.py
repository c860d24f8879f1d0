"""The keys of mail authentication in `[policy]`, and what they need of each other."""

from __future__ import annotations

import sys

import pytest

from ironpost.config import ConfigError, parse
from ironpost.policy.options import Enforcement


def test_dmarc_needs_dkim() -> None:
    assert parse('[policy]\ndkim = "record"\ndmarc = "reject"').policy.dmarc is Enforcement.REJECT
    with pytest.raises(ConfigError, match=r'policy.dmarc: needs policy.dkim = "record"'):
        parse('[policy]\ndmarc = "record"')


def test_the_domains_of_an_override_are_patterns() -> None:
    text = '[[policy.dmarc_override]]\nreason = "local_policy"\ndomains = ["{}"]'
    assert parse(text.format("*.Lists.example")).policy.dmarc_override[0].domains == ("*.lists.example",)
    with pytest.raises(ConfigError, match=r"policy.dmarc_override\[1\].domains\[1\]"):
        parse(text.format("jo@lists.example"))


@pytest.mark.parametrize("value", ["reject", "tarpit", "yes"])
@pytest.mark.parametrize("key", ["dkim", "arc"])
def test_what_refuses_nothing_cannot_be_told_to(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"policy.{key}"):
        parse(f'[policy]\n{key} = "{value}"')


def test_an_override_that_applies_to_no_mail_is_refused() -> None:
    rule = '[[policy.dmarc_override]]\nreason = "local_policy"\n'
    with pytest.raises(ConfigError, match=r"policy\.dmarc_override\[2\]: it applies to no mail"):
        parse(f'{rule}networks = ["192.0.2.0/24"]\n{rule}')


@pytest.mark.parametrize("key", ["dkim", "arc"])
def test_without_cryptography_signatures_cannot_be_verified(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert parse('[policy]\nspf = "reject"\n')
    with pytest.raises(ConfigError, match=rf"policy\.{key}: DKIM and ARC need the package cryptography"):
        parse(f'[policy]\n{key} = "record"\n')
