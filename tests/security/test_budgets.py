"""What one client may cost (SECURITY R23): each budget has a name, a default, and a standard or number that it is from.

What happens at each limit is tested where the limit is kept; docs/security.md names those tests. Here stand the values,
and the edges of those that have no other test.
"""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest
from tests.protocol.test_server_session import Open, codes, greeted, in_data, say

import ironpost
from ironpost.compose.listeners import ListenerProfile, SessionDefaults
from ironpost.config import parse
from ironpost.model.keyed_state import MemoryState
from ironpost.protocol.sasl.backoff import NAMESPACES, LoginBackoff
from ironpost.protocol.server.settings import ServerSettings
from ironpost.server import ConnectionLimits, Timeouts

PACKAGE = Path(ironpost.__file__).parent
BUDGETS = {
    ("protocol/server/settings.py", "COMMAND_LINE"): 512,
    ("protocol/extensions/auth.py", "LINE"): 12_288,
    ("wire/interface.py", "auth_line"): 12_288,
    ("protocol/server/settings.py", "RECIPIENTS"): 1_000,
    ("protocol/server/settings.py", "BODY_LINE"): 1 << 20,
    ("protocol/server/settings.py", "max_errors"): 20,
    ("protocol/server/settings.py", "max_commands"): 100_000,
    ("wire/interface.py", "header_octets"): 1 << 20,
    ("wire/interface.py", "header_fields"): 1_000,
    ("wire/interface.py", "reply_lines"): 100,
    ("wire/interface.py", "reply_octets"): 64 << 10,
    ("message/trace.py", "MAX_RECEIVED"): 100,
    ("server/limits.py", "connections"): 10_000,
    ("server/limits.py", "connections_per_prefix"): 100,
    ("server/limits.py", "connection_rate"): 10,
    ("server/timeouts.py", "handshake"): 60,
    ("server/timeouts.py", "hello"): 300,
    ("server/timeouts.py", "command"): 300,
    ("server/timeouts.py", "data"): 180,
    ("server/timeouts.py", "data_rate"): 100,
    ("server/timeouts.py", "hook"): 300,
    ("server/timeouts.py", "write"): 300,
    ("server/timeouts.py", "session"): 86_400,
}
"""The value of each."""
SOURCE = re.compile(r"RFC \d+ §|SECURITY R\d+")


@pytest.mark.parametrize(("path", "name"), BUDGETS, ids=[name for _, name in BUDGETS])
def test_r23_each_budget_has_a_name_a_value_and_a_source(path: str, name: str) -> None:
    tree = ast.parse((PACKAGE / path).read_text())
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    (found,) = [
        (place.value, following.value.value)
        for body in bodies
        for place, following in pairwise(body)
        if isinstance(place, ast.AnnAssign)
        and isinstance(place.target, ast.Name)
        and place.target.id == name
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    ]
    value, words = found
    if isinstance(value, ast.Call):  # `option`, whose first argument is the default
        value = value.args[0]
    assert value is not None
    assert eval(compile(ast.Expression(value), path, "eval"), {}) == BUDGETS[path, name]
    assert SOURCE.search(str(words)), "where is it from?"


@pytest.mark.parametrize("role", ["mx", "submission", "lmtp"])
def test_r23_the_program_runs_with_these_budgets_unless_told_otherwise(role: str) -> None:
    configuration = parse(f'[[listener]]\nrole = "{role}"\nlisten = ["127.0.0.1:0"]')
    (listener,) = configuration.listener
    common = SessionDefaults("mx.example", None, LoginBackoff(MemoryState(NAMESPACES, lambda: 0.0)), lambda: 0.0)
    profile = ListenerProfile.of(configuration, listener, common, 20_000)
    found = profile.settings
    for name in ("max_recipients", "max_errors", "max_commands", "max_body_line", "long_lines"):
        assert getattr(found, name) == getattr(ServerSettings(), name), name
    assert profile.timeouts == Timeouts()
    for name in ("connections", "connections_per_prefix", "connection_rate"):
        assert getattr(profile.limits, name) == getattr(ConnectionLimits(), name), name


def test_r23_a_command_line_is_512_octets_where_no_extension_adds_to_it() -> None:
    session = greeted(Open(), ServerSettings(extensions=()), hello=b"HELO client.example\r\n")
    line = b"NOOP " + b"x" * 505 + b"\r\n"
    assert len(line) == 512
    assert codes(say(session, line + b"x" + line + b"NOOP\r\n")) == [b"250", b"500", b"250"]


@pytest.mark.parametrize("piece", [998, 65_536])
def test_r23_a_line_of_content_is_a_mebibyte_and_no_octet_more(piece: int) -> None:
    line = b"x" * (1 << 20)
    for content, code in ((line, b"250"), (b"x" + line, b"550"), (line + b"\r\n" + line, b"250")):
        handler = Open()
        session = in_data(handler)
        pieces = [content[at : at + piece] for at in range(0, len(content), piece)]
        assert codes(say(session, *pieces, b"\r\n.\r\n")) == [code]
        assert handler.messages == ([content + b"\r\n"] if code == b"250" else [])
