"""docs/operations.md says what the code does: every key with its default, every exit code, an example that loads."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from ironpost.cli import exits
from ironpost.config import Configuration, default, parse
from ironpost.config.listeners import DEFAULTS, Certificate, Listener
from ironpost.config.policies import Access, Sender
from ironpost.config.schema import OnDemand, Route
from ironpost.model import Disposition
from ironpost.service.metrics import COUNTERS, GAUGES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


TABLES = {
    "listener": Listener,
    "listener.limits": None,
    "tls.certificates": Certificate,
    "route": Route,
    "on_demand": OnDemand,
    "policy.access": Access,
    "policy.sender": Sender,
}
"""What a key holds more than one of, or what is documented elsewhere."""


def keys() -> set[str]:
    found = set()
    for name in Configuration.model_fields:
        value = TABLES.get(name) or type(getattr(default(), name))
        for key in getattr(value, "model_fields", {"": None}):
            path = f"{name}.{key}".rstrip(".")
            table = TABLES.get(path)
            found |= {path} if table is None else {f"{path}.{inner}" for inner in table.model_fields}
    return found


def test_every_key_is_in_the_table_with_its_default() -> None:
    section = TEXT.partition("## Configuration")[2].partition("\n## ")[0]
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
    assert rows == [(name, about.label or "-", about.meaning) for name, about in known.items()]


PACKAGE = Path(__file__).resolve().parents[2] / "python" / "ironpost"


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
            elif path.name == "auth.py" and isinstance(node, ast.Call) and ast.unparse(node.func) == "self._tell":
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
    of_queue = {"delivered", "deferred", "failed", "held", "unreportable", "poison", "body-fault", "clock-step"}
    of_queue |= {"unreadable", "worker-killed", "route-fault", "log-lines-dropped"}
    assert {name for name, fields in events().items() if "session" not in fields} == of_queue


def test_the_examples_load() -> None:
    route, on_demand = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    assert parse(route).route[0].smart_host[0].host == "relay.partner.example"
    assert parse(on_demand).on_demand[0].waits
