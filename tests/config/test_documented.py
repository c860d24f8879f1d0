"""docs/operations.md says what the code does: every key with its default, every exit code, an example that loads."""

from __future__ import annotations

import re
from pathlib import Path

from ironpost.cli import exits
from ironpost.config import Configuration, default, parse
from ironpost.config.listeners import DEFAULTS, Certificate, Listener
from ironpost.config.policies import Access, Sender
from ironpost.config.schema import OnDemand, Route
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
    shown = {role: dict(zip(("tls", "newlines", "eight_bit", "auth"), values, strict=True)) for role, *values in rows}
    assert shown == DEFAULTS


def test_every_exit_code_is_in_the_table() -> None:
    rows = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, re.M)}
    assert rows == {name: code for name, code in vars(exits).items() if name.isupper()}


def test_every_metric_is_in_the_table() -> None:
    rows = re.findall(r"^\| `ironpost_(\w+)` \| ([\w-]+) \| ([^|]+) \|", TEXT, re.M)
    known = {f"{name}_total": about for name, about in COUNTERS.items()} | GAUGES
    assert rows == [(name, about.label or "-", about.meaning) for name, about in known.items()]


def test_the_examples_load() -> None:
    route, on_demand = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    assert parse(route).route[0].smart_host[0].host == "relay.partner.example"
    assert parse(on_demand).on_demand[0].waits
