"""The `check` commands of `ironpost mtasts` and `ironpost tlsrpt`, whose output has one form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from ironpost.operations.operation import decode, encode

if TYPE_CHECKING:
    from types import ModuleType

    import pytest


def assert_encodable(found: Any) -> None:
    """Assert that the response of an operation survives the control socket; its `result` becomes a string."""
    assert decode(type(found), {**json.loads(json.dumps(encode(found))), "result": found.result}) == found


def checked(
    command: ModuleType,
    found: Any,
    code: int,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """Run `check` of a command whose operation finds `found`, as text and as JSON; return the lines of the text.

    Args:
        code: the expected exit status.
        last: the expected last line of the text.
    """
    monkeypatch.setattr(command, "call_local", lambda *_: found)
    for as_json in (False, True):
        try:
            command.check(None, "a.example", as_json=as_json)
            left = 0
        except typer.Exit as end:
            left = end.exit_code
        assert left == code
    *lines, printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed)["result"] == found.result.value
    assert lines[-1] == last
    assert "\x1b" not in "".join(lines)
    return lines
