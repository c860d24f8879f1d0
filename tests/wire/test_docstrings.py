"""Both implementations of the wire document themselves in the same words."""

from __future__ import annotations

import inspect

import pytest

import ironpost.wire.pure as pure

native = pytest.importorskip("ironpost.wire._native")


def documented() -> list[str]:
    """Every public function, class and class member, as a dotted name."""
    names = [name for name in pure.__all__ if callable(getattr(pure, name))]
    members = [f"{name}.{member}" for name in names for member in public(getattr(pure, name))]
    return sorted(names + members)


def public(thing: object) -> set[str]:
    """The public members that a class defines."""
    return {member for member in vars(thing) if not member.startswith("_")} if inspect.isclass(thing) else set()


def docstring(implementation: object, name: str) -> str | None:
    found = implementation
    for part in name.split("."):
        found = getattr(found, part)
    return inspect.getdoc(found)


@pytest.mark.parametrize("name", documented())
def test_native_and_pure_have_the_same_docstring(name: str) -> None:
    assert docstring(native, name) == docstring(pure, name)
    assert docstring(pure, name)


@pytest.mark.parametrize("name", [name for name in pure.__all__ if inspect.isclass(getattr(pure, name))])
def test_native_and_pure_have_the_same_members(name: str) -> None:
    assert public(getattr(native, name)) == public(getattr(pure, name))
