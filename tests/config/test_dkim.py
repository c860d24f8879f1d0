"""`[[dkim]]`: the keys with which mail is signed, as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ironpost.config import ConfigError, parse

DKIM = '[[dkim]]\ndomain = "a.example"\nselector = "s"\nkey = "file:k"\n'
AT_DELIVERY = '[[rewrite]]\naddresses = ["b.example"]\nto = "@a.example"\nat = "delivery"\n'
LONG = "a." * 99 + "a"
"""A domain that leaves little room for the name of a record."""


def test_keys_of_dkim_are_read() -> None:
    (section,) = parse(DKIM.replace("a.example", "A.example").replace('"s"', '"RSA-2026"')).dkim
    assert (section.name, section.key) == ("rsa-2026._domainkey.a.example", Path("k"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DKIM.replace('"file:k"', '"env:KEY"'), "dkim[1].key: expected the file of the secret"),
        (DKIM.replace('"s"', '"s_1"'), "dkim[1].selector: a selector has letters, digits, dots and inner hyphens"),
        (DKIM.replace('"s"', '"../s"'), "dkim[1].selector: a selector has letters, digits, dots and inner hyphens"),
        (DKIM.replace('"s"', "1"), "dkim[1].selector: a selector has letters, digits, dots and inner hyphens"),
        (DKIM.replace("a.example", "bücher.example"), "dkim[1].domain: "),
        (DKIM.replace('"s"', f'"{LONG[:97]}"').replace("a.example", LONG), "dkim[1]: 'a.a.a"),
        (DKIM + DKIM, "dkim[2]: s._domainkey.a.example is listed twice"),
        (DKIM + AT_DELIVERY, "rewrite[1]: it changes header fields after they were signed ([[dkim]])"),
        (
            DKIM + AT_DELIVERY + 'places = ["reverse-path", "destination-fields"]',
            "rewrite[1]: it changes header fields",
        ),
    ],
)
def test_a_wrong_key_of_dkim_is_explained(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert sentence in str(caught.value)


def test_envelopes_may_be_rewritten_after_mail_was_signed() -> None:
    assert parse(DKIM + AT_DELIVERY + 'places = ["reverse-path", "forward-path"]').dkim
    assert parse(DKIM + AT_DELIVERY.replace("delivery", "reception")).dkim
