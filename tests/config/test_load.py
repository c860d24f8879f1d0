"""A configuration as people write it, and every sentence they get when it is wrong."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from ironpost.config import ConfigError, Configuration, default, load, parse
from ironpost.config.quantities import Endpoint

WHOLE = """
data = "spool"
hostname = "MX.example"

[smtp]
listen = ["127.0.0.1:2525", "[::1]:2525"]
trusted = ["192.0.2.0/24"]
max_message = "25MiB"
max_recipients = 100
max_connections = 50
command_timeout = "30s"
data_timeout = "2m"

[local]
domains = ["Mail.example"]
maildir = "inbox"

[queue]
expire = "3d"
concurrency = 7
reserve = "1GiB"

[[route]]
domains = ["partner.example", "*.partner.example"]
smart_host = ["relay.example:26", "[2001:db8::1]:25"]

[[route]]
domains = ["*"]
smart_host = ["192.0.2.9:25"]

[log]
level = "warning"
"""


def test_the_default_is_what_make_run_promises() -> None:
    found = default()
    assert found.smtp.listen == (Endpoint("127.0.0.1", 2525),)
    assert found.smtp.trusted == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert found.local.domains == ("localhost",)
    assert found.maildir == Path("ironpost-data/mail")
    assert found.route == ()


def test_every_key_is_read_with_its_unit() -> None:
    found = parse(WHOLE)
    assert found.hostname == "mx.example"
    assert found.smtp.listen == (Endpoint("127.0.0.1", 2525), Endpoint("::1", 2525))
    assert found.smtp.max_message == 25 * 1024 * 1024
    assert (found.smtp.command_timeout, found.smtp.data_timeout, found.queue.expire) == (30, 120, 259200)
    assert found.local.domains == ("mail.example",)
    assert found.maildir == Path("inbox")
    assert [rule.domains for rule in found.route] == [("partner.example", "*.partner.example"), ("*",)]
    assert found.route[0].smart_host == (Endpoint("relay.example", 26), Endpoint("2001:db8::1", 25))


def test_this_file_shows_every_key_there_is() -> None:
    found = parse(WHOLE)
    for name in Configuration.model_fields:
        assert name in found.model_fields_set
    for section in (found.smtp, found.local, found.queue, found.log, found.route[0]):
        assert section.model_fields_set == set(type(section).model_fields)


def test_the_hash_changes_with_the_configuration_and_only_then() -> None:
    assert parse(WHOLE).hash == parse(WHOLE + "\n# a comment\n").hash
    assert parse(WHOLE).hash != parse(WHOLE.replace("25MiB", "26MiB")).hash
    assert parse('[smtp]\nmax_message = "1GiB"').hash == default().hash
    assert len(default().hash) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[smtp]\nlisen = ["x:1"]', 'c.toml:2: smtp.lisen: unknown key; did you mean "listen"?'),
        ("dta = 1", 'c.toml:1: dta: unknown key; did you mean "data"?'),
        (
            'hostname = "é.example"',
            'c.toml:1: hostname: "é.example" is not ASCII: write its A-label, which starts with xn--',
        ),
        ("\n[log]\nzzz = 1", "c.toml:3: log.zzz: unknown key; the keys here are level"),
        (
            '[[route]]\ndomains = ["*"]\nsmart_host = ["a.example:25"]\nsmarthost = 1',
            'c.toml:4: route[1].smarthost: unknown key; did you mean "smart_host"?',
        ),
        ('[[route]]\ndomains = ["*"]', "c.toml:1: route[1].smart_host: this key is needed"),
        (
            '[smtp]\ncommand_timeout = "30"',
            "c.toml:2: smtp.command_timeout: no unit: a duration is a whole number with a unit (s, m, h, d), "
            'like "30s"',
        ),
        (
            "[smtp]\ncommand_timeout = 30",
            "c.toml:2: smtp.command_timeout: no unit: a duration is a whole number with a unit (s, m, h, d), "
            'like "30s"',
        ),
        (
            '[smtp]\nmax_message = "25MB"',
            'c.toml:2: smtp.max_message: unknown unit "MB": a size is a whole number with a unit (B, KiB, MiB, GiB), '
            'like "25MiB"',
        ),
        (
            '[smtp]\nmax_message = "lots"',
            'c.toml:2: smtp.max_message: a size is a whole number with a unit (B, KiB, MiB, GiB), like "25MiB"',
        ),
        (
            '[smtp]\nlisten = [\n  "127.0.0.1:25",\n  "nonsense",\n]',
            'c.toml:2: smtp.listen[2]: an endpoint is a host, a colon and a port, like "127.0.0.1:25" or "[::1]:25"',
        ),
        (
            '[smtp]\nlisten = ["127.0.0.1:70000"]',
            'c.toml:2: smtp.listen[1]: an endpoint is a host, a colon and a port, like "127.0.0.1:25" or "[::1]:25"',
        ),
        (
            '[[route]]\ndomains=["*"]\nsmart_host=["a.example:0"]',
            'c.toml:3: route[1].smart_host[1]: "a.example:0": port 0 is no port to connect to',
        ),
        (
            '[smtp]\ntrusted = ["10.0.0.1/8"]',
            'c.toml:2: smtp.trusted[1]: a network is an address with a prefix length, like "192.0.2.0/24": '
            "10.0.0.1/8 has host bits set",
        ),
        ("[smtp]\nmax_recipients = 99", "c.toml:2: smtp.max_recipients: input should be greater than or equal to 100"),
        ('[smtp]\nmax_message = "1KiB"', "c.toml:2: smtp.max_message: the least is 64KiB"),
        ('[smtp]\ndata_timeout = "0s"', "c.toml:2: smtp.data_timeout: the least is 1s"),
        ('[queue]\nexpire = "59s"', "c.toml:2: queue.expire: the least is 60s"),
        (
            '[queue]\nconcurrency = "9"',
            "c.toml:2: queue.concurrency: this is a whole number, without quotes and without a unit",
        ),
        ('[smtp]\nlisten = "x:1"', 'c.toml:2: smtp.listen: this is a list: write it in brackets, like ["..."]'),
        ("data = 7", "c.toml:1: data: this is a path: write it in quotes"),
        ("[smtp]\nlisten = []", "c.toml:2: smtp.listen: the list is empty; at least one entry is needed"),
        ("smtp = 3", "c.toml:1: smtp: this is a table: write its keys under [smtp]"),
        ("[smtp\n", "c.toml: this is no TOML: "),
    ],
)
def test_an_error_says_where_what_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_domain_that_is_none_is_named_with_what_is_wrong() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[local]\ndomains = ["a..example"]', "c.toml")
    assert str(caught.value).startswith('c.toml:2: local.domains[1]: "a..example" is no domain: ')


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[queue]\nexpire = "1x"\n[smtp]\nfoo = 1\nmax_message = "1"\n', "c.toml")
    assert [problem.line for problem in caught.value.problems] == [2, 4, 5]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot read it: No such file or directory"):
        load(tmp_path / "absent.toml")
    (tmp_path / "latin.toml").write_bytes(b'hostname = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: the file is not UTF-8 \(octet 15\)"):
        load(tmp_path / "latin.toml")
