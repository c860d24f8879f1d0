"""A configuration as people write it, and every sentence they get when it is wrong."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from pathlib import Path

import pytest

from ironpost.compose.delivery import archives, rewriting, routes
from ironpost.config import ConfigError, Configuration, default, load, parse
from ironpost.config.declared import tables
from ironpost.config.directory import AliasSection
from ironpost.config.listeners import DEFAULTS, ListenerSection
from ironpost.config.quantities import Endpoint, Inherited, SocketPath
from ironpost.config.rewriting import rewrite_rules
from ironpost.config.routes import RouteAuthSection
from ironpost.delivery.local import LOCAL_AGENTS
from ironpost.delivery.path_template import PathTemplate
from ironpost.model import Address
from ironpost.routing.rewriting import Place
from ironpost.routing.route import Kind

WHOLE = """
data = "spool"
hostname = "MX.example"

[[listener]]
role = "mx"
listen = ["127.0.0.1:2525", "[::1]:2525"]
mode = "0600"
tls = "none"
newlines = "reject"
lenient = ["198.51.100.0/24", "2001:db8::/32"]
eight_bit = "accept"
addresses = "strict"
long_lines = "accept"
max_line = "2KiB"
auth = "offered"
auth_without_tls = true
proxy = ["192.0.2.0/24"]
xclient = ["192.0.2.7/32"]
pause = "3s"
[listener.limits]
connections = 50

[[listener]]
role = "lmtp"
listen = ["unix:run/lmtp.sock", "fd:lmtp"]

[[listener]]
role = "http"
listen = ["fd:https"]
tls_reports_to = "tls@mail.example"

[smtp]
trusted = ["192.0.2.0/24"]
max_message = "25MiB"
max_recipients = 100

[tls]
certificates = [{ chain = "chain.pem", key = "file:key.pem" }]
minimum = "1.3"
client_ca = "clients.pem"

[auth]
users = "accounts"
database = "accounts.sqlite3"
query = "SELECT name, password FROM accounts WHERE name = :login"
hook = "accounts.py:authenticator"
dovecot = "auth-client"
mechanisms = ["PLAIN", "CRAM-MD5"]

[limits]
connections = 70
connections_per_prefix = 7
connection_rate = "60/m"
ipv4_prefix = 24
ipv6_prefix = 48
errors = 3
commands = 1000
handshake_timeout = "20s"
hello_timeout = "20s"
command_timeout = "30s"
data_timeout = "2m"
data_rate = "1KiB/s"
hook_timeout = "40s"
write_timeout = "1m"
session_time = "1h"
memory = "80%"
descriptors = 1000

[local]
domains = ["Mail.example"]
maildir = "inbox"
postmaster = "ada@mail.example"

recipients = ["Jo@Mail.example"]

[[local.delivery]]
recipients = ["noreply@mail.example"]
discard = {}

[[local.delivery]]
recipients = ["dmarc@mail.example"]
dmarc_reports = { domains = ["parked.example"] }

[[local.delivery]]
recipients = ["help@mail.example"]

[local.delivery.pipe]
command = ["/usr/local/bin/ticket", "--from={sender}", "--", "{recipient}"]
user = "tickets"
group = "mail"
environment = ["LANG"]
timeout = "20s"
content = "crlf"

[[local.delivery]]
recipients = ["hook@mail.example"]

[local.delivery.post]
url = "https://hooks.example/in?a=b"
secret = "env:HOOK"
timeout = "10s"

[[local.delivery]]
recipients = ["*.mail.example"]
lmtp = {host = "127.0.0.1:24", tls = "may"}

[directory]
separator = "+-"
files = ["aliases"]
logins = false
forward_files = "/home/{local}/.forward"
cache = "5m"
cache_missing = "1m"
cache_stale = "1d"
timeout = "5s"

[[directory.sql]]
database = "people.sqlite3"
query = "SELECT target AS targets FROM people WHERE address = :key"

[[directory.postgresql]]
url = "postgresql://ironpost@db.mail.example/people"
query = "SELECT targets FROM people WHERE address = $1"
password = "env:PEOPLE"
ca = "ca.pem"

[[directory.ldap]]
url = "ldap://ldap.mail.example"
base = "dc=mail,dc=example"
filter = "(mail={key})"
attributes = { targets = "mailForwardingAddress" }
bind_dn = "cn=mail,dc=mail,dc=example"
password = "env:LDAP"
starttls = true
ca = "ca.pem"

[[directory.http]]
url = "https://people.example/{key}"
token = "env:PEOPLE"

[[directory.hook]]
object = "people.py:people"

[[mailbox]]
address = "Ada@Mail.example"
senders = ["assistant"]
quota = "2GiB"
forward = ["ada@other.example"]
keep = true
disabled = false

[[alias]]
address = "@mail.example"
targets = ["ada@mail.example"]

[[alias]]
address = "info@mail.example"
targets = ["ada@mail.example"]
senders = ["ada@mail.example"]

[[alias]]
pattern = 'sales-(.+)@mail\\.example'
targets = ["{1}@mail.example"]

[[relay]]
domains = ["Branch.example", "*.branch.example"]
recipients = ["jo@branch.example"]
verify = "callout"
unverified = "accept"

[[rewrite]]
addresses = ["Ada@Old.example", "old.example", "*.mail.example"]
to = "@mail.example"
at = "delivery"
places = ["reverse-path"]
exceptions = ["Root"]
all_clients = true

[[dkim]]
domain = "Mail.example"
selector = "RSA-2026"
key = "file:dkim.pem"

[[local.delivery]]
recipients = ["*.mail.example"]

[local.delivery.maildir]
path = "/srv/mail/{domain}/{local}"
create = false
folders = true
create_folders = true
full_wait = "1h"
user = "vmail"

[[local.delivery]]
recipients = ["old.example"]

[local.delivery.mbox]
path = "/var/mail/{local}"
create = false
full_wait = "2d"
user = "{local}"

[policy]
helo_own_name = "reject"
helo_bare_name = "tarpit"
helo_literal = "record"
reverse_dns = "defer"
own_sender = "quarantine"
sender_domain = "reject"
spf = "reject"
dkim = "record"
arc = "record"
dmarc = "quarantine"
null_sender = "tarpit"
delay = "5s"
network_messages = "100/h"
network_recipients = "1000/d"
login_messages = "50/m"
login_recipients = "5/s"

[[policy.access]]
networks = ["198.51.100.0/24", "2001:db8::/32"]
action = "reject"
text = "Go away"

[[policy.sender]]
senders = ["spam@other.example", "*.bad.example"]
action = "drop"
text = "the attack of May"

[[policy.dmarc_override]]
reason = "mailing_list"
domains = ["lists.example"]
networks = ["192.0.2.0/24"]

[policy.sender_login]
jo = ["mail.example"]
"*" = ["list@mail.example"]

[delivery]
connections = 5
connection_messages = 10
idle = "1s"
connect_timeout = "20s"
attempt = "10m"
chunking = false
tolerances = ["auth-lines", "no-bdat"]
ca = "authorities.pem"
dane = false
initial_connections = 3
probe_wait = "30s"
longest_probe_wait = "1h"
mta_sts = false

[http]
ca = "authorities.pem"
allow = ["10.0.0.0/8", "::1/128"]

[[mta_sts]]
domains = ["Mail.example"]
mode = "enforce"
mx = ["mx.example", "*.mx.example"]
max_age = "30d"

[tlsrpt]
contact = "tls-reports@mx.example"
organization = "Example Ltd"

[dmarc_reports]
contact = "dmarc-reports@mx.example"
organization = "Example Ltd"
failures = true

[sendmail]
directory = "/var/spool/ironpost"
domain = "mx.example"

[[delivery.destination]]
domains = ["*.slow.example"]
connections = 2
rate = "100/m"

[[delivery.tls]]
domains = ["*.partner.example", "relay.example"]
level = "verify"
published = false

[queue]
backend = "memory"
expire = "3d"
jitter = "10%"
greylist_wait = "6m"
warn_after = "never"
concurrency = 7
memory = "32MiB"
reserve = "1GiB"
history = "1d"
history_size = "64MiB"
idempotency = "12h"

[[queue.reply]]
domains = ["*"]
text = "busy"
action = "wait"
wait = "2h"

[[queue.retry]]
age = "1h"
wait = "5m"

[[route]]
domains = ["partner.example", "*.partner.example"]
smart_host = ["relay.example:26", "[2001:db8::1]:25"]

[[route]]
domains = ["*"]
senders = ["jo@mail.example", "*.mail.example", "<>"]
logins = ["jo"]
smart_host = ["192.0.2.9:465"]
tls = "implicit"
ca = "provider.pem"
source = ["192.0.2.1", "2001:DB8::1"]
hello = "out.mail.example"
certificate = "client.pem"
key = "file:client.key"

[route.auth]
user = "relay"
password = "file:relay.password"
mechanisms = ["PLAIN"]

[[route]]
smart_host = ["192.0.2.10:587"]

[route.auth]
token_command = ["/usr/local/bin/token"]
token_environment = ["HOME"]
token_timeout = "5s"

[[archive]]
domains = ["mail.example"]
to = "archive@vault.example"

[[on_demand]]
login = "customer"
domains = ["Customer.example", "customer.test"]
waits = false

[dns]
servers = ["127.0.0.1:5353", "[::1]:5353", "192.0.2.53", "2001:db8::53"]
trusted = true

[log]
level = "warning"
format = "text"
"""


def test_the_default_is_what_make_run_promises() -> None:
    found = default()
    assert [(one.role, one.listen) for one in found.listener] == [
        ("mx", (Endpoint("127.0.0.1", 2525),)),
        ("submission", (Endpoint("127.0.0.1", 2587),)),
    ]
    assert found.smtp.trusted == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert found.local.domains == ("*",)
    assert found.maildir == PathTemplate("ironpost-data/mail")
    assert found.route == ()


def test_f60_a_file_even_an_empty_one_relays_unless_it_says_otherwise() -> None:
    assert parse("").local.domains == ("localhost",)
    assert routes(parse("")).decide(Address.parse("jo@other.example")).route.kind is Kind.MX


@pytest.mark.parametrize("text", ["jo@other.example", "jo@[192.0.2.1]", "jo@localhost", "postmaster"])
@pytest.mark.parametrize("found", [default(), parse('local.domains = ["*"]')], ids=["no file", "star"])
def test_f60_without_a_file_and_with_a_star_nothing_leaves(found: Configuration, text: str) -> None:
    assert routes(found).decide(Address.parse(text)).route.kind is Kind.LOCAL


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('[[route]]\ndomains = ["a.example"]\nsmart_host = ["192.0.2.9:25"]', "no route is used"),
        ('[policy]\nown_sender = "reject"', "every sender would be local"),
        ('[[on_demand]]\nlogin = "c"\ndomains = ["c.example"]', "c.example is also local"),
    ],
)
def test_f60_what_a_catch_all_makes_useless_is_refused(more: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse('local.domains = ["*"]\n' + more)


def test_f60_recipients_may_be_patterns() -> None:
    found = parse('local.recipients = ["Jo@A.example", "*@B.example", "*@*.c.example", "*@*"]')
    assert found.local.recipients == ("jo@a.example", "*@b.example", "*@*.c.example", "*@*")
    for wrong in ("a.example", "*", "*@", "*@*@a.example", "jo@*"):
        with pytest.raises(ConfigError):
            parse(f'local.recipients = ["{wrong}"]')


def test_every_key_is_read_with_its_unit() -> None:
    found = parse(WHOLE)
    assert found.hostname == "mx.example"
    assert found.listener[0].listen == (Endpoint("127.0.0.1", 2525), Endpoint("::1", 2525))
    assert found.listener[1].listen == (SocketPath(Path("run/lmtp.sock")), Inherited("lmtp"))
    assert (found.listener[0].mode, found.listener[1].mode) == (0o600, 0o660)
    assert found.listener[0].max_line == 2048
    assert found.smtp.max_message == 25 * 1024 * 1024
    limits = found.limits
    assert (limits.command_timeout, limits.data_timeout, found.queue.expire) == (30, 120, 259200)
    assert (limits.connection_rate, limits.data_rate, limits.session_time) == (1, 1024, 3600)
    assert (limits.memory, limits.descriptors) == ((0.8, 0), 1000)
    assert found.users == Path("accounts")
    assert found.auth.mechanisms == ("PLAIN", "CRAM-MD5")
    assert found.tls.certificates[0].key == Path("key.pem")
    assert found.tls.certificates[0].chain == Path("chain.pem")
    assert found.local.domains == ("mail.example",)
    assert found.maildir == PathTemplate("inbox")
    assert [rule.domains for rule in found.route] == [("partner.example", "*.partner.example"), ("*",), ("*",)]
    assert found.dns.servers == tuple(
        Endpoint(*each) for each in (("127.0.0.1", 5353), ("::1", 5353), ("192.0.2.53", 53), ("2001:db8::53", 53))
    )
    assert found.route[0].smart_host == (Endpoint("relay.example", 26), Endpoint("2001:db8::1", 25))


def test_this_file_shows_every_key_there_is() -> None:
    found = parse(WHOLE)
    for name in Configuration.model_fields:
        assert name in found.model_fields_set
    sections = (
        found.mta_sts[0], found.smtp, found.tls, found.auth, found.limits, found.local, found.queue,
        found.queue.retry[0], found.queue.reply[0], found.delivery, found.delivery.destination[0],
        found.delivery.tls[0], found.dns, found.log, found.http, found.tlsrpt, found.dmarc_reports, found.sendmail,
        found.directory, found.mailbox[0], found.relay[0], found.rewrite[0], found.dkim[0],
        found.route[1], found.on_demand[0], found.archive[0],
        found.policy, found.policy.access[0], found.policy.sender[0],
    )  # fmt: skip
    for section in sections:
        assert section.model_fields_set == set(type(section).model_fields)
    assert {key for each in found.listener for key in each.model_fields_set} == set(ListenerSection.model_fields)
    assert {key for alias in found.alias for key in alias.model_fields_set} == set(AliasSection.model_fields)
    for key, agent in LOCAL_AGENTS.items():
        (options,) = (getattr(each, key) for each in found.local.delivery if getattr(each, key) is not None)
        assert options.model_fields_set == {field.name for field in dataclasses.fields(agent.options)}
    for name, table in tables("directory", type(found.directory)).items():
        (options,) = getattr(found.directory, name.strip("[]").removeprefix("directory."))
        assert options.model_fields_set == set(table.model_fields)
    logins = [route.auth for route in found.route if route.auth is not None]
    assert {key for login in logins for key in login.model_fields_set} | {"token"} == set(RouteAuthSection.model_fields)


@pytest.mark.parametrize("wrong", ["resolver.example", "127.0.0.1:0", "127.0.0.1:99999", "[::1]", "", "::1:x"])
def test_a_name_server_is_an_ip_address(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is not a name server: expected an IP address"):
        parse(f'dns.servers = ["{wrong}"]')


def test_the_policy_is_read() -> None:
    policy = parse(WHOLE).policy
    assert policy.network_messages == (100, 3600)
    assert policy.login_recipients == (5, 1)
    assert policy.sender[0].senders[1].matches(Address.parse("x@very.bad.example"))
    assert parse(WHOLE).local.recipients == ("jo@mail.example",)
    assert parse(WHOLE).hash == parse(WHOLE).hash != parse(WHOLE.replace('"100/h"', '"200/h"')).hash


def test_what_a_key_of_a_listener_is_depends_on_its_role() -> None:
    text = "".join(f'[[listener]]\nrole = "{role}"\nlisten = ["127.0.0.1:0"]\n' for role in DEFAULTS)
    mx, submission, lmtp = parse(text).listener
    assert (mx.tls, mx.newlines, mx.hello, mx.auth) == ("starttls", "reject", "strict", "none")
    assert (submission.tls, submission.newlines, submission.hello) == ("starttls", "normalise", "lenient")
    assert submission.auth == "required"
    assert (lmtp.tls, lmtp.newlines, lmtp.hello, lmtp.auth) == ("none", "reject", "strict", "none")
    assert {each.eight_bit for each in (mx, submission, lmtp)} == {"accept"}
    assert {each.addresses for each in (mx, submission, lmtp)} == {"lenient"}


def test_a_listener_has_the_common_limits_but_for_its_own() -> None:
    found = parse(WHOLE)
    mx, lmtp, _ = map(found.limits_of, found.listener)
    assert (mx.connections, mx.errors) == (50, 3)
    assert lmtp == found.limits
    same = parse(WHOLE.replace("[listener.limits]\nconnections = 50", "[listener.limits]\nconnections = 70"))
    assert same.hash == parse(WHOLE.replace("[listener.limits]\nconnections = 50\n", "")).hash


def test_the_hash_changes_with_the_configuration_and_only_then() -> None:
    assert parse(WHOLE).hash == parse(WHOLE + "\n# a comment\n").hash
    assert parse(WHOLE).hash != parse(WHOLE.replace("25MiB", "26MiB")).hash
    assert parse('[smtp]\nmax_message = "1GiB"').hash == parse("").hash
    assert len(default().hash) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[smtp]\ntrust = ["x:1"]', 'c.toml:2: smtp.trust: unknown key; did you mean "trusted"?'),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["x:1"]\ntsl = "none"',
            'c.toml:4: listener[1].tsl: unknown key; did you mean "tls"?',
        ),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["x:1"]\n[listener.limits]\nerors = 1',
            'c.toml:5: listener[1].limits.erors: unknown key; did you mean "errors"?',
        ),
        (
            '[auth]\nmechanisms = ["plain"]',
            'c.toml:2: auth.mechanisms[1]: "plain" is not a known mechanism; expected one of EXTERNAL, '
            "SCRAM-SHA-256-PLUS, SCRAM-SHA-256, OAUTHBEARER, XOAUTH2, PLAIN, LOGIN, CRAM-MD5",
        ),
        (
            '[auth]\ndatabase = "a.sqlite3"',
            "c.toml:1: auth: database and query are needed together: query is missing",
        ),
        ('[auth]\nquery = "SELECT 1"', "c.toml:2: auth.query: it must contain :login, the name that a client gives"),
        (
            '[auth]\nhook = "accounts.py"',
            'c.toml:2: auth.hook: a hook is an object in a file or a module, like "accounts.py:authenticator"',
        ),
        ('[[listener]]\nlisten = ["x:1"]', "c.toml:1: listener[1].role: required key is missing"),
        (
            '[[listener]]\nrole = "mta"\nlisten = ["x:1"]',
            "c.toml:2: listener[1].role: expected 'mx', 'submission', 'lmtp' or 'http'",
        ),
        (
            '[[listener]]\nrole = "lmtp"\nlisten = ["[::]:25"]',
            "c.toml:1: listener[1]: LMTP must not use port 25 (RFC 2033 §5)",
        ),
        (
            '[[listener]]\nrole = "submission"\nlisten = ["x:587"]\ntls = "none"',
            'c.toml:1: listener[1]: no client could log in: with tls = "none" passwords would be sent unencrypted; '
            'set tls = "starttls", or allow it with auth_without_tls = true',
        ),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["unix:"]',
            'c.toml:3: listener[1].listen[1]: a Unix socket is a path, like "unix:/run/ironpost/lmtp.sock"',
        ),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["fd:a b"]',
            "c.toml:3: listener[1].listen[1]: an inherited socket has the name that the service manager gives it, "
            'like "fd:smtp"',
        ),
        (
            '[[listener]]\nrole = "lmtp"\nlisten = ["unix:x"]\nmode = 660',
            'c.toml:4: listener[1].mode: a mode is four octal digits in quotes, like "0660"',
        ),
        (
            '[[listener]]\nrole = "submission"\nlisten = ["x:1"]\nlenient = ["192.0.2.0/24"]',
            'c.toml:1: listener[1]: lenient is for newlines = "reject"; with "normalise" it has no effect',
        ),
        (
            '[tls]\ncertificates = [{ chain = "c.pem", key = "k.pem" }]',
            'c.toml:2: tls.certificates[1].key: expected the file of the secret, like "file:secrets/key.pem"',
        ),
        (
            '[tls]\ncertificates = [{ chain = "c.pem", key = "env:KEY" }]',
            'c.toml:2: tls.certificates[1].key: expected the file of the secret, like "file:secrets/key.pem"',
        ),
        (
            "[limits]\nconnection_rate = 60",
            'c.toml:2: limits.connection_rate: a rate is a whole number, a slash and a unit (s, m, h, d), like "60/m"',
        ),
        ('[limits]\nconnection_rate = "0/s"', "c.toml:2: limits.connection_rate: the rate must be above 0"),
        (
            '[limits]\ndata_rate = "100B"',
            'c.toml:2: limits.data_rate: a data rate is a size per second, like "100B/s"',
        ),
        ("dta = 1", 'c.toml:1: dta: unknown key; did you mean "data"?'),
        (
            'hostname = "é.example"',
            'c.toml:1: hostname: "é.example" is not ASCII: write its A-label, which starts with xn--',
        ),
        ("\n[log]\nzzz = 1", "c.toml:3: log.zzz: unknown key; the keys here are format, level"),
        (
            '[[route]]\ndomains = ["*"]\nsmart_host = ["a.example:25"]\nsmarthost = 1',
            'c.toml:4: route[1].smarthost: unknown key; did you mean "smart_host"?',
        ),
        ('[[on_demand]]\nlogin = "jo"', "c.toml:1: on_demand[1].domains: required key is missing"),
        ('[[on_demand]]\nlogin = ""\ndomains = ["a.example"]', "c.toml:2: on_demand[1].login: "),
        (
            '[[on_demand]]\nlogin = "jo"\ndomains = ["*.a.example"]',
            'c.toml:3: on_demand[1].domains[1]: "*.a.example" is not a valid domain: ',
        ),
        (
            '[[on_demand]]\nlogin = "jo"\ndomains = ["localhost"]',
            "c.toml: on_demand: localhost is also local, or another customer's",
        ),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["x:1"]\n[[on_demand]]\nlogin = "jo"\ndomains = ["a.example"]',
            "c.toml: on_demand: mail cannot be fetched, because no listener with the role mx has "
            'auth = "offered" or "required" (RFC 6409 §7 keeps ETRN and ATRN away from submission)',
        ),
        (
            '[limits]\ncommand_timeout = "30"',
            "c.toml:2: limits.command_timeout: no unit: a duration is a whole number with a unit (s, m, h, d), "
            'like "30s"',
        ),
        (
            "[limits]\ncommand_timeout = 30",
            "c.toml:2: limits.command_timeout: no unit: a duration is a whole number with a unit (s, m, h, d), "
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
            '[[listener]]\nrole = "mx"\nlisten = [\n  "127.0.0.1:25",\n  "nonsense",\n]',
            "c.toml:3: listener[1].listen[2]: an endpoint is a host, a colon and a port, "
            'like "127.0.0.1:25" or "[::1]:25"',
        ),
        (
            '[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:70000"]',
            "c.toml:3: listener[1].listen[1]: an endpoint is a host, a colon and a port, "
            'like "127.0.0.1:25" or "[::1]:25"',
        ),
        (
            '[[route]]\ndomains=["*"]\nsmart_host=["a.example:0"]',
            'c.toml:3: route[1].smart_host[1]: "a.example:0": not a valid port to connect to, expected 1 to 65535',
        ),
        (
            '[smtp]\ntrusted = ["10.0.0.1/8"]',
            'c.toml:2: smtp.trusted[1]: a network is an address with a prefix length, like "192.0.2.0/24": '
            "10.0.0.1/8 has host bits set",
        ),
        ("[smtp]\nmax_recipients = 99", "c.toml:2: smtp.max_recipients: minimum: 100"),
        ('[smtp]\nmax_message = "1KiB"', "c.toml:2: smtp.max_message: minimum: 64KiB"),
        ('[limits]\ndata_timeout = "0s"', "c.toml:2: limits.data_timeout: minimum: 1s"),
        ('[queue]\nexpire = "59s"', "c.toml:2: queue.expire: minimum: 60s"),
        (
            '[queue]\nconcurrency = "9"',
            "c.toml:2: queue.concurrency: expected a whole number, without quotes or unit",
        ),
        ('[smtp]\ntrusted = "x:1"', 'c.toml:2: smtp.trusted: expected a list in brackets, like ["..."]'),
        ("data = 7", "c.toml:1: data: expected a path in quotes"),
        (
            "[[listener]]\nrole='mx'\nlisten = []",
            "c.toml:3: listener[1].listen: the list is empty; at least one entry is needed",
        ),
        ("smtp = 3", "c.toml:1: smtp: expected a table: write its keys under [smtp]"),
        ("[smtp\n", "c.toml: not valid TOML: "),
    ],
)
def test_an_error_says_where_what_and_what_to_do(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "c.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_invalid_domain_is_named_with_its_error() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[local]\ndomains = ["a..example"]', "c.toml")
    assert str(caught.value).startswith('c.toml:2: local.domains[1]: "a..example" is not a valid domain: ')


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        parse('[queue]\nexpire = "1x"\n[smtp]\nfoo = 1\nmax_message = "1"\n', "c.toml")
    assert [problem.line for problem in caught.value.problems] == [2, 4, 5]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot read it: No such file or directory"):
        load(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="is a directory, not a configuration file"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'hostname = "caf\xe9"')
    with pytest.raises(ConfigError, match=r"latin\.toml: the file is not UTF-8 \(octet 15\)"):
        load(tmp_path / "latin.toml")


def test_f45_how_mail_is_sent_is_configured() -> None:
    found = parse(
        '[delivery]\nchunking = false\nconnections = 3\nconnect_timeout = "7s"\n'
        'attempt = "2m"\ntolerances = ["no-bdat"]'
    ).delivery
    assert (found.chunking, found.connections, found.connect_timeout, found.attempt) == (False, 3, 7.0, 120.0)
    assert [tolerance.value for tolerance in found.tolerances] == ["no-bdat"]
    with pytest.raises(ConfigError):
        parse('[delivery]\ntolerances = ["everything"]')


def test_https_may_reach_networks_that_are_not_public() -> None:
    assert parse("").http.allow == ()
    assert parse("").delivery.mta_sts
    found = parse('[http]\nallow = ["10.0.0.0/8", "::1/128"]\n').http
    assert [str(network) for network in found.allow] == ["10.0.0.0/8", "::1/128"]
    with pytest.raises(ConfigError, match=r"http\.allow"):
        parse('[http]\nallow = ["inside.example"]\n')
    with pytest.raises(ConfigError, match=r"http\.allowed: unknown key"):
        parse("[http]\nallowed = []\n")


def test_tls_rules_are_closed_and_name_their_levels() -> None:
    rule = '[[delivery.tls]]\ndomains = ["*.Partner.example"]\nlevel = "verify"\n'
    (found,) = parse(rule).delivery.tls
    assert (found.domains, found.level) == (("*.partner.example",), "verify")
    with pytest.raises(ConfigError, match="'none', 'may', 'encrypt' or 'verify'"):
        parse(rule.replace('"verify"', '"always"'))
    with pytest.raises(ConfigError, match=r"delivery\.tls\[1\]\.name: unknown key"):
        parse(rule + 'name = "x"\n')


def test_rewriting_is_read() -> None:
    assert rewriting(parse(WHOLE), "reception") is None
    rules = rewriting(parse(WHOLE), "delivery")
    assert rules is not None
    found = {each: rules.find(Place.REVERSE_PATH, Address.parse(f"{each}@old.example")) for each in ("Jo", "root")}
    assert (str(found["Jo"]), found["root"]) == (
        "reverse-path: Jo@old.example becomes Jo@mail.example by rewrite[1]",
        None,
    )
    assert rules.find(Place.FORWARD_PATH, Address.parse("jo@old.example")) is None
    (rule,) = rewrite_rules(parse(WHOLE).rewrite, "delivery")
    assert rule.all_clients


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('addresses = []\nto = "@b.example"', "rewrite[1].addresses: the list is empty"),
        ('addresses = ["@a.example"]\nto = "@b.example"', '"@a.example" is neither an address'),
        ('addresses = ["a.example"]\nto = "b.example"', 'rewrite[1].to: "b.example" is not a valid address'),
        ('addresses = ["a.example"]\nto = "@"', "rewrite[1].to: "),
        ('addresses = ["a.example"]\nto = ""', 'rewrite[1].to: an address is like "jo@mail.example"'),
        ('addresses = ["a.example"]\nto = "jö@b.example"', "cannot be used in mail without SMTPUTF8"),
        ('addresses = ["a.example"]\nto = "@b.example"\nplaces = ["subject"]', "rewrite[1].places"),
        ('addresses = ["a.example"]\nto = "@b.example"\nexceptions = [""]', "rewrite[1].exceptions"),
        (
            'addresses = ["a.example"]\nto = "@b.example"\n[[rewrite]]\naddresses = ["b.example"]\nto = "x@a.example"',
            "any-name@a.example becomes any-name@b.example by rewrite[1], and the next time x@a.example by rewrite[2]",
        ),
    ],
)
def test_a_wrong_rule_of_rewriting_is_explained(keys: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"[[rewrite]]\n{keys}\n", "c.toml")
    assert sentence in str(caught.value)


def test_a_domain_that_is_not_ascii_is_written_with_a_labels() -> None:
    (section,) = parse('[[rewrite]]\naddresses = ["a.example"]\nto = "@bücher.example"').rewrite
    assert str(section.to) == "@xn--bcher-kva.example"


def test_archives_are_read() -> None:
    (rule,) = archives(parse('[[archive]]\ndomains = ["*.Mail.example"]\nto = "archive@vault.example"\n'))
    assert (rule.domains, str(rule.to)) == (("*.mail.example",), "archive@vault.example")


@pytest.mark.parametrize("to", ["postmaster", "a b@mail.example", "", "@mail.example"])
def test_an_archive_needs_an_address(to: str) -> None:
    with pytest.raises(ConfigError, match=r"archive\[1\]\.to: .*address"):
        parse(f'[[archive]]\ndomains = ["*"]\nto = "{to}"\n', "c.toml")
