"""f62: what is said about a wrong configuration says what, where, and what to do."""

from __future__ import annotations

import re

import pytest

from ironpost.config import ConfigError, parse
from ironpost.config.load import TABLES

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
        (LISTENER + LISTENER, "c.toml: listener: 127.0.0.1:25 is listed twice"),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["unix:a.sock", "unix:a.sock"]',
            "c.toml: listener: unix:a.sock is listed twice",
        ),
        (
            '[local]\ndomains = ["a..example"]',
            'c.toml:2: local.domains[1]: "a..example" is not a valid domain: misplaced dot in the domain (offset 2); '
            "it needs labels of letters, digits, underscores and inner hyphens, with one dot between two of them",
        ),
        (
            'hostname = "some_host.example"',
            'c.toml:1: hostname: "some_host.example" contains an underscore, for which other servers may refuse mail',
        ),
        (
            'hostname = "a b.example"',
            '"a b.example" is not a valid domain: invalid character " " in the domain (offset 1); it',
        ),
        (
            '[local]\nrecipients = ["jo@"]',
            'c.toml:2: local.recipients[1]: "jo@" is not a valid address: the domain is empty',
        ),
        (
            '[local]\nrecipients = ["a b@here.example"]',
            '"a b@here.example" is not a valid address: invalid character " " in the local part (offset 1)',
        ),
        (
            '[[policy.sender]]\nsenders = ["*.spam+.example"]\naction = "drop"',
            '"*.domain" nor "*": invalid character "+" in the domain (offset 6)',
        ),
        (
            '[[relay]]\ndomains = ["a.example"]\n[[mailbox]]\naddress = "jo@a.example"\nsenders = ["jo"]',
            "c.toml: mailbox[1].senders: no effect in a relay domain; policy.sender_login says who may ",
        ),
        (
            '[[alias]]\naddress = "jo@a.example"\ntargets = ["b@c.example"]',
            "c.toml: alias[1].address: jo@a.example is in no local domain (local.domains) and no relay domain",
        ),
        ('[delivery]\ntolerances = [5]', "c.toml:2: delivery.tolerances[1]: expected 'auth-lines', "),
        (
            '[[queue.retry]]\nage = "1h"\nwait = "4m"\n[[queue.retry]]\nage = "1h"\nwait = "5m"',
            "queue.retry: each age must be above the one before",
        ),
        (
            '[[queue.reply]]\ndomains = ["*"]\ntext = "(a"\naction = "fail"',
            "c.toml:3: queue.reply[1].text: invalid regular expression: ",
        ),
        ('[delivery]\nprobe_wait = "1h"', "c.toml:1: delivery: probe_wait is above longest_probe_wait"),
        (
            "[delivery]\nconnections = 4\ninitial_connections = 5",
            "c.toml:1: delivery: initial_connections is above connections (4)",
        ),
        (
            '[[queue.reply]]\ndomains = ["*"]\ntext = "a"\naction = "fail"\nwait = "1h"',
            'queue.reply[1]: wait has no effect with action = "fail"',
        ),
        (
            '[queue]\njitter = 0.2',
            'c.toml:2: queue.jitter: a percentage is a whole number from 0 to 90 with its sign, like "20%"',
        ),
        (
            '[limits]\nmemory = "2GB"',
            'c.toml:2: limits.memory: unknown unit "GB": a size is a whole number with a unit (B, KiB, MiB, GiB), like '
            '"25MiB"; or a share of the available memory, like "75%"',
        ),
        ('[limits]\nmemory = "0%"', "c.toml:2: limits.memory: with no memory no mail would be accepted"),
        ('[limits]\nmemory = "95%"', "c.toml:2: limits.memory: a percentage is a whole number from 0 to 90"),
        ("[limits]\ndescriptors = 0", "c.toml:2: limits.descriptors: minimum: 1"),
        (
            LISTENER + "[listener.limits]\ndescriptors = 9",
            "listener[1].limits.descriptors: unknown key; it belongs to [limits]",
        ),
        (
            LISTENER + '[listener.limits]\nmemory = "1GiB"',
            "listener[1].limits.memory: unknown key; it belongs to [limits]",
        ),
        ('[smtp]\nmemory = "1GiB"', "c.toml:2: smtp.memory: unknown key; it belongs to [queue] or [limits]"),
        ('networks = ["::/0"]', "c.toml:1: networks: unknown key; it belongs to [[policy.access]]"),
        ('[smtp]\nidle = "5s"', "c.toml:2: smtp.idle: unknown key; it belongs to [delivery]"),
        ('[tls]\nchain = "a"', "c.toml:2: tls.chain: unknown key; it belongs to [[tls.certificates]]"),
        ("hostname = 5", 'c.toml:1: hostname: a domain is a name, like "mail.example"'),
        (LISTENER + 'auth_without_tls = "yes"', "listener[1].auth_without_tls: expected true or false, without quotes"),
        ('[smtp]\nmax_recipients = 5', "c.toml:2: smtp.max_recipients: minimum: 100"),
        ('[smtp]\nmax_recipients = "5"', "c.toml:2: smtp.max_recipients: expected a whole number, without quotes"),
        ("[queue]\nconcurrency = 2000", "c.toml:2: queue.concurrency: maximum: 1000"),
        ('[[on_demand]]\nlogin = ""\ndomains = ["a.example"]', "c.toml:2: on_demand[1].login: must not be empty"),
        ('[[policy.access]]\nnetworks = ["::/0"]\naction = "drop"\ntext = 5', "text: expected text in quotes"),
        ("[policy]\nsender_login = 5", "c.toml:2: policy.sender_login: expected a table of keys and values"),
        ('[log]\nlevel = "loud"', "c.toml:2: log.level: expected 'debug', 'info', 'warning' or 'error'"),
        ('[smtp]\nlisten = ["127.0.0.1:25"]', "c.toml:2: smtp.listen: unknown key; it belongs to [[listener]]"),
        ('concurrency = 5', "c.toml:1: concurrency: unknown key; it belongs to [queue]"),
        ('[queue]\nzzz = 5', "c.toml:2: queue.zzz: unknown key; the keys here are backend, concurrency, expire, "
            "greylist_wait, history, history_size, idempotency, jitter, memory, reply, reserve, retry, warn_after"),
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


VALUES = [
    "5", "5.5", "-1", "nan", "true", '""', '"x y"', '"\\u0000"', '"é é"', "[]", "[5]", '["x y"]', '[""]', "[[1]]", "{}",
    "{a = 1}", "[{a = 1}]", "1979-05-27", "07:32:00", "99999999999999999999", '"9999999999999999d"', f'"{"a" * 300}"',
]  # fmt: skip
OF_PYTHON = re.compile(
    r"input|should|valid (string|number|integer|boolean)|pydantic|python|instance|dictionar|callable|finite|tuple|"
    r"None\b|\bstr\b|\bint\b|octet \d|[a-z]+-malformed"
)
"""Words of pydantic, of Python or of the wire."""


def heading_of(table: str) -> str:
    """The lines that open a table."""
    if table == "the top of the file":
        return ""
    above, dot, _ = table.strip("[]").rpartition(".")
    return f"[[{above}]]\n{table}" if dot and f"[[{above}]]" in TABLES else table


@pytest.mark.parametrize("value", VALUES)
def test_f62_no_key_answers_a_wrong_value_in_words_of_a_library(value: str) -> None:
    for table, model in TABLES.items():
        heading = heading_of(table)
        for key in model.model_fields:
            try:
                parse(f"{heading}\n{key} = {value}\n", "c.toml")
            except ConfigError as error:
                for problem in error.problems:
                    said = problem.sentence.replace(value, "")
                    assert OF_PYTHON.search(re.sub("\".*?\"|'.*?'", "", said)) is None, f"{table} {key}: {said}"


@pytest.mark.parametrize("key", ["foo", "y", "zzz", "tls_cert_file", "myorigin", "biff"])
def test_f62_nothing_is_suggested_for_a_key_that_resembles_nothing(key: str) -> None:
    for table in TABLES:
        with pytest.raises(ConfigError, match=r"unknown key; (the keys here are |this table has no keys)") as caught:
            parse(f"{heading_of(table)}\n{key} = 5\n", "c.toml")
        assert "did you mean" not in str(caught.value)
