"""f62: what is said about a wrong configuration says what, where, and what to do."""

from __future__ import annotations

import pytest

from ironpost.config import ConfigError, parse

LISTENER = '[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:25"]\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[listener]\nrole = "mx"\nlisten = ["127.0.0.1:25"]',
            "c.toml:1: listener: there may be several of these: write [[listener]], with two brackets on each side",
        ),
        (
            '[tls.certificates]\nchain = "a"',
            "c.toml:1: tls.certificates: there may be several of these: write [[tls.certificates]], "
            "with two brackets on each side",
        ),
        (LISTENER + LISTENER, "c.toml: listener: 127.0.0.1:25 is listened on twice"),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["unix:a.sock", "unix:a.sock"]',
            "c.toml: listener: unix:a.sock is listened on twice",
        ),
        (
            '[local]\ndomains = ["a..example"]',
            'c.toml:2: local.domains[1]: "a..example" is no domain: it needs labels of letters, digits and inner '
            "hyphens, with one dot between two of them",
        ),
        ('[local]\nrecipients = ["jo@"]', 'c.toml:2: local.recipients[1]: "jo@" is no address: The domain is empty.'),
        ("hostname = 5", 'c.toml:1: hostname: a domain is a name like "mail.example"'),
        (LISTENER + 'auth_in_clear = "yes"', "listener[1].auth_in_clear: this is true or false, without quotes"),
        ('[smtp]\nmax_recipients = 5', "c.toml:2: smtp.max_recipients: the least is 100"),
        ('[smtp]\nmax_recipients = "5"', "c.toml:2: smtp.max_recipients: this is a whole number, without quotes"),
        ("[queue]\nconcurrency = 2000", "c.toml:2: queue.concurrency: the most is 1000"),
        ('[[on_demand]]\nlogin = ""\ndomains = ["a.example"]', "c.toml:2: on_demand[1].login: this must not be empty"),
        ('[[policy.access]]\nnetworks = ["::/0"]\naction = "drop"\ntext = 5', "text: this is text: write it in quotes"),
        ("[policy]\nsender_login = 5", "c.toml:2: policy.sender_login: this is a table of keys and values"),
        ('[log]\nlevel = "loud"', "c.toml:2: log.level: this must be 'debug', 'info', 'warning' or 'error'"),
        ('[smtp]\nlisten = ["127.0.0.1:25"]', "c.toml:2: smtp.listen: unknown key; it belongs to [[listener]]"),
        ('concurrency = 5', "c.toml:1: concurrency: unknown key; it belongs to [queue]"),
        ('[queue]\nzzz = 5', "c.toml:2: queue.zzz: unknown key; the keys here are concurrency, expire, history, "
            "history_size, memory, reserve"),
    ],
)  # fmt: skip
def test_f62_each_sentence_says_what_is_wrong_and_where(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert sentence in str(caught.value)
    for word in ("pydantic", "input should", "octet ", "domain-", "valid string"):
        assert word not in str(caught.value).lower()


def test_f62_port_0_may_be_there_twice() -> None:
    assert parse('[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:0", "127.0.0.1:0"]')
