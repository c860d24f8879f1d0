"""`[policy]`: what it refuses, and the sentences that say so."""

from __future__ import annotations

import pytest

from ironpost.config import ConfigError, parse


def test_f60_a_sender_that_would_match_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'to match every address of a domain, write "a\.example"'):
        parse('[[policy.sender]]\nsenders = ["*@a.example"]\naction = "reject"')


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[policy]\nhelo_literal = "reject"', "'off', 'record', 'tarpit' or 'quarantine'"),
        ('[policy]\nnull_sender = "defer"', "'off', 'record', 'tarpit' or 'quarantine'"),
        ('[policy]\ndelay = "5m"', "maximum: 240s"),
        ('[policy]\nnetwork_messages = "0/h"', "a quota of zero"),
        ('[[mailbox]]\naddress = "jo@mail.example"\nquota = "0B"', "minimum: 1B"),
        ('[policy]\nlogin_messages = "many"', "a rate is a whole number"),
        ('[[policy.access]]\nnetworks = []\naction = "reject"', "the list is empty"),
        ('[[policy.sender]]\nsenders = ["@mail.example"]\naction = "reject"', '"@mail.example" is neither'),
        ('[policy.sender_login]\njo = ["<jo@mail.example>"]', "is neither an address"),
        ('[local]\nrecipients = ["jo"]', "not a valid address"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert sentence in str(caught.value)
