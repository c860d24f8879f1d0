"""docs/operations.md says what the code does: every key with its default, every exit code, an example that loads."""

from __future__ import annotations

import re
from pathlib import Path

from ironpost.cli import exits
from ironpost.config import Configuration, default, parse
from ironpost.config.schema import Route

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def keys() -> set[str]:
    found = set()
    for name in Configuration.model_fields:
        value = Route if name == "route" else getattr(default(), name)
        inner = getattr(value if isinstance(value, type) else type(value), "model_fields", None)
        found |= {name} if inner is None else {f"{name}.{key}" for key in inner}
    return found


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \|", TEXT, re.M))
    assert set(rows) == keys()
    for key, shown in rows.items():
        if value := re.fullmatch(r"`([^`]+)`", shown.strip()):
            section, _, name = key.rpartition(".")
            text = f"[{section}]\n{name} = {value[1]}" if section else f"{name} = {value[1]}"
            assert parse(text) == default(), key


def test_every_exit_code_is_in_the_table() -> None:
    rows = {name: int(code) for code, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, re.M)}
    assert rows == {name: code for name, code in vars(exits).items() if name.isupper()}


def test_the_example_loads() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", TEXT, re.S)
    assert parse(example).route[0].smart_host[0].host == "relay.partner.example"
