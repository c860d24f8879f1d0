"""The pages for operators say what the code does: every key with its default, every exit code, examples that load."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
from pathlib import Path

from ironpost.accounts.records_cache import CacheOptions
from ironpost.accounts.records_fields import FIELDS
from ironpost.cli import exits
from ironpost.compose.delivery import delivery_limits, retry_policy
from ironpost.config import Configuration, default, parse
from ironpost.config.declared import tables
from ironpost.config.delivery import DestinationSection, TlsRuleSection
from ironpost.config.directory import AliasSection, DirectoryKeys, DirectorySection, MailboxSection, RelaySection
from ironpost.config.dkim import DkimSection
from ironpost.config.listeners import DEFAULTS, CertificateSection, ListenerSection
from ironpost.config.local import LocalDeliverySection
from ironpost.config.mta_sts import MtaStsSection
from ironpost.config.policies import PolicySection
from ironpost.config.queue import ReplySection, RetrySection
from ironpost.config.rewriting import RewriteSection
from ironpost.config.routes import RouteAuthSection, RouteSection
from ironpost.config.schema import ArchiveSection, OnDemandSection
from ironpost.delivery.local import LOCAL_AGENTS
from ironpost.model import Disposition
from ironpost.model.options import key_of
from ironpost.policy.checks import CHECKS
from ironpost.policy.context import CommonOptions
from ironpost.processes.resources import ResourceLimits
from ironpost.protocol.server.settings import ServerSettings
from ironpost.queue.retry import RetryPolicy
from ironpost.routing.route import Route
from ironpost.server.limits import ConnectionLimits
from ironpost.server.timeouts import Timeouts
from ironpost.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS

PAGES = ("configuration", "addresses", "authentication", "delivery", "queue", "operations")
DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = re.sub(r"\]\(\w+\.md#", "](#", "".join((DOCS / f"{page}.md").read_text() for page in PAGES))


TABLES = {
    "listener": ListenerSection,
    "listener.limits": None,
    "tls.certificates": CertificateSection,
    "local.delivery": LocalDeliverySection,
    **{name.strip("[]"): table for name, table in tables("local.delivery", LocalDeliverySection).items()},
    "queue.retry": RetrySection,
    "queue.reply": ReplySection,
    "delivery.destination": DestinationSection,
    "delivery.tls": TlsRuleSection,
    **{name.strip("[]"): table for name, table in tables("directory", DirectorySection).items()},
    "mailbox": MailboxSection,
    "alias": AliasSection,
    "relay": RelaySection,
    "rewrite": RewriteSection,
    "dkim": DkimSection,
    "route": RouteSection,
    "route.auth": RouteAuthSection,
    "on_demand": OnDemandSection,
    "archive": ArchiveSection,
    "mta_sts": MtaStsSection,
    **{name.strip("[]"): table for name, table in tables("policy", PolicySection).items()},
}
"""What a key holds more than one of, or what is documented elsewhere."""


def keys() -> set[str]:
    found = set()
    for name in Configuration.model_fields:
        value = TABLES.get(name) or type(getattr(default(), name))
        for key in getattr(value, "model_fields", {"": None}):
            found |= keys_below(f"{name}.{key}".rstrip("."))
    return found


def keys_below(path: str) -> set[str]:
    """The keys of a table, or the key itself: also if it is a table without keys."""
    table = TABLES.get(path)
    inner = getattr(table, "model_fields", {})
    return {path} if not inner else {key for each in inner for key in keys_below(f"{path}.{each}")}


def test_every_key_is_in_the_table_with_its_default() -> None:
    section = TEXT.partition("## Keys")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| ([^|]+) \|", section, re.M))
    assert set(rows) == keys()
    for key, shown in rows.items():
        if value := re.fullmatch(r"`([^`]+)`", shown.strip()):
            section, _, name = key.rpartition(".")
            if section == "listener":
                first = '[[listener]]\nrole = "mx"\nlisten = ["127.0.0.1:2525"]'
                assert parse(f"{first}\n{name} = {value[1]}") == parse(first), key
                continue
            text = f"[{section}]\n{name} = {value[1]}" if section else f"{name} = {value[1]}"
            assert parse(text) == parse(""), key


def docstrings(declared: type) -> dict[str, str]:
    """The docstring of each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(declared))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in itertools.pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = " ".join(ast.literal_eval(text.value).split())
    return found


def test_every_option_of_a_check_is_documented_by_its_docstring() -> None:
    expected = {}
    for declared in (CommonOptions, *(check.Options for check in CHECKS)):
        expected |= {f"policy.{name}": text for name, text in docstrings(declared).items()}
        assert set(docstrings(declared)) == {field.name for field in dataclasses.fields(declared)}
    for name, table in tables("policy", PolicySection).items():
        path = name.strip("[]")
        del expected[path]
        expected |= {f"{path}.{key}": text for key, text in docstrings(table.declared).items()}
    assert dict(re.findall(r"^\| `(policy\.[a-z0-9_.]+)` \| [^|]+ \| (.+) \|$", TEXT, re.M)) == expected


def test_every_option_of_a_local_agent_is_documented_by_its_docstring() -> None:
    expected = {}
    for key, agent in LOCAL_AGENTS.items():
        texts = docstrings(agent.options)
        assert set(texts) == {field.name for field in dataclasses.fields(agent.options)}
        expected |= {f"local.delivery.{key}.{name}": text for name, text in texts.items()}
    rows = dict(re.findall(r"^\| `(local\.delivery\.[a-z0-9_]+\.[a-z0-9_]+)` \| [^|]+ \| (.+) \|$", TEXT, re.M))
    assert rows == expected


def test_every_option_of_a_source_is_documented_by_its_docstring() -> None:
    texts = docstrings(CacheOptions)
    assert set(texts) == {field.name for field in dataclasses.fields(CacheOptions)}
    expected = {f"directory.{name}": text for name, text in texts.items()}
    for name, table in tables("directory", DirectorySection).items():
        path = name.strip("[]")
        expected |= {f"{path}.{key}": text for key, text in docstrings(table.declared).items()}
    rows = dict(re.findall(r"^\| `(directory\.[a-z0-9_.]+)` \| [^|]+ \| (.+) \|$", TEXT, re.M))
    own = {f"directory.{name}" for name in DirectoryKeys.model_fields}
    assert {key: text for key, text in rows.items() if key not in own} == expected


def test_every_field_of_a_record_is_documented() -> None:
    section = TEXT.partition("\n## Directory sources")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.M)) == FIELDS


def test_every_limit_is_documented_by_the_first_sentence_of_its_docstring() -> None:
    expected = {}
    for name, text in docstrings(ResourceLimits).items():
        expected[f"limits.{name}"] = text
    for declared in (ConnectionLimits, ServerSettings, Timeouts):
        texts = docstrings(declared)
        keys = {field.name: key for field in dataclasses.fields(declared) if (key := key_of(field)) is not None}
        assert keys
        for name, key in keys.items():
            expected[f"limits.{key.name}"] = texts[name].partition(". ")[0].removesuffix(".") + "."
    assert dict(re.findall(r"^\| `(limits\.[a-z0-9_.]+)` \| [^|]+ \| (.+) \|$", TEXT, re.M)) == expected


def test_the_defaults_by_role_are_in_their_table() -> None:
    rows = re.findall(r"^\| (mx|submission|lmtp) \| `(\w+)` \| `(\w+)` \| `(\w+)` \| `(\w+)` \|", TEXT, re.M)
    shown = {role: dict(zip(("tls", "newlines", "hello", "auth"), values, strict=True)) for role, *values in rows}
    assert shown == DEFAULTS


def test_every_exit_code_is_in_the_table() -> None:
    rows = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, re.M)}
    assert rows == {name: code for name, code in vars(exits).items() if name.isupper()}


def test_every_metric_is_in_the_table() -> None:
    rows = re.findall(r"^\| `ironpost_(\w+)` \| ([\w-]+) \| ([^|]+) \|", TEXT, re.M)
    known = {f"{name}_total": about for name, about in COUNTERS.items()} | GAUGES
    expected = [(name, about.label or "-", about.meaning) for name, about in known.items()]
    assert rows == [*expected, *((name, "-", about.meaning) for name, about in HISTOGRAMS.items())]


PACKAGE = Path(__file__).resolve().parents[2] / "python" / "ironpost"


LOGGED_BY_EXTENSIONS = {"session_fields": "session", "message_fields": "accepted"}
"""The methods by which extensions add fields to a record, and its event."""


def events() -> dict[str, set[str]]:
    """Every event that the code writes, with the fields that its records may have."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "record":
                event = ast.unparse(node.args[1])
                names = re.findall(r"'([^']+)'", event) or [each.value for each in Disposition]
                fields = {keyword.arg for keyword in node.keywords if keyword.arg} - {"level"}
            elif isinstance(node, ast.FunctionDef) and node.name in LOGGED_BY_EXTENSIONS and "extensions" in path.parts:
                returned = [each.value for each in ast.walk(node) if isinstance(each, ast.Return)]
                keys = [key for each in returned if isinstance(each, ast.Dict) for key in each.keys]
                names, fields = [LOGGED_BY_EXTENSIONS[node.name]], {ast.literal_eval(key) for key in keys if key}
            elif path.name == "auth.py" and isinstance(node, ast.Call) and ast.unparse(node.func) == "self._log":
                _, name, more = node.args
                assert isinstance(more, ast.Dict)
                names, fields = [ast.literal_eval(name)], {"session", "ip", "mechanism", "account"}
                fields |= {ast.literal_eval(key) for key in more.keys}
            elif isinstance(node, ast.Dict) and "'event'" in map(ast.unparse, filter(None, node.keys)):
                value = dict(zip(map(ast.unparse, filter(None, node.keys)), node.values, strict=False))["'event'"]
                if not isinstance(value, ast.Constant):
                    continue  # the two helpers through which the calls above go
                names, fields = [value.value], fields_before(tree, node)
            else:
                continue
            for name in names:
                found.setdefault(name, set()).update(fields)
    return found


def fields_before(tree: ast.Module, node: ast.Dict) -> set[str]:
    """The keys of the dictionary `fields` that stands last before a record, and the traceback if it has one."""
    found: set[str] = set()
    for each in sorted((each for each in ast.walk(tree) if hasattr(each, "lineno")), key=lambda each: each.lineno):
        if each.lineno > node.lineno + 2:
            break
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "fields":
            assert isinstance(each.value, ast.Dict)
            found = {ast.literal_eval(key) for key in each.value.keys if key is not None}
        if isinstance(each, ast.keyword) and each.arg == "exc_info" and each.lineno >= node.lineno:
            found = found | {"traceback"}
    return found


def test_f63_every_event_is_in_the_table_with_its_fields() -> None:
    section = TEXT.partition("## Logs")[2].partition("\n## ")[0]
    rows: dict[str, set[str]] = {}
    for name, fields in re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]+) \|$", section, re.M):
        same = re.fullmatch(r"as for `(.+)`", fields)
        rows[name] = rows[same[1]] if same else set(re.findall(r"`(\w+)`", fields))
    assert rows == events()


def test_f63_records_of_a_session_say_which() -> None:
    of_queue = {
        "delivered",
        "deferred",
        "failed",
        "held",
        "delay-warning",
        "relay-report",
        "unreportable",
        "poison",
        "body-fault",
        "clock-step",
        "lease-lost",
    }
    of_queue |= {"lease-lost", "unreadable", "worker-killed", "route-fault", "log-lines-dropped", "job-failed"}
    of_queue |= {"resource-short", "resource-sufficient", "accept-failed", "dane-off"}
    of_queue |= {"state-replaced", "state-unavailable", "state-not-written", "mta-sts-policy", "mta-sts-fetch-failed"}
    of_queue |= {"tls-report", "dmarc-report", "dmarc-report-unwanted", "report-failed", "report-dropped"}
    of_queue |= {"dmarc-failure-report", "dmarc-failure-report-dropped", "dmarc-failure-received"}
    of_queue |= {"dmarc-report-received", "picked-up", "drop-refused", "drop-waits"}
    of_queue |= {"http-request", "tls-report-not-stored"}
    assert {name for name, fields in events().items() if "session" not in fields} == of_queue


def test_the_examples_load() -> None:
    (
        directory, patterns, mailboxes, files, *sources, forwards, relay, rewrite, on_demand, _, _, dmarc_reports,
        failures, received, over_http, route, hosts, oauth, tls, reports, retry, replies, limits, program, hook, lmtp,
        sendmail,
    ) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)  # fmt: skip
    assert [str(each.address) for each in parse(directory).mailbox] == ["ada@mail.example", "jo@mail.example"]
    assert parse(patterns).alias[0].matching("here").record("sales-jo@mail.example") is not None
    assert [str(options) for each in sources for _, options in parse(each).directory.sources()] == [
        "/var/lib/people/people.sqlite3",
        "postgresql://ironpost@db.mail.example/people",
        "ldaps://ldap.mail.example",
        "https://people.example/v1/{key}",
        "people.py:people",
    ]
    (to_maildir,) = parse(mailboxes).local.rules
    assert str(to_maildir.route) == "local /srv/mail/{domain}/{local}"
    assert str(parse(files).local.rules[0].route) == "mbox /srv/mbox/{domain}/{local}"
    assert parse(mailboxes).mailbox[0].quota == 2 << 30
    assert parse(relay).relay[0].verify == "callout"
    assert [rule.at for rule in parse(rewrite).rewrite] == ["reception", "reception", "reception", "delivery"]
    assert str(parse(forwards).directory.forward_files) == "/home/{local}/.forward"
    assert parse(route).route[0].smart_host[0].host == "relay.partner.example"
    assert [rule.level for rule in parse(tls).delivery.tls] == ["verify", "none", "encrypt"]
    assert parse(reports).tlsrpt.contact == "tls-reports@mx.example"
    assert list(parse(over_http).sts_policies) == ["mail.example", "shop.example"]
    assert str(parse(received).local.rules[0].route) == "dmarc reports"
    assert parse(dmarc_reports).dmarc_reports.contact == "dmarc-reports@mx.example"
    assert parse(failures).dmarc_reports.failures
    assert parse(on_demand).on_demand[0].waits
    direct, news, provider = parse(hosts).route
    assert (direct.profile(), direct.smart_host, provider.senders) == (None, None, None)
    assert str(news.profile()) == "as news.mx.example, from 192.0.2.25 or 2001:db8::25"
    assert str(provider.profile()) == "TLS verify, login mx.example"
    assert str(parse(oauth).route[0].profile()) == "TLS implicit, verify, login mx@mail.example"
    (to_program,) = parse(program).local.rules
    assert str(to_program.route) == "pipe /usr/local/bin/ticket as tickets"
    (to_url,) = parse(hook).local.rules
    assert str(to_url.route) == "post https://hooks.example/in"
    assert [str(rule.route) for rule in parse(lmtp).local.rules] == ["lmtp unix:/run/dovecot/lmtp", "lmtp 127.0.0.1:24"]
    assert retry_policy(parse(retry).queue) == retry_policy(default().queue) == RetryPolicy()
    assert [rule.action for rule in parse(replies).queue.reply] == ["wait", "fail"]
    rules = delivery_limits(parse(limits).delivery)
    assert rules.of(Route.mx(), "mx.slow.example") == (2, 0.6)
    assert rules.of(Route.smart(["relay.partner.example"]), "") == (50, 0.0)
    assert str(parse(sendmail).drop) == "/var/spool/ironpost"
