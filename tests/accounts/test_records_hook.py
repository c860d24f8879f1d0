"""Mailboxes and aliases that a Python object knows, on a real event loop."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from ironpost import blocking
from ironpost.accounts.record_sources import SourceContext
from ironpost.accounts.records_hook import HookOptions, HookRecords
from ironpost.config import ConfigError, parse
from ironpost.model import Address
from ironpost.processes.clock import SystemClock
from ironpost.routing.directory import DirectoryError
from ironpost.routing.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ADA = Record("people", (Address.parse("jo@other.example"),), keep=True)
FIELDS = {"targets": ["jo@other.example"], "keep": True}


class Hook:
    """Answers with what it was made from, or raises it; remembers the thread that called it."""

    thread: threading.Thread

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def lookup(self, key: str) -> object:
        self.thread = threading.current_thread()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer if key == "ada@mail.example" else None


class AsyncHook(Hook):
    async def lookup(self, key: str) -> object:
        await asyncio.sleep(0)
        return super().lookup(key)


class BlockingHook(Hook):
    @blocking
    def lookup(self, key: str) -> object:
        return super().lookup(key)


def looked_up(hook: object, key: str = "ada@mail.example") -> Record | None:
    async def main() -> Record | None:
        return await HookRecords(hook, "people").lookup(key)

    return asyncio.run(main())


@pytest.mark.parametrize(("kind", "in_a_thread"), [(Hook, False), (AsyncHook, False), (BlockingHook, True)])
def test_a_method_of_each_kind_is_called(kind: Callable[[object], Hook], in_a_thread: bool) -> None:
    hook = kind(FIELDS)
    assert looked_up(hook) == ADA
    assert (hook.thread is not threading.main_thread()) is in_a_thread
    assert looked_up(hook, "eve@mail.example") is None


@pytest.mark.parametrize("kind", [Hook, AsyncHook, BlockingHook])
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (ValueError("as asked\n"), r"^people: ValueError: as asked\\n$"),
        (TimeoutError(), "^people: TimeoutError: $"),
        (7, "^people: lookup returned int; expected a mapping or None$"),
        ([FIELDS], "lookup returned list"),
        ({"targets": 7}, "^people: targets: expected a text or a list of texts"),
        ({7: "ada@mail.example"}, "^people: unknown field 7"),
    ],
)
def test_every_failure_defers(kind: Callable[[object], Hook], answer: object, why: str) -> None:
    with pytest.raises(DirectoryError, match=why):
        looked_up(kind(answer))


def test_an_object_without_the_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "people.py").write_text("class People:\n    def lookup(self, key): pass\npeople = People()\nfive = 5\n")
    context = SourceContext(SystemClock(), tmp_path)
    assert isinstance(HookOptions("people.py:people").open(context), HookRecords)
    for wrong in ("people.py:five", "people.py:People"):
        with pytest.raises(ValueError, match=f"^{wrong}: expected an object with the method lookup$"):
            HookOptions(wrong).open(context)
    with pytest.raises(ConfigError, match=r"directory\.hook\[1\]\.object: a hook is an object in a file or a module"):
        parse('[[directory.hook]]\nobject = "people.py"')
